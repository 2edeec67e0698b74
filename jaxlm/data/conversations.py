"""Conversations as training data: what the assistant said is learned, the rest is read."""

import bisect
import dataclasses
import functools
import hashlib
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxlm.config_check import check
from jaxlm.data.config import Data, Source, TokenizerConfig
from jaxlm.data.dataset import finite_batches, rows_of
from jaxlm.data.examples import check_sources, read_apart, with_template
from jaxlm.data.measures import spell, text_measures
from jaxlm.data.pack import Batch
from jaxlm.data.read_conversations import Conversation, read
from jaxlm.errors import UserError
from jaxlm.text import Tokenizer, chat_text
from jaxlm.text.chat.conversation import encode_assistant

if TYPE_CHECKING:
    from jaxlm.data.loader import TrainBatches

Encoded = tuple[np.ndarray, np.ndarray]  # ids, and whether the assistant wrote each
PROMPTS = 3


@dataclasses.dataclass(frozen=True)
class Conversations(Data):
    """Conversations by the tokenizer's own chat template, several packed into a row, each apart from the others.

    With `NextToken` this is supervised fine-tuning (SFT): labels that the assistant did not write have weight 0.

    Attributes:
        sources: files, see `data.read_conversations`; together, so each has the default weight.
        tokenizer: "file" with a path, mostly the folder of the model that is tuned, or "bytes".
        template: the name of one of our templates (`text.builtin_template`), instead of the tokenizer's own.
        T: positions of a row; what a conversation has beyond is cut.
        heldout: the file to evaluate on; "" holds out the share `holdout`, chosen by a hash of the conversation.
        seed: of the order of rows.
    """

    sources: tuple[Source, ...] = (Source("chats.jsonl"),)
    tokenizer: TokenizerConfig = TokenizerConfig()
    template: str = ""
    T: int = 1024
    heldout: str = ""
    holdout: float = 0.02
    seed: int = 0

    def __post_init__(self) -> None:
        check(self, T=">= 2", seed=">= 0", holdout="(0, 1)")
        check_sources("conversations", self.sources, self.tokenizer)

    def prepare(self, progress: Any = None) -> "ConversationDataset":
        tokenizer, template = with_template(self.tokenizer, self.template)
        if template is None:
            raise UserError("the tokenizer has no chat template: name one, such as data.template=chatml")
        train, heldout = read_apart(read, self.sources, self.heldout, self.holdout, json.dumps)
        if not train:
            raise UserError("one conversation cannot be both trained and evaluated on: give more")
        encode = lambda which: [self._encoded(one, tokenizer, template, progress) for one in which]
        return ConversationDataset(self, tokenizer, template, encode(train), encode(heldout), heldout)

    def _encoded(self, one: Conversation, tokenizer: Tokenizer, template: Any, progress: Any) -> Encoded:
        given = None if template is tokenizer.settings.chat_template else template
        ids, mask = encode_assistant(tokenizer, one.messages, one.tools, given)
        return np.array(ids[: self.T + 1], np.int32), np.array(mask[: self.T + 1], bool)


