"""What is known of a program before it runs: the memory it takes, what it computes and what it sends."""

import dataclasses
from typing import NamedTuple

KINDS = ("all-gather", "reduce-scatter", "all-reduce", "all-to-all", "collective-permute")
PARTS = ("layers", "embedding", "loss", "optimizer", "other")


@dataclasses.dataclass(frozen=True)
class Collective:
    """One collective, of which a step makes `times`."""

    kind: str  # one of KINDS
    nbytes: (
        int  # of the whole array that a device has before (reduce-scatter) or after (all-gather) it; else of its part
    )
    times: int  # per step: those in the loop over layers as often as it runs
    part: str  # of the program, one of PARTS
    axes: tuple[str, ...] = ()  # of the mesh, over which it goes; () where the program does not tell
    size: int = 1  # devices that take part
    slow: bool = False  # crosses slices or nodes
    shape: str = ""  # as the compiler writes it, such as bf16[4,4096,8192]
    op: str = ""  # where in the program, as jax names it


@dataclasses.dataclass(frozen=True)
class Buffer:
    """An array that a step holds besides its arguments and results."""

    nbytes: int
    shape: str
    op: str  # where in the program, as jax names it


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes of one device."""

    params: int
    optimizer: int
    activations: int  # everything that lives only within the step: gradients too
    ema: int = 0  # a moving average of the parameters
    cache: int = 0  # keys and values, when decoding
    other: int = 0  # the batch, random keys, programs
    peak: int = 0  # what must be free at once; less than the sum where the compiler reuses
    host: int = 0  # offloaded

    def kinds(self) -> dict[str, int]:
        """What adds up, before the compiler lets some of it share a place."""
        names = "params", "optimizer", "ema", "cache", "activations", "other"
        return {name: getattr(self, name) for name in names}

    @property
    def total(self) -> int:
        return self.peak or sum(self.kinds().values())


class Pass(NamedTuple):
    """What a device reads, computes and writes at one go, so many times."""

    flops: float
    nbytes: float  # moved between its memory and its cores
    times: float = 1


@dataclasses.dataclass(frozen=True)
class Work:
    """What one device computes in a step."""

    model_flops: float  # by the formula of models.flops, recomputation not counted: what MFU is made of
    passes: tuple[Pass, ...]  # what it really does, one after the other

    @property
    def flops(self) -> float:
        return sum(one.flops * one.times for one in self.passes)

    @property
    def hbm_bytes(self) -> float:
        return sum(one.nbytes * one.times for one in self.passes)


@dataclasses.dataclass(frozen=True)
class Program:
    """A training or decoding step for one topology and mesh."""

    memory: Memory
    work: Work | None  # None: not counted
    collectives: tuple[Collective, ...]
    compile_seconds: float = 0.0
    compiled: bool = False  # by that chip's own compiler; else an estimate
    limit: int | None = None  # bytes that a program may use of a device; None: not known
    largest: tuple[Buffer, ...] = ()  # what fills the memory
    instructions: int = 0  # of the optimised program

    @property
    def fits(self) -> bool:
        return self.limit is None or self.memory.total <= self.limit
