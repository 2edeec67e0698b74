"""What a model has to beat: bits per byte of the held-out text under methods that learn next to nothing."""

import zlib
from collections.abc import Iterable, Mapping

import numpy as np

from jaxlm.data.dataset import Dataset
from jaxlm.data.measures import spell
from jaxlm.text import Tokenizer

BASELINE_BYTES, BASELINE_TOKENS = 50_000_000, 1_000_000_000  # held-out and training text: more would take long


def score_table(dataset: Dataset, scores: Mapping[str, float], tokens: int = 0) -> str:
    """Held-out bits per byte of the model beside what needs no learning; of large texts only what costs nothing.

    `tokens` is the size of the sample that the model was scored on, 0 for all; the others are of the whole text.
    """
    if "bits_per_byte" not in scores:
        return "held out: " + spell(scores)
    small = dataset.heldout_bytes < BASELINE_BYTES and dataset.train_tokens < BASELINE_TOKENS
    rows = baselines(dataset) if small else {"uniform": 8.0}
    rows["this model"] = scores["bits_per_byte"]
    lines = (f"  {name:<12}{value:8.3f}" for name, value in rows.items())
    whole, heldout = f"{dataset.heldout_bytes:,} bytes of text", dataset.heldout_rows(tokens)
    if heldout.share < 1:
        whole += f"; this model on a sample of {heldout.labels:,} tokens, {heldout.share:.0%} of it"
    return "\n".join([f"held-out bits per byte ({whole}):", *lines])


def baselines(dataset: Dataset) -> dict[str, float]:
    """Bits per byte of the held-out text, documents in order, separators neither fed nor counted.

    `uniform`: 8, every byte equally likely. `unigram`: each byte by its frequency in the training text, whatever the
    tokenizer. `zlib`: the size of the whole held-out text compressed as one stream (level 9, no training text seen).
    """
    return {
        "uniform": 8.0,
        "unigram": unigram_bits(train_byte_counts(dataset), dataset.heldout_texts()),
        "zlib": zlib_bits(dataset.heldout_texts()),
    }


def train_byte_counts(dataset: Dataset) -> np.ndarray:
    """(256,) int64: how often each byte is in the training text, from its tokens."""
    counts_V = np.zeros(dataset.tokenizer.V, np.int64)
    for shards in dataset.train:
        for block in shards.blocks():
            counts_V += np.bincount(block, minlength=len(counts_V))
    return _bytes_of(dataset.tokenizer, counts_V)


def unigram_bits(counts: np.ndarray, texts: Iterable[str]) -> float:
    """Cross-entropy in bits per byte of a byte unigram with add-one smoothing, p(b) = (count(b) + 1) / (total + 256).

    `counts` is (256,). NaN for no text.
    """
    bits = -np.log2((counts + 1) / (counts.sum() + 256))
    seen = np.zeros(256, np.int64)
    for text in texts:
        seen += np.bincount(np.frombuffer(text.encode(), np.uint8), minlength=256)
    return float(bits @ seen / seen.sum()) if seen.any() else float("nan")


def zlib_bits(texts: Iterable[str]) -> float:
    """Bits per byte of all texts in one zlib stream. NaN for no text."""
    stream = zlib.compressobj(9)
    read = written = 0
    for text in texts:
        data = text.encode()
        read += len(data)
        written += len(stream.compress(data))
    written += len(stream.flush())
    return 8 * written / read if read else float("nan")


def _bytes_of(tokenizer: Tokenizer, counts_V: np.ndarray) -> np.ndarray:
    counts = np.zeros(256, np.int64)
    for i in np.flatnonzero(counts_V).tolist():
        counts += counts_V[i] * np.bincount(np.frombuffer(tokenizer.pieces[i], np.uint8), minlength=256)
    return counts
