"""Products of which every row of a batch has a low-rank change of its own."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from jaxlm import sharding
from jaxlm.axes import Array


def changed(
    equation: str,
    x: Array,
    y: Array,
    rows_B: Array,
    inputs: str,
    outputs: str,
    a: Array,
    b: Array,
    factor: Array | None = None,
) -> Array:
    """y = x w, as `equation` says, with each row's change of N:

        y_b -> f_i (y_b + (x_b a_i) b_i)    i = rows_B[b]

    a is (N, *inputs, r), b (N, r, *outputs) and f (N, *outputs) or None, `inputs` and `outputs` the letters of w that
    are summed over and that come of it. Two thin products, without any row's a b. The result lies as y does.
    """
    (x_names, _), y_names = equation.partition("->")[0].split(","), equation.partition("->")[2]
    batch, kept = x_names[0], "".join(name for name in x_names if name not in inputs)
    at_x, at_y = (dict(zip(names, _laid_out(z))) for names, z in ((x_names, x), (y_names, y)))

    def taken(stack: Array, names: str, where: dict[str, Any]) -> Array:
        return _take(stack.astype(x.dtype), rows_B, [at_y[batch], *(where.get(name) for name in names)])

    down_names = f"{kept}z"  # z is the rank
    down = _einsum(f"{x_names},{batch}{inputs}z->{down_names}", x, taken(a, f"{inputs}z", at_x), at_y)
    up = _einsum(f"{down_names},{batch}z{outputs}->{y_names}", down, taken(b, f"z{outputs}", at_y), at_y)
    y += up.astype(y.dtype)
    if factor is None:
        return y
    f = taken(factor, outputs, at_y).astype(y.dtype)
    return y * jnp.expand_dims(f, tuple(i for i, name in enumerate(y_names) if name not in batch + outputs))


def spec(x: Array) -> PartitionSpec | None:
    """How an array lies on an explicit mesh; None elsewhere, as jax wants it."""
    return jax.typeof(x).sharding.spec if sharding.explicit() else None


def _laid_out(x: Array) -> tuple[Any, ...]:
    """How an array lies on an explicit mesh, an entry for each dimension; all None elsewhere."""
    return tuple(jax.typeof(x).sharding.spec) if sharding.explicit() else (None,) * x.ndim


def _einsum(equation: str, x: Array, y: Array, where: dict[str, Any]) -> Array:
    names = equation.partition("->")[2]
    out = PartitionSpec(*(where.get(name) for name in names)) if sharding.explicit() else None
    return jnp.einsum(equation, x, y, out_sharding=out)


def _take(x: Array, rows: Array, where: Sequence[Any]) -> Array:
    """x[rows], laid out so."""
    if not sharding.explicit():
        return x[rows]
    whole, rows = jax.sharding.reshard(x, PartitionSpec()), jax.sharding.reshard(rows, PartitionSpec(where[0]))
    return jax.sharding.reshard(whole.at[rows].get(out_sharding=PartitionSpec(where[0])), PartitionSpec(*where))
