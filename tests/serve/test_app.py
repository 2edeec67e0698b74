import contextlib
import dataclasses
import json
import re
import threading
import time

import jax
import numpy as np
import pytest

pytest.importorskip("starlette", reason="needs starlette: pip install 'jaxlm[serve]'")
pytest.importorskip("httpx", reason="needs httpx: pip install httpx")

import httpx
import uvicorn

from jaxlm.serve import Limits, running
from jaxlm.serve.app import app
from tests.serve import servers


@pytest.fixture(scope="module")
def served():
    with running(server := servers.server(limits=Limits(body=100_000, seconds=60)), grace=0):
        yield server


@contextlib.contextmanager
def listening(server):
    """A client of the server on a port of its own."""
    how = uvicorn.Config(app(server), "127.0.0.1", 0, log_level="error", lifespan="off")
    one = uvicorn.Server(how)
    thread = threading.Thread(target=one.run)
    thread.start()
    try:
        while not one.started:
            time.sleep(0.01)
        port = one.servers[0].sockets[0].getsockname()[1]
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            yield client
    finally:
        one.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def client(served):
    with listening(served) as client:
        yield client


def post(client, path="/v1/completions", status=200, **body):
    answer = client.post(path, json={"model": "tiny", **body})
    assert answer.status_code == status, answer.text
    return answer.json()


def events(client, path, **body):
    with client.stream("POST", path, json={"stream": True, **body}) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        lines = [line for line in answer.iter_lines() if line.startswith("data: ")]
    assert lines[-1] == "data: [DONE]" or "error" in lines[-1]
    return [json.loads(line[6:]) for line in lines if line != "data: [DONE]"]


GREEDY = {"temperature": 0, "max_tokens": 12}


def test_a_completion_is_what_the_model_writes(client):
    lm = servers.lm()
    found = post(client, prompt="def f(", **GREEDY)
    assert found["object"] == "text_completion" and re.fullmatch(r"cmpl-\w+", found["id"])
    assert found["choices"][0]["text"] == lm.generate(["def f("], 12).texts[0]
    assert found["usage"]["total_tokens"] == found["usage"]["prompt_tokens"] + found["usage"]["completion_tokens"]
    ids = lm.tokenizer.encode_prompt("def f(")
    several = post(client, prompt=[ids, lm.tokenizer.encode_prompt("x")], n=2, **GREEDY)["choices"]
    assert [one["index"] for one in several] == [0, 1, 2, 3]
    assert several[0]["text"] == several[1]["text"] == found["choices"][0]["text"] != several[2]["text"]
    assert post(client, prompt=ids, **GREEDY)["choices"] == found["choices"]


def test_streamed_as_whole(client):
    whole = post(client, prompt="import", n=2, seed=7, max_tokens=20, logprobs=2, temperature=1.2)
    chunks = events(
        client,
        "/v1/completions",
        prompt="import",
        n=2,
        seed=7,
        max_tokens=20,
        logprobs=2,
        temperature=1.2,
        stream_options={"include_usage": True},
    )
    assert chunks[-1]["choices"] == [] and chunks[-1]["usage"] == whole["usage"] | {
        "prompt_tokens_details": chunks[-1]["usage"]["prompt_tokens_details"]
    }
    assert all(chunk["usage"] is None for chunk in chunks[:-1])
    for i, choice in enumerate(whole["choices"]):
        mine = [chunk["choices"][0] for chunk in chunks[:-1] if chunk["choices"][0]["index"] == i]
        assert "".join(one["text"] for one in mine) == choice["text"]
        assert [one["finish_reason"] for one in mine[:-1]] == [None] * (len(mine) - 1)
        assert mine[-1]["finish_reason"] == choice["finish_reason"]
        for name, values in choice["logprobs"].items():
            assert [value for one in mine for value in one["logprobs"][name]] == values


def test_echoed_prompts_have_the_models_log_probabilities(client):
    """As lm-eval asks: one more token, the prompt's told."""
    lm = servers.lm()
    ids = lm.tokenizer.encode_prompt("to be, or not")
    found = post(client, prompt=[ids], max_tokens=1, echo=True, logprobs=1, temperature=0)["choices"][0]["logprobs"]
    expected = np.asarray(lm.logprobs(np.array([ids])))[0]
    assert len(found["tokens"]) == len(ids) + 1 and found["token_logprobs"][0] is None
    np.testing.assert_allclose(found["token_logprobs"][1:-1], expected, atol=1e-4)
    best = np.asarray(jax.nn.log_softmax(lm.logits(np.array([ids]))))[0].argmax(-1)
    for at, token in enumerate(ids[1:]):
        greedy = found["token_logprobs"][at + 1] == max(found["top_logprobs"][at + 1].values())
        assert greedy == (best[at] == token)
    assert found["token_logprobs"][-1] == max(found["top_logprobs"][-1].values())
    none = post(client, prompt="abc", max_tokens=0, echo=True, logprobs=0)["choices"][0]
    assert none["text"] == "abc" and none["finish_reason"] == "length"
    assert none["logprobs"]["text_offset"][-3:] == [0, 1, 2]


