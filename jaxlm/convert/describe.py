"""A config.json for a model that was made here: the family is found whose reading of it gives the model back, or else
it is written in a layout of our own."""

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any

from jaxlm.config import diff
from jaxlm.convert import ours, spellings_encoder
from jaxlm.convert.families import ENCODERS, FAMILIES, Source
from jaxlm.convert.fields import Fields
from jaxlm.convert.spellings import spellings
from jaxlm.errors import UserError
from jaxlm.models import EncoderConfig, LMConfig, ModelConfig

COMPUTATION = ("dtype", "remat", "unroll", "implementation", "chunk_size", "dropout")  # no part of what a model is


def describe(config: ModelConfig, eot: int | None = None) -> Source:
    """How to write this model, whose texts end with token `eot`, in Hugging Face's layout: as the first family that has
    exactly such models, or as no other library opens it (`convert.ours`)."""
    model = _essence(config)
    ids = {"bos_token_id": None, "eos_token_id": eot, "pad_token_id": None}  # defaults may not be in V
    for family, kind, known in _attempts(config):
        fields = Fields({"model_type": kind, **known})
        try:
            found = _essence(_with_extras(family, family.config(fields), config))
        except UserError:  # it needs what this model has not
            continue
        if not diff(found, model):
            said = {key: value for key, value in known.items() if key in fields.asked}
            head = {"architectures": [family.MODEL_TYPES[kind]], "model_type": kind, "dtype": "float32"}
            return Source(family, head | ids | said)
    return Source(ours, {"model_type": ours.MODEL_TYPE, "dtype": "float32"} | ids | ours.fields(config))


def _attempts(config: ModelConfig) -> Iterator[tuple[Any, str, dict[str, Any]]]:
    """Every family and model type, with each way of spelling the model."""
    if isinstance(config, EncoderConfig):
        for family in ENCODERS:
            for kind, architecture in family.MODEL_TYPES.items():
                known = family.fields(config) if hasattr(family, "fields") else None
                if known is not None:
                    yield family, kind, known | spellings_encoder.of_head(config, architecture)
                elif known := spellings_encoder.spelling(config, architecture):
                    yield family, kind, known
    if not isinstance(config, LMConfig):
        return
    for known, family in itertools.product(spellings(config), FAMILIES):
        for kind in family.MODEL_TYPES:
            yield family, kind, known
    for family in FAMILIES:  # those whose layers no other family has
        if (known := getattr(family, "fields", lambda config: None)(config)) is not None:
            yield from ((family, kind, known) for kind in family.MODEL_TYPES)


def _with_extras(family: Any, found: Any, config: ModelConfig) -> Any:
    """What config.json does not say of an encoder but its weights do: see `bert_like.as_stored`."""
    if not isinstance(config, EncoderConfig):
        return found
    paths = {path for rule in family.names(config).values() for path in rule.paths}
    extras = {"pooler": config.pooler, "next_sentence": config.next_sentence}
    return dataclasses.replace(found, **{path: there for path, there in extras.items() if path in paths})


def _essence(config: Any) -> Any:
    """The config without what only says how it is computed."""
    if isinstance(config, tuple):
        return tuple(map(_essence, config))
    if not dataclasses.is_dataclass(config) or isinstance(config, type):
        return config
    changes = {field.name: _essence(getattr(config, field.name)) for field in dataclasses.fields(config)}
    changes |= {field.name: field.default for field in dataclasses.fields(config) if field.name in COMPUTATION}
    if "G" in changes:
        changes["G"] = getattr(config, "groups", changes["G"])
    return dataclasses.replace(config, **changes)
