"""From documents to shards: the held-out split, the tokenizer, and the token streams, each made once and cached."""

import hashlib
import heapq
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from jaxlm.data import cache, shards, sources
from jaxlm.data.config import DataConfig, Source, TokenizerConfig
from jaxlm.errors import UserError
from jaxlm.text import ByteTokenizer, SentencePieceTokenizer, Tokenizer, load_tokenizer, train_sentencepiece
from jaxlm.text.formats.sentencepiece_train import LIMITS

FORMAT = 2  # of tokens: raise it when the same config and tokenizer would give others
MANY = 1000  # documents of which a share by number is one by size too
BATCH = 2**22  # characters encoded at a time


def hash_fraction(text: str, purpose: str = "holdout") -> float:
    """A number in [0, 1) that depends on the text alone."""
    content = hashlib.blake2b(text.encode(), digest_size=8, person=purpose.encode())
    return int.from_bytes(content.digest(), "little") / 2**64


def split(read: Callable[[], Iterator[str]], holdout: float) -> Iterator[tuple[str, bool]]:
    """Each of the texts that `read` begins to read anew, and whether it is held out: when its hash is below `holdout`,
    whatever the others are.

    Where that leaves a side without a text, or of few texts the larger part on the wrong side, as with a single text,
    each is cut in two instead, and its end held out (see `cut`).
    """
    if _by_hash(read(), holdout):
        for text in read():
            yield text, hash_fraction(text) < holdout
        return
    for text in read():
        at = cut(text, holdout)
        yield from ((part, held) for part, held in ((text[:at], False), (text[at:], True)) if part)


def _by_hash(texts: Iterator[str], holdout: float) -> bool:
    """Whether hashes divide these texts as they should; as many are read as that takes."""
    sizes = [0, 0]
    for count, text in enumerate(texts, 1):
        sizes[hash_fraction(text) < holdout] += len(text)
        if count >= MANY and all(sizes):
            return True
    return all(sizes) and sizes[True] <= sum(sizes) * (1 + holdout) / 2


def cut(text: str, holdout: float) -> int:
    """Where the held-out end of a text begins: behind a line break, else a space, that is near to where `holdout` wants
    it, which is no further than half of that end; else right there. Both parts have a character if the text has two."""
    wanted = max(min(round(len(text) * (1 - holdout)), len(text) - 1), 1)
    least = max(wanted - (len(text) - wanted) // 2, 1)
    for mark in ("\n", " "):
        if at := text.rfind(mark, least - 1, wanted) + 1:
            return at
    return wanted


def make_tokenizer(config: DataConfig, digests: list[str], progress: sources.Progress | None = None) -> Tokenizer:
    """The tokenizer of the config. One to be trained sees a sample of the training split only, and is cached.

    `digests` are the sources' content hashes.

    Raises:
        UserError: no tokenizer at the path, or V does not suit the text; also what `sources.documents` raises.
    """
    content = [(digest, source.field, source.weight) for digest, source in zip(digests, config.sources)]
    identity = [config.holdout, config.limit, content]
    sample = lambda: _sample(config, progress)
    return from_config(config.tokenizer, cache.cache_root(config.cache), identity, sample)


def opened(wanted: TokenizerConfig) -> Tokenizer:
    """The tokenizer of a file, or that of bytes."""
    return load_tokenizer(wanted.path or "") if wanted.kind == "file" else ByteTokenizer()


def from_config(
    wanted: TokenizerConfig, root: Path, identity: list[Any], sample: Callable[[], Iterator[str]]
) -> Tokenizer:
    """A tokenizer; one to be trained learns from the texts of `sample`, which `identity` tells apart from others, and
    is kept below `root`."""
    if wanted.kind in ("bytes", "file"):
        return opened(wanted)
    folder = root / "tokenizers" / _key(1, wanted.kind, wanted.V, *identity)

    return trained_tokenizer(folder, sample, wanted)


def trained_tokenizer(folder: Path, texts: Callable[[], Iterator[str]], wanted: TokenizerConfig) -> Tokenizer:
    """The tokenizer of this kind and size that is learned from the texts, or found in its `folder` of the cache."""

    def make(temporary: Path) -> None:
        tokenizer = train_sentencepiece(texts(), wanted.V, wanted.kind)
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
        for text, held_out in split(lambda source=source: _texts(config, source, progress), config.holdout):
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


def _texts(config: DataConfig, source: Source, progress: sources.Progress | None) -> Iterator[str]:
    return (text for _, text in sources.documents(source.path, source.field, config.limit, progress))


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
    key = _key(FORMAT, digest, source.field, tokenizer.fingerprint, config.holdout, config.limit)
    folder = cache.cache_root(config.cache) / "tokens" / key

    def make(temporary: Path) -> None:
        parts = split(lambda: _texts(config, source, progress), config.holdout)
        _write(temporary, source.path, parts, tokenizer)

    def valid(folder: Path) -> bool:
        return all(shards.intact(folder / side, verify) for side in ("train", "heldout"))

    cache.build(folder, make, valid)
    return shards.Shards(folder / "train"), shards.Shards(folder / "heldout")


def _write(folder: Path, name: str, parts: Iterable[tuple[str, bool]], tokenizer: Tokenizer) -> None:
    dtype = shards.dtype_for(tokenizer.V)
    train, heldout = (shards.ShardWriter(folder / side, dtype) for side in ("train", "heldout"))
    try:
        for batch in _batches(parts):
            arrays = tokenizer.encode_arrays([text for text, _ in batch], dtype)
            for (text, held_out), ids in zip(batch, arrays):
                side = heldout if held_out else train
                side.documents += 1
                side.bytes += len(text.encode())
                side.write(np.array([tokenizer.eot], dtype))
                side.write(ids)
        if not (train.documents and heldout.documents):
            said = "this one text is" if train.documents == 1 else "these texts are"
            raise UserError(f"{name}: {said} too short to hold a part of it out: add text")
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


def _key(*parts: object) -> str:
    return hashlib.blake2b(json.dumps(parts).encode(), digest_size=16).hexdigest()
