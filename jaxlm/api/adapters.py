"""Models that can have several adapters side by side."""

from collections.abc import Sequence
from pathlib import Path

import jax.numpy as jnp

from jaxlm import arguments, sharding
from jaxlm.api.base import Loaded
from jaxlm.axes import Params
from jaxlm.convert import peft
from jaxlm.errors import UserError, unknown
from jaxlm.ops.leaves import chosen
from jaxlm.paths import expand
from jaxlm.tune.several import alone, beside

Adapter = str | Sequence[str | None] | None  # a name of `add_adapter`, or one for each row


class Adaptable(Loaded):
    """`adapters` are the names of those side by side."""

    adapters: tuple[str, ...] = ()

    def add_adapter(self, name: str, folder: str | Path) -> None:
        """Put an adapter of peft's (LoRA, rsLoRA, DoRA) beside those that are here. Calls that are given `adapter`, a
        name or one for each row (None: the base alone), use it; others, and what is saved, know the base alone.

        Raises UserError for a name that is taken, and for an adapter of another base or of another kind.
        """
        if arguments.text(name, "the name of an adapter") in self.adapters:
            raise UserError(f"there is an adapter {name!r} already: give this one another name")
        adapted = peft.load(expand(folder), self.config, base := alone(self.params), self._source())
        self.params = beside(self.config, self.params, base, adapted, len(self.adapters) + 1, name)
        self.adapters = (*self.adapters, name)

    def _adapted(self, params: Params, adapter: Adapter, B: int) -> Params:
        """The parameters for B rows of these adapters, filled up to what the mesh divides."""
        if adapter is None:
            return params
        names = [adapter] * B if isinstance(adapter, str) else list(adapter)
        if odd := [name for name in names if name is not None and name not in self.adapters]:
            raise (
                unknown("adapter", str(odd[0])[:40], self.adapters)
                if self.adapters
                else UserError(f"the model has no adapter {str(odd[0])[:40]!r}: add_adapter puts one beside it")
            )
        if len(names) != B:
            raise UserError(f"{len(names)} adapters for {B} rows: give one name, or one for each row")
        numbers = [0 if name is None else 1 + self.adapters.index(name) for name in names]
        return chosen(params, jnp.array(numbers + [0] * (-B % sharding.mesh_size("batch")), jnp.int32))
