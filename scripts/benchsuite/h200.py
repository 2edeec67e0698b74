"""The suite `h200`: one NVIDIA H200, bfloat16 over float32 weights. Needs jax, flax and optax only."""

import dataclasses
from functools import partial

from benchsuite import attention, ceilings, decoding, training
from benchsuite.bench import Bench, Family, Rows
from benchsuite.row import Row
from benchsuite.sizes import Size

CORES, PLATFORM = None, None
PEAK = 989e12  # dense bfloat16 FLOP/s by the datasheet


def families(tiny: bool) -> list[Family]:
    """What is measured, in order. `tiny` shrinks everything, so that the suite can be tried on any machine."""
    m124 = Size(N=12, D=768, H=12, V=50304, T=1024, B=64, dtype="bfloat16")
    xl = Size(N=24, D=2048, H=16, V=50304, T=2048, B=16, dtype="bfloat16")
    matmul = {"size": 8192, "dtype": "bfloat16", "seconds": 3.0}
    copy = {"nbytes": 4 * 10**9, "seconds": 2.0}  # read once and written once
    train, decode = {"warm": 5, "repeats": 3, "steps": 10}, {"prompt": 64, "new": 256, "warm": 2, "repeats": 5}
    texts, prompts, rows = {"prompt": 256, "new": 256, "warm": 1, "repeats": 3}, 2048, 64
    long = {"B": 2, "T": 8192, "H": 16, "K": 128, "dtype": "bfloat16", "warm": 3, "repeats": 3, "steps": 10}
    if tiny:
        m124 = Size(N=2, D=64, H=2, V=256, T=128, B=2, dtype="bfloat16")
        xl = dataclasses.replace(m124, N=3)
        matmul, copy = {"size": 128, "dtype": "bfloat16", "seconds": 0.05}, {"nbytes": 10**6, "seconds": 0.05}
        train, decode = {"warm": 2, "repeats": 2, "steps": 2}, {"prompt": 16, "new": 16, "warm": 1, "repeats": 2}
        texts, prompts, rows = decode, 64, 4
        long = {
            "B": 1,
            "T": 256,
            "H": 2,
            "K": 16,
            "dtype": "float32",
            "warm": 1,
            "repeats": 2,
            "steps": 1,
            "only": "blockwise",
        }
    context = dataclasses.replace(xl, T=prompts + 64)  # positions for a prompt and what follows it
    mfu = partial(training.mfu, effort=train, peak=PEAK, matmul=matmul)
    bandwidth = ("copy", copy)

    def variant(id: str, goal: str, remat: str | None = None) -> Family:
        size = dataclasses.replace(m124, remat=remat)
        return Family((id,), partial(mfu, id=id, size=size, goal=goal))

    def scan(bench: Bench) -> Rows:
        unrolled = dataclasses.replace(m124, unroll=m124.N)
        what = f"{m124.N} layers as a scan, against the scan unrolled"
        return training.slowdown(
            bench, "train.124m.scan", m124, unrolled, goal="value <= 1.03", effort=train, what=what
        )

    def against_torch(id: str, size: Size) -> Family:
        goal, memory = "ratio >= 1.15 (stretch 1.5)", "value <= 0.5"

        def run(bench: Bench) -> Rows:
            if bench.peer:
                how = {"effort": train, "compiled": not tiny}
                yield from training.compared(bench, id, size, goal=goal, memory=memory, **how)
                return
            yield Row(id, None, "tokens/s", goal=goal, note="needs --peer")
            yield Row(f"{id}.memory", None, "x peer", goal=memory, note="needs --peer")

        return Family((id, f"{id}.memory"), run)

    def predicted(id: str, size: Size) -> Family:
        rates = {"matmul": matmul, "copy": copy}
        run = partial(training.predicted, id=id, size=size, effort=train, topology="h200:1", **rates)
        return Family((id,), run)

    def decode_xl(layout: str) -> Family:
        id = f"decode.1.3b.{layout}"
        goal = "value >= 0.70 (stretch 0.80)" if layout == "unstacked" else ""
        run = partial(decoding.rate, id=id, size=xl, goal=goal, effort=decode, layout=layout, bandwidth=bandwidth)
        return Family((id,), run)

    return [
        variant("train.124m.mfu", "value >= 0.37 (stretch 0.42)"),
        variant("train.124m.mfu.no_remat", "", remat="none"),
        variant("train.124m.mfu.full_remat", "", remat="full"),
        Family(
            ("train.124m.mfu.no_segments",),
            partial(mfu, id="train.124m.mfu.no_segments", size=m124, goal="", segments=False),
        ),
        Family(("train.124m.scan",), scan),
        Family(
            ("train.1.3b.mfu",),
            partial(mfu, id="train.1.3b.mfu", size=xl, goal="value >= 0.50 (stretch 0.55)"),
        ),
        against_torch("train.124m", m124),
        against_torch("train.1.3b", xl),
        predicted("plan.124m", m124),
        predicted("plan.1.3b", xl),
        Family(
            ("attention.8k.cudnn", "attention.8k.blockwise"),
            partial(attention.compared, id="attention.8k", goal="value >= 450 (stretch 550)", **long),
        ),
        decode_xl("unstacked"),
        decode_xl("stacked"),
        Family(
            ("decode.124m",),
            partial(
                decoding.compared,
                id="decode.124m",
                size=m124,
                goal="ratio >= 4 (stretch 8)",
                effort=decode,
                static=True,
            ),
        ),
        Family(
            ("decode.124m.stacked",),
            partial(decoding.rate, id="decode.124m.stacked", size=m124, goal="", effort=decode, layout="stacked"),
        ),
        Family(
            ("decode.1.3b.batch",),
            partial(
                decoding.scaling,
                id="decode.1.3b.batch",
                size=xl,
                goal="value >= 14 (stretch 17)",
                effort=texts,
                batch=rows,
            ),
        ),
        Family(
            ("prefill.1.3b.mfu",),
            partial(
                decoding.prefill,
                id="prefill.1.3b.mfu",
                size=context,
                goal="value >= 0.55 (stretch 0.65)",
                effort={"prompt": prompts, "new": 1, "warm": 2, "repeats": 5},
                batch=8 if not tiny else 2,
                peak=PEAK,
            ),
        ),
        Family(
            ("ceiling.matmul",),
            partial(ceilings.row, id="ceiling.matmul", name="matmul", unit="TFLOP/s", scale=1e12, **matmul),
        ),
        Family(
            ("ceiling.copy",), partial(ceilings.row, id="ceiling.copy", name="copy", unit="GB/s", scale=1e9, **copy)
        ),
    ]
