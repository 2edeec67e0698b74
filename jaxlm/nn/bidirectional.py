"""A mixer in both directions: two of one kind, one of which reads backwards (Schuster & Paliwal 1997)."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jaxlm import sharding
from jaxlm.axes import Array
from jaxlm.errors import UserError
from jaxlm.nn.context import Context
from jaxlm.nn.mixer import MixerConfig

WHOLE = "a mixer in both directions sees the whole text at once: it cannot decode token by token"


@dataclasses.dataclass(frozen=True)
class BidirectionalConfig(MixerConfig):
    """y_t = f(x_1 .. x_t) + g(x_T .. x_t), each with weights of its own: of recurrences [f, g] times their two output
    projections, one above the other."""

    of: MixerConfig  # causal: a recurrence

    causal = False

    def __post_init__(self):
        if not self.of.causal:
            raise UserError(f"{type(self.of).__name__} sees both directions already")

    def build(self, depth: int, name: str) -> nn.Module:
        return Bidirectional(self, depth, name=name)

    def init_cache(self, B: int, length: int, dtype: Any) -> Any:
        raise UserError(WHOLE)

    def score_flops(self, T: int) -> float:
        return 2 * self.of.score_flops(T)


class Bidirectional(nn.Module):
    """x_BTD, context -> y_BTD, (): nothing that decoding could go on from."""

    c: BidirectionalConfig
    depth: int

    @nn.compact
    def __call__(self, x_BTD: Array, context: Context, past: Any = None) -> tuple[Array, tuple[()]]:
        if past is not None:
            raise UserError(WHOLE)
        T = x_BTD.shape[1]
        turn = lambda x: jnp.flip(sharding.replicated(x, 1), 1)
        back = dataclasses.replace(context, positions_BT=T - 1 - turn(context.positions_BT))
        if context.segments_BT is not None:
            back = dataclasses.replace(back, segments_BT=turn(context.segments_BT))
        y_BTD, _ = self.c.of.build(self.depth, "forwards")(x_BTD, context)
        back_BTD, _ = self.c.of.build(self.depth, "backwards")(turn(x_BTD), back)
        return y_BTD + sharding.constrain(turn(back_BTD), *sharding.stream(T)), ()
