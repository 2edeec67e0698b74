"""How long a step takes, by what it computes, moves and sends (Williams et al. 2009, "Roofline").

    compute = FLOPs / peak,  memory = bytes / bandwidth,  network = sum over collectives of bytes / bandwidth
    step = (max(sum over passes of max(compute, memory), hidden network) + exposed network) / (1 - bubble)

Rates are those of the datasheet times the share that long products, copies and collectives reach. What fsdp, rings and
pipelines send is hidden behind the products of another layer; what tensor and expert parallelism send is waited for.
A collective of an array of n bytes over p devices takes (p - 1) / p n / bandwidth when it is gathered or scattered,
twice that when it is summed to all, and half of it when all send to all over the two directions of a ring.
"""

import dataclasses
import math

from jaxlm import sharding
from jaxlm.plan.facts import Collective, Program
from jaxlm.plan.topology import Topology

COMPUTE, MEMORY, NETWORK = 0.8, 0.85, 0.85  # shares of the datasheet's rates that are reached
EXPOSED = (*sharding.RULES["mlp"], *sharding.RULES["experts"])  # axes whose collectives the next product waits for
WAYS = {"all-gather": 1.0, "reduce-scatter": 1.0, "all-reduce": 2.0, "all-to-all": 0.5, "collective-permute": 1.0}


@dataclasses.dataclass(frozen=True)
class Timing:
    """Seconds of a step, by what they go to, and the share of the chips' peak that the model's own FLOPs take."""

    compute: float
    memory: float
    network: float  # all collectives, hidden or not
    exposed: float  # those that nothing hides
    bubble: float  # waiting for the first and the last microbatch of a pipeline
    step: float
    mfu: float

    def parts(self) -> dict[str, float]:
        """What adds up to the step."""
        busy = self.step - self.bubble - self.exposed
        other = "waiting for the network" if self.network - self.exposed >= busy else "waiting for memory"
        compute = min(self.compute, busy)
        return {"compute": compute, other: busy - compute, "network, not hidden": self.exposed, "bubble": self.bubble}

    @property
    def bound(self) -> str:
        """What the step spends most time on."""
        parts = {"compute": self.compute, "memory": self.memory, "network": self.network}
        return max(parts, key=lambda name: parts[name])


def predict(program: Program, topology: Topology, bubble: float = 0.0) -> Timing:
    """The time of a step; `bubble` is the share of it that a pipeline's devices wait."""
    chip, work = topology.chip, program.work
    assert chip is not None and work is not None  # a chip of the table, and a program whose work was counted
    compute = lambda one: one.times * one.flops / (COMPUTE * chip.flops)
    memory = lambda one: one.times * one.nbytes / (MEMORY * chip.hbm)
    alone = sum(max(compute(one), memory(one)) for one in work.passes)
    times = [(one, seconds(one, topology)) for one in program.collectives]
    exposed = sum(time for one, time in times if any(axis in one.axes for axis in EXPOSED))
    network = sum(time for _, time in times)
    busy = max(alone, network - exposed) + exposed
    step = busy / (1 - bubble)
    local = sum(map(compute, work.passes)), sum(map(memory, work.passes))
    return Timing(*local, network, exposed, step - busy, step, work.model_flops / chip.flops / step)


def seconds(one: Collective, topology: Topology) -> float:
    """Of a collective, all its `times`."""
    if one.kind == "collective-permute":
        return one.times * one.nbytes / bandwidth(one, topology)
    return one.times * WAYS[one.kind] * (one.size - 1) / one.size * one.nbytes / bandwidth(one, topology)


def bandwidth(one: Collective, topology: Topology) -> float:
    """Bytes a second that each device can send while it receives as many, in this collective.

    Within a slice: both directions of every dimension of the torus that the group fills, one direction of one that it
    does not. Within a node of GPUs: all links. Across slices or nodes all devices of the group there share the work,
    so each brings its own part over the slow network.
    """
    chip = topology.chip
    assert chip is not None
    if one.slow:
        there = max(one.size // topology.slices, 1)
        return NETWORK * min(chip.network * there, chip.link * chip.links)
    if not chip.tpu:
        return NETWORK * chip.link * chip.links
    if one.kind == "collective-permute":
        return NETWORK * chip.link
    side = max(topology.shape)
    filled = math.log(one.size, side) if side > 1 else 1.0
    return NETWORK * chip.link * (1 if filled < 0.999 else 2 * min(round(filled), chip.torus))
