"""Tokenizers: what the interface costs over the raw libraries, two workers against one, and the readable BPE."""

from typing import Any

from benchsuite.bench import Bench, Rows
from benchsuite.row import Row, facts, median

# Pieces -------------------------------------------------------------------------------------------------------------


def _corpus(size: int) -> list[str]:
    """`size` bytes of Python's own sources."""
    from jaxlm.data.sources import documents

    return [text for _, text in documents("embedded", limit=size)]


def overhead(library: str, size: int, V: int, repeats: int) -> dict[str, Any]:
    """Seconds to encode the corpus by our interface and by the library that it stands on, in turns, on one core."""
    import os
    import time

    os.environ["RAYON_NUM_THREADS"] = "1"
    from jaxlm.text import BPETokenizer, FastTokenizer, train_sentencepiece

    texts = _corpus(size)
    if library == "tokenizers":
        ours = FastTokenizer(BPETokenizer.train(texts[: len(texts) // 4], V).to_json())
        raw = lambda: [found.ids for found in ours._library.encode_batch_fast(texts, add_special_tokens=False)]
    else:
        ours = train_sentencepiece(texts, V, limit=size // 4)
        raw = lambda: ours._processor.encode(texts, num_threads=1)
    encoders = {"raw": raw, "ours": lambda: ours.encode_batch(texts)}
    seconds: dict[str, list[float]] = {name: [] for name in encoders}
    for repeat in range(repeats + 1):
        for name in sorted(encoders, reverse=bool(repeat % 2)):  # the machine may grow faster or slower meanwhile
            start = time.perf_counter()
            tokens = sum(map(len, encoders[name]()))
            seconds[name].append(time.perf_counter() - start)
    return {name: found[1:] for name, found in seconds.items()} | {"bytes": size, "tokens": tokens}


def threads(count: int, size: int, V: int, repeats: int) -> dict[str, Any]:
    """Seconds to encode the corpus by the fast tokenizer with so many threads."""
    import os

    os.environ |= {"RAYON_NUM_THREADS": str(count), "TOKENIZERS_PARALLELISM": "true"}
    from benchsuite.timing import seconds_per_step
    from jaxlm.text import BPETokenizer, FastTokenizer

    texts = _corpus(size)
    tokenizer = FastTokenizer(BPETokenizer.train(texts[: len(texts) // 4], V).to_json())
    tokenizer.encode_batch(texts)
    return {"seconds": seconds_per_step(lambda: tokenizer.encode_batch(texts), lambda _: None, repeats, 1)}


def readable(size: int, V: int, repeats: int) -> dict[str, Any]:
    """Seconds to train the readable BPE on the corpus and to encode it, every word for the first time."""
    import time

    from jaxlm.text import BPETokenizer

    texts = _corpus(size)
    trained, encoded = [], []
    for _ in range(repeats):
        start = time.perf_counter()
        tokenizer = BPETokenizer.train(texts, V)
        trained.append(time.perf_counter() - start)
        start = time.perf_counter()
        tokenizer.encode_batch(texts)
        encoded.append(time.perf_counter() - start)
    return {"train": trained, "encode": encoded, "bytes": size}


# Rows ---------------------------------------------------------------------------------------------------------------


def over_library(bench: Bench, id: str, *, goal: str, **args: Any) -> Rows:
    piece = bench.run("tokenizers:overhead", args, cores=1)
    shares = tuple(a / b for a, b in zip(piece["ours"], piece["raw"]))
    rate = piece["bytes"] / median(piece["ours"]) / 1e6
    note = f"{args['library']}, {piece['bytes'] / 1e6:.0f} MB in {piece['tokens']} tokens at {rate:.1f} MB/s, one core"
    yield Row(id, median(shares), "times the library's own", goal=goal, repeats=shares, note=note, facts=facts(piece))


def workers(bench: Bench, id: str, *, goal: str, **args: Any) -> Rows:
    pieces = [bench.run("tokenizers:threads", {"count": count, **args}) for count in (2, 1, 1, 2, 2, 1)]
    two, one = (
        [args["size"] / s / 1e6 for i in turns for s in pieces[i]["seconds"]] for turns in ((0, 3, 4), (1, 2, 5))
    )
    note = "two threads of the fast tokenizer; the peer is one thread of it; three processes each, in turns"
    ratio = median(two) / median(one)
    yield Row(id, median(two), "MB/s", median(one), ratio, goal, tuple(two), note, facts(*pieces))


def plain(bench: Bench, ids: tuple[str, str], *, goals: tuple[str, str], **args: Any) -> Rows:
    piece = bench.run("tokenizers:readable", args, cores=1)
    note = f"plain Python, {piece['bytes'] / 1e6:.0f} MB, V={args['V']}, one core"
    rates = tuple(piece["bytes"] / s / 1e6 for s in piece["encode"])
    yield Row(ids[0], median(rates), "MB/s", goal=goals[0], repeats=rates, note=note, facts=facts(piece))
    seconds = tuple(piece["train"])
    yield Row(ids[1], median(seconds), "s", goal=goals[1], repeats=seconds, note=note, facts=facts(piece))
