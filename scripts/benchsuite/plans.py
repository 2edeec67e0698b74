"""The suite `plan`: published models compiled for TPU pods that are not there, by libtpu. Nothing is run on a TPU."""

import dataclasses
from functools import partial
from typing import Any

from benchsuite.bench import Bench, Family, Rows
from benchsuite.row import Row, facts

CORES, PLATFORM = None, "cpu"
GiB = 2**30


@dataclasses.dataclass(frozen=True)
class Case:
    """A row: a config with these overrides, on this topology."""

    id: str
    config: str
    topology: str
    overrides: tuple[str, ...]


def _case(id: str, config: str, topology: str, T: int, batch: int, experts: int | None = None, **mesh: int) -> Case:
    """`experts` is the group of layers that has some: over many devices they take 1.25 times their even share."""
    sizes = {"data": 1, "fsdp": 1} | mesh
    axes = tuple(f"mesh.{axis}={n}" for axis, n in sizes.items())
    capacity = () if experts is None else (f"model.layers.{experts}.blocks.*.ffn.capacity_factor=1.25",)
    return Case(id, config, topology, (f"data.T={T}", f"batch={batch}", *axes, *capacity))


POD, TWO = "v5p:16x16x16", "2xv5p:16x16x16"
CASES = (
    _case("plan.8b.v5e", "llama_3_1_8b", "v5e:16x16", 4096, 256, fsdp=64, tensor=4),
    _case("plan.8b.v6e", "llama_3_1_8b", "v6e:16x16", 8192, 256, fsdp=256),
    _case("plan.8b.two_slices", "llama_3_1_8b", "2xv5e:16x16", 4096, 512, data=2, fsdp=64, tensor=4),
    _case("plan.70b.v5p", "llama_3_1_70b", "v5p:8x8x8", 8192, 512, fsdp=128, tensor=4),
    _case("plan.70b.pod", "llama_3_1_70b", POD, 4096, 1024, data=8, fsdp=64, tensor=8),
    _case("plan.405b.v5p", "llama_3_1_405b", POD, 8192, 2048, fsdp=512, tensor=8),
    _case("plan.mixtral_8x7b", "mixtral_8x7b", "v5p:8x8x8", 4096, 1024, experts=0, fsdp=64, expert=8),
    _case("plan.qwen3_235b", "qwen3_235b_a22b", "v5p:8x16x16", 4096, 4096, experts=0, fsdp=64, expert=32),
    _case("plan.deepseek_v3", "deepseek_v3", POD, 4096, 8192, experts=1, data=8, fsdp=8, expert=64),
    _case("plan.deepseek_v3.two_slices", "deepseek_v3", TWO, 4096, 16384, experts=1, data=16, fsdp=8, expert=64),
    _case("plan.kimi_k2", "kimi_k2", POD, 4096, 8192, experts=1, data=8, fsdp=8, expert=64),
    _case("plan.kimi_k2.two_slices", "kimi_k2", TWO, 4096, 16384, experts=1, data=16, fsdp=8, expert=64),
    # Smaller ones, of which each has its own way to fill the memory.
    _case("plan.gpt2.v5e", "gpt2_124m", "v5e:2x4", 1024, 512, data=8),
    _case("plan.gpt3_xl.v5e", "gpt3_xl", "v5e:2x4", 2048, 64, fsdp=8),
    _case("plan.1b.tensor", "llama_3_2_1b", "v5e:4x4", 4096, 32, fsdp=2, tensor=8),
    _case("plan.1b.context", "llama_3_2_1b", "v5e:4x4", 8192, 16, fsdp=4, context=4),
    _case("plan.8b.stages", "llama_3_1_8b", "v5p:4x4x4", 4096, 64, fsdp=4, tensor=4, stage=4),
    _case("plan.mixtral.stages", "mixtral_8x7b", "v5p:4x4x4", 4096, 64, experts=0, fsdp=2, expert=8, stage=4),
    _case("plan.gpt_oss_20b", "gpt_oss_20b", "v5p:4x4x4", 4096, 64, experts=0, fsdp=8, expert=8),
    _case("plan.qwen3_0_6b", "qwen3_0_6b", "v5e:4x8", 4096, 64, fsdp=32),
    _case("plan.gemma2_2b", "gemma2_2b", "v6e:2x4", 4096, 16, fsdp=8),
    _case("plan.gemma3_270m", "gemma3_270m", "v5e:2x4", 2048, 64, fsdp=8),
    _case("plan.gemma3_1b.v5e", "gemma3_1b", "v5e:4x4", 4096, 64, fsdp=16),
    _case("plan.gemma3_1b.v6e", "gemma3_1b", "v6e:4x4", 4096, 64, fsdp=16),
)
TINY = Case(
    "plan.tiny",
    "gpt2_124m",
    "v5e:2x2",
    (
        "data.T=128",
        "batch=8",
        "accumulate=1",
        "mesh.data=1",
        "mesh.fsdp=4",
        "model.D=64",
        "model.layers.0.blocks.0.mixer.H=2",
    ),
)

