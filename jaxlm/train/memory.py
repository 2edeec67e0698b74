"""Compiling the training step, and saying in time when it does not fit into memory, with what would help."""

import contextlib
import math
import re
from collections.abc import Callable, Iterator
from typing import Any, cast

import jax
from jax.sharding import Mesh

from jaxlm import compat, sharding
from jaxlm.errors import UserError
from jaxlm.machine import hardware
from jaxlm.run import RunConfig
from jaxlm.train.setup import Setup

GiB = 2**30


def compile_step(setup: Setup) -> Callable:
    """The training step, compiled once for this mesh; the state given to it is donated. Allocates nothing.

    Raises UserError when a device has less memory than the step needs.
    """
    run, mesh = setup.run, cast(Mesh, setup.mesh)
    if run.optimizer.offload:
        compat.offload_needs_more(mesh.devices.flat[0].platform, mesh.size)
    with jax.set_mesh(mesh), memory_explained(run):
        compiled = setup.lower().compile()
        sizes, limit = compiled.memory_analysis(), hardware.memory_limit()
        if sizes is None:  # this backend does not tell
            return compiled
        need = sizes.temp_size_in_bytes + sizes.argument_size_in_bytes
        need += sizes.output_size_in_bytes - sizes.alias_size_in_bytes
        if need > limit:
            # Gradients, which are there twice when parts of a batch are added, stay; activations can be saved.
            gradients = bytes_per_device(setup.state.params)
            activations = max(sizes.temp_size_in_bytes - gradients * (2 if run.accumulate > 1 else 1), 0)
            needs = f"the training step needs {need / GiB:.1f} GiB, a device has {limit / GiB:.1f} GiB"
            raise UserError(f"{needs}: {advice(run, activations, gradients)}")
    return compiled


@contextlib.contextmanager
def memory_explained(run: RunConfig) -> Iterator[None]:
    """Turns the runtime's out-of-memory errors into one line of advice."""
    try:
        yield
    except jax.errors.JaxRuntimeError as e:
        if "RESOURCE_EXHAUSTED" not in str(e):
            raise
        asked = re.search(r"allocat\w*\D*(\d+) bytes", str(e))
        detail = f" (while allocating {int(asked[1]) / GiB:.1f} GiB)" if asked else ""
        raise UserError(f"out of memory{detail}: {advice(run)}") from None


def advice(run: RunConfig, activations: int | None = None, gradients: int = 0) -> str:
    """Which knobs to turn on the current mesh, with the gigabytes of a device that each saves, where that is known.

    The shares are what compiling a 124M and a 2M model with and without each knob gave.
    """
    knobs: list[str] = []

    def offer(knob: str, share: float, less: int = 0) -> None:
        saved = 0 if activations is None else share * activations - less
        if activations is None or saved > 0:
            knobs.append(knob + (f" (saves about {saved / GiB:.2g} GiB)" if saved else ""))

    if run.batch % (2 * run.accumulate * sharding.mesh_size("batch")) == 0:
        offer(f"accumulate={2 * run.accumulate}", 0.5, 0 if run.accumulate > 1 else gradients)
    if run.model.remat != "full":
        offer("model.remat=full", 0.65 if run.model.remat == "none" else 0.5)
    if run.model.dtype == "float32" and sharding.platform() != "cpu":
        offer("model.dtype=bfloat16", 0.4)
    devices = jax.device_count()
    if devices > 1 and run.mesh.fsdp == run.mesh.tensor == 1:
        knobs.append(f"mesh.fsdp={devices} mesh.data=1 (divides weights and optimizer state by {devices})")
    return "try " + ", or ".join([*knobs, "a smaller batch, data.T or model"])


def bytes_per_device(tree: Any) -> int:
    """Of arrays, or of their shapes, which have shardings."""
    return sum(math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(tree))
