"""Trying meshes, batches and memory levers: which are fastest, and what is the cheapest change that makes a run fit.

Thousands of combinations are compared by arithmetic (`plan.napkin`), and the best of them by a walk through their real
program (`plan.walk`). To be sure of one, ask the compiler for it.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Iterator
from typing import Any

from jaxlm import sharding
from jaxlm.config import override
from jaxlm.errors import UserError
from jaxlm.models import flops
from jaxlm.models.lm import LMConfig
from jaxlm.plan.facts import Program
from jaxlm.plan.napkin import bubble, napkin
from jaxlm.plan.roofline import Timing, predict
from jaxlm.plan.topology import Topology
from jaxlm.plan.walk import estimate_train
from jaxlm.run import RunConfig
from jaxlm.sharding import AXES

POLICIES = ("none", "mlp", "dots_except_mlp", "qkv", "attention", "full", "offload")  # less and less memory
PARTS = (1, 2, 4, 8, 16, 32)  # of a batch, whose gradients are added
MARGIN = 1.1  # how far a napkin may be over the limit and still be looked at closer
SHORTEST = 2048  # positions that are not divided further
STAGES, HEADS = 16, 8  # as many parts at most


@dataclasses.dataclass(frozen=True)
class Option:
    """A way to run, and what comes of it."""

    run: RunConfig
    program: Program
    timing: Timing | None  # None: on chips whose speed is not known
    changes: tuple[str, ...] = ()  # key=value, as on the command line, that lead there

    @property
    def speed(self) -> float:
        """Tokens a second, over all devices."""
        return self.run.tokens_per_step / self.timing.step if self.timing else 0.0


def search(run: RunConfig, topology: Topology, closer: int = 8) -> list[Option]:
    """The best ways to run on the whole topology, fastest first.

    Tries every mesh that divides what it must, every policy of rematerialisation, half of the batch, all and twice of
    it, each in as few parts as fit. Of the best, one a mesh, `closer` that fit by a walk too are kept. Raises UserError
    when nothing fits.
    """
    best: list[Option] = []
    model: Any = run.model
    models = [dataclasses.replace(model, remat=policy) for policy in POLICIES]
    batches = run.batch, max(run.batch // 2, 1), 2 * run.batch
    for sizes in meshes(run, topology):
        mesh, found = dataclasses.replace(run.mesh, **sizes), []
        for model, batch in itertools.product(models, batches):
            parts = [n for n in PARTS if batch % n == 0]
            tried = (dataclasses.replace(run, mesh=mesh, model=model, batch=batch, accumulate=n) for n in parts)
            fitting = (option for one in tried if (option := _napkin(one, topology)) and option.program.fits)
            found += itertools.islice(fitting, 1)
        best += sorted(found, key=lambda option: -round(option.speed, 3))[:1]
    walked = (judged(option.run, topology, _changes(option.run)) for option in sorted(best, key=_order)[: 4 * closer])
    ranked = sorted(itertools.islice((option for option in walked if option.program.fits), closer), key=_order)
    if not ranked:
        raise UserError(f"no mesh, batch or policy was found that fits {topology.name}: take more devices")
    return ranked


def cheapest(run: RunConfig, topology: Topology, closer: int = 6) -> Option | None:
    """The change, or pair of changes, that makes `run` fit and slows it down least; None when none does."""
    single = list(levers(run, topology))
    pairs = [(*a, *b) for a, b in itertools.combinations(single, 2) if not _keys(a) & _keys(b)]
    for group in (single, pairs):
        options = []
        for changes in group:
            option = _napkin(override(run, changes), topology)
            if option and option.program.memory.total <= MARGIN * (option.program.limit or math.inf):
                options.append(dataclasses.replace(option, changes=changes))
        for option in sorted(options, key=_order)[:closer]:
            found = judged(option.run, topology, option.changes)
            if found.program.fits:
                return found
    return None


def levers(run: RunConfig, topology: Topology) -> Iterator[tuple[str, ...]]:
    """Single changes that take less memory."""
    for policy in POLICIES[POLICIES.index(run.model.remat) + 1 if run.model.remat in POLICIES else 0 :]:
        yield (f"model.remat={policy}",)
    for n in PARTS[1:]:
        if run.batch % (run.accumulate * n) == 0:
            yield (f"accumulate={run.accumulate * n}",)
    if run.optimizer.state_dtype == "float32":
        yield ("optimizer.state_dtype=bfloat16",)
    if not run.optimizer.offload:
        yield ("optimizer.offload=true",)
    sizes = sharding.mesh_shape(run.mesh, topology.devices)
    for loser, winner in (("data", "fsdp"), ("data", "tensor"), ("fsdp", "tensor")):
        for n in _divisors(sizes[loser])[1:]:
            if winner == "fsdp" or n <= HEADS:
                yield f"mesh.{loser}={sizes[loser] // n}", f"mesh.{winner}={sizes[winner] * n}"


def judged(run: RunConfig, topology: Topology, changes: tuple[str, ...] = ()) -> Option:
    """`run` as an option, by a walk through its program."""
    program = estimate_train(run, topology)
    return Option(run, program, predict(program, topology, bubble(run, topology)), changes)


def meshes(run: RunConfig, topology: Topology) -> Iterator[dict[str, int]]:
    """The shapes of the topology's devices that divide the run. Heads and experts are divided over devices that the
    fast network joins."""
    whole, experts = _divisors(topology.devices), "experts" in _dimensions(run.model)
    for tensor, expert, context, stage in itertools.product(
        [n for n in whole if n <= min(HEADS, topology.per_slice)],
        [n for n in whole if n <= topology.per_slice] if experts else [1],
        [n for n in whole if n == 1 or run.data.T % (n * SHORTEST) == 0],
        [n for n in whole if n <= STAGES],
    ):
        left, over = divmod(topology.devices, tensor * expert * context * stage)
        for fsdp in [] if over else _divisors(left):
            sizes = {"data": left // fsdp, "fsdp": fsdp, "tensor": tensor, "expert": expert}
            sizes |= {"context": context, "stage": stage}
            if _divides(run, sizes, topology):
                yield {axis: sizes[axis] for axis in AXES}


@functools.lru_cache(maxsize=64)
def _dimensions(config: LMConfig) -> dict[str | None, set[int]]:
    """By logical axis, how large weights are along it."""
    found: dict[str | None, set[int]] = {}
    for w in flops.weights(dataclasses.replace(config, remat="none")):  # which changes none: traced once
        for name, n in zip(w.axes.names, w.shape, strict=True):
            found.setdefault(name, set()).add(n)
    return found


def _divides(run: RunConfig, sizes: dict[str, int], topology: Topology) -> bool:
    """Whether a mesh divides every weight, and the positions, and lies across the slices."""
    parts = lambda name: sharding.parts(name, sizes)
    whole = lambda n, name: n % parts(name) == 0 or (name == "layers" and n < parts(name))
    weights = all(whole(n, name) for name, found in _dimensions(run.model).items() for n in found)
    return weights and run.data.T % parts("seq") == 0 and sharding.across(sizes, topology.slices) is not None


def _napkin(run: RunConfig, topology: Topology) -> Option | None:
    """None for what the mesh does not divide."""
    sizes = sharding.mesh_shape(run.mesh, topology.devices)
    rows = sharding.parts("batch", sizes)
    if run.batch % (rows * run.accumulate) or not _divides(run, sizes, topology):
        return None
    program = napkin(run, sizes, topology)
    return Option(run, program, predict(program, topology, bubble(run, topology)))


def _changes(run: RunConfig) -> tuple[str, ...]:
    mesh = [f"mesh.{axis}={n}" for axis, n in run.mesh.sizes.items()]
    return *mesh, f"batch={run.batch}", f"accumulate={run.accumulate}", f"model.remat={run.model.remat}"


def _order(option: Option) -> Any:
    """Fastest first; of equals the one with more memory to spare."""
    return -round(option.speed, 3), option.program.memory.total


def _keys(changes: tuple[str, ...]) -> set[str]:
    return {change.partition("=")[0] for change in changes}


def _divisors(n: int) -> list[int]:
    return [d for d in range(1, n + 1) if n % d == 0]
