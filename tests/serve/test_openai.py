"""The real client; also what it retries."""

import dataclasses
import json

import pytest

pytest.importorskip("starlette", reason="needs starlette: pip install 'jaxlm[serve]'")
pytest.importorskip("openai", reason="needs the client: pip install openai")

import openai

from jaxlm.serve import running
from tests.serve import servers
from tests.serve.test_app import listening

SAY = {"model": "tiny", "messages": [{"role": "user", "content": "hello"}], "seed": 1, "max_completion_tokens": 30}


@pytest.fixture(scope="module")
def client():
    server = dataclasses.replace(servers.server(), key="secret")
    with (
        running(server, 0),
        listening(server) as http,
        openai.OpenAI(base_url=f"{http.base_url}/v1", api_key="secret") as client,
    ):
        yield client


def test_completions_and_chats(client):
    assert [model.id for model in client.models.list()] == ["tiny"]
    text = client.completions.create(model="tiny", prompt="def", max_tokens=5, temperature=0, logprobs=1)
    assert len(text.choices[0].logprobs.token_logprobs) == text.usage.completion_tokens == 5
    whole = client.chat.completions.create(**SAY, logprobs=True, top_logprobs=2)
    assert len(whole.choices[0].logprobs.content) == whole.usage.completion_tokens
    with client.chat.completions.create(**SAY, stream=True, stream_options={"include_usage": True}) as stream:
        chunks = list(stream)
    assert "".join(c.choices[0].delta.content or "" for c in chunks[:-1]) == whole.choices[0].message.content
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    answer = client.responses.create(model="tiny", input="hello", max_output_tokens=30, extra_body={"seed": 1})
    assert answer.output_text == whole.choices[0].message.content
    with client.responses.create(model="tiny", input="hello", max_output_tokens=9, stream=True) as stream:
        assert next(iter(stream)).type == "response.created"


def test_schemas_and_tools(client):
    schema = {"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"], "additionalProperties": False}
    form = {"type": "json_schema", "json_schema": {"name": "it", "schema": schema}}
    found = client.chat.completions.create(**SAY, response_format=form).choices[0].message.content
    assert json.loads(found)["a"] in (1, 2)
    tool = {"type": "function", "function": {"name": "f", "parameters": schema}}
    with client.chat.completions.stream(**SAY, tools=[tool], tool_choice="required") as stream:
        (call,) = stream.get_final_completion().choices[0].message.tool_calls
    assert call.function.name == "f" and json.loads(call.function.arguments)["a"] in (1, 2)


def test_errors(client):
    with pytest.raises(openai.NotFoundError, match="is not here"):
        client.chat.completions.create(**SAY | {"model": "other"})
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model="tiny", prompt=[1] * 400)
    assert caught.value.code == "context_length_exceeded" and caught.value.request_id
    with pytest.raises(openai.AuthenticationError):
        client.with_options(api_key="wrong").models.list()
