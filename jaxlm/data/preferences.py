"""Preferences as training data: answers to one prompt of which one was chosen, or single answers that were judged."""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxlm.config_check import check
from jaxlm.data.config import Data, Source, TokenizerConfig
from jaxlm.data.dataset import finite_batches, rows_of
from jaxlm.data.examples import check_sources, read_apart, with_template
from jaxlm.data.measures import spell, text_measures
from jaxlm.data.pack import Batch
from jaxlm.data.read_preferences import Preference, Prompt, read
from jaxlm.errors import UserError
from jaxlm.text import Tokenizer, chat_text

if TYPE_CHECKING:
    from jaxlm.data.loader import TrainBatches

Ids = tuple[np.ndarray, int]  # of a prompt and its answer, and where the answer begins
Text = tuple[tuple[Ids, Ids], float, float]  # two texts, the margin, whether the first is wanted


@dataclasses.dataclass(frozen=True)
class Preferences(Data):
    """Two texts a row, each a prompt and an answer of which the answer's tokens count: the chosen and the rejected one.

    For `objectives.DPO`, `ORPO`, `SimPO`, `CPO` and `BradleyTerry`; with `apart` for `objectives.KTO`: a row has one
    judged answer, then that of another row to the same prompt, from which KTO estimates its KL.

    Prompts of messages are written by the tokenizer's chat template, texts as they are where it has none, with its end
    token behind the answer.

    Attributes:
        sources: files, see `data.read_preferences`; together, so each has the default weight.
        tokenizer: "file" with a path, mostly the folder of the model that is tuned, or "bytes".
        template: the name of one of our templates (`text.builtin_template`), instead of the tokenizer's own.
        T: positions of a text; what is beyond is cut.
        heldout: the file to evaluate on; "" holds out the share `holdout`, chosen by a hash of the prompt.
        seed: of the order of rows.
    """

    sources: tuple[Source, ...] = (Source("pairs.jsonl"),)
    tokenizer: TokenizerConfig = TokenizerConfig()
    template: str = ""
    T: int = 512
    heldout: str = ""
    holdout: float = 0.1
    apart: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        check(self, T=">= 2", seed=">= 0", holdout="(0, 1)")
        check_sources("preferences", self.sources, self.tokenizer)

    def prepare(self, progress: Any = None) -> "PreferenceDataset":
        tokenizer, template = with_template(self.tokenizer, self.template)
        text = lambda one: json.dumps(one.prompt)
        train, heldout = read_apart(read, self.sources, self.heldout, self.holdout, text)
        if not train:
            raise UserError("one preference cannot be both trained and evaluated on: give more")
        write = functools.partial(encoded, tokenizer, template, self.T)
        if self.apart:
            rows: list[list[Text]] = [_apart(part, write) for part in (train, heldout)]
        else:
            if alone := next((one for one in train + heldout if one.rejected is None), None):
                raise UserError(f"a judged answer is no pair ({alone.chosen[:40]!r}): train them with objective=KTO")
            pair = lambda one: ((write(one.prompt, one.chosen), write(one.prompt, one.rejected)), one.margin, 1.0)
            rows = [[pair(one) for one in part] for part in (train, heldout)]
        return PreferenceDataset(self, tokenizer, rows[0], rows[1])


def encoded(tokenizer: Tokenizer, template: Any, T: int, prompt: Prompt, answer: str) -> Ids:
    """At most T + 1 ids of a prompt and its answer, and where the answer begins."""
    if template is None:
        before, after = prompt_ids(tokenizer, None, prompt), [*tokenizer.encode(answer), *tokenizer.stops[:1]]
    else:
        asked, given = _asked(tokenizer, template, prompt)
        whole = chat_text(tokenizer, [*asked, {"role": "assistant", "content": answer}], None, False, given).rstrip()
        start = chat_text(tokenizer, asked, None, True, given)
        if not whole.startswith(start):  # of templates that write what was thought otherwise
            start = chat_text(tokenizer, asked, None, False, given)
        before, after = (tokenizer.encode_marked(text)[0] for text in (start, whole[len(start) :]))
    return np.array([*before, *after][: T + 1], np.int32), len(before)


def prompt_ids(tokenizer: Tokenizer, template: Any, prompt: Prompt) -> list[int]:
    """A prompt as the model is asked: by the template, or as it is behind what begins a text. Raises UserError for
    messages without a template."""
    if template is not None:
        asked, given = _asked(tokenizer, template, prompt)
        return tokenizer.encode_marked(chat_text(tokenizer, asked, None, True, given))[0]
    if not isinstance(prompt, str):
        raise UserError(
            "prompts are messages and the tokenizer has no chat template: name one, as data.template=chatml"
        )
    return tokenizer.encode_prompt(prompt) or [tokenizer.eot]


def _asked(tokenizer: Tokenizer, template: Any, prompt: Prompt) -> tuple[list[dict[str, Any]], Any]:
    """The messages of a prompt, and the template where it is not the tokenizer's own."""
    asked = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    return asked, None if template is tokenizer.settings.chat_template else template


