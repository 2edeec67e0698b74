"""Models that can have several adapters side by side."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np

from jaxlm import arguments, sharding
from jaxlm.api.base import Loaded
from jaxlm.axes import Params
from jaxlm.convert import peft
from jaxlm.errors import UserError, unknown
from jaxlm.ops.leaves import chosen, is_leaf
from jaxlm.paths import expand
from jaxlm.tune.several import alone, beside

Adapter = str | Sequence[str | None] | None  # a name of `add_adapter`, or one for each row


class Adaptable(Loaded):
    """`adapters` are the names of those side by side."""

    adapters: tuple[str, ...] = ()
    logits: Callable[..., jax.Array]
    _prompts: Callable[[Any, Any], tuple[Any, Any]]

    def add_adapter(self, name: str, folder: str | Path) -> None:
        """Put an adapter of peft's (LoRA, rsLoRA, DoRA) beside those that are here. Calls that are given `adapter`, a
        name or one for each row (None: the base alone), use it; others, and what is saved, know the base alone.

        Raises UserError for a name that is taken, and for an adapter of another base or of another kind.
        """
        if arguments.text(name, "the name of an adapter") in self.adapters:
            raise UserError(f"there is an adapter {name!r} already: give this one another name")
        config, adapted = peft.load(expand(folder), self.config, base := alone(self.params), self._source())
        if config != self.config:
            raise UserError(f"adapter {name!r} has virtual tokens, which are of all rows: load it alone")
        self.params = beside(self.config, self.params, base, adapted, len(self.adapters) + 1, name)
        self.adapters = (*self.adapters, name)

    def merge(self, sample: Any = None, say: Callable[[str], None] = print) -> Self:
        """As `Loaded.merge`; where the base is quantised, `say` gets a line of what has become of it: bytes, and the
        KL divergence of next tokens on a `sample` (texts or tokens; by default tokens drawn at random),

            mean sum_v p_v log (p_v / q_v), p before and q after
        """
        merged = super().merge()
        changed = [x for x in jax.tree.leaves(self.params, is_leaf=is_leaf) if hasattr(x, "w")]
        if not any(is_leaf(x.w) for x in changed):
            return merged
        if sample is None:
            tokens_BT: Any = np.random.default_rng(0).integers(0, self.config.V, (4, 32))
            mask_BT = None
        else:
            tokens_BT, mask_BT = self._prompts(sample, None)
        p, q = (jax.nn.log_softmax(model.logits(tokens_BT, mask_BT)) for model in (self, merged))
        kl_BT = jnp.sum(jnp.exp(p) * (p - q), -1)
        weights_BT = jnp.ones(kl_BT.shape) if mask_BT is None else jnp.asarray(mask_BT, jnp.float32)
        kl = jnp.sum(kl_BT * weights_BT) / jnp.sum(weights_BT)
        size = lambda params: sum(x.nbytes for x in jax.tree.leaves(params)) / 2**20
        say(
            f"merging made the quantised base dense, {size(self.params):.1f} -> {size(merged.params):.1f} MiB: "
            f"KL {abs(float(kl)):.2g} nats a token on {int(jnp.sum(weights_BT)):,} tokens; "
            "quantised again, it may lose the adapter"
        )
        return merged

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
