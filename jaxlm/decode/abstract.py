"""The decoding step as shapes: to compile it, and to know its size, without weights."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from jaxlm import sharding
from jaxlm.axes import Params
from jaxlm.decode import loop
from jaxlm.decode.layout import _layers
from jaxlm.decode.prefill import first_pass
from jaxlm.decode.sampling import Greedy
from jaxlm.decode.state import BUCKET, DecodeState, How
from jaxlm.errors import UserError
from jaxlm.models import LMConfig, abstract


def abstract_decoding(
    config: LMConfig,
    mesh: Mesh | AbstractMesh,
    rows: int,
    length: int,
    stacked: bool = False,
    store: Callable = lambda params: params,
) -> tuple[Params, DecodeState]:
    """Shapes of parameters as they decode (see `prepare`) and of the state of `rows` texts of up to `length` tokens.

    `length` is rounded up to whole buckets. With `stacked` layers are stacked, as they do not decode fastest: traced in
    a fraction of the time, and the same sizes. `store` gives the parameters another form, as `tune.quantize` does. The
    mesh must be explicit: only then do shapes tell how they lie. Raises UserError where the mesh does not divide them.
    """
    shapes, axes = abstract(config)
    layout = sharding.shardings(axes, shapes, mesh)
    shapes = jax.tree.map(lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), shapes, layout)
    with sharding.use(mesh):
        over = sharding.mesh_size("batch")
        if rows % over:
            raise UserError(f"the mesh divides texts over {over} devices: choose a multiple of {over}, not {rows}")
        params = jax.eval_shape(lambda params: _decoding(store(params), jnp.dtype(config.dtype), stacked), shapes)
        where = NamedSharding(mesh, sharding.spec("batch", None, mesh=mesh))
        prompt = max(-(-length // BUCKET) - 1, 1) * BUCKET
        text = jax.ShapeDtypeStruct((rows, prompt), jnp.int32, sharding=where)
        key = jax.eval_shape(lambda: jax.random.key(0))
        state = jax.eval_shape(lambda *args: first_pass(_how(config, stacked), *args), params, text, text, key, {})
    everywhere = NamedSharding(mesh, PartitionSpec())
    place = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding or everywhere)
    return params, jax.tree.map(place, state)


def lower_decoding(config: LMConfig, mesh: Mesh, params: Params, state: DecodeState) -> jax.stages.Lowered:
    """The loop of decoding steps, traced for this mesh, whose devices need not be here; it donates the state."""
    return trace_decoding(config, mesh, params, state).lower()


def trace_decoding(
    config: LMConfig, mesh: Mesh | AbstractMesh, params: Params, state: DecodeState, stacked: bool = False
) -> jax.stages.Traced:
    """`lower_decoding` as a jaxpr."""
    with sharding.use(mesh):
        return loop.run.trace(_how(config, stacked), params, state, 1)


def _decoding(params: Params, dtype: jnp.dtype, stacked: bool) -> Params:
    return jax.tree.map(lambda x: x.astype(dtype), params) if stacked else _layers(params, dtype)


def _how(config: LMConfig, stacked: bool) -> How:
    return How(config, Greedy(), (), BUCKET, stacked)