def test_stops_end_the_text_before_them(client):
    whole = post(client, prompt="def", seed=3, max_tokens=40)["choices"][0]["text"]
    stop = whole[9:12]
    cut = whole[: whole.index(stop)]
    for how in ({}, {"logprobs": 1}):
        found = post(client, prompt="def", seed=3, max_tokens=40, stop=[stop, "never there"], **how)["choices"][0]
        assert (found["text"], found["finish_reason"]) == (cut, "stop")
    chunks = events(client, "/v1/completions", prompt="def", seed=3, max_tokens=40, stop=stop)
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == cut


def test_a_template_has_its_own_variables(served):
    from jaxlm.serve.chat import Chat

    server = dataclasses.replace(served, template="{% if enable_thinking %}<think>{% else %}no{% endif %}")
    body = {"messages": [{"role": "user", "content": "a"}], "max_tokens": 1}
    ids = lambda **own: Chat._prompt(_Only(server), body["messages"], None, None, server.template, own)[0]
    said = [server.lm.tokenizer.decode(ids(**own)) for own in ({"enable_thinking": True}, {})]
    assert said == ["<think>", "no"]


class _Only:
    """A request that has a server alone."""

    def __init__(self, server):
        self.server = server


def test_best_of_is_the_likeliest(client):
    found = post(client, prompt="a", best_of=3, n=1, seed=5, max_tokens=8, logprobs=0)["choices"]
    several = post(client, prompt="a", n=3, seed=5, max_tokens=8, logprobs=0)["choices"]
    mean = lambda one: np.mean(one["logprobs"]["token_logprobs"])
    assert len(found) == 1 and mean(found[0]) == pytest.approx(max(map(mean, several)))


def test_a_chat(client):
    say = {"messages": [{"role": "user", "content": [{"type": "text", "text": "hello"}]}], "max_completion_tokens": 9}
    whole = post(client, "/v1/chat/completions", seed=2, logprobs=True, top_logprobs=2, **say)
    (choice,) = whole["choices"]
    assert whole["object"] == "chat.completion" and choice["message"]["role"] == "assistant"
    assert [len(one["top_logprobs"]) for one in choice["logprobs"]["content"]] == [2] * len(
        choice["logprobs"]["content"]
    )
    chunks = events(
        client, "/v1/chat/completions", seed=2, logprobs=True, stream_options={"include_usage": True}, **say
    )
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert "".join(c["choices"][0]["delta"].get("content", "") for c in chunks[:-1]) == choice["message"]["content"]
    assert chunks[-2]["choices"][0]["finish_reason"] == "length" and chunks[-1]["usage"]["completion_tokens"] == 9
    answer = post(client, "/v1/responses", input="hello", max_output_tokens=9, seed=2)
    assert (
        answer["output"][0]["content"][0]["text"] == choice["message"]["content"] and answer["status"] == "incomplete"
    )
    typed = events(client, "/v1/responses", input="hello", max_output_tokens=9, seed=2)
    assert (typed[0]["type"], typed[-1]["type"]) == ("response.created", "response.incomplete")
    assert "".join(e.get("delta", "") for e in typed) == choice["message"]["content"]


def test_json_and_forced_calls_keep_to_their_schemas(client):
    schema = {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"enum": ["x", "y"]}}}
    schema |= {"required": ["a", "b"], "additionalProperties": False}
    say = {"messages": [{"role": "user", "content": "go"}], "seed": 4, "max_tokens": 60}
    form = {"type": "json_schema", "json_schema": {"name": "it", "schema": schema}}
    (choice,) = post(client, "/v1/chat/completions", response_format=form, **say)["choices"]
    assert json.loads(choice["message"]["content"])["b"] in ("x", "y") and choice["finish_reason"] == "stop"
    tools = [{"type": "function", "function": {"name": "f", "parameters": schema}}]
    (choice,) = post(client, "/v1/chat/completions", tools=tools, tool_choice="required", **say)["choices"]
    (call,) = choice["message"]["tool_calls"]
    assert call["function"]["name"] == "f" and set(json.loads(call["function"]["arguments"])) == {"a", "b"}
    assert choice["finish_reason"] == "tool_calls" and choice["message"]["content"] is None
    how = {"tools": tools, "tool_choice": {"type": "function", "function": {"name": "f"}}}
    chunks = events(client, "/v1/chat/completions", **how, **say)
    deltas = [call for c in chunks for call in c["choices"][0]["delta"].get("tool_calls", [])]
    assert deltas[0]["function"]["name"] == "f" and all("id" not in one for one in deltas[1:])
    assert "".join(one["function"]["arguments"] for one in deltas) == call["function"]["arguments"]


