"""AWQ and SmoothQuant: each input's weights are scaled before they are rounded, by how large its activations are."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from jaxlm.axes import Array
from jaxlm.ops.leaves import Rescaled
from jaxlm.sharding import Axes
from jaxlm.tune.gptq import rounded, scales
from jaxlm.tune.quantize import EIGHT, group_of, stored
from jaxlm.tune.seen import Matrix, Seen
from jaxlm.tune.solve import error

GRID = 20
NOT_CLIPPED = ("q", "k")  # whose products are delicate


def awq(matrices: list[Matrix], seen: Seen, kind: str = "int4", group: int | None = None) -> list[Any]:
    """Leaves of `kind` for the matrices that multiply what was `seen` (Lin et al. 2023, arXiv:2306.00978):

        w' = round(w s) / s,   s = mean |x| ^ r

    with the r of 0, 1/20, ..., 19/20 that makes the summed |X (w - w')|^2 least; then each group's largest weight is
    clipped, by up to half, where that makes its own error less. The paper folds s into what comes before and measures
    whole blocks; here the factors stay in the leaf (`ops.leaves.Rescaled`), so any architecture will do.
    """
    sizes = tuple(_size(m, kind, group) for m in matrices)
    w = [m.w_IO for m in matrices]
    ratio = _search(w, seen.hessian_II, seen.mean_I, sizes, kind)
    clips = [kind not in EIGHT and m.name.rsplit(".", 1)[-1] not in NOT_CLIPPED for m in matrices]
    return [
        _made(m.w, seen.hessian_II, seen.mean_I, ratio, axes=m.axes, kind=kind, size=size, clip=clip)
        for m, size, clip in zip(matrices, sizes, clips, strict=True)
    ]


@functools.partial(jax.jit, static_argnames=("axes", "kind", "size", "clip"))
def _made(
    w: Array, hessian_II: Array, mean_I: Array, ratio: Array, *, axes: Axes, kind: str, size: int, clip: bool
) -> Any:
    m, s_I = Matrix(w, "", axes), _powers(mean_I, ratio)
    w_IO = m.w_IO * s_I[:, None]
    w_IO = _clipped(w_IO, hessian_II / (s_I[:, None] * s_I[None]), size, kind) if clip else w_IO
    return Rescaled(stored(m.like(w_IO), axes, "", kind, None if kind in EIGHT else size), m.over_inputs(1 / s_I))


def smoothquant(matrices: list[Matrix], seen: Seen, alpha: float = 0.5) -> list[Any]:
    """ "w8a8" leaves for the matrices that multiply what was `seen` (Xiao et al. 2022, arXiv:2211.10438):

        x w = (x / s) (s w),   s = max |x|^alpha / max |w|^(1 - alpha)

    so that outliers among activations become weights', which are rounded apart for each output.
    """
    most_I = jnp.max(jnp.stack([jnp.max(jnp.abs(m.w_IO), 1) for m in matrices]), 0)
    return [_smoothed(m.w, seen.largest_I, most_I, m.axes, alpha) for m in matrices]


@functools.partial(jax.jit, static_argnums=(3, 4))
def _smoothed(w: Array, largest_I: Array, most_I: Array, axes: Axes, alpha: float) -> Any:
    m = Matrix(w, "", axes)
    s_I = jnp.maximum(largest_I, 1e-5) ** alpha / jnp.maximum(most_I, 1e-5) ** (1 - alpha)
    s_I = jnp.where((largest_I == 0) | (most_I == 0), 1, s_I)
    return Rescaled(stored(m.like(m.w_IO * s_I[:, None]), axes, "", "w8a8"), m.over_inputs(1 / s_I))


def _size(m: Matrix, kind: str, group: int | None) -> int:
    return len(m.w_IO) if kind in EIGHT else group_of(m.w.shape[m.axes.inputs[-1]], m.name, kind, group)


def _powers(mean_I: Array, ratio: Any) -> Array:
    s_I = jnp.maximum(mean_I**ratio, 1e-4)
    return s_I / jnp.sqrt(jnp.max(s_I) * jnp.min(s_I))


@functools.partial(jax.jit, static_argnames=("sizes", "kind"))
def _search(w: list[Array], hessian_II: Array, mean_I: Array, sizes: tuple[int, ...], kind: str) -> Array:
    """The ratio of the least error."""
    ratios = jnp.arange(GRID) / GRID

    def total(ratio: Array) -> Array:
        s_I1 = _powers(mean_I, ratio)[:, None]
        change = lambda w_IO, size: _nearest(w_IO * s_I1, size, kind) / s_I1 - w_IO
        return sum((error(change(w_IO, n), hessian_II) for w_IO, n in zip(w, sizes)), jnp.zeros(()))

    return ratios[jnp.argmin(jax.lax.map(total, ratios))]


def _nearest(w_IO: Array, size: int, kind: str) -> Array:
    return rounded(w_IO, jnp.repeat(scales(w_IO, size, kind), size, 0), kind)


def _clipped(w_IO: Array, hessian_II: Array, size: int, kind: str) -> Array:
    """The weights, each group's no larger than is best for its own part of the products."""
    groups = len(w_IO) // size
    h_Gii = jnp.stack([jax.lax.dynamic_slice(hessian_II, (g * size, g * size), (size, size)) for g in range(groups)])
    w_GiO = w_IO.reshape(groups, size, -1)
    most_G1O = jnp.max(jnp.abs(w_GiO), 1, keepdims=True)

    def one(share: Array) -> Array:
        cut = jnp.clip(w_GiO, -share * most_G1O, share * most_G1O)
        d_GiO = _nearest(cut.reshape(w_IO.shape), size, kind).reshape(w_GiO.shape) - w_GiO
        return jnp.sum(d_GiO * jnp.einsum("gij,gjo->gio", h_Gii, d_GiO), 1)

    shares = 1 - jnp.arange(GRID // 2) / GRID
    best_GO = shares[jnp.argmin(jax.lax.map(one, shares), 0)]
    limit = best_GO[:, None] * most_G1O
    return jnp.clip(w_GiO, -limit, limit).reshape(w_IO.shape)
