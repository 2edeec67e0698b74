"""Retrieval-augmented generation: texts in chunks, an index on disk, prompts with numbered sources (Lewis et al. 2020).

index = Index.build(chunks(text, source="manual.txt"), encoder.embed, name="MiniLM")
prompt, used = assemble(question, index.search(question, 5), tokens=count, room=2000)
"""

import dataclasses
import hashlib
import io
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxlm import arguments
from jaxlm.apps.search import BM25, Exact, fuse
from jaxlm.errors import UserError
from jaxlm.evals.ifeval import sentences
from jaxlm.files import write_file
from jaxlm.paths import expand

Embed = Callable[[Sequence[str]], Any]
Count = Callable[[str], int]


@dataclasses.dataclass(frozen=True)
class Passage:
    """A chunk of a text: where it came from, and from which character."""

    text: str
    source: str = ""
    start: int = 0


@dataclasses.dataclass(frozen=True)
class Hit:
    passage: Passage
    score: float
    id: int


def chunks(
    text: str, size: int = 200, overlap: int = 40, by: str = "words", source: str = "", tokenizer: Any = None
) -> list[Passage]:
    """Pieces of at most `size` "words" (or "tokens" of a tokenizer), each beginning `overlap` before the last's end;
    by "sentences", whole ones as many as fit (a longer one stands alone), and `overlap` words of them again.

    Raises UserError for an overlap not below the size, and a tokenizer that cannot say where tokens stand.
    """
    size = arguments.integer(size, "size", 1)
    arguments.integer(overlap, "overlap", 0, size - 1)
    if by == "tokens":
        spans = None if tokenizer is None else tokenizer.encoding(text).offsets
        if spans is None:
            raise UserError("chunks of tokens need a tokenizer that says where its tokens stand")
    elif by in ("words", "sentences"):
        spans = [found.span() for found in re.finditer(r"\S+", text)]
    else:
        raise UserError(f'chunks are made by "words", "tokens" or "sentences", not {by!r}')
    ends: Sequence[int] = range(1, len(spans) + 1)
    if by == "sentences":
        ends = np.cumsum([len(sentence.split()) for sentence in sentences(text)]).tolist()
    found, first = [], 0
    while first < len(spans):
        last = max((end for end in ends if first < end <= first + size), default=None)
        if last is None:
            last = min((end for end in ends if end > first), default=len(spans))
        a, b = spans[first][0], spans[last - 1][1]
        found.append(Passage(text[a:b], source, a))
        if last >= len(spans):
            break
        back = [0, *ends] if by == "sentences" else range(last - overlap, last + 1)
        first = max(first + 1, min(end for end in back if last - overlap <= end <= last))
    return found


