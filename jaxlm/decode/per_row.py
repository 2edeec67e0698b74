"""Samplers whose numbers are each row's own, and the order in which samplers are used."""

import copy
import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from jaxlm import sharding
from jaxlm.axes import Array
from jaxlm.decode.cutoffs import Epsilon, Eta, Mirostat, Typical
from jaxlm.decode.forced import Allowed, Banned, Forced, LogitBias, MinLength
from jaxlm.decode.penalties import CountPenalty, NoRepeatNgram, RepetitionPenalty
from jaxlm.decode.sampling import (
    Chain,
    Choice,
    Greedy,
    MinP,
    Sampler,
    Temperature,
    TopK,
    TopP,
    VocabularyMask,
    checked,
    links,
    picked,
)
from jaxlm.errors import UserError

# That of transformers, whose processors these are; mirostat learns from the draw, so it is last.
ORDER = (
    *(VocabularyMask, Allowed, LogitBias, RepetitionPenalty, CountPenalty, NoRepeatNgram, Banned, MinLength, Forced),
    *(Temperature, TopK, TopP, MinP, Typical, Epsilon, Eta, Mirostat, Greedy),
)


def in_order(*samplers: Sampler) -> Sampler:
    """One chain of them in the order of the field: biases, penalties, bans, minimum length, forced tokens, then
    temperature, top-k, top-p, min-p, typical, epsilon, eta and mirostat; what it does not know goes first."""
    parts = [part for sampler in samplers for part in links(checked(sampler))]
    place = lambda part: ORDER.index(type(part)) if type(part) in ORDER else -1
    parts = sorted(parts, key=place)
    return parts[0] if len(parts) == 1 else Chain(tuple(parts))


@struct.dataclass
class Rows:
    """What `PerRow` remembers: numbers (B,) of each link by name, whose rows are greedy, the links' own states."""

    numbers: tuple[dict[str, Array], ...]
    greedy_B: Array
    states: tuple


@dataclasses.dataclass(frozen=True)
class PerRow(Sampler):
    """One chain for rows that differ in its numbers, such as requests to a server: nothing is compiled anew for others.

        sampler = PerRow(RepetitionPenalty(1) | Temperature(1) | TopK(50) | TopP(1))
        state = sampler.begin([Temperature(0.7), Greedy(), TopP(0.9) | Temperature(2)], prompt_BT, mask_BT, V)

    The order is the template's. A link whose numbers are neutral in all rows costs nothing; one without numbers, such
    as `Banned`, is the template's in all rows, but a state that it makes of its own fields (`LogitBias`) is the row's.
    """

    template: Sampler

    def __post_init__(self):
        parts = tuple(part for part in links(self.template) if not isinstance(part, Greedy))
        object.__setattr__(self, "template", Chain(parts))

    def begin(self, samplers: Sequence[Sampler], prompt_BT: Array, mask_BT: Array, V: int) -> Rows:
        """The state of rows of which each has its own sampler, made of links of the template's kinds, at most one of
        each. Raises UserError for another."""
        template = links(self.template)
        of_rows = [_by_type(sampler, template) for sampler in samplers]
        numbers, states = [], []
        for part in template:
            own = [row.get(type(part)) for row in of_rows]
            value = lambda one, name, default: default if one is None else getattr(one, name)
            numbers.append(
                {name: _rows([value(one, name, default) for one in own]) for name, default in part.neutral.items()}
            )
            of_own = [
                (part if one is None or part.neutral else one).start(prompt_BT[b, None], mask_BT[b, None], V)
                for b, one in enumerate(own)
            ]
            states.append(jax.tree.map(lambda *xs: _spread(jnp.concatenate(xs)), *of_own))
        return Rows(tuple(numbers), _rows([Greedy in row for row in of_rows]), tuple(states))

    def start(self, prompt_BT: Array, mask_BT: Array, V: int) -> Rows:
        """All rows with the template's numbers."""
        parts, B = links(self.template), len(prompt_BT)
        numbers = tuple({name: _rows([getattr(part, name)] * B) for name in part.neutral} for part in parts)
        return Rows(numbers, _rows([False] * B), tuple(part.start(prompt_BT, mask_BT, V) for part in parts))

    def filter(self, logits_BV: Array, state: Rows) -> Array:
        for part, numbers, own in zip(links(self.template), state.numbers, state.states, strict=True):
            mine = _with(part, numbers)
            if not numbers:
                logits_BV = mine.filter(logits_BV, own)
                continue
            differs = [jnp.any(x_B != part.neutral[name]) for name, x_B in numbers.items()]
            used = jnp.any(jnp.stack(differs))
            logits_BV = jax.lax.cond(used, mine.filter, lambda logits_BV, own: logits_BV, logits_BV, own)
        return logits_BV

    def choose(self, logits_BV: Array, state: Rows, key: Array) -> Choice:
        filtered_BV = self.filter(logits_BV, state)
        drawn = Sampler().choose(filtered_BV, (), key)
        token_B = jnp.where(state.greedy_B, jnp.argmax(filtered_BV, -1), drawn.token_B)
        likeliest_B1 = jnp.max(filtered_BV, -1, keepdims=True)
        greedy_BV = state.greedy_B[:, None] & (filtered_BV < likeliest_B1)
        return picked(jnp.where(greedy_BV, -jnp.inf, filtered_BV), token_B)

    def after(self, state: Rows, choice: Choice) -> Rows:
        each = zip(links(self.template), state.numbers, state.states, strict=True)
        return dataclasses.replace(
            state, states=tuple(_with(part, numbers).after(own, choice) for part, numbers, own in each)
        )


def _by_type(sampler: Sampler, template: tuple[Sampler, ...]) -> dict[type, Sampler]:
    kinds, found = {type(part) for part in template}, {}
    for part in links(sampler):
        if type(part) is Sampler:
            continue
        if type(part) not in kinds | {Greedy}:
            raise UserError(f"{type(part).__name__} is not among the samplers that rows may have here")
        if type(part) in found:
            raise UserError(f"{type(part).__name__} stands twice in the sampler of a row")
        found[type(part)] = part
    return found


def _with(part: Sampler, numbers: dict[str, Array]) -> Sampler:
    part = copy.copy(part)
    for name, x_B in numbers.items():
        object.__setattr__(part, name, x_B[:, None])
    return part


def _rows(values: Sequence[Any]) -> Array:
    kind = np.asarray(values)
    return _spread(jnp.asarray(kind, {"b": bool, "i": jnp.int32}.get(kind.dtype.kind, jnp.float32)))


def _spread(x: Array) -> Array:
    return sharding.constrain(x, "batch", *[None] * (x.ndim - 1))
