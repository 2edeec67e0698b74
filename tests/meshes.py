"""Meshes of the eight fake devices, for tests that want the same numbers on every one of them."""

import contextlib

import jax
import numpy as np
from jax.sharding import NamedSharding

from jaxlm import compat, sharding
from jaxlm.sharding import MeshConfig, make_mesh

SHAPES = [(8, 1, 1), (1, 8, 1), (2, 2, 2), (4, 1, 2)]  # data, fsdp, tensor
MESHES = [MeshConfig(*shape, explicit=explicit) for shape in SHAPES for explicit in (True, False)]


def name(config: MeshConfig | None) -> str:
    """How pytest calls a mesh."""
    if config is None:
        return "none"
    shape = "x".join(map(str, (config.data, config.fsdp, config.tensor)))
    shape += f"-context{config.context}" * (config.context > 1)
    return f"{shape}-{'explicit' if config.explicit else 'auto'}"


@contextlib.contextmanager
def on(config: MeshConfig | None):
    """Inside, the mesh of `config` is the current one (none for None). Gives `put(x, *logical names)`."""
    if config is None:
        yield lambda x, *names: jax.numpy.asarray(x)
        return
    mesh = make_mesh(config)
    with jax.set_mesh(mesh):
        yield lambda x, *names: jax.device_put(np.asarray(x), NamedSharding(mesh, sharding.spec(*names)))


def lies(x: jax.Array, *names: str | None) -> bool:
    """Whether `x` lies over the current mesh as its logical axes say."""
    mesh = compat.concrete_mesh()
    return x.sharding.is_equivalent_to(NamedSharding(mesh, sharding.spec(*names)), x.ndim)
