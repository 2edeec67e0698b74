"""The suite `cpu`: two cores, float32."""

from functools import partial

from benchsuite import attention, ceilings, decoding, inputs, saving, shakespeare, startup, tokenizers, training
from benchsuite.bench import Bench, Family, Rows
from benchsuite.sizes import Size

CORES, PLATFORM = 2, "cpu"


def families(tiny: bool) -> list[Family]:
    """What is measured, in order; `tiny` shrinks everything so that the suite itself can be tried."""
    m124 = Size(N=12, D=768, H=12, V=50257, T=1024, B=2)
    m10 = Size(N=6, D=384, H=6, V=4096, T=256, B=8)
    matmul = {"size": 2048, "dtype": "float32", "seconds": 3.0}
    read = {"side": 16384, "seconds": 5.0}  # 1 GiB: more than any cache
    copy = {"nbytes": 10**9, "seconds": 3.0}
    train124, train10 = {"warm": 2, "repeats": 2, "steps": 3}, {"warm": 3, "repeats": 5, "steps": 5}
    decode124 = {"prompt": 64, "new": 128, "warm": 1, "repeats": 5}
    decode10 = {"prompt": 64, "new": 128, "warm": 2, "repeats": 10}
    loader = {"tokens": 2**26, "T": 1024, "rows": 32, "batches": 200, "repeats": 5}
    wait, learn, saved = {"tiny": False, "steps": 200}, (), m10
    starts = 3
    short = {"B": 2, "T": 2048, "H": 8, "K": 64, "dtype": "float32", "warm": 1, "repeats": 3, "steps": 1}
    long = short | {"B": 1, "T": 8192, "H": 4}
    text = {"size": 10_000_000, "V": 8000, "repeats": 3}
    over = text | {"size": 2_000_000, "repeats": 25}
    if tiny:
        text = over = {"size": 200_000, "V": 400, "repeats": 1}
        m124 = m10 = saved = Size(N=2, D=64, H=2, V=256, T=128, B=2)
        matmul, read = {"size": 128, "dtype": "float32", "seconds": 0.05}, {"side": 256, "seconds": 0.05}
        copy = {"nbytes": 10**6, "seconds": 0.05}
        train124 = train10 = {"warm": 2, "repeats": 2, "steps": 2}
        decode124 = decode10 = {"prompt": 16, "new": 16, "warm": 1, "repeats": 2}
        loader = {"tokens": 2**16, "T": 64, "rows": 4, "batches": 5, "repeats": 2}
        wait, learn = (
            {"tiny": True, "steps": 20},
            ("steps=20", "optimizer.warmup=2", "eval_every=10", "sample_tokens=8", "data.limit=50000"),
        )
        starts = 1
        short, long = (args | {"T": args["T"] // 16, "H": 2} for args in (short, long))

    def train_124m(bench: Bench) -> Rows:
        return training.compared(
            bench, "train.124m", m124, goal="ratio >= 1.25", effort=train124, matmul=matmul, fraction="value >= 0.70"
        )

    def decode_124m(bench: Bench) -> Rows:
        return decoding.compared(
            bench,
            "decode.124m",
            m124,
            goal="ratio >= 1.7 (stretch 2.5)",
            effort=decode124,
            bandwidth=("read", read),
            fraction="value >= 0.5",
        )

    def train_10m(bench: Bench) -> Rows:
        return training.compared(bench, "train.10m", m10, goal="ratio >= 1.8", effort=train10)

    def decode_10m(bench: Bench) -> Rows:
        return decoding.compared(bench, "decode.10m", m10, goal="ratio >= 3", effort=decode10)

    def start(bench: Bench) -> Rows:
        return startup.seconds(bench, "start.124m", m124, cold="value <= 30", warm="value <= 6", repeats=starts)

    def predicted(id: str, size: Size, effort: dict[str, int]) -> Family:
        rates = {"matmul": matmul, "copy": copy}
        run = partial(training.predicted, id=id, size=size, effort=effort, topology="cpu:1", **rates)
        return Family((id,), run)

    def matmul_rate(bench: Bench) -> Rows:
        return ceilings.row(bench, "ceiling.matmul", "matmul", "GFLOP/s", 1e9, **matmul)

    def read_rate(bench: Bench) -> Rows:
        return ceilings.row(bench, "ceiling.read", "read", "GB/s", 1e9, **read)

    return [
        Family(("train.124m", "train.124m.matmul_fraction"), train_124m),
        Family(("train.10m",), train_10m),
        predicted("plan.124m", m124, train124),
        predicted("plan.10m", m10, train10),
        Family(("ceiling.matmul",), matmul_rate),
        Family(("decode.124m", "decode.124m.read_fraction"), decode_124m),
        Family(("decode.10m",), decode_10m),
        Family(("ceiling.read",), read_rate),
        Family(("attention.2k", "attention.2k.memory"), partial(attention.saved, id="attention.2k", **short)),
        Family(("attention.8k", "attention.8k.memory"), partial(attention.saved, id="attention.8k", **long)),
        Family(("start.124m.cold", "start.124m.warm"), start),
        Family(("input.starvation",), partial(inputs.waiting, id="input.starvation", goal="value < 1", **wait)),
        Family(("input.loader",), partial(inputs.packed, id="input.loader", goal="value >= 10", **loader)),
        *(
            Family((id,), partial(tokenizers.over_library, id=id, library=library, goal="value <= 1.03", **over))
            for id, library in (("text.tokenizers", "tokenizers"), ("text.sentencepiece", "sentencepiece"))
        ),
        Family(("text.workers",), partial(tokenizers.workers, id="text.workers", goal="ratio >= 1.7", **text)),
        Family(
            ("text.bpe.encode", "text.bpe.train"),
            partial(
                tokenizers.plain,
                ids=("text.bpe.encode", "text.bpe.train"),
                goals=("value >= 2", "value <= 30"),
                **text,
            ),
        ),
        Family(
            ("checkpoint.blocked",),
            partial(saving.blocked, id="checkpoint.blocked", size=saved, goal="value <= 0.15", repeats=3),
        ),
        Family(
            ("shakespeare", "shakespeare.seconds"),
            partial(shakespeare.rows, id="shakespeare", goal="value <= 1.90", overrides=learn),
        ),
    ]
