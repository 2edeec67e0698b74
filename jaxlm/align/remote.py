"""A model behind an OpenAI-compatible server, with the `generate` of a loaded one."""

import concurrent.futures
import json
import urllib.error
import urllib.request
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxlm.decode import Greedy, Temperature
from jaxlm.decode.sampling import links
from jaxlm.errors import UserError


class Written(NamedTuple):
    """As `generate` of a loaded model gives them; `logprobs` are zeros where the server tells none."""

    texts: list[str]
    logprobs: np.ndarray


class Remote:
    """`Remote("http://localhost:8000/v1", "name").generate(prompts)`: texts by the route completions, several at a
    time. Raises UserError where the server does not answer, or refuses, in its words."""

    def __init__(self, url: str, model: str, key: str = "", at_once: int = 8, timeout: float = 600.0) -> None:
        self.url, self.model, self.key, self.at_once, self.timeout = url.rstrip("/"), model, key, at_once, timeout

    def generate(
        self,
        prompts: str | Sequence[str],
        max_new_tokens: int = 64,
        sampler: Any = Greedy(),
        key: Any = None,
        stop: str | Sequence[str] | None = None,
    ) -> Written:
        """`sampler` is Greedy or a Temperature, in which the prompts' number is added to the seed of `key`."""
        prompts = [prompts] if isinstance(prompts, str) else list(prompts)
        heat = 1.0
        for one in links(sampler):
            if not isinstance(one, Greedy | Temperature):
                raise UserError(f"a server is asked with Greedy or Temperature, not {one}")
            heat = 0.0 if isinstance(one, Greedy) else float(one.t)
        seed = 0 if key is None else int(np.asarray(jax.random.key_data(key)).reshape(-1)[-1])
        body = {"model": self.model, "max_tokens": max_new_tokens, "temperature": heat, "logprobs": 1}
        body |= {} if stop is None else {"stop": stop}
        ask = lambda i: self._ask(body | {"prompt": prompts[i], "seed": (seed + i) % 2**31})
        with concurrent.futures.ThreadPoolExecutor(self.at_once) as pool:
            found = list(pool.map(ask, range(len(prompts))))
        width = max(len(own) for _, own in found)
        return Written([text for text, _ in found], np.array([[*own, *[0.0] * (width - len(own))] for _, own in found]))

    def _ask(self, body: dict[str, Any]) -> tuple[str, list[float]]:
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {self.key}"} if self.key else {})
        request = urllib.request.Request(f"{self.url}/completions", json.dumps(body).encode(), headers)
        try:
            with urllib.request.urlopen(request, timeout=self.timeout) as answer:
                choice = json.load(answer)["choices"][0]
                return choice["text"], [x or 0.0 for x in (choice.get("logprobs") or {}).get("token_logprobs") or []]
        except urllib.error.HTTPError as error:
            raise UserError(f"{self.url} refuses: {error.read()[:300].decode('utf-8', 'replace')}") from None
        except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
            raise UserError(f"{self.url} does not answer as an OpenAI-compatible server: {error}") from None
