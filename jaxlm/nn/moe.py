"""Mixtures of experts: many feed-forward layers, of which every token is given a few by a router."""

import dataclasses
import math
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from jaxlm import sharding
from jaxlm.axes import Array
from jaxlm.config_check import check
from jaxlm.errors import UserError
from jaxlm.nn import init
from jaxlm.nn.mlp import LEARNED, MLPConfig
from jaxlm.ops import dispatch, exchange, routing
from jaxlm.sharding import einsum, weight


@dataclasses.dataclass(frozen=True, kw_only=True)
class MoEConfig(MLPConfig):
    """Mixture of experts (MoE): y = sum over a token's top_k experts e of weight_e MLP_e(x), plus the shared experts
    (Shazeer et al. 2017, arXiv:1701.06538; Dai et al. 2024, arXiv:2401.06066). An expert is an MLP of the inherited
    fields.

    Mixtral and gpt-oss: the defaults. Qwen2-MoE: norm_topk_prob=False and shared_gate. DeepSeek V3: score="sigmoid",
    score_correction_bias, groups, group_score="top2" and scale. Llama 4: score="sigmoid", norm_topk_prob=False and
    weigh_input.
    """

    E: int  # experts
    top_k: int  # of them that a token is given
    score: Literal["softmax", "sigmoid", "sparsemixer"] = "softmax"
    norm_topk_prob: bool = True  # the weights of a token's experts sum to one
    scale: float = 1.0  # of the weights
    groups: int = 1  # of experts, of which only the best `topk_group` may be chosen
    topk_group: int = 1
    group_score: Literal["max", "top2"] = "max"
    # A term per expert added for choosing (DeepSeek V3); trained by RunConfig.bias_update_rate, not by gradients.
    score_correction_bias: bool = False
    router_bias: bool = False
    weigh_input: bool = False  # MLP_e(weight_e x) instead of weight_e MLP_e(x)
    shared: int | MLPConfig | None = None  # an MLP that every token is given: that many times as wide, or this one
    shared_gate: bool = False  # times sigmoid(x shared_gate)
    # An expert takes that many times its even share, on each device; None: everything.
    capacity_factor: float | None = None
    row_capacity: int | None = None  # an expert takes the first so many choices of each row, padding included

    latent: int | None = None  # experts work on vectors of that width, made of x, and one product leads back to D
    jitter: float = 0.01  # of sparsemixer: how near an expert must be to the best to count in its weight

    def __post_init__(self):
        super().__post_init__()
        check(
            self,
            jitter=">= 0",
            latent=">= 1",
            **dict.fromkeys(("E", "top_k", "groups", "topk_group"), ">= 1"),
            shared=">= 0",
            capacity_factor="> 0",
            row_capacity=">= 1",
        )
        if not 1 <= self.top_k <= self.E:
            raise UserError(f"top_k={self.top_k} experts of E={self.E}: top_k must be at least 1 and at most E")
        if self.groups < 1 or self.E % self.groups or not 1 <= self.topk_group <= self.groups:
            raise UserError(
                f"groups={self.groups} must divide E={self.E}, and topk_group={self.topk_group} be at most groups"
            )
        size = self.E // self.groups
        if self.topk_group * size < self.top_k or (self.groups > 1 and self.group_score == "top2" and size < 2):
            raise UserError(f"groups of {size} experts, {self.topk_group} kept, are too small: lower groups")
        if self.norm is not None or self.activation == LEARNED:
            raise UserError("experts have no norm of their own and no activation that learns: leave norm out")
        if self.shared_gate and not self.shared:
            raise UserError("shared_gate needs a shared expert: set shared")

    def build(self, depth: int, name: str) -> nn.Module:
        return MoE(self, depth, name=name)

    def slots(self, tokens: int) -> int | None:
        """How many of a device's tokens an expert takes; None: all that come."""
        if self.capacity_factor is None:
            return None
        return min(math.ceil(self.capacity_factor * tokens * self.top_k / self.E), tokens)

    @property
    def shared_mlp(self) -> MLPConfig | None:
        if not isinstance(self.shared, int):
            return self.shared
        return MLPConfig(self.shared * self.F, self.activation, self.gated, self.bias, self.limit, self.swish)


