"""A short training in memory: parameters in, parameters out, no folder."""

from typing import Any

import jax
from jax.sharding import Mesh

from jaxlm import sharding
from jaxlm.axes import Params
from jaxlm.ops import leaves
from jaxlm.run import RunConfig
from jaxlm.train.batch import place, rows_here
from jaxlm.train.setup import Setup
from jaxlm.trains import join


def fit(run: RunConfig, params: Params | None, dataset: Any, dense: bool = True, mesh: Mesh | None = None) -> Params:
    """`run.steps` steps from these parameters, or fresh ones, on a prepared dataset (its `train_batches`). Of the run
    the model, objective, optimizer, `trains`, batch and seed count; the mesh is its own, over all devices, unless one
    is given. Leaves are made dense, unless `dense` is False: what `trains` adds then stays."""
    mesh = mesh or sharding.make_mesh(run.mesh)
    setup = Setup(run, mesh)
    setup.check()
    spec: Any = run.objective.spec(run.data)
    with jax.set_mesh(mesh):
        state, frozen = setup.create(params)
        layout = jax.tree.map(lambda x: x.sharding, setup.state)
        step = jax.jit(setup.train_step, donate_argnums=0, out_shardings=(layout, None))
        with dataset.train_batches(run.batch, rows_here(mesh, run.batch, run.accumulate)) as batches:
            for _ in range(run.steps):
                state, _ = step(state, place(next(batches), spec, mesh, run.accumulate), frozen)
        whole = run.trains.undress(join(state.eval_params, frozen))
        return jax.jit(leaves.dense)(whole) if dense else whole
