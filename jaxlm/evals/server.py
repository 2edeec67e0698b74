"""Any server of OpenAI's completions as the three functions of evaluation.

Log probabilities are read from /v1/completions with `echo` and no new tokens, which jaxlm serve, vLLM and others
answer; servers of chats alone cannot score texts. With a tokenizer, tokens are sent, cut as for a local model. Without
one, texts are sent, and the tokens' offsets in the answer say where the continuation begins.
"""

import json
import os
import urllib.error
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from jaxlm.errors import UserError
from jaxlm.evals.model import LONGEST, Row, Scored, TokenModel

AT_ONCE = 8  # prompts a request


class Server(TokenModel):
    """`url` ends before "/completions", such as http://127.0.0.1:8000/v1; the key comes from OPENAI_API_KEY where the
    server wants one. Raises UserError for whatever the server refuses, in one line."""

    def __init__(self, url: str, model: str = "", tokenizer: Any = None, length: int = LONGEST, timeout: float = 600):
        self.url, self.tokenizer, self.length, self.timeout = url.rstrip("/"), tokenizer, length, timeout
        self.name = model or self._first_model()

    def score(self, rows: Sequence[Row]) -> list[Scored]:
        told = self._echoed([row.ids for row in rows])
        return [_last(one, len(one["token_logprobs"]) - row.last) for one, row in zip(told, rows)]

    def logprobs(self, pairs: Sequence[tuple[str, str]]) -> list[Scored]:
        if self.tokenizer is not None:
            return super().logprobs(pairs)
        found, cut = [], [(context.rstrip(), context + continuation) for context, continuation in pairs]
        for told, (context, _) in zip(self._echoed([whole for _, whole in cut]), cut):
            offsets = told.get("text_offset") or []
            start = next((i for i, at in enumerate(offsets) if at >= len(context)), len(offsets))
            if start == len(offsets):
                raise UserError(f"{self.url} gives no offsets of tokens: give its tokenizer (--tokenizer)")
            found.append(_last(told, max(start, 1)))
        return found

    def rolling(self, texts: Sequence[str], stride: int | None = None) -> list[Scored]:
        """Without a tokenizer a text is one request, and its first token is not scored."""
        if self.tokenizer is not None:
            return super().rolling(texts, stride)
        return [_last(told, 1) for told in self._echoed(texts)]

    def generate(
        self,
        prompts: Sequence[str],
        max_new_tokens: int = 256,
        stop: Sequence[str] = (),
        temperature: float = 0.0,
        seed: int = 0,
    ) -> list[str]:
        body = {"max_tokens": max_new_tokens, "temperature": temperature, "seed": seed}
        body |= {"stop": list(stop)[:4]} if stop else {}  # OpenAI takes four
        texts = [one["text"] for one in self._choices(prompts, body)]
        return [_cut(text, stop) for text in texts]

    def _echoed(self, prompts: Sequence[Any]) -> list[dict[str, Any]]:
        body = {"max_tokens": 0, "echo": True, "logprobs": 1, "temperature": 0}
        told = [one.get("logprobs") for one in self._choices(prompts, body)]
        found = [one for one in told if isinstance(one, dict) and one.get("token_logprobs")]
        if len(found) < len(told):
            raise UserError(f"{self.url} gives no log probabilities of prompts (echo): it can only generate")
        return found

    def _choices(self, prompts: Sequence[Any], body: dict[str, Any]) -> list[dict[str, Any]]:
        """The first choice of each prompt, in order; some requests at a time."""
        parts = [list(prompts[i : i + AT_ONCE]) for i in range(0, len(prompts), AT_ONCE)]

        def ask(part: list[Any]) -> list[dict[str, Any]]:
            answer = self._post("/completions", {"model": self.name, "prompt": part, **body})
            choices = sorted(answer.get("choices") or [], key=lambda one: one.get("index", 0))
            if len(choices) != len(part):
                raise UserError(f"{self.url} answered {len(choices)} of {len(part)} prompts")
            return choices

        with ThreadPoolExecutor(4) as pool:
            return [choice for part in pool.map(ask, parts) for choice in part]

    def _first_model(self) -> str:
        models = self._post("/models", None).get("data") or []
        if not models:
            raise UserError(f"{self.url}/models names no model: say which (--model)")
        return str(models[0].get("id"))

    def _post(self, path: str, body: dict[str, Any] | None) -> dict[str, Any]:
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get("OPENAI_API_KEY"):
            headers["Authorization"] = f"Bearer {key}"
        data = None if body is None else json.dumps(body).encode()
        try:
            request = urllib.request.Request(self.url + path, data, headers)
            with urllib.request.urlopen(request, timeout=self.timeout) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            said = error.read(2000).decode("utf-8", "replace")
            raise UserError(f"{self.url}{path} refused ({error.code}): {said}") from None
        except (OSError, ValueError) as error:  # also no address, no answer, no JSON
            raise UserError(f"{self.url}{path} cannot be asked: {error}") from None


def _last(told: dict[str, Any], start: int) -> Scored:
    """The tokens from `start` on. A token is the likeliest where no other that the server names is likelier."""
    logprobs, tops = told["token_logprobs"][start:], (told.get("top_logprobs") or [])[start:]
    greedy = all(not top or p >= max(top.values()) - 1e-9 for p, top in zip(logprobs, tops))
    return Scored(float(sum(p for p in logprobs if p is not None)), greedy and bool(tops), len(logprobs))


def _cut(text: str, stop: Sequence[str]) -> str:
    return text[: min((text.find(one) for one in stop if one in text), default=len(text))]
