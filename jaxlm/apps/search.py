"""Search over passages: BM25 by words; vectors exactly, by hashing, or by a graph; fusion of rankings.

Every search returns (ids (Q, k), scores (Q, k)), best first; ids are rows of what was indexed.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from jaxlm import arguments
from jaxlm.errors import UserError
from jaxlm.evals.rouge import words

Found = tuple[np.ndarray, np.ndarray]


def top(scores_QN: np.ndarray, k: int) -> Found:
    """The k largest of each row, the earlier of equals first; -1 and -inf where there are fewer."""
    k = arguments.integer(k, "k", 1)
    N = scores_QN.shape[1]
    ids = np.broadcast_to(np.arange(N), scores_QN.shape)
    if 8 * k < N:
        ids = np.sort(np.argpartition(-scores_QN, k - 1, axis=1)[:, :k], axis=1)
    order = np.argsort(-np.take_along_axis(scores_QN, ids, 1), axis=1, kind="stable")[:, :k]
    ids = np.take_along_axis(ids, order, 1)
    best = np.take_along_axis(scores_QN, ids, 1)
    wide = ((0, 0), (0, max(0, k - N)))
    return np.pad(ids, wide, constant_values=-1), np.pad(best, wide, constant_values=-np.inf)


class BM25:
    """Okapi BM25 (Robertson and Zaragoza 2009) with Lucene's idf, which is never negative:

        score(q, d) = sum_w idf_w f_wd (k1 + 1) / (f_wd + k1 (1 - b + b |d| / mean |d|))
        idf_w = log(1 + (N - n_w + .5) / (n_w + .5))

    Without the factor k1 + 1, which changes no ranking, where `lucene` (bm25s's and Lucene's own).
    """

    def __init__(
        self,
        passages: Sequence[str],
        k1: float = 1.5,
        b: float = 0.75,
        tokenize: Callable[[str], list[str]] = words,
        lucene: bool = True,
    ):
        counts = [Counter(tokenize(text)) for text in arguments.texts(passages, "passages")]
        if not counts:
            raise UserError("there are no passages to search")
        self.tokenize, self.N = tokenize, len(counts)
        length = np.array([sum(c.values()) for c in counts], np.float64)
        norm = k1 * (1 - b + b * length / max(length.mean(), 1e-12))
        self._lists: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        where: dict[str, list[tuple[int, int]]] = {}
        for d, count in enumerate(counts):
            for word, f in count.items():
                where.setdefault(word, []).append((d, f))
        for word, entries in where.items():
            ids, f = np.array(entries).T
            idf = math.log(1 + (self.N - len(ids) + 0.5) / (len(ids) + 0.5))
            self._lists[word] = ids, idf * f * (1 if lucene else k1 + 1) / (f + norm[ids])

    def scores(self, question: str) -> np.ndarray:
        """(N,) of one question; a word that it has twice counts twice."""
        found = np.zeros(self.N)
        for word, times in Counter(self.tokenize(question)).items():
            if word in self._lists:
                ids, weight = self._lists[word]
                found[ids] += times * weight
        return found

    def search(self, questions: Sequence[str], k: int) -> Found:
        return top(np.stack([self.scores(question) for question in arguments.texts(questions)]), k)


def unit(x_ND: Any) -> np.ndarray:
    """Rows of length one, float32. Raises UserError for what are no finite rows."""
    x = np.asarray(x_ND, np.float32)
    if x.ndim != 2 or not len(x) or not np.isfinite(x).all():
        raise UserError(f"vectors must be finite rows (N, D), got shape {x.shape}")
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)


class Exact:
    """Cosines with every vector."""

    def __init__(self, x_ND: Any):
        self.x_ND = unit(x_ND)

    def search(self, q_QD: Any, k: int) -> Found:
        return top(unit(q_QD) @ self.x_ND.T, k)


class LSH:
    """Random hyperplanes (Charikar 2002): a vector's hash is on which sides of `bits` planes it lies.

        P(equal bit) = 1 - angle / pi,   P(found in any of L tables) = 1 - (1 - (1 - angle / pi)^bits)^L

    Candidates of all tables are ranked by their cosine.
    """

    def __init__(self, x_ND: Any, bits: int = 8, tables: int = 16, seed: int = 0):
        self.x_ND = unit(x_ND)
        bits, tables = arguments.integer(bits, "bits", 1, 62), arguments.integer(tables, "tables", 1)
        self.bits = bits
        rng = np.random.default_rng(seed)
        self.planes_LDB = rng.normal(size=(tables, self.x_ND.shape[1], bits)).astype(np.float32)
        self._tables: list[dict[int, np.ndarray]] = []
        for code_N in self._codes(self.x_ND):
            order = np.argsort(code_N, kind="stable")
            codes, starts = np.unique(code_N[order], return_index=True)
            self._tables.append(dict(zip(codes.tolist(), np.split(order, starts[1:]))))

    def _codes(self, x_ND: np.ndarray) -> np.ndarray:
        """(L, N) integers."""
        sides_LNB = np.einsum("nd,ldb->lnb", x_ND, self.planes_LDB) > 0
        return sides_LNB @ (1 << np.arange(self.bits, dtype=np.int64))

    def candidates(self, q_QD: Any) -> list[np.ndarray]:
        """The rows in a bucket of each question, of any table."""
        codes_LQ, none = self._codes(unit(q_QD)), np.zeros(0, np.int64)
        hit = lambda q: [table.get(int(code), none) for table, code in zip(self._tables, codes_LQ[:, q])]
        return [np.unique(np.concatenate(hit(q))) for q in range(codes_LQ.shape[1])]

    def search(self, q_QD: Any, k: int) -> Found:
        q, found = unit(q_QD), []
        for row, ids in zip(q, self.candidates(q)):
            near, scores = top((self.x_ND[ids] @ row)[None], k)
            found.append((np.where(near[0] < 0, -1, ids[near[0]] if len(ids) else -1), scores[0]))
        return np.stack([ids for ids, _ in found]), np.stack([scores for _, scores in found])

    def recall(self, cosine: Any) -> np.ndarray:
        """The theory's chance that a vector at this cosine is a candidate."""
        same = 1 - np.arccos(np.clip(cosine, -1, 1)) / np.pi
        return 1 - (1 - same**self.bits) ** len(self.planes_LDB)


