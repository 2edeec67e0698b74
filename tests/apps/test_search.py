"""Searches against the plain formula, theory and a public implementation; measured on XQuAD where it is."""

import gzip
import json
import math
from pathlib import Path

import numpy as np
import pytest

from jaxlm.apps import search
from jaxlm.errors import UserError

RNG = np.random.default_rng(0)
TEXTS = ["the cat sat", "the dog and the cat", "a bird", "el niño comió pan", ""]


def slow_bm25(passages, question, k1=1.5, b=0.75):
    docs = [text.lower().split() for text in passages]
    mean, scores = sum(map(len, docs)) / len(docs), []
    for doc in docs:
        score = 0.0
        for word in question.lower().split():
            n, f = sum(word in d for d in docs), doc.count(word)
            idf = math.log(1 + (len(docs) - n + 0.5) / (n + 0.5))
            score += idf * f / (f + k1 * (1 - b + b * len(doc) / mean))
        scores.append(score)
    return scores


def test_bm25_is_its_formula():
    bm25 = search.BM25(TEXTS)
    for question in ("cat", "the the cat", "niño pan x", ""):
        np.testing.assert_allclose(bm25.scores(question), slow_bm25(TEXTS, question), rtol=1e-12)
    full = search.BM25(TEXTS, lucene=False)
    np.testing.assert_allclose(full.scores("cat"), 2.5 * bm25.scores("cat"))
    ids, scores = bm25.search(["cat dog", "zebra"], 7)
    assert ids[0, 0] == 1 and ids[0, 5:].tolist() == [-1, -1] and scores[1, 0] == 0
    with pytest.raises(UserError, match="no passages"):
        search.BM25([])


def test_bm25_equals_bm25s():
    bm25s = pytest.importorskip("bm25s")
    letters = list("abcdefghij")
    passages = [" ".join(RNG.choice(letters, RNG.integers(1, 30))) for _ in range(60)]
    theirs = bm25s.BM25(method="lucene", k1=1.5, b=0.75)
    theirs.index([text.split() for text in passages], show_progress=False)
    ours = search.BM25(passages)
    for question in ("a b c", "j", "a e i a"):
        np.testing.assert_allclose(ours.scores(question), theirs.get_scores(question.split()), rtol=1e-5)


def test_exact_search():
    x, q = RNG.normal(size=(50, 8)), RNG.normal(size=(5, 8))
    ids, scores = search.Exact(x).search(q, 3)
    for i in range(5):
        cosines = [q[i] @ row / np.linalg.norm(q[i]) / np.linalg.norm(row) for row in x]
        assert ids[i].tolist() == sorted(range(50), key=lambda j: -cosines[j])[:3]
        assert scores[i, 0] == pytest.approx(max(cosines), abs=1e-5)
    with pytest.raises(UserError, match="finite rows"):
        search.Exact([[np.nan]])


def test_hashing_finds_as_often_as_theory_says():
    x = search.unit(RNG.normal(size=(400, 32)))
    lsh = search.LSH(x, bits=6, tables=4)
    for cosine in (0.95, 0.7, 0.3):
        other = search.unit(RNG.normal(size=x.shape))
        other = search.unit(other - (other * x).sum(1, keepdims=True) * x)
        q = cosine * x + math.sqrt(1 - cosine**2) * other
        hit = np.mean([i in ids for i, ids in enumerate(lsh.candidates(q))])
        assert hit == pytest.approx(float(lsh.recall(cosine)), abs=0.08)
    ids, scores = lsh.search(x[:5], 2)
    assert ids[:, 0].tolist() == list(range(5)) and np.allclose(scores[:, 0], 1, atol=1e-5)
    ids, scores = search.LSH(x, bits=40, tables=1).search(-x[:2], 3)
    assert (ids == -1).all() and (scores == -np.inf).all()


def test_a_graph_of_neighbours():
    pytest.importorskip("usearch")
    x = RNG.normal(size=(500, 16))
    want, _ = search.Exact(x).search(x[:50], 5)
    got, scores = search.HNSW(x).search(x[:50], 5)
    assert np.mean([len(set(a) & set(b)) / 5 for a, b in zip(got.tolist(), want.tolist())]) > 0.97
    assert np.allclose(scores[:, 0], 1, atol=1e-4)


def test_fusion():
    ids, scores = search.fuse([np.array([[3, 1, 2]]), np.array([[1, 4, -1]])], 4)
    assert ids[0].tolist() == [1, 3, 4, 2]
    assert scores[0, 0] == pytest.approx(1 / 62 + 1 / 61) and scores[0, 2] == pytest.approx(1 / 62)


def test_xquad():
    folder = Path(__file__).resolve().parents[3] / "shared/data/retrieval"
    if not folder.exists():
        pytest.skip(f"{folder} is not here")
    found = {}
    for language in ("en", "es"):
        data = json.loads(gzip.decompress((folder / f"xquad.{language}.json.gz").read_bytes()))["data"]
        paragraphs = [p for article in data for p in article["paragraphs"]]
        questions = [(q["question"], i) for i, p in enumerate(paragraphs) for q in p["qas"]]
        found[language] = [p["context"] for p in paragraphs], questions
    recall = {}
    for passages, asked in (("en", "en"), ("es", "es"), ("en", "es")):
        questions, wanted = zip(*found[asked][1])
        ids, _ = search.BM25(found[passages][0]).search(questions, 1)
        recall[asked + passages] = search.recall_at(ids, wanted, 1)
    assert len(wanted) == 1190
    assert recall["enen"] > 0.90 and recall["eses"] > 0.88 and recall["esen"] == pytest.approx(0.19, abs=0.03)
