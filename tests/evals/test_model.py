"""Scores of texts against all logits of the whole text, locally and over the server."""

import itertools
import threading
import time

import jax
import numpy as np
import pytest

from jaxlm.api import LanguageModel
from jaxlm.errors import UserError
from jaxlm.evals.local import Local
from jaxlm.evals.model import Row, pair_row, window_rows
from jaxlm.evals.server import Server
from jaxlm.models import LM
from jaxlm.text import ByteTokenizer
from tests import tiny
from tests.scripted import scripted
from tests.weights import weights

PAIRS = [("The cat", " sat"), ("a ", "b"), ("", "hola"), ("q" * 60, " x"), ("ñ", "ñ"), ("ab", "c" * 40)]


@pytest.fixture(scope="module")
def lm():
    config = tiny.model(softcap=7.0, dtype="float32")
    return LanguageModel(config, weights(LM(config), np.zeros((1, 8), np.int32)), ByteTokenizer())


def logprobs(lm, ids):
    """(T, V), of a row of 96: what stands behind a token does not matter."""
    row = np.array([[*ids, *[0] * (96 - len(ids))]])
    return np.asarray(jax.nn.log_softmax(lm.logits(row)))[0, : len(ids)]


def slow(lm, context, continuation, length=10**9):
    """Through all logits of one row at a time."""
    before = lm.tokenizer.encode_prompt(context)  # begins with a token of its own
    ids = lm.tokenizer.encode_prompt(context + continuation)
    new = len(ids) - len(before)
    ids = ids[-(length + 1) :]
    logits = logprobs(lm, ids[:-1])[-new:]
    total = sum(logits[i, t] for i, t in enumerate(ids[-new:]))
    return total, all(logits[i].argmax() == t for i, t in enumerate(ids[-new:])), new


def test_pairs_are_scored_as_by_all_logits(lm):
    for length in (64, 48):
        for got, (context, text) in zip(Local(lm, batch=4, length=length).logprobs(PAIRS), PAIRS):
            want = slow(lm, context.rstrip(), " " * context.endswith(" ") + text, length)
            assert got.logprob == pytest.approx(want[0], rel=1e-5) and (got.greedy, got.tokens) == want[1:]


def test_greedy_is_what_decoding_would_write():
    model = Local(scripted(b"0123456789"))
    assert [one.greedy for one in model.logprobs([("xy", "23"), ("xy", "234"), ("xy", "24"), ("xy", "33")])] == [
        *(True, True),
        *(False, False),
    ]
    assert model.generate(["xy", "a"], 4) == ["2345", "1234"]
    assert model.generate(["xy"], 9, stop=["5"]) == ["234"]
    assert model.generate(["z" * 500], 4)[0] == "3456"  # its beginning is lost


def test_pairs_and_windows_are_cut_like_the_public_harness():
    tokenizer = ByteTokenizer()
    assert pair_row(tokenizer, "a  ", "b", 9) == Row([tokenizer.eot, 97, 32, 32, 98], 3)
    assert pair_row(tokenizer, "abcdef", "gh", 4) == Row([100, 101, 102, 103, 104], 2)
    rows = window_rows(range(10), 99, 4)
    shown = [(row.ids[:-1], row.ids[-row.last :]) for row in rows]
    assert shown == [
        ([99, 0, 1, 2], [0, 1, 2, 3]),
        ([3, 4, 5, 6], [4, 5, 6, 7]),
        ([5, 6, 7, 8], [8, 9]),
    ]
    for n, length, stride in itertools.product((1, 4, 5, 11), (1, 4, 9), (1, 3, 4, None)):
        if stride is None or stride <= length:
            rows = window_rows(range(n), 99, length, stride)
            assert [i for row in rows for i in row.ids[-row.last :]] == list(range(n))
            assert all(len(row.ids) <= length + 1 and row.last < len(row.ids) for row in rows)
    with pytest.raises(UserError, match="has no token of its own"):
        pair_row(tokenizer, "a", "", 9)
    with pytest.raises(UserError, match="continuation of 5 tokens exceeds the 4"):
        pair_row(tokenizer, "a", "bcdef", 4)
    with pytest.raises(UserError, match="stride must be"):
        window_rows(range(9), 0, 4, 5)


def test_rolling_with_every_context_is_the_whole_text(lm):
    text = "to be, or not to be"
    whole = slow(lm, "", text)
    (got,) = Local(lm).rolling([text])
    assert (got.logprob, got.tokens) == (pytest.approx(whole[0], rel=1e-5), len(text))
    (one,) = Local(lm, length=6).rolling([text], stride=1)
    steps = [([lm.tokenizer.eot, *text.encode()])[max(0, i - 5) : i + 2] for i in range(len(text))]
    want = 0
    for ids in steps:
        want += logprobs(lm, ids[:-1])[-1, ids[-1]]
    assert one.logprob == pytest.approx(want, rel=1e-5)
    assert Local(lm).rolling(["", "a"])[0].tokens == 0


@pytest.fixture(scope="module")
def served():
    """A server of a tiny model, and its address."""
    pytest.importorskip("starlette", reason="needs starlette: pip install 'jaxlm[serve]'")
    uvicorn = pytest.importorskip("uvicorn", reason="needs uvicorn: pip install 'jaxlm[serve]'")
    from jaxlm.serve import running
    from jaxlm.serve.app import app
    from tests.serve import servers

    with running(server := servers.server(rows=2, chunks=(1,)), grace=0):
        one = uvicorn.Server(uvicorn.Config(app(server), "127.0.0.1", 0, log_level="error", lifespan="off"))
        thread = threading.Thread(target=one.run)
        thread.start()
        try:
            while not one.started:
                time.sleep(0.01)
            yield server, f"http://127.0.0.1:{one.servers[0].sockets[0].getsockname()[1]}/v1"
        finally:
            one.should_exit = True
            thread.join()


@pytest.mark.slow
def test_a_server_says_the_same(served):
    server, url = served
    local, pairs = Local(server.lm, length=40), [("The cat", " sat"), ("ab ", "cd"), ("x", "yz")]
    want = local.logprobs(pairs)
    for remote in (Server(url), Server(url, tokenizer=server.lm.tokenizer, length=40)):
        for got, one in zip(remote.logprobs(pairs), want):
            assert (got.greedy, got.tokens) == (one.greedy, one.tokens)
            assert got.logprob == pytest.approx(one.logprob, rel=1e-3)
        assert remote.generate(["ab", "cd"], 5) == local.generate(["ab", "cd"], 5)
    text = "to be, or not to be, that is the question, or so they say"
    got, want = remote.rolling([text])[0], local.rolling([text])[0]
    assert got.tokens == want.tokens == len(text) and got.logprob == pytest.approx(want.logprob, rel=1e-3)
    assert Server(url).rolling([text[:30]])[0].tokens == 30  # the server puts a token before it


def test_trouble_with_a_server_is_one_line(monkeypatch):
    with pytest.raises(UserError, match=r"http://127.0.0.1:9/v1/models cannot be asked"):
        Server("http://127.0.0.1:9/v1")
    server = Server("http://127.0.0.1:9/v1", "m")
    monkeypatch.setattr(server, "_post", lambda path, body: {"choices": [{"text": "x"}]})
    with pytest.raises(UserError, match=r"no log probabilities of prompts"):
        server.logprobs([("a", "b")])
    with pytest.raises(UserError, match="answered 1 of 2 prompts"):
        server.generate(["a", "b"])
