"""Everything a run carries from step to step, and how it is laid out over the mesh."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from jaxlm import optim, sharding
from jaxlm.axes import Array, Params
from jaxlm.models import lm
from jaxlm.train import mup
from jaxlm.train.run import RunConfig


@struct.dataclass
class State:
    step: Array  # int32, steps taken
    params: Params
    opt_state: Any
    key: Array  # the run's random key; a step uses fold_in(key, step)
    ema: Params | None = None

    @property
    def eval_params(self) -> Params:
        """The weights to evaluate and sample with: the moving average where there is one."""
        return self.params if self.ema is None else self.ema


def optimizer(run: RunConfig) -> optax.GradientTransformation:
    rates = None if run.mup_base is None else mup.rates(run.model, run.mup_base)
    return optim.make(run.optimizer, lm.abstract(run.model)[1], run.steps, rates)


def init_state(run: RunConfig, tx: optax.GradientTransformation, key: Array) -> State:
    """A fresh state, to trace: `create` makes it in place."""
    init_key, key = jax.random.split(key)
    params = sharding.unbox(lm.init_boxed(run.model, init_key))
    if run.mup_base is not None:
        params = jax.tree.map(jnp.multiply, params, mup.deviations(run.model, run.mup_base))
    ema = jax.tree.map(jnp.copy, params) if run.ema else None
    return State(jnp.zeros((), jnp.int32), params, tx.init(params), key, ema)


def abstract(run: RunConfig, mesh: Mesh | AbstractMesh) -> State:
    """Shapes, dtypes and shardings of a run's state. Computes nothing.

    The optimizer's moments lie as their weights do, or so in host memory; what is not shaped like a weight is on every
    device.
    """
    tx = optimizer(run)
    shapes = jax.eval_shape(lambda: init_state(run, tx, jax.random.key(0)))
    params = sharding.shardings(lm.abstract(run.model)[1], shapes.params, mesh)
    everywhere: Any = NamedSharding(mesh, PartitionSpec())
    there: Any = (
        jax.tree.map(lambda where: where.with_memory_kind("pinned_host"), params) if run.optimizer.offload else params
    )
    opt_state = optim.like_weights(shapes.opt_state, shapes.params, there, everywhere)
    layout = State(everywhere, params, opt_state, everywhere, params if run.ema else None)
    return jax.tree.map(lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), shapes, layout)


def finite(state: State) -> bool:
    """Whether all weights, their moving average and the optimizer's moments are finite. Waits for them."""
    leaves = jax.tree.leaves((state.params, state.ema, state.opt_state))
    return all(jax.device_get([_finite(x) for x in leaves]))


@jax.jit
def _finite(x: Array) -> Array:
    x = jax.device_put(x, jax.memory.Space.Device)  # from host memory, where it lies there
    return jnp.isfinite(x).all()


def create(run: RunConfig, mesh: Mesh) -> State:
    """A fresh state, made where it lies: no device ever holds all of it."""
    tx, layout = optimizer(run), jax.tree.map(lambda x: x.sharding, abstract(run, mesh))
    return jax.jit(lambda key: init_state(run, tx, key), out_shardings=layout)(jax.random.key(run.seed))