@dataclasses.dataclass(frozen=True)
class ConversationDataset:
    """See `data.Prepared`."""

    config: Conversations
    tokenizer: Tokenizer
    template: Any
    train: list[Encoded]
    heldout: list[Encoded]
    told: list[Conversation]  # those held out

    @functools.cached_property
    def fingerprint(self) -> str:
        content = hashlib.blake2b(f"{self.config.T} {self.config.seed}".encode(), digest_size=16)
        for ids, mask in self.train:
            content.update(ids.tobytes() + mask.tobytes())
        return content.hexdigest()

    @functools.cached_property
    def rows(self) -> "ConversationRows":
        return ConversationRows(self.train, self.config.T)

    @property
    def prompts(self) -> list[tuple[str, list[int]]]:
        """Of a few held-out conversations all before the assistant's last answer: text and ids."""
        found = []
        for messages, tools in self.told[:PROMPTS]:
            last = max(i for i, message in enumerate(messages) if message["role"] == "assistant")
            found.append(self._asked(messages[:last], tools))
        return found

    def ask(self, prompt: str) -> tuple[str, list[int]]:
        """The same of what a user says."""
        return self._asked([{"role": "user", "content": prompt}], None)

    def _asked(self, messages: list[dict[str, Any]], tools: list[Any] | None) -> tuple[str, list[int]]:
        given = None if self.template is self.tokenizer.settings.chat_template else self.template
        text = chat_text(self.tokenizer, messages, tools, True, given)
        return text, self.tokenizer.encode_marked(text)[0]

    @property
    def epoch(self) -> int:
        """Rows of one pass."""
        return len(self.rows)

    def train_batches(self, batch: int, rows: Sequence[int] | None = None) -> "TrainBatches":
        """Endless: every epoch has each row once, in a new order."""
        from jaxlm.data.loader import TrainBatches, shuffled  # imports grain

        stream = shuffled(self.rows, self.config.seed)
        return TrainBatches(stream, batch, rows_of(batch, rows), self.fingerprint)

    def heldout_rows(self, tokens: int = 0) -> "ConversationRows":
        """All of them, or the first with about so many positions."""
        rows = ConversationRows(self.heldout, self.config.T)
        return dataclasses.replace(rows, most=-(-tokens // self.config.T)) if tokens else rows

    def measures(self, sums: Mapping[str, float]) -> dict[str, float]:
        return text_measures(sums)

    def summary(self, rows: int) -> str:
        said = sum(int(mask[1:].sum()) for _, mask in self.train)
        cut = sum(len(ids) > self.config.T for ids, _ in self.train)
        silent = sum(not mask[1:].any() for _, mask in self.train)
        return (
            f"{len(self.train):,} conversations in {len(self.rows):,} rows of {self.config.T}, "
            f"{rows / len(self.rows):.3g} epochs in this run; {said:,} tokens by the assistant\n"
            f"held out: {len(self.heldout):,} conversations"
            + (f"\n{cut:,} conversations are longer than a row and were cut" if cut else "")
            + (f"\n{silent:,} conversations have no answer within their row" if silent else "")
        )

    def table(self, scores: Mapping[str, float], tokens: int = 0) -> str:
        return f"held out: {spell(scores)}, of what the assistant wrote"


@dataclasses.dataclass(frozen=True)
class ConversationRows:
    """Conversations packed into rows of T, for grain and for `data.Heldout`."""

    conversations: list[Encoded]
    T: int
    most: int | None = None

    @functools.cached_property
    def bins(self) -> list[list[int]]:
        return pack_lengths([len(ids) - 1 for ids, _ in self.conversations], self.T)[: self.most]

    def __len__(self) -> int:
        return len(self.bins)

    def __repr__(self) -> str:
        return f"ConversationRows({len(self)}, T={self.T})"

    def __getitem__(self, index: int) -> Batch:
        row: Batch = {name: np.zeros(self.T, np.int32) for name in ("tokens", "labels", "segments", "positions")}
        row["weights"] = np.zeros(self.T, np.float32)
        at = 0
        for segment, i in enumerate(self.bins[int(index)], 1):
            ids, mask = self.conversations[i]
            here = slice(at, at + len(ids) - 1)
            row["tokens"][here], row["labels"][here] = ids[:-1], ids[1:]
            row["segments"][here], row["positions"][here] = segment, np.arange(len(ids) - 1)
            row["weights"][here] = mask[1:]
            at = here.stop
        return row

    def batches(self, batch: int, rows: Sequence[int]) -> Iterator[Batch]:
        return finite_batches(self.__getitem__, len(self), batch, rows)

    def measures(self, sums: Mapping[str, float]) -> dict[str, float]:
        return text_measures(sums)


def pack_lengths(lengths: Sequence[int], T: int) -> list[list[int]]:
    """Which of the lengths, each at most T, go into each row: best fit, the longest first. Rows are in the order of the
    first of theirs."""
    rooms: list[int] = []  # distinct, ascending
    rows_with: dict[int, list[list[int]]] = defaultdict(list)
    rows: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if not lengths[i]:
            continue
        place = bisect.bisect_left(rooms, lengths[i])
        if place == len(rooms):
            row, room = [], T
            rows.append(row)
        else:
            room = rooms[place]
            row = rows_with[room].pop()
            if not rows_with[room]:
                rooms.pop(place)
        row.append(i)
        left = room - lengths[i]
        if not rows_with[left]:
            bisect.insort(rooms, left)
        rows_with[left].append(row)
    return sorted(map(sorted, rows))
