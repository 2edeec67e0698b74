"""A trained reward model as a reward: the score at the last token of a prompt and its answer."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxlm.axes import Params
from jaxlm.data.preferences import encoded
from jaxlm.errors import UserError
from jaxlm.models import WithHead
from jaxlm.objectives.reward import last_scores
from jaxlm.paths import expand
from jaxlm.text import Tokenizer, builtin_template, load_tokenizer
from jaxlm.train import start

BUCKET = 64


class RewardModel:
    """`score(prompts, texts)` gives float32 (n,); called with (prompt, text, row) it is a reward of `align.rewards`."""

    def __init__(self, config: WithHead, params: Params, tokenizer: Tokenizer, T: int = 1024, template: Any = None):
        self.config, self.params, self.tokenizer, self.T = config, params, tokenizer, T
        self.template = tokenizer.settings.chat_template if template is None else template
        self._scores = jax.jit(functools.partial(_scores, config))

    def score(self, prompts: Sequence[Any], texts: Sequence[str]) -> np.ndarray:
        """Prompts are texts or lists of messages."""
        rows = [encoded(self.tokenizer, self.template, self.T - 1, p, text)[0] for p, text in zip(prompts, texts)]
        width = -(-max(map(len, rows)) // BUCKET) * BUCKET
        tokens_BT = np.stack([np.pad(row, (0, width - len(row))) for row in rows])
        mask_BT = np.stack([(np.arange(width) < len(row)).astype(np.int32) for row in rows])
        return np.asarray(self._scores(self.params, tokens_BT, mask_BT))

    def batch_scores(self, texts_B2T: np.ndarray, segments_B2T: np.ndarray) -> np.ndarray:
        """Of the rows of `data.Preferences`, (B, 2)."""
        return np.stack([self._scores(self.params, texts_B2T[:, i], segments_B2T[:, i]) for i in range(2)], 1)

    def __call__(self, prompt: str, text: str, row: Mapping[str, Any]) -> float:
        return float(self.score([prompt], [text])[0])


def _scores(config: WithHead, params: Params, tokens_BT: Any, mask_BT: Any) -> Any:
    return last_scores(config, params, tokens_BT, mask_BT)[0]


def reward_model(path: str) -> RewardModel:
    """That of a run which trained one. Raises UserError where there is none."""
    folder = expand(path)
    run, params = start.read_run(folder)
    if not isinstance(run.model, WithHead):
        raise UserError(f"{path} is no reward model: it trained a {type(run.model).__name__}")
    data: Any = run.data
    template = builtin_template(data.template) if getattr(data, "template", "") else None
    return RewardModel(run.model, params, load_tokenizer(folder), data.T, template)
