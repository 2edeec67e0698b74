"""Two encoders that are trained together: a small one restores hidden tokens, a larger one tells which are not real."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jaxlm.axes import Array, Params
from jaxlm.errors import UserError
from jaxlm.models.encoder import Encoder, EncoderConfig
from jaxlm.models.heads import MaskedHead, ReplacedHead
from jaxlm.models.model import ModelConfig, Output, Path
from jaxlm.nn.embed import Embed, Types
from jaxlm.nn.stack import LayersConfig


@dataclasses.dataclass(frozen=True)
class ElectraConfig(ModelConfig):
    """A generator and a discriminator with one table of tokens, of positions and of types (ELECTRA; Clark et al. 2020,
    arXiv:2003.10555). The discriminator is what is kept: `part` takes it out."""

    generator: EncoderConfig
    discriminator: EncoderConfig

    def __post_init__(self):
        g, d = self.generator, self.discriminator
        if not isinstance(g.head, MaskedHead) or not isinstance(d.head, ReplacedHead):
            raise UserError("the generator needs head=MaskedHead(), the discriminator head=ReplacedHead()")
        width = lambda c: c.embed_width or c.D
        for what, of in (("V", lambda c: c.V), ("embed_width", width), ("positions", lambda c: c.positions)):
            if of(g) != of(d):
                raise UserError(f"generator and discriminator share embeddings, and {what} is {of(g)} and {of(d)}")
        if (g.types, g.dtype, g.remat) != (d.types, d.dtype, d.remat):
            raise UserError("types, dtype and remat of generator and discriminator must be the same")

    # As any model has them; pyright cannot know that a property serves where a field is said.
    V = property(lambda self: self.discriminator.V)  # pyright: ignore[reportAssignmentType]
    D = property(lambda self: self.discriminator.D)  # pyright: ignore[reportAssignmentType]
    dtype = property(lambda self: self.discriminator.dtype)  # pyright: ignore[reportAssignmentType]
    remat = property(lambda self: self.discriminator.remat)  # pyright: ignore[reportAssignmentType]

    def build(self, stacked: bool = True) -> "Electra":
        return Electra(self, stacked)

    def example(self) -> tuple[Any, ...]:
        return self.discriminator.example()

    def stacks(self) -> dict[Path, tuple[LayersConfig, ...]]:
        return {("generator",): self.generator.layers, ("discriminator",): self.discriminator.layers}

    def flops(self, lengths: Mapping[str, int]) -> float:
        return self.generator.flops(lengths) + self.discriminator.flops(lengths)

    @property
    def tied_parameters(self) -> int:
        return self.generator.tied_parameters

    def part(self, params: Params, name: str = "discriminator") -> tuple[EncoderConfig, Params]:
        """One of the two as a model of its own."""
        shared = {key: tree for key, tree in params.items() if key not in ("generator", "discriminator")}
        return getattr(self, name), {**shared, **params[name]}


class Electra(nn.Module):
    """`method="forward"` gives the `Output` of the discriminator, or of the generator where that is asked for."""

    c: ElectraConfig
    stacked: bool = True

    @nn.compact
    def forward(self, tokens_BT: Array, *more: Any, generator: bool = False) -> Output:
        c = self.c.discriminator
        shared: dict[str, nn.Module] = {"embed": Embed(c.V, c.embed_width or c.D, jnp.dtype(c.dtype), name="embed")}
        if c.positions is not None:
            shared["positions"] = c.positions.build("positions")
        if c.types:
            shared["types"] = Types(c.types, name="types")
        names = ("generator", "discriminator") if self.is_initializing() else ("discriminator", "generator")[generator:]
        for name in names if self.is_initializing() else names[:1]:
            out = Encoder(getattr(self.c, name), self.stacked, shared, name=name).forward(tokens_BT, *more)
        return out
