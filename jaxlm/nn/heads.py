"""Query, key, value and output projections that all kinds of attention share; the weights belong to the module
given."""

import flax.linen as nn
from jax.ad_checkpoint import checkpoint_name

from jaxlm import sharding
from jaxlm.axes import Array
from jaxlm.nn import init
from jaxlm.sharding import einsum, weight


def split(module: nn.Module, name: str, x_BTD: Array, H: int, K: int, bias: bool = False) -> Array:
    """x_BTD -> x_BTHK by the weight `name` (D, H, K), and its bias (H, K)."""
    w_DHK = weight(module, name, (x_BTD.shape[-1], H, K), ("embed", "heads", None), init.fan_in((0,)), (0,))
    y_BTHK = einsum("btd,dhk->bthk", x_BTD, w_DHK.astype(x_BTD.dtype))
    if bias:
        b_HK = weight(module, f"{name}_bias", (H, K), ("heads", None))
        y_BTHK += b_HK.astype(x_BTD.dtype)[None, None]
    return y_BTHK


def merge(
    module: nn.Module,
    name: str,
    o_BTHK: Array,
    D: int,
    depth: int,
    bias: bool = False,
    names: tuple[str | None, ...] = ("heads", None),
) -> Array:
    """o_BTHK -> y_BTD in the layout of the residual stream, by the weight `name` (H, K, D), and its bias (D,). `names`
    are the logical axes (H, K)."""
    T, H, K = o_BTHK.shape[1:]
    w_HKD = weight(module, name, (H, K, D), (*names, "embed"), init.residual((0, 1), depth), (0, 1))
    o_BTHK = sharding.constrain(o_BTHK, *sharding.rows(T)[:2], *names)  # as in nn.mlp
    y_BTD = einsum("bthk,hkd->btd", o_BTHK, w_HKD.astype(o_BTHK.dtype), out=sharding.stream(T))
    if bias:
        y_BTD += weight(module, f"{name}_bias", (D,), (None,)).astype(y_BTD.dtype)[None, None]
    return checkpoint_name(y_BTD, "out")


def whole_rows(*xs: Array) -> tuple[Array, ...]:
    """Queries, keys and values (B, T, H, K) with all positions on every device, for mixers that know no other way."""
    return tuple(sharding.replicated(x, 1) for x in xs)


def whole_heads(x_BTHK: Array) -> Array:
    """All positions on every device, heads divided, kept as `keep` does: what a recurrence along a row reads."""
    return keep(sharding.constrain(x_BTHK, "batch", None, "heads", None))[0]


def heads(module: nn.Module, name: str, x_BTD: Array, H: int, K: int) -> Array:
    """`split` into `whole_heads`."""
    return whole_heads(split(module, name, x_BTD, H, K))


def keep(*xs: Array) -> tuple[Array, ...]:
    """Queries, keys and values under the name by which rematerialisation knows them."""
    return tuple(checkpoint_name(x, "qkv") for x in xs)


def dropout_key(module: nn.Module, rate: float) -> Array | None:
    """The key of dropout of attention's weights, None where nothing is dropped or apply was given no "dropout" key."""
    return module.make_rng("dropout") if rate and module.has_rng("dropout") else None
