"""Texts whose words have labels, such as kinds of names: files of one word and its label a line."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np

from jaxlm.data.labelled import LabelledDataset, LabelledRows, LabelledTexts, no_label, read_text
from jaxlm.data.pack import Batch
from jaxlm.errors import UserError
from jaxlm.paths import expand
from jaxlm.text import Tokenizer


@dataclasses.dataclass(frozen=True)
class TaggedWords(LabelledTexts):
    """Sentences of words with one of `labels` each, for `objectives.TagTokens`.

    A line is a word, white space, maybe columns that are not read, and its label; an empty line ends a sentence (the
    form of CoNLL 2003). The first token of a word has its label, the others none (Devlin et al. 2019,
    arXiv:1810.04805); words are joined by spaces. `text` and `label` are not used.
    """

    unit = "sentence"

    def examples(self, path: str) -> Iterator[Any]:
        return sentences(self, path)

    @staticmethod
    def made() -> type[LabelledDataset]:
        return TaggedDataset


def sentences(config: TaggedWords, path: str) -> Iterator[Any]:
    """(text, label of each word) of each sentence. Raises UserError, naming the line, for an unknown label."""
    classes = {label: i for i, label in enumerate(config.labels)}
    words: list[str] = []
    found: list[int] = []
    for line, said in enumerate([*read_text(expand(path)).split("\n"), ""], 1):
        columns = said.split()
        if columns and columns[0] != "-DOCSTART-":
            if len(columns) < 2:
                raise UserError(f"{path}, line {line}: {said[:60]!r} is a word without a label")
            if columns[-1] not in classes:
                raise no_label(path, line, columns[-1], classes)
            words.append(columns[0])
            found.append(classes[columns[-1]])
        elif words:
            yield " ".join(words), found
            words, found = [], []


class TaggedDataset(LabelledDataset):
    def rows(self, examples: list[Any]) -> "TaggedRows":
        return TaggedRows(self.tokenizer, self.config.T, examples)


class TaggedRows(LabelledRows):
    """Sentences as rows of tokens, for grain and for `data.Heldout`."""

    def __getitem__(self, index: int) -> Batch:
        text, labels = self._examples[int(index)]
        ids, at = first_tokens(self._tokenizer, text)
        ids, T = ids[: self._T], self._T
        row, weights = np.zeros(T, np.int32), np.zeros(T, np.float32)
        for label, place in zip(np.atleast_1d(labels), at):
            if place < T:
                row[place], weights[place] = label, 1
        segments = (np.arange(T) < len(ids)).astype(np.int32)
        return {
            "tokens": np.pad(np.array(ids, np.int32), (0, T - len(ids))),
            "segments": segments,
            "positions": (np.arange(T) * segments).astype(np.int32),
            "labels": row,
            "weights": weights,
        }


def first_tokens(tokenizer: Tokenizer, text: str) -> tuple[list[int], list[int]]:
    """The ids of a text of words with single spaces between them, and the place of each word's first token (beyond all
    where it has none). Raises UserError where a tokenizer cannot tell."""
    special = bool(tokenizer.encode("", special=True))
    found = tokenizer.encoding(text, special=special)
    if found.offsets is None:
        raise UserError("this tokenizer does not tell where in a text its tokens stand, so words have no first token")
    number = np.cumsum([character == " " for character in text])  # of the word that each character belongs to
    places = [len(found.ids) + 2**30] * (int(number[-1]) + 1)
    for place, (start, end) in reversed([*enumerate(found.offsets)]):
        if end > start and text[end - 1] != " ":
            places[int(number[end - 1])] = place
    return (found.ids, places) if special else ([tokenizer.eot, *found.ids], [place + 1 for place in places])
