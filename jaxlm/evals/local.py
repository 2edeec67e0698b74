"""A loaded language model as the three functions of evaluation."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxlm.decode import Greedy, Temperature, left_pad
from jaxlm.decode.checks import longest
from jaxlm.errors import UserError
from jaxlm.evals.model import LONGEST, Row, Scored, TokenModel
from jaxlm.models.model import forward, logits

ROUND = 64  # lengths are multiples of so many tokens: one compilation each
BLOCK = 32  # positions at a time that meet the whole vocabulary


class Local(TokenModel):
    """`lm` is what `jaxlm.load` returns of a language model with a tokenizer. `length`: the longest input of a window,
    by default the model's positions, at most 2048. Raises UserError for other models."""

    def __init__(self, lm: Any, name: str = "model", batch: int = 8, length: int | None = None):
        if not hasattr(lm, "logprobs") or lm.tokenizer is None:
            raise UserError(f"{name} is no language model with a tokenizer: evaluation needs one")
        most = longest(lm.config)
        if length is not None and length > most:
            raise UserError(f"windows of {length} tokens exceed the {most} positions of {name}")
        self.lm, self.name, self.tokenizer, self.batch = lm, name, lm.tokenizer, batch
        self.length = length or int(min(most, LONGEST))

    def score(self, rows: Sequence[Row]) -> list[Scored]:
        found: list[Scored | None] = [None] * len(rows)
        order = sorted(range(len(rows)), key=lambda i: (-len(rows[i].ids), i))
        for first in range(0, len(order), self.batch):
            mine = [rows[i] for i in order[first : first + self.batch]]
            padded = mine + [mine[-1]] * (self.batch - len(mine))
            sums, greedy = self._scores(padded)
            for i, row, total, best in zip(order[first:], mine, sums, greedy):
                found[i] = Scored(float(total), bool(best), row.last)
        return [one for one in found if one is not None]

    def _scores(self, rows: Sequence[Row]) -> tuple[np.ndarray, np.ndarray]:
        T = -(-(max(len(row.ids) for row in rows) - 1) // ROUND) * ROUND
        last = -(-max(row.last for row in rows) // BLOCK) * BLOCK
        T = max(T, last)
        tokens_BT, mask_BT = left_pad([row.ids[:-1] for row in rows])
        wide = [(0, 0), (T - tokens_BT.shape[1], 0)]
        tokens_BT, mask_BT = np.pad(tokens_BT, wide), np.pad(mask_BT, wide)
        labels_BT, counts_BT = np.zeros((len(rows), last), np.int32), np.zeros((len(rows), last), bool)
        for b, row in enumerate(rows):
            labels_BT[b, last - row.last :], counts_BT[b, last - row.last :] = row.ids[-row.last :], True
        return jax.device_get(_score(self.lm.model, self.lm.params, tokens_BT, mask_BT, labels_BT, counts_BT))

    def generate(
        self,
        prompts: Sequence[str],
        max_new_tokens: int = 256,
        stop: Sequence[str] = (),
        temperature: float = 0.0,
        seed: int = 0,
    ) -> list[str]:
        """Prompts too long for the model lose their beginning. Raises UserError where none of it would stay."""
        room = int(min(longest(self.lm.config), 2**30)) - max_new_tokens
        if room < 1:
            raise UserError(f"{max_new_tokens} new tokens leave no room for a prompt: {self.name} has {room} positions")
        ids = [self.tokenizer.encode_prompt(prompt)[-room:] or [self.tokenizer.eot] for prompt in prompts]
        sampler = Greedy() if temperature == 0 else Temperature(temperature)
        texts, order = [""] * len(ids), sorted(range(len(ids)), key=lambda i: -len(ids[i]))
        for first in range(0, len(order), self.batch):
            mine = order[first : first + self.batch]
            rows = [ids[i] for i in mine] + [ids[mine[-1]]] * (self.batch - len(mine))
            tokens_BT, mask_BT = left_pad(rows)
            wide = [(0, 0), (min(-tokens_BT.shape[1] % ROUND, room - tokens_BT.shape[1]), 0)]
            tokens_BT, mask_BT = np.pad(tokens_BT, wide), np.pad(mask_BT, wide)
            key = jax.random.fold_in(jax.random.key(seed), first)
            out = self.lm.generate(tokens_BT, max_new_tokens, sampler, key, list(stop) or None, mask_BT=mask_BT)
            for i, text in zip(mine, out.texts):
                texts[i] = text
        return texts


@functools.partial(jax.jit, static_argnums=0)
def _score(model: Any, params: Any, tokens_BT: Any, mask_BT: Any, labels_BS: Any, counts_BS: Any) -> Any:
    """Of the counted labels of the last S positions the summed log probability (B,), and whether all are likeliest."""
    positions_BT = jnp.maximum(jnp.cumsum(mask_BT, -1) - 1, 0)
    out = forward(model, params, tokens_BT, positions_BT, mask_BT)
    (B, S), D = labels_BS.shape, out.hidden_BTD.shape[-1]
    blocks = lambda x: jnp.moveaxis(x.reshape(B, S // BLOCK, BLOCK, *x.shape[2:]), 1, 0)

    def block(each: Any) -> Any:
        hidden_BUD, labels_BU, counts_BU = each
        logits_BUV = logits(model.c, dataclasses.replace(out, hidden_BTD=hidden_BUD))
        label_BU = jnp.take_along_axis(logits_BUV, labels_BU[..., None], -1)[..., 0]
        logprob_BU = label_BU - jax.nn.logsumexp(logits_BUV, -1)
        best_BU = (label_BU >= logits_BUV.max(-1)) | ~counts_BU
        return jnp.where(counts_BU, logprob_BU, 0).sum(-1), best_BU.all(-1)

    hidden_BSD = out.hidden_BTD[:, -S:].reshape(B, S, D)
    sums_NB, best_NB = lax.map(block, (blocks(hidden_BSD), blocks(labels_BS), blocks(counts_BS)))
    return sums_NB.sum(0), best_NB.all(0)
