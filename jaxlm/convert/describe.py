"""A config.json for a model that was made here: the family is found whose reading of it gives the model back."""

import dataclasses
import itertools
import math
from collections.abc import Iterator
from typing import Any

from jaxlm.config import diff
from jaxlm.convert.families import FAMILIES, Source
from jaxlm.convert.fields import Fields
from jaxlm.convert.spellings import spellings
from jaxlm.errors import UserError
from jaxlm.models import LMConfig

COMPUTATION = ("dtype", "remat", "unroll", "implementation", "dropout")  # no part of what a model is
FEW = 3  # differences that a message names


def describe(config: LMConfig, eot: int | None = None) -> Source:
    """How to write this model, whose texts end with token `eot`, in Hugging Face's layout. Raises UserError, with the
    nearest family, if there is none."""
    model = _essence(config)
    nearest: list[str] = []
    distance = math.inf
    for family, kind, known in _attempts(config):
        fields = Fields({"model_type": kind, **known})
        try:
            found = _essence(family.config(fields))
        except UserError:  # it needs what this model has not
            continue
        differences = diff(found, model)
        if not differences:
            said = {key: value for key, value in known.items() if key in fields.asked}
            head = {"architectures": [family.MODEL_TYPES[kind]], "model_type": kind, "dtype": "float32"}
            ids = {"bos_token_id": None, "eos_token_id": eot, "pad_token_id": None}  # defaults may not be in V
            return Source(family, head | ids | said)
        far = sum(100 if "jaxlm." in line else 1 for line in differences)  # another kind of layer is far away
        if far < distance:
            nearest, distance = [kind, *differences], far
    if not nearest:
        raise UserError("no family of Hugging Face's layout has models like this one")
    more = ", ..." if len(nearest) > FEW + 1 else ""
    raise UserError(
        f"no family of Hugging Face's layout has models like this one; the nearest is {nearest[0]}, which differs in "
        f"{', '.join(nearest[1 : FEW + 1])}{more}"
    )


def _attempts(config: LMConfig) -> Iterator[tuple[Any, str, dict[str, Any]]]:
    """Every family and model type, with each way of spelling the model."""
    for known, family in itertools.product(spellings(config), FAMILIES):
        for kind in family.MODEL_TYPES:
            yield family, kind, known


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
