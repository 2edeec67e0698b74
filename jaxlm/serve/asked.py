"""What the body of a request asks of decoding, checked field by field."""

import math
from collections.abc import Mapping
from typing import Any

from jaxlm.decode import CountPenalty, Greedy, LogitBias, MinP, RepetitionPenalty, Sampler, Temperature, TopK, TopP
from jaxlm.decode.rows import TOP
from jaxlm.serve.errors import bad

STOPS = 16  # texts or tokens
COPIES = 16  # of one prompt
BIASES = 1024
Body = Mapping[str, Any]


def number(body: Body, name: str, default: float, low: float, high: float) -> float:
    """A field in [low, high]; null is the default."""
    value = body.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise bad(f"{name} must be a number, got {_shown(value)}", name)
    if not low <= value <= high:
        raise bad(f"{name} must lie in [{low:g}, {high:g}], got {value:g}", name)
    return value


def integer(body: Body, name: str, default: int, low: int, high: int) -> int:
    if isinstance(value := body.get(name), float) and not value.is_integer():
        raise bad(f"{name} must be a whole number, got {value:g}", name)
    return int(number(body, name, default, low, high))


def flag(body: Body, name: str, default: bool = False) -> bool:
    value = body.get(name)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise bad(f"{name} must be true or false, got {_shown(value)}", name)
    return value


def text(body: Body, name: str, default: str | None = None) -> str:
    value = body.get(name, default)
    if not isinstance(value, str):
        raise bad(f"{name} must be a string, got {_shown(value)}", name)
    return value


def sampler(body: Body, V: int) -> Sampler:
    """The sampler of the fields that OpenAI has, and top_k, min_p and repetition_penalty."""
    parts: list[Sampler] = []
    bias = body.get("logit_bias") or {}
    if not isinstance(bias, dict) or len(bias) > BIASES:
        raise bad(f"logit_bias must be an object of at most {BIASES} tokens", "logit_bias")
    if bias:
        parts.append(LogitBias(tuple((_token(i, V), number(bias, i, 0, -100, 100)) for i in bias)))
    if (p := number(body, "repetition_penalty", 1, 0.01, 100)) != 1:
        parts.append(RepetitionPenalty(p))
    presence, frequency = (number(body, f"{name}_penalty", 0, -2, 2) for name in ("presence", "frequency"))
    if presence or frequency:
        parts.append(CountPenalty(presence, frequency))
    temperature = number(body, "temperature", 1, 0, 100)
    if temperature == 0:
        parts.append(Greedy())
        return _chain(parts)
    if temperature != 1:
        parts.append(Temperature(max(temperature, 1e-4)))
    if (k := integer(body, "top_k", 0, -1, 2**30)) > 0:
        parts.append(TopK(k))
    if (p := number(body, "top_p", 1, 0, 1)) < 1:
        parts.append(TopP(max(p, 1e-6)))
    if p := number(body, "min_p", 0, 0, 1):
        parts.append(MinP(p))
    return _chain(parts)


def _chain(parts: list[Sampler]) -> Sampler:
    found = parts[0] if parts else Sampler()
    for part in parts[1:]:
        found |= part
    return found


def _token(name: str, V: int) -> int:
    if not name.isdecimal() or not int(name) < V:
        raise bad(f"logit_bias is of token ids 0..{V - 1}, got {_shown(name)}", "logit_bias")
    return int(name)


def stops(body: Body, V: int) -> list[str | int]:
    """`stop`, a text or several, and `stop_token_ids`."""
    given, ids = body.get("stop"), body.get("stop_token_ids") or []
    texts = [] if given is None else [given] if isinstance(given, str) else given
    if not isinstance(texts, list) or not all(isinstance(one, str) and one for one in texts):
        raise bad("stop must be a text that is not empty, or a list of such", "stop")
    whole = isinstance(ids, list) and all(isinstance(i, int) and not isinstance(i, bool) and 0 <= i < V for i in ids)
    if not whole:
        raise bad(f"stop_token_ids must be a list of ids 0..{V - 1}", "stop_token_ids")
    if len(texts) + len(ids) > STOPS:
        raise bad(f"at most {STOPS} stops, got {len(texts) + len(ids)}", "stop")
    if any(len(one) > 1024 for one in texts):
        raise bad("a stop text has at most 1024 characters", "stop")
    return [*texts, *ids]


def tops(body: Body, name: str, most: int = TOP) -> int:
    return integer(body, name, 0, 0, most)


def _shown(value: Any) -> str:
    return repr(value)[:60]
