"""Pruning: weights of matrices that are set to zero, one by one, two of four, or chosen by what they multiply."""

import functools
import math
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlm.axes import Array, Params
from jaxlm.errors import UserError, unknown
from jaxlm.models import ModelConfig, abstract
from jaxlm.ops import leaves
from jaxlm.sharding import Axes
from jaxlm.trains import is_axes, spell
from jaxlm.tune.calibrate import Row, by_inputs
from jaxlm.tune.quantize import is_matrix, lead
from jaxlm.tune.seen import Matrix, Seen
from jaxlm.tune.solve import blocks_of, solve, upper

METHODS = ("magnitude", "global", "wanda", "sparsegpt")
READING = ("wanda", "sparsegpt")


def prune(
    config: ModelConfig,
    params: Params,
    sparsity: float = 0.5,
    method: str = "magnitude",
    pattern: str | None = None,
    batches: Iterable[Any] | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> tuple[Params, list[Row]]:
    """The parameters with a share `sparsity` of the matrices inside layers zero, and the errors by layer.

    | method | what is dropped |
    |---|---|
    | magnitude | the smallest of every matrix (Han et al. 2015, arXiv:1506.02626) |
    | global | the smallest of all matrices together, each in units of its own mean square |
    | wanda | of each output, the smallest |w| |x|, |x| the length of an input (Sun et al. 2023, arXiv:2306.11695) |
    | sparsegpt | w^2 / U_ii^2, others making up for it (Frantar & Alistarh 2023, arXiv:2301.00774), see `tune.solve` |

    The last two read `batches`, see `tune.calibrate.by_inputs`. With `pattern` "2:4" two of every four inputs are
    dropped (Mishra et al. 2021, arXiv:2104.08378), "n:m" n of every m, and `sparsity` is n / m. Shapes stay;
    `tune.Kept` trains what is left. Raises UserError for an unknown method, a share outside [0, 1), inputs that a
    pattern does not divide, batches that are missing or not read, and parameters in fewer bits.
    """
    if method not in METHODS:
        raise unknown("method of pruning", method, METHODS)
    if not 0 <= sparsity < 1:
        raise UserError(f"sparsity={sparsity} must be a share of weights from 0 to below 1")
    if (batches is None) == (method in READING):
        raise UserError(f"{method} " + ("needs calibration batches" if batches is None else "reads no calibration"))
    n, m = _pattern(pattern)
    if method == "global" and m:
        raise UserError("global pruning compares all weights: leave the pattern out")
    for path, x in jax.tree_util.tree_leaves_with_path(params, is_leaf=leaves.is_leaf):
        if leaves.is_leaf(x):
            raise UserError(f"{spell(path)} is stored as {type(x).__name__}: prune before it is quantised")
    axes = abstract(config)[1]
    plain = lambda w, a, name: _kept_of(jnp.abs(w), w, a, name, sparsity, n, m)
    if batches is None:
        floor = _global(params, axes, sparsity) if method == "global" else None

        def one(path: Any, a: Axes, w: Array) -> Array:
            if not is_matrix(a):
                return w
            return jnp.where(jnp.abs(w) > floor * _rms(w), w, 0) if floor is not None else plain(w, a, spell(path))

        return jax.tree_util.tree_map_with_path(one, axes, params, is_leaf=is_axes), []
    change = wanda if method == "wanda" else sparsegpt
    how = functools.partial(change, sparsity=sparsity, n=n, m=m)
    return by_inputs(config, params, batches, how, lambda matrix: plain(matrix.w, matrix.axes, matrix.name), say)


def wanda(matrices: list[Matrix], seen: Seen, sparsity: float, n: int, m: int) -> list[Array]:
    """The matrices without the smallest |w| |x| of each output, see `prune`."""
    length_I = jnp.sqrt(jnp.diag(seen.hessian_II))
    for matrix in matrices:
        _divides(len(length_I), m, matrix.name)
    return [x.like(x.w_IO * _mask(jnp.abs(x.w_IO) * length_I[:, None], sparsity, n, m)) for x in matrices]


def sparsegpt(matrices: list[Matrix], seen: Seen, sparsity: float, n: int, m: int, damp: float = 0.01) -> list[Array]:
    """The matrices with weights dropped and the others changed to make up for it, see `prune`."""
    u_II, alive_I = upper(seen.hessian_II, damp)
    for matrix in matrices:
        _divides(len(u_II), m, matrix.name)
    solved = lambda x: _sparse(jnp.where(alive_I[:, None], x.w_IO, 0), u_II, sparsity=sparsity, n=n, m=m)
    return [x.like(solved(x)) for x in matrices]


@functools.partial(jax.jit, static_argnames=("sparsity", "n", "m"))
def _sparse(w_IO: Array, u_II: Array, *, sparsity: float, n: int, m: int) -> Array:
    block = m or blocks_of(len(w_IO))  # of a pattern each group is chosen as it has become

    def plan(w_BO: Array, u_BB: Array, start: Array) -> Array:
        score = jnp.square(w_BO / jnp.diag(u_BB)[:, None])
        if m:
            return _mask(score, sparsity, n, m)
        return _mask(score.reshape(-1, 1), sparsity, 0, 0).reshape(score.shape)

    made_IO, keep = solve(w_IO, u_II, block, plan, lambda w_O, keep_BO, i: w_O * keep_BO[i])
    return made_IO * keep.reshape(made_IO.shape)


def _mask(score_IO: Array, sparsity: float, n: int, m: int) -> Array:
    """1 on what stays: of each output all but the share, or but n of every m, of the lowest scores."""
    x = score_IO.reshape(-1, m, score_IO.shape[1]) if m else score_IO[None]
    drop = n if m else round(sparsity * x.shape[1])
    rank = jnp.argsort(jnp.argsort(x, 1), 1)
    return (rank >= drop).reshape(score_IO.shape).astype(score_IO.dtype)


def _kept_of(score: Array, w: Array, axes: Axes, name: str, sparsity: float, n: int, m: int) -> Array:
    """A matrix, or several behind each other, without its lowest scores."""
    k = lead(axes)
    ins = tuple(i - k for i in axes.inputs)
    _divides(math.prod(w.shape[i] for i in axes.inputs), m, name)

    def one(w: Array) -> Array:
        x = Matrix(w, name, Axes((None,) * w.ndim, ins))
        s_IO = jnp.abs(x.w_IO)
        mask = _mask(s_IO, sparsity, n, m) if m else _mask(s_IO.reshape(-1, 1), sparsity, 0, 0).reshape(s_IO.shape)
        return x.like(x.w_IO * mask)

    return jax.vmap(one)(w.reshape(-1, *w.shape[k:])).reshape(w.shape)


def _rms(w: Array) -> Array:
    """The root mean square of each layer's matrix."""
    return jnp.sqrt(jnp.mean(jnp.square(w), tuple(range(1, w.ndim)), keepdims=True))


def _global(params: Params, axes: Params, sparsity: float) -> float:
    """What the smallest weights are below, in units of each matrix's own."""
    sizes_of = lambda a, w: np.asarray(jnp.abs(w) / _rms(w)).ravel() if is_matrix(a) else None
    chosen = jax.tree.map(sizes_of, axes, params, is_leaf=is_axes)
    sizes = np.concatenate(jax.tree.leaves(chosen))
    k = round(sparsity * sizes.size)
    return float(np.partition(sizes, k - 1)[k - 1]) if k else -1.0


def _pattern(pattern: str | None) -> tuple[int, int]:
    if pattern is None:
        return 0, 0
    n, _, m = pattern.partition(":")
    if not (n.isdecimal() and m.isdecimal() and 0 < int(n) < int(m)):
        raise UserError(f"pattern {pattern!r} is not like 2:4, so many dropped of every so many")
    return int(n), int(m)


def _divides(inputs: int, m: int, name: str) -> None:
    if m and inputs % m:
        raise UserError(f"{name} has {inputs} inputs: groups of {m} do not divide them")


def sparsity(config: ModelConfig, params: Params) -> float:
    """The share of zeros in the matrices of the layers."""
    counts = lambda a, w: (float((w == 0).sum()), w.size) if is_matrix(a) else None
    each = jax.tree.map(counts, abstract(config)[1], params, is_leaf=is_axes)
    found = np.array(jax.tree.leaves(each)).reshape(-1, 2).sum(0)
    return float(found[0] / found[1])


def cubic(step: int | Array, first: int, last: int, final: float, initial: float = 0.0) -> Any:
    """The share pruned at a step, of a gradual schedule (Zhu & Gupta 2017, arXiv:1710.01878):

    s = final + (initial - final) (1 - t)^3,   t = (step - first) / (last - first) within [0, 1]
    """
    t = jnp.clip((step - first) / (last - first), 0, 1)
    return final + (initial - final) * (1 - t) ** 3
