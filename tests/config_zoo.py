"""Config classes for the tests of configs, which pass for a module of the package: only such are loaded from JSON."""

import dataclasses
import sys
from typing import Any, Literal

from jaxlm.errors import UserError


@dataclasses.dataclass(frozen=True)
class Attention:
    H: int = 4
    window: int | None = None
    kind: Literal["full", "local"] = "full"


@dataclasses.dataclass(frozen=True)
class Mixer:
    Z: int = 16


@dataclasses.dataclass(frozen=True)
class Layer:
    mixer: Attention | Mixer | None = Attention()
    dropout: float = 0.0


@dataclasses.dataclass(frozen=True)
class Model:
    D: int = 64
    K: int = 16
    layers: tuple[Layer, ...] = (Layer(), Layer(Mixer()))

    def __post_init__(self):
        if self.D % self.K:
            raise UserError(f"D must be a multiple of K, got {self.D} and {self.K}")


@dataclasses.dataclass(frozen=True)
class Run:
    steps: int
    model: Model = Model()
    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.95)
    sizes: tuple[int, ...] = ()
    resume: bool = True
    name: str = "run"
    note: str | None = None
    options: tuple[tuple[str, Any], ...] = ()
    weights: dict[str, float] | None = None
    scalars: tuple[tuple[str, float | int | str | bool], ...] = ()
    either: str | float | int = 1
    blocks: tuple[tuple[int, tuple[str, ...]], ...] = ((2, ("a", "b")),)


@dataclasses.dataclass
class Thawed:
    x: int = 1


Foreign = dataclasses.make_dataclass("Foreign", [], frozen=True)  # as if imported from elsewhere

NAME = "jaxlm.config_zoo"
for cls in (Attention, Mixer, Layer, Model, Run, Thawed):
    cls.__module__ = NAME
sys.modules[NAME] = sys.modules[__name__]