class MoE(nn.Module):
    """x_BTD -> y_BTD and what `ops.routing.statistics` says."""

    c: MoEConfig
    depth: int

    @nn.compact
    def __call__(self, x_BTD: Array) -> tuple[Array, dict[str, Array]]:
        c, (B, T, D) = self.c, x_BTD.shape
        logits_BTE = self._logits(x_BTD)
        # In checkpoints the bias is called "balance".
        balance_E = weight(self, "balance", (c.E,), (None,)) if c.score_correction_bias else None
        weights_BTA, ids_BTA = self._route(logits_BTE, balance_E)
        if c.row_capacity is not None:
            weights_BTA = jnp.where(routing.within(ids_BTA, c.E, c.row_capacity), weights_BTA, 0)
        slots = c.slots(B * T // math.prod(sharding.mesh_size(name) for name in sharding.rows(T)))
        h_BTD = x_BTD if c.latent is None else self._product("latent_in", x_BTD, c.latent)
        y_BTD = _experts(c, slots, self._expert_weights(h_BTD.shape[-1]), h_BTD, weights_BTA, ids_BTA)
        y_BTD = y_BTD if c.latent is None else self._product("latent_out", y_BTD, D)
        if c.shared_mlp:
            y_BTD += self._shared(c.shared_mlp, x_BTD)
        counted = "softmax" if c.score == "sparsemixer" else c.score
        return y_BTD, routing.statistics(logits_BTE, ids_BTA, counted, slots)

    def _product(self, name: str, x_BTL: Array, width: int) -> Array:
        T = x_BTL.shape[1]
        w_LD = weight(self, name, (x_BTL.shape[-1], width), ("embed", None), init.fan_in((0,)), (0,))
        x_BTL = sharding.constrain(x_BTL, *sharding.rows(T))
        return einsum("btl,ld->btd", x_BTL, w_LD.astype(x_BTL.dtype), out=sharding.stream(T))

    def _route(self, logits_BTE: Array, balance_E: Array | None) -> tuple[Array, Array]:
        c = self.c
        if c.score == "sparsemixer":
            return routing.sparse_mixer(logits_BTE, c.top_k, c.jitter)
        return routing.route(
            logits_BTE,
            c.top_k,
            score=c.score,
            norm_topk_prob=c.norm_topk_prob,
            scale=c.scale,
            balance_E=balance_E,
            groups=c.groups,
            topk_group=c.topk_group,
            group_score=c.group_score,
        )

    def _logits(self, x_BTD: Array) -> Array:
        """float32, whatever the model computes in: a choice between near equals is not to depend on rounding."""
        c, D = self.c, x_BTD.shape[-1]
        w_DE = weight(self, "router", (D, c.E), ("embed", None), init.fan_in((0,)), (0,))
        with jax.default_matmul_precision("float32"):
            logits_BTE = einsum("btd,de->bte", x_BTD.astype(jnp.float32), w_DE, out=sharding.rows(x_BTD.shape[1]))
        if c.router_bias:
            logits_BTE += weight(self, "router_bias", (c.E,), (None,))[None, None]
        return logits_BTE

    def _expert_weights(self, D: int) -> dict[str, tuple[Array, tuple[str | None, ...]]]:
        """Every expert parameter with its logical axes."""
        c, found = self.c, {}

        def own(name: str, shape: tuple[int, ...], names: tuple[str | None, ...], *how: Any) -> None:
            names = ("experts", *names)
            found[name] = weight(self, name, (c.E, *shape), names, *how, active=c.top_k / c.E), names

        for name in ("gate", "up") if c.gated else ("up",):
            own(name, (D, c.F), ("expert_embed", "mlp"), init.fan_in((1,)), (1,))
            if c.bias:
                own(f"{name}_bias", (c.F,), ("mlp",))
        own("down", (c.F, D), ("mlp", "expert_embed"), init.residual((1,), self.depth), (1,))
        if c.bias:
            own("down_bias", (D,), (None,))
        return found

    def _shared(self, c: MLPConfig, x_BTD: Array) -> Array:
        y_BTD, _ = c.build(self.depth, "shared")(x_BTD)
        if self.c.shared_gate:
            w_D1 = weight(self, "shared_gate", (x_BTD.shape[-1], 1), ("embed", None), init.fan_in((0,)), (0,))
            gate_BT1 = jax.nn.sigmoid(
                einsum("btd,de->bte", x_BTD, w_D1.astype(x_BTD.dtype), out=sharding.rows(x_BTD.shape[1]))
            )
            y_BTD *= sharding.constrain(gate_BT1, *sharding.stream(x_BTD.shape[1]))
        return y_BTD


def _experts(c: MoEConfig, slots: int | None, params: dict, x_BTD: Array, weights_BTA: Array, ids_BTA: Array) -> Array:
    """The weighted sum of every token's experts. On a mesh every device computes by its part of F; where experts are
    divided, tokens come to them as `ops.exchange` says."""
    T, dtype = x_BTD.shape[1], x_BTD.dtype
    rows, out, parts = sharding.rows(T), sharding.stream(T), sharding.mesh_size("mlp")
    visiting = slots is None and sharding.mesh_size("experts") > 1
    names = tuple(params)

    def through(w: dict[str, Array], x_NQD: Array, expert_N: Array | None = None) -> Array:
        """Every block through its expert."""

        def product(x_NQX: Array, name: str) -> Array:
            y = dispatch.grouped_matmul(x_NQX, w[name], expert_N)
            if c.bias:
                b = w[f"{name}_bias"]
                b = b if expert_N is None else jnp.take(b, expert_N, 0)
                y += b[:, None] / (parts if name == "down" else 1)  # the devices' parts of a "down" add up
            return y

        h_NQF = c.hidden(lambda name: checkpoint_name(product(x_NQD, name), "mlp"))
        return product(h_NQF, "down")

    def sent(w: dict[str, Array], x_MD: Array, weights_MA: Array, ids_MA: Array) -> Array:
        """Every token's rows go to its experts and come back."""
        d = dispatch.dropless(ids_MA, c.E) if slots is None else dispatch.capped(ids_MA, c.E, slots)
        x_NQD = dispatch.send(x_MD, d)
        if c.weigh_input:
            x_NQD = dispatch.weigh(x_NQD, weights_MA, d)
        y_NQD = exchange.from_owners(through(w, exchange.to_owners(x_NQD), d.expert_N))
        y_MAD = dispatch.collect(y_NQD, d)
        return y_MAD.sum(1) if c.weigh_input else jnp.einsum("ma,mad->md", weights_MA.astype(dtype), y_MAD)

    def visited(w: dict[str, Array], x_MD: Array, weights_MA: Array, ids_MA: Array) -> Array:
        """Every device's experts do what is theirs of the tokens of all."""
        E = c.E // sharding.mesh_size("experts")
        weights_MA, ids_MA = exchange.own(weights_MA.astype(dtype), ids_MA, E)

        def block(w, x_1QD, weights_1Q1):
            return through(w, x_1QD * weights_1Q1) if c.weigh_input else through(w, x_1QD) * weights_1Q1

        return dispatch.by_blocks(block, w, x_MD, weights_MA, dispatch.dropless(ids_MA, E, c.E))

    def local(x_btD, weights_btA, ids_btA, *ws):
        ws, x_btD, weights_btA = exchange.alike(ws, x_btD, weights_btA)
        w = {name: exchange.whole_width(x.astype(dtype), params[name][1]) for name, x in zip(names, ws)}
        tokens = x_btD, weights_btA, ids_btA
        tokens = tuple(map(exchange.gathered, tokens)) if visiting else tokens
        y_MD = (visited if visiting else sent)(w, *(a.reshape(-1, a.shape[-1]) for a in tokens))
        y_btD = y_MD.reshape(tokens[0].shape)
        y_btD = exchange.into_stream(y_btD, T)
        return exchange.summed(y_btD) if visiting else y_btD

    ins = [rows, rows, rows, *(axes for _, axes in params.values())]
    return sharding.shard_map(local, ins, out, x_BTD, weights_BTA, ids_BTA, *(x for x, _ in params.values()))