class Index:
    """Passages with their vectors and words: "vectors", "words" or both, "fused", are searched."""

    def __init__(self, passages: Sequence[Passage], x_ND: Any, embed: Embed | None = None, name: str = ""):
        if len(passages) != len(x_ND):
            raise UserError(f"{len(passages)} passages, but {len(x_ND)} vectors")
        self.passages, self.embed, self.name = list(passages), embed, name
        self.exact, self.bm25 = Exact(x_ND), BM25([one.text for one in passages])

    @classmethod
    def build(cls, passages: Sequence[Passage], embed: Embed, name: str = "") -> "Index":
        return cls(passages, np.asarray(embed([one.text for one in passages])), embed, name)

    def search(self, question: str, k: int = 5, by: str = "fused", rerank: Callable | None = None) -> list[Hit]:
        """The k best; `rerank(question, texts) -> scores` orders the best 10 k anew."""
        if by not in ("vectors", "words", "fused"):
            raise UserError(f'search by "vectors", "words" or "fused", not {by!r}')
        wide, ranks = min(len(self.passages), 10 * k), []
        if by != "words":
            if self.embed is None:
                raise UserError("the index has no encoder to read questions with: open it with embed=")
            ranks.append(self.exact.search(np.asarray(self.embed([question])), wide))
        if by != "vectors":
            ids, scores = self.bm25.search([question], wide)
            ranks.append((np.where(scores > 0, ids, -1), scores))  # a passage without any of the words is no hit
        ids, scores = ranks[0] if len(ranks) == 1 else fuse([ids for ids, _ in ranks], wide)
        hits = [Hit(self.passages[i], float(s), int(i)) for i, s in zip(ids[0], scores[0]) if i >= 0]
        if rerank is not None:
            anew = rerank(question, [hit.passage.text for hit in hits])
            hits = [Hit(h.passage, float(s), h.id) for s, h in sorted(zip(anew, hits), key=lambda x: -x[0])]
        return hits[:k]

    def save(self, path: str | Path) -> None:
        """One .npz: vectors, passages, the encoder's name, and a digest of all of it."""
        told = json.dumps([dataclasses.astuple(one) for one in self.passages], ensure_ascii=False).encode()
        packed = io.BytesIO()
        arrays = {"x": self.exact.x_ND, "passages": np.frombuffer(told, np.uint8)}
        digest = _digest(self.exact.x_ND, told, self.name)
        np.savez(packed, **arrays, name=np.array(self.name), digest=np.array(digest))
        write_file(expand(path), packed.getvalue())

    @classmethod
    def load(cls, path: str | Path, embed: Embed | None = None, name: str | None = None) -> "Index":
        """Raises UserError for a damaged file, and where it was made by another encoder than `name`, or one of other
        vectors."""
        try:
            with np.load(expand(path), allow_pickle=False) as file:
                x_ND, told = file["x"], file["passages"].tobytes()
                made, digest = str(file["name"]), str(file["digest"])
        except (OSError, ValueError, KeyError, EOFError) as error:
            raise UserError(f"{path} cannot be read as an index: {error}") from None
        if digest != _digest(x_ND, told, made):
            raise UserError(f"{path}: the index does not match its digest: it is damaged, build it anew")
        if name is not None and name != made:
            raise UserError(f"{path} was made with the encoder {made!r}, not with {name!r}: build it anew")
        if embed is not None and (D := np.asarray(embed(["x"])).shape[-1]) != x_ND.shape[1]:
            raise UserError(f"{path} has vectors of {x_ND.shape[1]}, this encoder of {D}: it was made with another")
        return cls([Passage(*one) for one in json.loads(told)], x_ND, embed, made)


def _digest(x_ND: np.ndarray, told: bytes, name: str) -> str:
    return hashlib.sha256(b"\0".join([np.ascontiguousarray(x_ND).tobytes(), told, name.encode()])).hexdigest()


INSTRUCTION = "Answer the question from the sources below. Cite them by their numbers, as in [1]."


def assemble(
    question: str,
    hits: Sequence[Hit],
    room: int,
    tokens: Count = lambda text: len(text.split()),
    instruction: str = INSTRUCTION,
) -> tuple[str, list[Hit]]:
    """The prompt, and the hits whose passages stand in it, numbered from 1: the best first, as many as fit in `room`
    tokens. Raises UserError where not even the question fits."""
    ask = f"Question: {question}\nAnswer:"
    if (need := tokens(f"{instruction}\n\n{ask}")) > room:
        raise UserError(f"the question needs {need} tokens, and there is room for {room}")
    used, body = [], ""
    for hit in hits:
        more = f"{body}[{len(used) + 1}] {hit.passage.text.strip()}\n\n"
        if tokens(f"{instruction}\n\n{more}{ask}") > room:
            continue  # a shorter one may fit
        body, used = more, [*used, hit]
    return f"{instruction}\n\n{body}{ask}", used


def citations(answer: str, used: Sequence[Hit]) -> tuple[list[Hit], list[int]]:
    """The hits that an answer cites, in order, and numbers of sources that were not there."""
    numbers = [int(n) for group in re.findall(r"\[([\d,\s]+)\]", answer) for n in re.findall(r"\d+", group)]
    numbers = list(dict.fromkeys(numbers))
    return [used[n - 1] for n in numbers if 1 <= n <= len(used)], [n for n in numbers if not 1 <= n <= len(used)]
