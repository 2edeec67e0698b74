"""The one file that names mesh axes: the mesh, the table from logical axes to mesh axes, and helpers that obey it.

Weights and activations are annotated with *logical* names ("batch", "embed", "heads", ...). `RULES` says which mesh
axes each is divided over. Choosing a parallelism is choosing a mesh shape; nothing else in a program changes. Every
helper works under no mesh, under an explicit mesh (sharding is part of the type; the default) and under an auto mesh
(sharding is the compiler's choice, guided by constraints). `RULES` is a constant because jit's cache key contains the
mesh but not an ambient table.
"""

import contextlib
import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from flax.core import meta
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from jaxlm import compat
from jaxlm.axes import Array
from jaxlm.config_check import check
from jaxlm.errors import UserError

# In the order of increasing traffic: the last axes lie on the nearest devices.
AXES = ("stage", "data", "fsdp", "expert", "context", "tensor")

ACROSS = ("data", "stage", "fsdp")  # may lie across slices, the first that can

RULES: dict[str | None, tuple[str, ...]] = {
    "batch": ("data", "fsdp", "expert"),  # rows of a batch
    "positions": ("context",),  # positions of a row, within a block
    "places": ("data", "fsdp", "expert", "context"),  # rows and positions, as one dimension
    "tokens": ("data", "fsdp", "expert", "context", "stage"),  # the same, where stages share the work of one
    "seq": ("context", "tensor"),  # positions of the residual stream between blocks (Megatron sequence parallelism)
    "embed": ("fsdp", "expert", "context"),  # model width of a weight
    "heads": ("tensor",),  # query heads, and key/value heads
    "spread_heads": ("tensor", "context"),  # heads, where a device has whole rows of some instead of pieces of all
    "mlp": ("tensor",),  # feed-forward width
    "vocab": ("tensor",),  # vocabulary of the embedding table and the head
    "experts": ("expert",),  # experts of a layer
    "expert_embed": ("fsdp", "context"),  # model width of an expert's weight
    "layers": ("stage",),  # the leading dimension of a scanned stack
    None: (),
}


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """The shape of the device mesh; one axis may be -1 and takes the devices that the others leave.

    Over several TPU slices or GPU nodes, which a slower network connects, the first of data, stage and fsdp that their
    number divides is laid across them, and every other axis within one.
    """

    data: int = -1  # replicas of the weights; the batch is divided
    fsdp: int = 1  # weights, gradients and optimizer state are divided, and the batch
    tensor: int = 1  # heads, feed-forward width and vocabulary are divided, and positions between blocks
    expert: int = 1  # experts are divided, the batch, and as by fsdp all other weights
    context: int = 1  # positions are divided, and as by fsdp all weights
    stage: int = 1  # layers are divided: a pipeline
    explicit: bool = True  # sharding in the type (jax AxisType.Explicit) or left to the compiler (Auto)

    def __post_init__(self):
        sizes = self.sizes
        check(self)
        if any(n != -1 and n < 1 for n in sizes.values()) or list(sizes.values()).count(-1) > 1:
            raise UserError(f"mesh axes must be positive, at most one of them -1; got {sizes}")

    @property
    def sizes(self) -> dict[str, int]:
        """Of every axis."""
        return {axis: getattr(self, axis) for axis in AXES}


def make_mesh(config: MeshConfig = MeshConfig(), devices: Sequence[Any] | None = None) -> Mesh:
    """The mesh of all (or the given) devices. Raises UserError when the shape does not match their number."""
    devices = list(jax.devices() if devices is None else devices)
    sizes = mesh_shape(config, len(devices))
    kind = AxisType.Explicit if config.explicit else AxisType.Auto
    return Mesh(_grid(sizes, devices), AXES, axis_types=(kind,) * len(AXES))