# Pieces -------------------------------------------------------------------------------------------------------------


def compiled(config: str, topology: str, overrides: list[str]) -> dict[str, Any]:
    """What the plan says of the training step, the processor seconds that compiling took, and the peak that is
    estimated without a compiler."""
    import importlib.metadata
    import os

    from jaxlm.config import resolve
    from jaxlm.models import flops
    from jaxlm.plan.program import train_program
    from jaxlm.plan.topology import parse
    from jaxlm.plan.unexpected_collectives import unexpected_collectives
    from jaxlm.plan.walk import estimate_train

    run = resolve(config, overrides)
    program = train_program(run, topology)
    sent: dict[str, float] = {}
    for c in program.collectives:
        name = " ".join([c.kind, *c.axes, *(["slow"] if c.slow else [])])
        sent[name] = sent.get(name, 0) + c.nbytes * c.times
    layers = [c for c in program.collectives if c.part == "layers"]
    return {
        "seconds": program.compile_seconds,
        "libtpu": importlib.metadata.version("libtpu"),
        "processor_seconds": os.times().children_user + os.times().children_system,
        "fits": program.fits,
        "limit": program.limit,
        "estimated": estimate_train(run, parse(topology)).memory.total,
        "bytes": dataclasses.asdict(program.memory) | {"total": program.memory.total},
        "largest": [f"{b.nbytes / GiB:.2f} GiB {b.shape} {b.op}" for b in program.largest[:4]],
        "collectives_per_layer": sum(c.times for c in layers) / run.model.depth,
        "bytes_exchanged": sent,
        "model_flops": flops.train_flops(run.model, run.data.T) * run.tokens_per_step,
        "instructions": program.instructions,
        "unexpected_collectives": unexpected_collectives(program, run),
    }


# Rows ---------------------------------------------------------------------------------------------------------------


def families(tiny: bool) -> list[Family]:
    """What is compiled, in order; with `tiny` a model of no size, to try the suite."""
    return [Family((case.id,), partial(row, case=case)) for case in ((TINY,) if tiny else CASES)]


def row(bench: Bench, case: Case) -> Rows:
    """Seconds to compile; the rest of what the plan says stands beside."""
    args = {"config": case.config, "topology": case.topology, "overrides": list(case.overrides)}
    out = bench.run("plans:compiled", args)
    told = {name: x for name, x in out.items() if name not in ("seconds", "started", "finished", "peak_gib")}
    peak, guess = out["bytes"]["total"], out["estimated"]
    note = (
        f"{case.config} on {case.topology} {' '.join(case.overrides)}: {peak / GiB:.2f} GiB a device, "
        f"{peak / out['limit']:.0%} of what it may use, estimated without a compiler {guess / peak - 1:+.1%}; "
        f"{out['collectives_per_layer']:.0f} collectives a layer; {len(out['unexpected_collectives'])} unexpected; "
        f"{out['processor_seconds']:.0f} processor seconds"
    )
    yield Row(case.id, out["seconds"], "s", goal="value <= 300", note=note, facts=told | facts(out))
