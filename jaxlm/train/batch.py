"""The batches of a run: how they lie on the mesh, and which rows each process reads."""

import functools
from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractMesh, Mesh, NamedSharding

from jaxlm import sharding
from jaxlm.axes import Array
from jaxlm.errors import UserError
from jaxlm.objectives import Batch, Spec
from jaxlm.run import RunConfig


def place(batch: dict[str, np.ndarray], spec: dict[str, Spec], mesh: Mesh, parts: int | None = None) -> Batch:
    """What `spec` asks of the rows of a batch that `rows_here` names, as arrays over the mesh; with `parts`, cut into
    that many on a new first axis. Raises UserError for a batch that lacks something."""
    _check(batch, spec)
    axis, (count, held) = 0 if parts is None else 1, _held(mesh)

    def one(x: np.ndarray, where: NamedSharding) -> Array:
        x = x if parts is None else x.reshape(parts, -1, *x.shape[1:])
        size = x.shape[axis] // len(held)

        def shard(index: Any) -> np.ndarray:
            at = held.index((index[axis].start or 0) // size) * size
            return x[(*index[:axis], slice(at, at + size), *index[axis + 1 :])]

        return jax.make_array_from_callback((*x.shape[:axis], size * count, *x.shape[axis + 1 :]), where, shard)

    return {name: one(batch[name], _where(mesh, parts, own)) for name, own in spec.items()}


def _check(batch: dict[str, np.ndarray], spec: dict[str, Spec]) -> None:
    for name, own in spec.items():
        if name not in batch:
            raise UserError(f"the objective asks for {name!r} in a batch, and the data gives {', '.join(batch)}")
        if batch[name].shape[1:] != own.shape:
            raise UserError(f"{name!r} has rows of shape {batch[name].shape[1:]}, the objective asks for {own.shape}")


def rows_here(mesh: Mesh, rows: int, parts: int = 1) -> list[int]:
    """Which of the `rows` of a batch, placed in `parts`, this process must read: those that its devices hold.

    Processes hold the same rows where the mesh divides something else than the batch between them.
    """
    (count, held), part = _held(mesh), rows // parts
    size = part // count
    return [p * part + shard * size + i for p in range(parts) for shard in held for i in range(size)]


@functools.cache
def _held(mesh: Mesh) -> tuple[int, list[int]]:
    """Into how many shards the mesh divides a batch, and which of them lie on devices of this process."""
    with jax.set_mesh(mesh):
        count, where = sharding.mesh_size("batch"), NamedSharding(mesh, sharding.spec("batch"))
    indices: Any = where.addressable_devices_indices_map((count,)).values()
    return count, sorted({at.start or 0 for (at,) in indices})


def abstract_batch(run: RunConfig, mesh: Mesh | AbstractMesh) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes of the batches that a training step takes. Raises UserError where the mesh does not divide them."""
    rows, spec = run.batch // run.accumulate, run.objective.spec(run.data)
    with sharding.use(mesh):
        parts = sharding.mesh_size("batch")
        pieces = {name: sharding.mesh_size(name) for own in spec.values() for name in own.axes}
    if rows % parts:
        axes = ", ".join(sharding.divided("batch", mesh))
        raise UserError(
            f"batch={run.batch} in {run.accumulate} parts is {rows} rows at a time, which the {parts} devices of the "
            f"mesh axes {axes} do not divide: choose a batch that is a multiple of {parts * run.accumulate}"
        )
    for own in spec.values():
        for size, name in zip(own.shape, own.axes):
            if size % (n := pieces[name]):
                near, axes = max(round(size / n), 1) * n, " x ".join(sharding.divided(name, mesh))
                raise UserError(f"mesh {axes}={n} does not divide data.T={size}: the nearest that it does is {near}")
    return {
        name: jax.ShapeDtypeStruct(
            (run.accumulate, rows, *own.shape), own.dtype, sharding=_where(mesh, run.accumulate, own)
        )
        for name, own in spec.items()
    }


def _where(mesh: Mesh | AbstractMesh, parts: int | None, spec: Spec) -> NamedSharding:
    names = ("batch", *spec.axes) if parts is None else (None, "batch", *spec.axes)
    return NamedSharding(mesh, sharding.spec(*names, mesh=mesh))