def mesh_shape(config: MeshConfig, count: int) -> dict[str, int]:
    """The size of every axis over `count` devices. Raises UserError when the mesh does not match their number."""
    sizes = config.sizes
    known = math.prod(n for n in sizes.values() if n != -1)
    if count % known or (-1 not in sizes.values() and known != count):
        asked = ", ".join(f"{axis}={n}" for axis, n in sizes.items() if n != 1)
        raise UserError(
            f"mesh {asked or 'of one device'} does not match the {count} devices here: "
            f"the product of the axes must be {count} (one axis may be -1 to take the rest)"
        )
    return {axis: count // known if n == -1 else n for axis, n in sizes.items()}


def across(sizes: dict[str, int], slices: int) -> str | None:
    """The mesh axis that lies across so many slices; None where none can."""
    return next((axis for axis in ACROSS if sizes[axis] % slices == 0), None)


def _grid(sizes: dict[str, int], devices: list[Any]) -> np.ndarray:
    """The devices in the shape of the mesh."""
    # A 3-D torus refuses many shapes unless a physical axis may be split.
    how: Any = {"devices": devices, "allow_split_physical_axes": True}
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    if slices == 1:
        return mesh_utils.create_device_mesh(list(sizes.values()), **how)
    if (split := across(sizes, slices)) is None:
        asked = ", ".join(f"{axis}={sizes[axis]}" for axis in ACROSS)
        raise UserError(f"mesh {asked} over {slices} slices: make one of these axes a multiple of {slices}")
    outer = {axis: slices if axis == split else 1 for axis in AXES}
    inner = [n // outer[axis] for axis, n in sizes.items()]
    return mesh_utils.create_hybrid_device_mesh(inner, list(outer.values()), **how)


def no_mesh() -> contextlib.AbstractContextManager:
    """Within it no mesh is set: for shapes that have nothing to do with one, like a model's own."""
    return jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((), ()))


def use(mesh: Mesh | AbstractMesh) -> contextlib.AbstractContextManager:
    """Within it `mesh` is the current one; one of no devices serves to trace programs."""
    return jax.set_mesh(mesh) if isinstance(mesh, Mesh) else jax.sharding.use_abstract_mesh(mesh)


def platform() -> str:
    """Of the devices that a program is traced for: those of the mesh, which need not be here, or else jax's own."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    return jax.default_backend() if device is None else compat.device_platform(device)


def divided(name: str | None, mesh: Any = None) -> tuple[str, ...]:
    """The axes of `mesh`, or else of the current one, that divide the logical axis `name`: those larger than 1."""
    mesh = jax.sharding.get_abstract_mesh() if mesh is None else mesh
    return tuple(axis for axis in RULES[name] if not mesh.empty and mesh.shape[axis] > 1)


def each_device(mesh: Mesh) -> NamedSharding:
    """Of an array that has one element for every device."""
    return NamedSharding(mesh, PartitionSpec(mesh.axis_names))


def parts(name: str | None, sizes: Mapping[str, int]) -> int:
    """Into how many parts a mesh whose axes have these sizes divides the logical axis `name`."""
    return math.prod(sizes[axis] for axis in RULES[name])


def mesh_size(name: str | None) -> int:
    """Over how many devices of the current mesh the logical axis `name` is divided; 1 under no mesh."""
    mesh = jax.sharding.get_abstract_mesh()
    return 1 if mesh.empty else parts(name, mesh.shape)


def spec(*names: str | None, mesh: Any = None) -> PartitionSpec:
    """The PartitionSpec of an array whose dimensions have these logical names, on `mesh` or else the current one.

    Mesh axes of size 1 are left out: explicit sharding would otherwise see clashes where nothing is divided.
    """
    mesh = jax.sharding.get_abstract_mesh() if mesh is None else mesh

    def one(name: str | None) -> str | tuple[str, ...] | None:
        return axes[0] if len(axes := divided(name, mesh)) == 1 else axes or None

    return PartitionSpec(*map(one, names))


def stream(T: int) -> tuple[str | None, ...]:
    """Logical axes of the residual stream x_BTD between blocks: positions lie as `RULES` says where that divides T."""
    return ("batch", "seq" if T % mesh_size("seq") == 0 else rows(T)[1], None)


def rows(T: int) -> tuple[str | None, ...]:
    """Logical axes of x_BTD within a block: the devices that share a block's weights have the same positions."""
    return ("batch", "positions" if T % mesh_size("positions") == 0 else None, None)


def explicit() -> bool:
    """Whether arrays here have the current mesh in their types."""
    return _explicit(jax.sharding.get_abstract_mesh())


def _explicit(mesh) -> bool:
    return AxisType.Explicit in mesh.axis_types


def constrain(x: Array, *names: str | None) -> Array:
    """`x` laid out by logical names: a reshard on an explicit mesh, a constraint on an auto one, nothing without."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.are_all_axes_manual:
        return x
    if _explicit(mesh):
        return jax.sharding.reshard(x, spec(*names))
    return compat.with_sharding_constraint(x, spec(*names))


def replicated(x: Array, axis: int) -> Array:
    """`x` replicated along this axis: all of it on every device, the others as they lie."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.are_all_axes_manual or not _explicit(mesh):
        return x  # on an auto mesh the compiler sees to it
    where = jax.typeof(x).sharding.spec
    return jax.sharding.reshard(x, PartitionSpec(*where[:axis], None, *where[axis + 1 :]))


def einsum(equation: str, x: Array, w: Array, *, out: Sequence[str | None] | None = None, dtype: Any = None) -> Array:
    """`jnp.einsum` of activations and a weight, such as "btd,dhk->bthk": the letters summed over end x and begin or
    end w. `out` names the result's logical axes, needed only where a divided axis is summed away."""
    if hasattr(w, "product"):  # a leaf that multiplies itself, see ops.leaves
        return w.product(equation, x, out, dtype)  # pyright: ignore
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return _product(equation, x, w, dtype)
    if mesh_size("positions") > 1:
        w = _gathered(w)
    if out is None or mesh.are_all_axes_manual:
        return jnp.einsum(equation, x, w, preferred_element_type=dtype)
    if _explicit(mesh):
        return jnp.einsum(equation, x, w, preferred_element_type=dtype, out_sharding=spec(*out))
    return compat.with_sharding_constraint(jnp.einsum(equation, x, w, preferred_element_type=dtype), spec(*out))


def _gathered(w: Array) -> Array:
    """A weight whole over the model's width. Where one mesh axis divides both the width of weights and positions, the
    compiler is else free to gather the positions."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.are_all_axes_manual or not _explicit(mesh):
        return w

    def one(entry: Any) -> Any:
        axes = entry if isinstance(entry, tuple) else (entry,)
        return tuple(axis for axis in axes if axis is not None and axis not in RULES["embed"]) or None

    return jax.sharding.reshard(w, PartitionSpec(*map(one, jax.typeof(w).sharding.spec)))


def _product(equation: str, x: Array, w: Array, dtype: Any) -> Array:
    """`einsum` on one device, as one product of two matrices: XLA's CPU compiler copies the operands of others."""
    x_names, w_names = equation.partition("->")[0].split(",")
    n = sum(name in w_names for name in x_names)
    first = w_names.startswith(x_names[-n:])
    rows, inner, columns = x.shape[:-n], math.prod(x.shape[-n:]), w.shape[n:] if first else w.shape[:-n]
    matrix = w.reshape((inner, -1) if first else (-1, inner))
    dimensions = (((1,), (0 if first else 1,)), ((), ()))
    y = jax.lax.dot_general(x.reshape(-1, inner), matrix, dimensions, preferred_element_type=dtype)
    return y.reshape(*rows, *columns)


def shard_map(
    f: Callable, ins: Sequence[Sequence[str | None]], out: Sequence[str | None], *xs: Any, kernel: bool = False
) -> Array:
    """`f` on every device's own part of `xs` (jax.shard_map), laid out by logical names; plain `f` under no mesh.

    For hand-written collectives and, with `kernel`, for Pallas kernels. An `xs` that is None stays None.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.are_all_axes_manual:
        return f(*xs)
    xs = tuple(x if x is None else constrain(x, *names) for x, names in zip(xs, ins, strict=True))
    in_specs = tuple(None if x is None else spec(*names) for x, names in zip(xs, ins, strict=True))
    # A Pallas kernel does not say over which axes its outputs vary, so the check of it must be off; and within a
    # pipeline's shard_map over stages it is off for all.
    check = not kernel and not mesh.manual_axes
    free = set(mesh.axis_names) - set(mesh.manual_axes)
    return jax.shard_map(f, in_specs=in_specs, out_specs=spec(*out), axis_names=free, check_vma=check)(*xs)


def lead(tree: Any, name: str | None) -> Any:
    """Arrays on a mesh with their first dimension divided as `name` says, and the others as they are."""
    first = spec(name)

    def one(x: Array) -> Array:
        if explicit():
            return jax.sharding.reshard(x, PartitionSpec(*first, *jax.typeof(x).sharding.spec[1:]))
        free = [PartitionSpec.UNCONSTRAINED] * (x.ndim - 1)
        return compat.with_sharding_constraint(x, PartitionSpec(*first, *free))

    return jax.tree.map(one, tree)


def out_sharding(*names: str | None) -> PartitionSpec | None:
    """The `out_sharding` of a new array: a spec on an explicit mesh, None where jax takes none."""
    mesh = jax.sharding.get_abstract_mesh()
    return spec(*names) if not mesh.empty and not mesh.are_all_axes_manual and _explicit(mesh) else None


def _partial(over: str, out: Sequence[str | None]) -> PartitionSpec | None:
    """The spec of a sum still to be taken over the mesh axes of `over`; only explicit axes can say so."""
    if (where := out_sharding(*out)) is None:
        return None
    return PartitionSpec(*where, unreduced=frozenset(divided(over))) if compat.leaves_unreduced() else where


def partial_einsum(equation: str, *xs: Array, over: str, out: Sequence[str | None], dtype: Any = jnp.float32) -> Array:
    """An einsum that sums over the divided axis `over`, each device its own part: the sum over devices, in `dtype`, is
    left to whoever constrains the result. Accumulating such parts in a loop communicates once instead of each time."""
    where = _partial(over, out)
    return jnp.einsum(equation, *xs, preferred_element_type=dtype, out_sharding=where)


def partial_zeros(shape: tuple[int, ...], over: str, out: Sequence[str | None], dtype: Any = jnp.float32) -> Array:
    """Where accumulating `partial_einsum`s starts."""
    return jnp.zeros(shape, dtype, out_sharding=_partial(over, out))


@dataclasses.dataclass(frozen=True)
class Axes:
    """What a weight's dimensions mean: a leaf of the tree that `axes` returns.

    `names` are the logical axes; `inputs` the dimensions contracted with the incoming activations (empty for
    embeddings, norm scales and biases); `active` the share of it that one token meets (experts: k / E). Initialisers,
    weight decay, Muon and the count of FLOPs read it.
    """

    names: tuple[str | None, ...]
    inputs: tuple[int, ...] = ()
    active: float = 1.0


@struct.dataclass
class Named(meta.AxisMetadata):
    """A weight boxed with its `Axes`. Unboxing constrains nothing, so it works on explicit meshes."""

    value: Any
    axes: Axes = struct.field(pytree_node=False)

    def unbox(self) -> Any:
        return self.value

    def replace_boxed(self, val: Any) -> "Named":
        return dataclasses.replace(self, value=val)

    def add_axis(self, index: int, params: dict) -> "Named":
        names = (*self.axes.names[:index], "layers", *self.axes.names[index:])
        inputs = tuple(i + (i >= index) for i in self.axes.inputs)
        return dataclasses.replace(self, axes=dataclasses.replace(self.axes, names=names, inputs=inputs))

    def remove_axis(self, index: int, params: dict) -> "Named":
        names = self.axes.names[:index] + self.axes.names[index + 1 :]
        inputs = tuple(i - (i > index) for i in self.axes.inputs)
        return dataclasses.replace(self, axes=dataclasses.replace(self.axes, names=names, inputs=inputs))


def weight(
    module: nn.Module,
    name: str,
    shape: tuple[int, ...],
    names: tuple[str | None, ...],
    init: Callable = nn.initializers.zeros_init(),
    inputs: tuple[int, ...] = (),
    active: float = 1.0,
) -> Array:
    """A float32 parameter of `module`, annotated with its logical axes; dense, if it is stored as a leaf."""
    if hasattr(stored := module.get_variable("params", name), "dense"):
        return stored.read(module)  # pyright: ignore
    boxed: Any = lambda key: Named(init(key, shape, jnp.float32), Axes(names, inputs, active))
    return module.param(name, boxed)  # unboxed by flax


def _is_named(x: Any) -> bool:
    return isinstance(x, Named)


def unbox(boxed: Any) -> Any:
    """The tree of plain arrays in a tree of `Named`."""
    return jax.tree.map(lambda x: x.value if _is_named(x) else x, boxed, is_leaf=_is_named)


def axes_of(boxed: Any) -> Any:
    """The tree of `Axes` in a tree of `Named`."""
    return jax.tree.map(lambda x: x.axes, boxed, is_leaf=_is_named)


def shardings(axes: Any, shapes: Any, mesh: Mesh | AbstractMesh) -> Any:
    """A NamedSharding for every weight. Raises UserError naming the first weight that the mesh does not divide.

    A stack of fewer layers than there are stages is no pipeline: it lies whole on every stage.
    """
    stages = parts("layers", mesh.shape)

    def one(path, a: Axes, x) -> NamedSharding:
        names = tuple(
            None if name == "layers" and n < stages else name for n, name in zip(x.shape, a.names, strict=True)
        )
        for size, name in zip(x.shape, names):
            n = parts(name, mesh.shape)
            if size % n:
                near = min((d for d in range(1, size + 1) if size % d == 0), key=lambda d: abs(d - n))
                raise UserError(
                    f"mesh {' x '.join(divided(name, mesh))}={n} does not divide the {name!r} axis of "
                    f"{jax.tree_util.keystr(path)}, which has size {size}: the nearest that does is {near}"
                )
        return NamedSharding(mesh, spec(*names, mesh=mesh))

    return jax.tree_util.tree_map_with_path(one, axes, shapes, is_leaf=lambda x: isinstance(x, Axes))
