"""What a run costs before anything is computed: parameters, FLOPs, bytes. No memory is needed, whatever the size."""

import math
from typing import Any, cast

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, AxisType

from jaxlm.decode import cache
from jaxlm.errors import UserError
from jaxlm.models import LMConfig, flops
from jaxlm.run import RunConfig
from jaxlm.sharding import AXES
from jaxlm.train.memory import bytes_per_device
from jaxlm.train.setup import Setup


def plan(run: RunConfig) -> dict[str, Any]:
    """One flat object: `params`, `active_params`, `flops_per_token` (training) and bytes of state and cache."""
    setup = Setup(run, _mesh(dict.fromkeys(AXES, 1)))
    state = setup.state
    size = lambda tree: sum(math.prod(x.shape) * jnp.dtype(x.dtype).itemsize for x in jax.tree.leaves(tree))
    count, tokens, per_token = flops.parameters(run.model), run.steps * run.tokens_per_step, run.flops_per_token
    return {
        "params": count,
        "active_params": flops.active_parameters(run.model),
        "matmul_params": flops.matmul_parameters(run.model),
        "flops_per_token": per_token,
        "forward_flops_per_token": per_token / 3,
        "layers": run.model.depth,
        "tokens_per_step": run.tokens_per_step,
        "steps": run.steps,
        "train_tokens": tokens,
        "train_flops": tokens * per_token,
        "state_bytes": size((state.params, setup.frozen, state.opt_state, state.ema)),
        "params_bytes": size((state.params, setup.frozen)),
        "optimizer_bytes": size(state.opt_state),
        "gradient_bytes": size(state.params),
        **(_cache(run) if run.model.decodes else {}),
    }


def _cache(run: RunConfig) -> dict[str, int]:
    """Of a text, of one more token of it, and, of recurrences, of the states that no token adds to."""
    model = cast(LMConfig, run.model)
    text, two, one = (cache.nbytes(model, T, model.dtype) for T in (run.data.T, 2, 1))
    found = {"cache_bytes_per_text": text, "cache_bytes_per_token": two - one}
    return found if two == 2 * one else found | {"cache_bytes_of_states": 2 * one - two}


def divided(run: RunConfig) -> dict[str, Any]:
    """`devices` of the run's mesh, of which no axis is -1, and bytes of state on each. Raises UserError where the mesh
    does not fit the model or the batch."""
    if -1 in (sizes := run.mesh.sizes).values():
        raise UserError("plan: without --topology every axis of --mesh needs a number: nothing tells how many are left")
    setup = Setup(run, _mesh(sizes))
    setup.check()
    state = setup.state
    parts = {"params": (state.params, setup.frozen), "optimizer": state.opt_state, "gradient": state.params}
    return {"devices": math.prod(sizes.values())} | {
        f"{name}_bytes_per_device": bytes_per_device(tree) for name, tree in parts.items()
    }


def _mesh(sizes: dict[str, int]) -> AbstractMesh:
    return AbstractMesh(tuple(sizes.values()), tuple(sizes), axis_types=(AxisType.Explicit,) * len(sizes))


def table(facts: dict[str, Any]) -> str:
    """The same for people: one line a fact, with units."""
    width = max(map(len, facts))
    return "\n".join(f"{name:{width}}  {_readable(name, value)}" for name, value in facts.items())


def _readable(name: str, value: float | str) -> str:
    if isinstance(value, str):
        return value
    if "bytes" in name:
        unit, scale = next((u, 2**n) for u, n in (("GiB", 30), ("MiB", 20), ("B", 0)) if value >= 2**n or n == 0)
        return f"{value / scale:,.3f} {unit}" if scale > 1 else f"{value:,} {unit}"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
