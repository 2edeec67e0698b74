"""From documents to shards: the held-out split, the tokenizer, and the token streams, each made once and cached."""

import hashlib
import heapq
import itertools
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from jaxlm.data import cache, shards, sources
from jaxlm.data.config import DataConfig, Source
from jaxlm.errors import UserError
from jaxlm.text import ByteTokenizer, SentencePieceTokenizer, Tokenizer, load_tokenizer, train_sentencepiece
from jaxlm.text.sentencepiece_train import LIMITS

FORMAT = 1  # raise it when the same config would give other tokens
BATCH = 2**22  # characters encoded at a time


def hash_fraction(text: str, purpose: str = "holdout") -> float:
    """A number in [0, 1) that depends on the text alone."""
    content = hashlib.blake2b(text.encode(), digest_size=8, person=purpose.encode())
    return int.from_bytes(content.digest(), "little") / 2**64


def split(texts: Iterable[str], holdout: float) -> Iterator[tuple[str, bool]]:
    """Each text, and whether it is held out: when its hash is below `holdout`, whatever the others are.

    A text that is alone is cut in two instead, at a line break where there is one, and its end is held out.
    """
    texts = iter(texts)
    first, second = next(texts, None), next(texts, None)
    if first is not None and second is None:
        most = round(len(first) * (1 - holdout))
        at = first.rfind("\n", 0, most) + 1 or most
        yield from ((part, held) for part, held in ((first[:at], False), (first[at:], True)) if part)
        return
    for text in itertools.chain([t for t in (first, second) if t is not None], texts):
        yield text, hash_fraction(text) < holdout


def make_tokenizer(config: DataConfig, digests: list[str], progress: sources.Progress | None = None) -> Tokenizer:
    """The tokenizer of the config. One to be trained sees a sample of the training split only, and is cached.

    `digests` are the sources' content hashes.

    Raises:
        UserError: no tokenizer at the path, or V does not suit the text; also what `sources.documents` raises.
    """
    wanted = config.tokenizer
    if wanted.kind == "bytes":
        return ByteTokenizer()
    if wanted.kind == "file":
        return load_tokenizer(wanted.path or "")
    content = [(digest, source.field, source.weight) for digest, source in zip(digests, config.sources)]
    key = _key(wanted.kind, wanted.V, config.holdout, config.limit, content)
    folder = cache.cache_root(config.cache) / "tokenizers" / key

    def make(temporary: Path) -> None:
        tokenizer = train_sentencepiece(_sample(config, progress), wanted.V, wanted.kind)
        tokenizer.save(temporary)
        (temporary / "fingerprint").write_text(tokenizer.fingerprint)

    def valid(folder: Path) -> bool:
        try:
            model = (folder / "tokenizer.model").read_bytes()
            return (folder / "fingerprint").read_text() == SentencePieceTokenizer(model).fingerprint
        except (OSError, ValueError, UserError):  # absent or damaged
            return False

    cache.build(folder, make, valid)
    return load_tokenizer(folder)


def _sample(config: DataConfig, progress: sources.Progress | None) -> Iterator[str]:
    """Training documents chosen by hash, from each source in proportion to its weight: the same in any order."""
    total = sum(source.weight for source in config.sources)
    for source in config.sources:
        room = round(LIMITS[config.tokenizer.kind] * source.weight / total)
        kept: list[tuple[float, int, str]] = []  # a heap: the document with the largest hash leaves first
        size = 0
        documents = sources.documents(source.path, source.field, config.limit, progress)
        for text, held_out in split((text for _, text in documents), config.holdout):
            if held_out:
                continue
            heapq.heappush(kept, (-hash_fraction(text, "sample"), len(text.encode()), text))
            size += len(text.encode())
            while size - kept[0][1] >= room:
                size -= heapq.heappop(kept)[1]
        for _, length, text in sorted(kept, reverse=True):
            yield text.encode()[:room].decode("utf-8", "ignore")
            room -= length
            if room <= 0:
                break


def make_shards(
    config: DataConfig,
    source: Source,
    digest: str,
    tokenizer: Tokenizer,
    progress: sources.Progress | None = None,
    verify: bool = False,
) -> tuple[shards.Shards, shards.Shards]:
    """The training and the held-out split of a source (see `split`), tokenised now or found in the cache.

    `verify` reads a cache found from end
    to end and rebuilds it if a byte changed; otherwise sizes and counts are checked.

    Raises:
        UserError: a split would have no document; also what `sources.documents` raises.
    """
    key = _key(digest, source.field, tokenizer.fingerprint, config.holdout, config.limit)
    folder = cache.cache_root(config.cache) / "tokens" / key

    def make(temporary: Path) -> None:
        documents = sources.documents(source.path, source.field, config.limit, progress)
        _write(temporary, source.path, (text for _, text in documents), tokenizer, config.holdout)

    def valid(folder: Path) -> bool:
        return all(shards.intact(folder / side, verify) for side in ("train", "heldout"))

    cache.build(folder, make, valid)
    return shards.Shards(folder / "train"), shards.Shards(folder / "heldout")


def _write(folder: Path, name: str, texts: Iterable[str], tokenizer: Tokenizer, holdout: float) -> None:
    dtype = shards.dtype_for(tokenizer.V)
    train, heldout = (shards.ShardWriter(folder / side, dtype) for side in ("train", "heldout"))
    least, most = 1.0, 0.0
    try:
        for batch in _batches(split(texts, holdout)):
            arrays = tokenizer.encode_arrays([text for text, _ in batch], dtype)
            for (text, held_out), ids in zip(batch, arrays):
                fraction = hash_fraction(text)
                least, most = min(least, fraction), max(most, fraction)
                side = heldout if held_out else train
                side.documents += 1
                side.bytes += len(text.encode())
                side.write(np.array([tokenizer.eot], dtype))
                side.write(ids)
        count = train.documents + heldout.documents
        if not (train.documents and heldout.documents):
            raise UserError(f"{name}: {_lopsided(count, heldout.documents, holdout, least, most)}")
        for side in (train, heldout):
            side.write(np.array([tokenizer.eot], dtype))
            side.close()
    finally:
        train.abandon()
        heldout.abandon()


def _batches(texts: Iterable[tuple[str, bool]]) -> Iterator[list[tuple[str, bool]]]:
    batch, size = [], 0
    for text, held_out in texts:
        batch.append((text, held_out))
        size += len(text)
        if size >= BATCH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _lopsided(count: int, held_out: int, holdout: float, least: float, most: float) -> str:
    if least == most:
        return "this one text is too short to hold a part of it out: add text, or change data.holdout"
    if held_out:
        return f"all {count} documents are held out at holdout={holdout}: set data.holdout to {_below(most):g} or less"
    return (
        f"none of the {count} documents is held out at holdout={holdout}: set data.holdout to {_above(least):g} or more"
    )


def _above(fraction: float) -> float:
    return min(np.ceil(fraction * 1000 + 1e-6) / 1000, 0.999)


def _below(fraction: float) -> float:
    return max(np.floor(fraction * 1000) / 1000, 0.001)


def _key(*parts: object) -> str:
    return hashlib.blake2b(json.dumps([FORMAT, *parts]).encode(), digest_size=16).hexdigest()
