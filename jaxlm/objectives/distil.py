"""Knowledge distillation: a student learns what a teacher expects, not only what came."""

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp

from jaxlm import sharding
from jaxlm.axes import Array, Params
from jaxlm.config_check import check
from jaxlm.errors import UserError
from jaxlm.losses import chunk_tokens, cross_entropy
from jaxlm.models import ModelConfig, Output, forward, logits
from jaxlm.objectives.next_token import NextToken
from jaxlm.objectives.objective import Batch, Spec, Sums, is_causal, tokens, unfit

TEACHER, PROJECTION = "teacher", "projection"  # in the parameters, see `tune.Taught`
Divergence = Literal["forward", "reverse", "js"]


@dataclasses.dataclass(frozen=True)
class Distil(NextToken):
    """(1 - hard - features) T^2 D(teacher, student) + hard nll + features |P h_student - h_teacher|^2 / D of each next
    token (Hinton et al. 2015, arXiv:1503.02531), p = softmax(logits / T):

    | divergence | D |
    |---|---|
    | forward | KL(p_teacher || p_student) |
    | reverse | KL(p_student || p_teacher) (MiniLLM, Gu et al. 2023, arXiv:2306.08543) |
    | js | half of each to their mean (GKD, Agarwal et al. 2023, arXiv:2306.13649) |

    With `top_k` the teacher has only its k likeliest tokens, renormalised. `teacher` is its config, of any size over
    the same vocabulary; its weights, and the projection P of hidden states (Romero et al. 2014, arXiv:1412.6550), stand
    among the parameters: `trains=Taught(...)` puts them there.
    """

    teacher: ModelConfig | None = None
    temperature: float = 1.0
    hard: float = 0.5
    divergence: Divergence = "forward"
    top_k: int = 0  # 0: all
    features: float = 0.0

    def __post_init__(self):
        super().__post_init__()
        check(self, temperature="> 0", hard="[0, 1]", top_k=">= 0", features="[0, 1]")
        if self.hard + self.features > 1:
            raise UserError(f"distillation: hard={self.hard} and features={self.features} are shares of 1 together")
        if self.top_k and self.divergence != "forward":
            raise UserError(f"top_k={self.top_k} of the teacher goes with divergence=forward, not {self.divergence}")

    def check(self, model: ModelConfig) -> None:
        super().check(model)
        if self.teacher is None:
            raise unfit(self, model, "it needs the config of a teacher")
        if self.teacher.V != model.V:
            raise unfit(self, model, f"its teacher has {self.teacher.V} tokens, it has {model.V}")
        if not is_causal(self.teacher):
            raise unfit(self, model, "tokens of its teacher see later ones")

    def spec(self, data: Any) -> dict[str, Spec]:
        return tokens(data.T)

    def loss(
        self, model: ModelConfig, params: Params, batch: Batch, key: Array | None = None
    ) -> tuple[Sums, dict[Any, tuple]]:
        if TEACHER not in params:
            raise UserError("distillation needs a teacher among the parameters: train with trains=Taught(...)")
        assert self.teacher is not None
        own = {name: x for name, x in params.items() if name not in (TEACHER, PROJECTION)}
        where = batch["tokens"], batch["positions"], batch["segments"]
        out = forward(model.build(), own, *where, dropout_key=key)
        found = cross_entropy(out.hidden_BTD, out.head_VD, batch["labels"], batch["weights"], softcap=model.softcap)
        shown, total = {"nll": found.nll}, self.hard * found.nll
        teacher = forward(self.teacher.build(), params[TEACHER], *where)
        teacher = jax.tree.map(jax.lax.stop_gradient, dataclasses.replace(teacher, states=None, statistics={}))
        if (share := 1 - self.hard - self.features) > 0:
            shown["kl"] = divergences(self, model, out, teacher, batch["weights"])
            total += share * self.temperature**2 * shown["kl"]
        if self.features:
            p_DE = params[PROJECTION].astype(out.hidden_BTD.dtype)
            h_BTE = sharding.einsum("btd,de->bte", out.hidden_BTD, p_DE)
            apart_BTE = jnp.square(h_BTE.astype(jnp.float32) - teacher.hidden_BTD.astype(jnp.float32))
            shown["features"] = jnp.sum(jnp.mean(apart_BTE, -1) * batch["weights"])
            total += self.features * shown["features"]
        return Sums(total, found.weight, shown), out.statistics

    @property
    def adds(self) -> bool:
        return True


def divergences(c: Distil, model: ModelConfig, student: Output, teacher: Output, weights_BT: Array) -> Array:
    """The weighted sum of D over tokens; only a piece of each row's logits, of both, is held, and made again for the
    gradient."""
    assert c.teacher is not None
    B, T = weights_BT.shape
    chunk = chunk_tokens(B * T, model.V, max(model.D, c.teacher.D), jnp.float32)
    n = next(n for n in range(max(1, -(-B * T // chunk)), T + 1) if T % n == 0)
    cut = lambda x: jnp.moveaxis(sharding.replicated(x, 1).reshape(B, n, T // n, *x.shape[2:]), 1, 0)
    ends = (
        dataclasses.replace(student, hidden_BTD=0, states=None, statistics={}),
        dataclasses.replace(teacher, hidden_BTD=0),
    )

    @jax.checkpoint
    def one(total: Array, piece: tuple[Array, Array, Array], ends: Any) -> tuple[Array, None]:
        own, other, weight_Bt = piece
        l_BtV = logits(model, dataclasses.replace(ends[0], hidden_BTD=own))
        of_BtV = logits(c.teacher, dataclasses.replace(ends[1], hidden_BTD=other))  # pyright: ignore
        return total + jnp.sum(divergence(c, of_BtV, l_BtV) * weight_Bt), None

    pieces = cut(student.hidden_BTD), cut(teacher.hidden_BTD), cut(weights_BT)
    return jax.lax.scan(lambda total, piece: one(total, piece, ends), jnp.zeros(()), pieces)[0]


def divergence(c: Distil, teacher_V: Array, student_V: Array) -> Array:
    """D of logits (..., V): (...), in nats."""
    if c.top_k:
        least = jax.lax.top_k(teacher_V, min(c.top_k, teacher_V.shape[-1]))[0][..., -1:]
        teacher_V = jnp.where(teacher_V >= least, teacher_V, -1e30)
    p, q = (jax.nn.log_softmax(x_V / c.temperature, -1) for x_V in (teacher_V, student_V))
    kl = lambda p, q: jnp.sum(jnp.exp(p) * (p - q), -1)
    if c.divergence == "js":
        mean = jnp.logaddexp(p, q) - jnp.log(2.0)
        return (kl(p, mean) + kl(q, mean)) / 2
    return kl(p, q) if c.divergence == "forward" else kl(q, p)
