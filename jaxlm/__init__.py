"""Transformers and language models in JAX and Flax.

    lm = jaxlm.load("runs/quickstart")          # a run, a checkpoint, or a folder in Hugging Face's layout
    lm.generate(["To be"], sampler=jaxlm.TopP(0.9), key=jax.random.key(0)).texts

Names are imported when they are first used, so `import jaxlm` costs nothing; the rooms are ordinary modules:
`jaxlm.ops`, `jaxlm.nn`, `jaxlm.models`, ...
"""

import importlib
from typing import TYPE_CHECKING, Any

from jaxlm import compat

__version__ = "0.1.0"

if (trouble := compat.outdated()) is not None:
    raise ImportError(trouble)

_HOME = {
    "load": "jaxlm.api",
    "Encoder": "jaxlm.api",
    "Seq2Seq": "jaxlm.api",
    "Vision": "jaxlm.api",
    "Whisper": "jaxlm.api",
    "load_tokenizer": "jaxlm.text",
    "Beam": "jaxlm.decode",
    "Greedy": "jaxlm.decode",
    "Temperature": "jaxlm.decode",
    "TopK": "jaxlm.decode",
    "TopP": "jaxlm.decode",
    "MinP": "jaxlm.decode",
    "RepetitionPenalty": "jaxlm.decode",
    "Choices": "jaxlm.decode",
    "Grammar": "jaxlm.decode",
    "JsonSchema": "jaxlm.decode",
    "Regex": "jaxlm.decode",
    "Banned": "jaxlm.decode",
    "Contrastive": "jaxlm.decode",
    "CountPenalty": "jaxlm.decode",
    "Epsilon": "jaxlm.decode",
    "Eta": "jaxlm.decode",
    "LogitBias": "jaxlm.decode",
    "MinLength": "jaxlm.decode",
    "Lookup": "jaxlm.decode",
    "Mirostat": "jaxlm.decode",
    "NoRepeatNgram": "jaxlm.decode",
    "Typical": "jaxlm.decode",
    "UserError": "jaxlm.errors",
}

if TYPE_CHECKING:
    from jaxlm.api import Encoder as Encoder
    from jaxlm.api import Seq2Seq as Seq2Seq
    from jaxlm.api import Vision as Vision
    from jaxlm.api import Whisper as Whisper
    from jaxlm.api import load as load
    from jaxlm.decode import Banned as Banned
    from jaxlm.decode import Beam as Beam
    from jaxlm.decode import Choices as Choices
    from jaxlm.decode import Contrastive as Contrastive
    from jaxlm.decode import CountPenalty as CountPenalty
    from jaxlm.decode import Epsilon as Epsilon
    from jaxlm.decode import Eta as Eta
    from jaxlm.decode import Grammar as Grammar
    from jaxlm.decode import Greedy as Greedy
    from jaxlm.decode import JsonSchema as JsonSchema
    from jaxlm.decode import LogitBias as LogitBias
    from jaxlm.decode import Lookup as Lookup
    from jaxlm.decode import MinLength as MinLength
    from jaxlm.decode import MinP as MinP
    from jaxlm.decode import Mirostat as Mirostat
    from jaxlm.decode import NoRepeatNgram as NoRepeatNgram
    from jaxlm.decode import Regex as Regex
    from jaxlm.decode import RepetitionPenalty as RepetitionPenalty
    from jaxlm.decode import Temperature as Temperature
    from jaxlm.decode import TopK as TopK
    from jaxlm.decode import TopP as TopP
    from jaxlm.decode import Typical as Typical
    from jaxlm.errors import UserError as UserError
    from jaxlm.text import load_tokenizer as load_tokenizer


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'jaxlm' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
