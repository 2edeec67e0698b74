"""Requests of several adapters in one batch: each text is what its adapter writes alone."""

import numpy as np
import pytest

pytest.importorskip("starlette", reason="needs starlette: pip install 'jaxlm[serve]'")
pytest.importorskip("httpx", reason="needs httpx: pip install httpx")

from jaxlm.decode import Job
from jaxlm.serve import running, server_of
from tests.api.test_adapters import alone, base, lm  # noqa: F401 (fixtures)
from tests.serve.test_app import listening

PROMPT, NEW = (np.arange(12) * 5 % 29).tolist(), 8


def test_a_request_names_its_adapter(lm, alone):  # noqa: F811
    server = server_of(lm, "base", rows=4, slots=32, chunks=(1, 8))
    wanted = {name: one.generate(np.array([PROMPT]), NEW).tokens[0].tolist() for name, one in alone.items()}
    assert len({tuple(text) for text in wanted.values()}) == 3
    jobs = [Job(PROMPT, NEW, adapter=number) for number in (1, 0, 2, 1)]
    for job in jobs:
        server.engine.submit(job)
    while server.engine.busy:
        server.engine.step()
    assert [job.ids for job in jobs] == [wanted[name] for name in ("lora", None, "dora", "lora")]

    with running(server, 0), listening(server) as client:
        assert [model["id"] for model in client.get("/v1/models").json()["data"]] == ["base", "lora", "dora"]
        assert client.get("/v1/models/dora").json()["id"] == "dora"
        for model in ("lora", "base", "dora"):
            body = {"model": model, "prompt": PROMPT, "max_tokens": NEW, "temperature": 0, "logprobs": 0}
            found = client.post("/v1/completions", json=body).json()
            assert found["model"] == model
            tokens = [int(one.removeprefix("token_id:")) for one in found["choices"][0]["logprobs"]["tokens"]]
            assert tokens == wanted[None if model == "base" else model]
        answer = client.post("/v1/completions", json={"model": "other", "prompt": PROMPT})
        assert answer.status_code == 404 and "'base', 'lora', 'dora' are" in answer.json()["error"]["message"]
