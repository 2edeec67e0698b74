"""Changing a model's matrices layer by layer, each by the activations that reach it in texts."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlm.axes import Array, Params
from jaxlm.errors import UserError
from jaxlm.models import Layer, ModelConfig, abstract, by_layer, layers
from jaxlm.ops import leaves
from jaxlm.sharding import Axes
from jaxlm.trains import is_axes, spell
from jaxlm.tune.inputs import products
from jaxlm.tune.quantize import is_matrix, lead
from jaxlm.tune.seen import Matrix, Seen, flat
from jaxlm.tune.solve import error

Change = Callable[[list[Matrix], Seen], list[Any]]  # matrices of the same inputs -> a leaf or an array for each


@dataclasses.dataclass(frozen=True)
class Row:
    """How far a matrix's products are from what they were, |X w - X w'|^2 / |X w|^2; of `nearest` instead, what
    rounding alone gives. Both are None where no inputs were seen, and `nearest` is what it became."""

    layer: int
    matrix: str
    error: float | None
    nearest: float | None


def by_inputs(
    config: ModelConfig,
    params: Params,
    batches: Iterable[Any],
    change: Change,
    nearest: Callable[[Matrix], Any],
    say: Callable[[str], None] = lambda line: None,
) -> tuple[Params, list[Row]]:
    """The parameters with every matrix of the layers as `change` has it, and a table of the errors.

    `batches` are inputs of the model's `forward`: arrays of tokens, or dictionaries that have them by name (of those
    `data` makes tokens, positions and segments are read; where segments are 0 is padding). Layers come in order, and
    within one the matrices that share inputs: each sees what those before it have become. One layer is dense at a time.
    Matrices whose inputs cannot be seen, such as experts', become what `nearest` makes of them. Quantised parameters
    are made dense first.
    """
    config = dataclasses.replace(config, dtype="float32", remat="none")  # pyright: ignore
    enter = jax.jit(lambda params, batch: by_layer.entries(config, _float(leaves.dense(params)), **_inputs(batch)))
    masks, states = [], {stack: [] for stack in config.stacks()}
    for batch in batches:
        batch = batch if isinstance(batch, dict) else {"tokens": np.asarray(batch)}
        masks.append(None if batch.get("segments") is None else jnp.ravel(batch["segments"] > 0).astype(jnp.float32))
        for stack, state in enter(params, {k: v for k, v in batch.items() if k in INPUTS}).items():
            states[stack].append(state)
    if not masks:
        raise UserError("calibration has no text: give at least one row")
    done, table = [], []
    for layer in layers(config):
        own, rows, states[layer.stack] = _layer(config, params, layer, states[layer.stack], masks, change, nearest)
        done.append(own)
        table += rows
        seen = [row.error for row in rows if row.error is not None]
        say(
            f"layer {layer.number}: mean error {np.mean(seen):.2e}" if seen else f"layer {layer.number}: no inputs seen"
        )
    return by_layer.with_layers(config, params, done), table


def _layer(
    config: ModelConfig, params: Params, layer: Layer, states: list, masks: list, change: Change, nearest: Callable
) -> tuple[Params, list[Row], list]:
    """A layer's own parameters, changed; the table's rows; what the next layer reads."""
    stored = by_layer.weights(params, layer)
    own = _float(_dense(stored))
    axes = _unstacked(abstract(config)[1], layer)
    depth = sum(1 for other in layers(config) if other.stack == layer.stack)
    paths, tree = [spell(path) for path, _ in jax.tree_util.tree_leaves_with_path(own)], jax.tree.structure(own)
    flat_axes: dict[str, Axes] = dict(zip(paths, jax.tree.leaves(axes, is_leaf=is_axes), strict=True))
    values: dict[str, Any] = dict(zip(paths, jax.tree.leaves(own), strict=True))
    result = dict(values)
    kind = layer._replace(number=0, group=0, period=0)
    step = _Step(kind, depth, tree, tuple(paths))
    rows = []
    for names in step.groups(values, states[0], flat_axes):
        seen = None
        for (x_BTD, context), mask_N in zip(states, masks, strict=True):
            found = step.seen(names[0], values, x_BTD, context, mask_N)
            seen = found if seen is None else seen + found
        assert seen is not None
        matrices = [Matrix(values[name], name, flat_axes[name]) for name in names]
        for m, leaf in zip(matrices, change(matrices, seen), strict=True):
            result[m.name], values[m.name] = leaf, _dense(leaf)
            apart = [float(_error(m.w, made, seen, m.axes.inputs)) for made in (leaf, nearest(m))]
            rows.append(Row(layer.number, m.name, *apart))
    for name in paths:
        if is_matrix(flat_axes[name]) and name not in {row.matrix for row in rows}:
            result[name] = nearest(Matrix(values[name], name, flat_axes[name]))
            rows.append(Row(layer.number, name, None, None))
    changed = {row.matrix for row in rows}
    given = dict(zip(paths, jax.tree.leaves(stored, is_leaf=leaves.is_leaf), strict=True))
    after = jax.tree.unflatten(tree, [result[name] if name in changed else given[name] for name in paths])
    states = [step.next(_float(after), x_BTD, context) for x_BTD, context in states]
    return after, rows, states


INPUTS = ("tokens", "positions", "segments")


def _inputs(batch: dict[str, Array]) -> dict[str, Array]:
    return {f"{name}_BT": jnp.asarray(batch[name]) for name in INPUTS if batch.get(name) is not None}


_dense = jax.jit(leaves.dense)


def _float(tree: Params) -> Params:
    """float32, of what is not in fewer bits."""
    wide = lambda x: x if leaves.is_leaf(x) or not jnp.issubdtype(x.dtype, jnp.floating) else x.astype(jnp.float32)
    return jax.tree.map(wide, tree, is_leaf=leaves.is_leaf)


def _unstacked(axes: Params, layer: Layer) -> Params:
    for name in layer.path():
        axes = axes[name]
    one = lambda a: Axes(a.names[1:], tuple(i - 1 for i in a.inputs), a.active)
    return jax.tree.map(one, axes, is_leaf=is_axes)


@functools.partial(jax.jit, static_argnums=3)
def _error(w: Array, leaf: Any, seen: Seen, inputs: tuple[int, ...]) -> Array:
    """Of products with what was seen; where activations are rounded too, with the tokens that were kept."""
    w_IO = flat(w, inputs)
    made = leaf.read() if leaves.is_leaf(leaf) else leaf
    if not hasattr(made, "product"):
        change, whole = error(flat(made, inputs) - w_IO, seen.hessian_II), error(w_IO, seen.hessian_II)
        return change / jnp.maximum(whole, 1e-30)
    letters = "abcdefgh"[: w.ndim]
    ins = "".join(letters[i] for i in inputs)
    outs = "".join(x for x in letters if x not in ins)
    x = seen.x_NI.reshape(len(seen.x_NI), 1, *(w.shape[i] for i in inputs))
    y_NO, plain_NO = made.product(f"yz{ins},{letters}->yz{outs}", x).reshape(len(x), -1), seen.x_NI @ w_IO
    return jnp.sum((y_NO - plain_NO) ** 2) / jnp.maximum(jnp.sum(plain_NO**2), 1e-30)


@dataclasses.dataclass(frozen=True)
class _Step:
    """What is computed of one layer, compiled once for layers alike."""

    layer: Layer
    depth: int
    tree: Any
    paths: tuple[str, ...]

    def products(self, values: dict[str, Array], x_BTD: Array, context: Any) -> tuple[Any, dict[str, Any]]:
        return products(self._apply, values, x_BTD, context)

    def _apply(self, values: dict[str, Array], x_BTD: Array, context: Any) -> Any:
        params = jax.tree.unflatten(self.tree, [values[path] for path in self.paths])
        return by_layer.apply(self.layer, self.depth, params, x_BTD, context)

    def groups(self, values: dict[str, Array], state: Any, axes: dict[str, Axes]) -> list[list[str]]:
        """The matrices that are seen, in order, together where they share inputs."""
        met: dict[str, Any] = {}
        jax.eval_shape(lambda *args: met.update(self.products(*args)[1]), values, *state)
        groups: dict[int, list[str]] = {}
        for name, product in met.items():
            a, shape = axes[name], values[name].shape
            inner = np.prod([shape[i] for i in a.inputs]) if a.inputs else 0
            if is_matrix(a) and not lead(a) and product.x_NI.shape[1] == inner:
                groups.setdefault(product.of, []).append(name)
        return list(groups.values())

    def seen(self, name: str, values: dict[str, Array], x_BTD: Array, context: Any, mask_N: Array | None) -> Seen:
        return _seen(self, name, values, x_BTD, context, mask_N)

    def next(self, params: Params, x_BTD: Array, context: Any) -> Any:
        return _next(self, params, x_BTD, context)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _seen(step: _Step, name: str, values: Any, x_BTD: Array, context: Any, mask_N: Array | None) -> Seen:
    x_NI = step.products(values, x_BTD, context)[1][name].x_NI
    return Seen.of(x_NI, mask_N if mask_N is not None and len(mask_N) == len(x_NI) else None)


@functools.partial(jax.jit, static_argnums=0)
def _next(step: _Step, params: Params, x_BTD: Array, context: Any) -> Any:
    return by_layer.apply(step.layer, step.depth, params, x_BTD, context)


def table(rows: Sequence[Row]) -> str:
    """The errors by layer, to print."""
    number = lambda x: "      -" if x is None else f"{x:.1e}"
    lines = [f"{row.layer:5}  {row.matrix:16} {number(row.error):>8} {number(row.nearest):>8}" for row in rows]
    return "\n".join([f"layer  {'matrix':16} {'error':>8} {'nearest':>8}", *lines])