def _apart(found: Sequence[Preference], write: Any) -> list[Text]:
    """Every answer alone, beside the one before it as if that answered the same prompt."""
    judged = [(one.prompt, one.chosen, one.wanted) for one in found]
    judged += [(one.prompt, one.rejected, False) for one in found if one.rejected is not None]
    order = np.random.default_rng(0).permutation(len(judged))
    mixed = [judged[i] for i in order]
    return [
        ((write(prompt, answer), write(prompt, mixed[i - 1][1])), 0.0, float(wanted))
        for i, (prompt, answer, wanted) in enumerate(mixed)
    ]


@dataclasses.dataclass(frozen=True)
class PreferenceDataset:
    """See `data.Prepared`. `reference`: of the rows to train on and of those held out the log probabilities (n, 2) of
    both answers under the model that training begins from, see `train.reference`."""

    config: Preferences
    tokenizer: Tokenizer
    train: list[Text]
    heldout: list[Text]
    reference: tuple[np.ndarray, np.ndarray] | None = None

    @functools.cached_property
    def fingerprint(self) -> str:
        content = hashlib.blake2b(f"{self.config.T} {self.config.seed} {self.config.apart}".encode(), digest_size=16)
        for texts, margin, wanted in (*self.train, *self.heldout):
            for ids, start in texts:
                content.update(ids.tobytes())
                content.update(f"{start} {margin} {wanted}".encode())
        return content.hexdigest()

    def rows(self, heldout: bool = False) -> "PreferenceRows":
        reference = None if self.reference is None else self.reference[heldout]
        return PreferenceRows(self.heldout if heldout else self.train, self.config.T, reference)

    def train_batches(self, batch: int, rows: Sequence[int] | None = None) -> "TrainBatches":
        """Endless: every epoch has each row once, in a new order."""
        from jaxlm.data.loader import TrainBatches, shuffled  # imports grain

        stream = shuffled(self.rows(), self.config.seed)
        return TrainBatches(stream, batch, rows_of(batch, rows), self.fingerprint)

    def heldout_rows(self, tokens: int = 0) -> "PreferenceRows":
        """All of them, or the first with about so many positions."""
        rows = self.rows(heldout=True)
        return dataclasses.replace(rows, most=-(-tokens // (2 * self.config.T))) if tokens else rows

    def measures(self, sums: Mapping[str, float]) -> dict[str, float]:
        return text_measures(sums)

    def summary(self, rows: int) -> str:
        answers = [(ids, start) for texts, *_ in self.train for ids, start in texts]
        cut, gone = (
            sum(len(ids) > self.config.T for ids, _ in answers),
            sum(len(ids) <= start for ids, start in answers),
        )
        return (
            f"{len(self.train):,} preferences to train on, {rows / len(self.train):.3g} epochs in this run\n"
            f"held out: {len(self.heldout):,}"
            + (f"\n{cut:,} texts are longer than data.T={self.config.T} and were cut" if cut else "")
            + (f"\n{gone:,} of them have no answer within it" if gone else "")
        )

    def table(self, scores: Mapping[str, float], tokens: int = 0) -> str:
        return f"held out: {spell(scores)}"

    @property
    def longer_is_better(self) -> float:
        """How often the longer of two held-out answers is the chosen one, ties counted half: what a reward model that
        looks at nothing else would have."""
        lengths = np.array([[len(ids) - start for ids, start in texts] for texts, *_ in self.heldout])
        return float(np.mean((np.sign(lengths[:, 0] - lengths[:, 1]) + 1) / 2))


@dataclasses.dataclass(frozen=True)
class PreferenceRows:
    """Rows of two texts, for grain and for `data.Heldout`."""

    texts: list[Text]
    T: int
    reference: np.ndarray | None = None
    most: int | None = None

    def __len__(self) -> int:
        return len(self.texts) if self.most is None else min(self.most, len(self.texts))

    def __repr__(self) -> str:
        return f"PreferenceRows({len(self)}, T={self.T})"

    def __getitem__(self, index: int) -> Batch:
        texts, margin, wanted = self.texts[int(index)]
        row: Batch = {name: np.zeros((2, self.T), np.int32) for name in ("tokens", "labels", "segments")}
        row["answer_weights"] = np.zeros((2, self.T), np.float32)
        row |= {name: np.zeros((2, self.T), np.int32) for name in ("texts", "text_segments")}  # whole: for rewards
        for i, (ids, start) in enumerate(texts):
            n = len(ids) - 1
            row["texts"][i, : n + 1], row["text_segments"][i, : n + 1] = ids[: self.T], 1
            row["tokens"][i, :n], row["labels"][i, :n], row["segments"][i, :n] = ids[:-1], ids[1:], 1
            row["answer_weights"][i, max(start - 1, 0) : n] = 1
        row["margins"], row["wanted"] = np.array([margin], np.float32), np.array([wanted], np.float32)
        row["weights"] = np.ones(1, np.float32)
        reference = np.zeros(2) if self.reference is None else self.reference[int(index)]
        return row | {"reference": np.asarray(reference, np.float32)}

    def batches(self, batch: int, rows: Sequence[int]) -> Iterator[Batch]:
        return finite_batches(self.__getitem__, len(self), batch, rows)

    def measures(self, sums: Mapping[str, float]) -> dict[str, float]:
        return text_measures(sums)
