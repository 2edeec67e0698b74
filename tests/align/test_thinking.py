"""Thinking longer, with models that are written down; and a server's."""

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from jaxlm.align.remote import Remote
from jaxlm.align.sampling import self_consistency
from jaxlm.align.thinking import (
    beam_of_thoughts,
    breadth_first,
    budget_forcing,
    chain_of_thought,
    depth_first,
    proposals,
    value_prompt,
    vote_prompt,
)
from jaxlm.decode import Temperature, TopK
from jaxlm.errors import UserError


class Written:
    """A model by a rule: prompt -> text."""

    tokenizer = SimpleNamespace(encode=lambda text: list(text))

    def __init__(self, rule):
        self.rule, self.asked = rule, []

    def generate(self, prompts, max_new_tokens=64, stop=None, **how):
        self.asked += prompts
        texts = [self.rule(prompt, i)[:max_new_tokens] for i, prompt in enumerate(prompts)]
        return SimpleNamespace(texts=texts, logprobs=np.zeros((len(prompts), 1)))


def test_prompts():
    assert chain_of_thought("1+1?") == "Q: 1+1?\nA: Let's think step by step."
    shown = chain_of_thought("1+1?", [("0+1?", "0 and 1 is 1.", "1")])
    assert shown == "Q: 0+1?\nA: 0 and 1 is 1. The answer is 1.\n\nQ: 1+1?\nA:"


def test_budgets():
    model = Written(lambda prompt, i: "42" if prompt.endswith("</think>") else "abc")
    plain = budget_forcing(model, "p")
    assert (plain.thought, plain.answer, plain.tokens, plain.waits) == ("abc", "42", 3, 0)
    longer = budget_forcing(model, "p", minimum=8, waits=5, wait="Espera")
    assert longer.thought == "abcEsperaabcEsperaabc" and longer.waits == 2 and longer.tokens >= 8
    once = budget_forcing(model, "p", minimum=8, waits=1)
    assert once.thought == "abcWaitabc"
    short = budget_forcing(model, "p", maximum=2, final="Answer:")
    assert short.thought == "ab" and model.asked[-1] == "p<think>ab</think>Answer:"
    with pytest.raises(UserError, match="minimum=9 and maximum=3"):
        budget_forcing(model, "p", minimum=9, maximum=3)


def digits(problem, thoughts):
    return ["1", "2", "3"]


def test_trees_reach_a_sum_that_greed_misses():
    done = lambda problem, thoughts: sum(map(int, thoughts)) == 7
    near = lambda problem, thoughts: -abs(7 - sum(map(int, thoughts))) - 10 * (sum(map(int, thoughts)) > 7)
    found = breadth_first("", digits, near, depth=3, width=2, done=done)
    assert sum(map(int, found.thoughts)) == 7 and found.value == 0
    deep = depth_first("", digits, near, depth=3, least=-6, done=done)
    assert deep is not None and done("", deep.thoughts)
    assert depth_first("", digits, near, depth=2, least=-6, done=done) is None


def test_values_votes_and_proposals_are_asked_of_the_model():
    model = Written(lambda prompt, i: ("sure", "likely", "no word")[i % 3])
    assert value_prompt(model)("p", ["t"]) == 21
    assert vote_prompt(Written(lambda prompt, i: ("2", "Choice 2", "1")[i % 3]), "p", ["a", "b"]) == 1
    steps = proposals(Written(lambda prompt, i: ("x", "y", "x")[i % 3]), 3)
    assert steps("p", []) == ["x\n", "y\n"]


def test_a_beam_of_thoughts_follows_the_process_reward():
    model = Written(lambda prompt, i: ("a", "b")[i % 2] if prompt.count("\n") < 3 else "")
    found = beam_of_thoughts(model, "p\n", lambda texts: [t.count("b") for t in texts], width=2, branch=2)
    assert found.text == "p\nb\nb\n" and found.ended and found.scores == (1.0, 2.0, 2.0)


class Server(BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        good = body["model"] == "m"
        said = {"choices": [{"text": f"{len(body['prompt'])}", "logprobs": {"token_logprobs": [-1.0, None]}}]}
        data = json.dumps(said if good else {"error": "no such model"}).encode()
        self.send_response(200 if good else 404)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args):
        pass


def test_a_server_serves_too():
    server = HTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/v1"
    found = Remote(url, "m").generate(["ab", "abc"], sampler=Temperature(0.5), key=jax.random.key(3), stop="\n")
    assert found.texts == ["2", "3"] and found.logprobs.tolist() == [[-1, 0], [-1, 0]]
    assert self_consistency(Remote(url, "m"), ["abcd"], 3)[0].answer == "4"
    with pytest.raises(UserError, match=r"refuses: .*no such model"):
        Remote(url, "other").generate("a")
    with pytest.raises(UserError, match="asked with Greedy or Temperature"):
        Remote(url, "m").generate("a", sampler=TopK(2))
    server.shutdown()
    server.server_close()
    with pytest.raises(UserError, match="does not answer"):
        Remote(url, "m", timeout=2).generate("a")
