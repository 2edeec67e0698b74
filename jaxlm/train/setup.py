"""What follows from a run and a mesh: shapes, layouts, programs. Made once and passed to whoever needs it."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from jaxlm import optim, sharding
from jaxlm.axes import Array, Params
from jaxlm.models import abstract, init_boxed, mup
from jaxlm.ops import leaves
from jaxlm.run import RunConfig
from jaxlm.train.batch import abstract_batch
from jaxlm.train.state import State
from jaxlm.train.step import TrainStep, make_train_step


class Setup:
    """A run on a mesh, whose devices need not be here. Nothing is made before it is asked for."""

    def __init__(self, run: RunConfig, mesh: Mesh | AbstractMesh):
        self.run, self.mesh = run, mesh

    def check(self) -> None:
        """Raises UserError where the mesh does not divide the model or the batch."""
        _ = self.state, self.batch

    @functools.cached_property
    def axes(self) -> tuple[Params, Params]:
        """`sharding.Axes` of the parameters that are trained, and of those that are not."""
        return self.run.trains.split(self.run.trains.dress_axes(abstract(self.run.model)[1]))

    @functools.cached_property
    def optimizer(self) -> optax.GradientTransformation:
        run = self.run
        rates = None if run.mup_base is None else mup.rates(run.model, run.mup_base)
        return optim.make(run.optimizer, self.axes[0], run.steps, rates)

    @functools.cached_property
    def state(self) -> State:
        """Shapes, dtypes and shardings of what the run carries from step to step. Raises as `check` does.

        The optimizer's moments lie as their weights do, or so in host memory; what is not shaped like a weight is on
        every device.
        """
        shapes, run = self._shapes[0], self.run
        params = sharding.shardings(self.axes[0], shapes.params, self.mesh)
        everywhere: Any = NamedSharding(self.mesh, PartitionSpec())
        host = lambda where: where.with_memory_kind("pinned_host")
        there = jax.tree.map(host, params) if run.optimizer.offload else params
        opt_state = optim.like_weights(shapes.opt_state, shapes.params, there, everywhere)
        return _laid(shapes, State(everywhere, params, opt_state, everywhere, params if run.ema else None))

    @functools.cached_property
    def frozen(self) -> Params:
        """The same of the parameters that are not trained: matrices in the dtype of the computation."""
        return _laid(self._shapes[1], sharding.shardings(self.axes[1], self._shapes[1], self.mesh))

    @functools.cached_property
    def batch(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes of the batches that `train_step` takes."""
        return abstract_batch(self.run, self.mesh)

    @functools.cached_property
    def train_step(self) -> TrainStep:
        """state, batch, frozen parameters -> state, metrics; not compiled."""
        return make_train_step(self.run, self.optimizer)

    def lower(self) -> jax.stages.Lowered:
        """The training step, traced for this mesh; it donates the state given to it."""
        layout = jax.tree.map(lambda x: x.sharding, self.state)
        step = jax.jit(self.train_step, donate_argnums=0, out_shardings=(layout, None))
        with sharding.use(self.mesh):
            return step.lower(self.state, self.batch, self.frozen)

    @property
    def freezes(self) -> bool:
        """Whether any parameter is not trained."""
        return bool(jax.tree.leaves(self.frozen))

    def create(self, given: Params | None = None) -> tuple[State, Params]:
        """A fresh state and the frozen parameters, made where they lie: no device ever holds all of them. `given` are
        the parameters that training begins from, see `train.start`."""
        layout = jax.tree.map(lambda x: x.sharding, (self.state, self.frozen))
        return jax.jit(self.begin, out_shardings=layout)(jax.random.key(self.run.seed), given)

    @functools.cached_property
    def _shapes(self) -> tuple[State, Params]:
        return jax.eval_shape(lambda: self.begin(jax.random.key(0)))

    def begin(self, key: Array, given: Params | None = None) -> tuple[State, Params]:
        """A fresh state and the frozen parameters, to trace; `given` are those that training begins from."""
        run = self.run
        init_key, key = jax.random.split(key)
        params = sharding.unbox(init_boxed(run.model, init_key)) if given is None else given
        if run.mup_base is not None:
            params = jax.tree.map(jnp.multiply, params, mup.deviations(run.model, run.mup_base))
        dressed = run.trains.dress(params, abstract(run.model)[1], jax.random.fold_in(init_key, 1))
        trained, frozen = run.trains.split(dressed)
        trained = jax.tree.map(lambda x: x.astype(jnp.float32), trained)
        dtype = jnp.dtype(run.model.dtype)
        narrow = lambda x: x if leaves.is_quantised(x) or x.ndim < 2 else x.astype(dtype)
        frozen = jax.tree.map(narrow, frozen, is_leaf=leaves.is_quantised)
        ema = jax.tree.map(jnp.copy, trained) if run.ema else None
        state = State(jnp.zeros((), jnp.int32), trained, self.optimizer.init(trained), key, ema)
        return state, frozen


def _laid(shapes: Any, layout: Any) -> Any:
    return jax.tree.map(lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), shapes, layout)