class HNSW:
    """A graph of neighbours (Malkov and Yashunin 2016, arXiv:1603.09320) by usearch. Raises UserError without it."""

    def __init__(self, x_ND: Any, links: int = 16, build: int = 128, look: int = 64):
        try:
            from usearch.index import Index  # pyright: ignore[reportMissingImports]
        except ImportError:
            raise UserError("a graph of neighbours is built by usearch: pip install jaxlm[hnsw]") from None
        x = unit(x_ND)
        self.index = Index(
            ndim=x.shape[1], metric="ip", dtype="f32", connectivity=links, expansion_add=build, expansion_search=look
        )
        self.index.add(np.arange(len(x)), x)

    def search(self, q_QD: Any, k: int) -> Found:
        q = unit(q_QD)
        found = self.index.search(q, k)
        ids, distances = found.keys.reshape(len(q), -1), found.distances.reshape(len(q), -1)
        return ids.astype(np.int64), 1 - distances


def fuse(rankings: Sequence[np.ndarray], k: int, constant: float = 60) -> Found:
    """Reciprocal rank fusion (Cormack et al. 2009): sum over rankings (Q, n) of 1 / (constant + rank), from 1."""
    found = []
    for rows in zip(*rankings):
        scores: dict[int, float] = {}
        for row in rows:
            for rank, i in enumerate(row.tolist(), 1):
                if i >= 0:
                    scores[i] = scores.get(i, 0) + 1 / (constant + rank)
        best = sorted(scores, key=lambda i: (-scores[i], i))[:k]
        lack = k - len(best)
        found.append((best + [-1] * lack, [scores[i] for i in best] + [-np.inf] * lack))
    return np.array([ids for ids, _ in found], np.int64), np.array([score for _, score in found])


def recall_at(ids_Qk: np.ndarray, wanted: Sequence[int], k: int) -> float:
    """The share of questions whose passage is among the first k."""
    return float(np.mean([want in row[:k] for row, want in zip(ids_Qk.tolist(), wanted)]))