def test_what_is_refused(client):
    refused = lambda word, status=400, path="/v1/completions", **body: _refused(client, word, status, path, body)
    say = {"messages": [{"role": "user", "content": "a"}], "path": "/v1/chat/completions"}
    refused("chat_template_kwargs", chat_template_kwargs=[1], **say)
    refused("chat_template_kwargs", chat_template_kwargs={"tools": []}, **say)
    refused("'nobody' is not here", 404, model="nobody", prompt="x")
    refused("the prompt has 301 and 5 new ones", prompt=[1] * 301, max_tokens=5)
    refused("temperature must lie in", prompt="x", temperature=-1)
    refused("at most 16 stops, got 10000", prompt="x", stop=["x"] * 10_000)
    refused("stop must be a text", prompt="x", stop=[""])
    refused("stop_token_ids", prompt="x", stop_token_ids=[-1])
    refused("suffix", prompt="x", suffix="y")
    refused("max_tokens must be a number", prompt="x", max_tokens="many")
    refused("best_of", prompt="x", n=2, best_of=1)
    refused("prompt must be", prompt=[[1, "x"]])
    refused("99999", prompt=[99999])
    refused("logit_bias", prompt="x", logit_bias={"x": 1})
    refused("messages must be", path="/v1/chat/completions", messages=[])
    refused("its type is", path="/v1/chat/completions", messages=[{"role": "user"}], response_format=3)
    schema = {"type": "json_schema", "json_schema": {"schema": {"type": "nothing"}}}
    refused("cannot be kept to", path="/v1/chat/completions", messages=[{"role": "user"}], response_format=schema)
    refused("no tool", path="/v1/chat/completions", messages=[{"role": "user", "content": "x"}], tool_choice="required")
    refused("no encoder", path="/v1/embeddings", input="x")
    refused("there is no /v1/nothing", 404, path="/v1/nothing")
    assert client.get("/v1/completions").json()["error"]["message"] == "GET is not for /v1/completions"
    for data, status, word in ((b"{", 400, "not JSON"), (b"[]", 400, "object"), (b"x" * 100_001, 413, "100000 bytes")):
        answer = client.post("/v1/completions", content=data)
        assert answer.status_code == status and word in answer.json()["error"]["message"]
    answer = client.post("/v1/completions", content=(b"x" * 10_000 for _ in range(20)))  # of no stated length
    assert answer.status_code == 413
    assert post(client, prompt="def f(", **GREEDY)["choices"][0]["text"]  # unharmed


def _refused(client, word, status, path, body):
    answer = client.post(path, json=body)
    error = answer.json()["error"]
    assert answer.status_code == status and re.search(word, error["message"]), answer.text
    assert set(error) == {"message", "type", "param", "code"} and answer.headers["x-request-id"]


def test_who_leaves_frees_the_row(client, served):
    before = served.engine.counts["cancelled"]
    with client.stream("POST", "/v1/completions", json={"prompt": "x", "max_tokens": 240, "stream": True}) as answer:
        next(answer.iter_lines())
    until = time.monotonic() + 20
    while served.engine.busy and time.monotonic() < until:
        time.sleep(0.02)
    assert not served.engine.busy
    assert served.engine.counts["cancelled"] > before or served.engine.counts["length"]


def test_models_health_metrics_page(client):
    assert client.get("/health").json()["status"] == "ok"
    (model,) = client.get("/v1/models").json()["data"]
    assert (model["id"], model["object"], model["max_model_len"]) == ("tiny", "model", servers.SLOTS)
    assert client.get("/v1/models/tiny").json() == model
    text = client.get("/metrics").text
    assert re.search(r"^jaxlm_new_tokens_total [1-9]", text, re.M) and "# TYPE jaxlm_texts_running gauge" in text
    assert "tiny" in client.get("/").text


def test_a_key_is_asked_for_and_time_is_short(served):
    from dataclasses import replace

    with listening(replace(served, key="secret", limits=Limits(seconds=0.05))) as client:
        for headers in ({}, {"authorization": "Bearer wrong"}):
            answer = client.get("/v1/models", headers=headers)
            assert answer.status_code == 401 and answer.json()["error"]["code"] == "invalid_api_key"
        right = {"authorization": "Bearer secret"}
        assert client.get("/v1/models", headers=right).status_code == client.get("/health").status_code == 200
        body = {"prompt": "x", "max_tokens": 250, "n": 16}
        assert client.post("/v1/completions", json=body, headers=right).status_code == 504

        def slowly():  # a body that does not end
            yield b"{"
            time.sleep(0.5)
            yield b"}"

        assert client.post("/v1/completions", content=slowly(), headers=right).status_code == 504


def test_a_queue_that_is_full(served):
    served.engine.queue = 0
    try:
        with listening(served) as client:
            answer = client.post("/v1/completions", json={"prompt": "x"})
        assert answer.status_code == 429 and answer.headers["retry-after"] == "1"
    finally:
        served.engine.queue = 1024
