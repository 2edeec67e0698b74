"""A model as one GGUF file."""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from jaxlm.axes import Params
from jaxlm.convert.families import Source, lm_config
from jaxlm.convert.gguf import names
from jaxlm.convert.gguf.file import Entry, write
from jaxlm.convert.save import to_hf
from jaxlm.errors import UserError, unknown
from jaxlm.models import ModelConfig
from jaxlm.ops import leaves
from jaxlm.ops.blocks import quantize

KINDS = {"F32": 0, "F16": 1, "Q4_0": 2, "Q8_0": 7}  # and their numbers as the type of a file


def save(
    path: Path,
    config: ModelConfig,
    params: Params,
    source: Source,
    vocabulary: dict[str, Any],
    kind: str = "F16",
    say: Callable[[str], None] = lambda line: None,
) -> None:
    """Writes the model to `path`: its matrices of `kind`, vectors in float32, and `vocabulary`, the tokenizer's values
    (`text.formats.gguf.gguf_values`). Rows that are no whole blocks are float16.

    Raises UserError for a family or kind that is not written, and for a model of which the file could not say all.
    """
    if kind not in KINDS:
        raise unknown("kind of GGUF", kind, KINDS)
    name, known = names.named(source.fields.get("model_type", ""))
    values = names.metadata(source.fields, name) | {"general.file_type": KINDS[kind]} | vocabulary
    tensors = list(_tensors(to_hf(leaves.dense(params), config, source), known, source.fields, kind))
    divisors = names.divisors(source.fields)
    if divisors is not None:
        tensors.append((names.FREQUENCIES, Entry("F32", divisors.shape, 0), divisors))
    read = lm_config(names.fields(values, {own: entry for own, entry, _ in tensors}, divisors), str(path))
    if lost := _first_other(config, dataclasses.replace(read, dtype=config.dtype, remat=config.remat)):
        raise UserError(f"{path}: a GGUF of a {name} has no place for {lost}")
    say(f"writing {path}")
    write(path, values, tensors)


def _first_other(a: Any, b: Any, where: str = "") -> str:
    """Where two configs differ first, and how `a` has it; "" if nowhere."""
    if dataclasses.is_dataclass(a) and type(a) is type(b):
        pairs = [(f".{f.name}", getattr(a, f.name), getattr(b, f.name)) for f in dataclasses.fields(a)]
    elif isinstance(a, tuple) and isinstance(b, tuple) and len(a) == len(b):
        pairs = [(f"[{i}]", *both) for i, both in enumerate(zip(a, b))]
    else:
        return "" if a == b else f"{where.lstrip('.')} {a}"
    return next(filter(None, (_first_other(x, y, where + name) for name, x, y in pairs)), "")


def _tensors(
    tensors: Iterator[tuple[str, np.ndarray]], known: names.Architecture, said: dict[str, Any], kind: str
) -> Iterator[tuple[str, Entry, np.ndarray]]:
    heads = {"attn_q": said["num_attention_heads"], "attn_k": said.get("num_key_value_heads")}
    for theirs, array in tensors:
        name, x = names.gguf_name(theirs, known), np.asarray(array, np.float32)
        part = name.split(".")[-2]
        if known.turned and part in heads:
            pairs = x.reshape(heads[part] or heads["attn_q"], 2, -1, *x.shape[1:])
            x = pairs.swapaxes(1, 2).reshape(x.shape)
        if known.centred and "norm" in name:
            x = x + 1
        own = "F32" if x.ndim == 1 else "F16" if kind[0] == "Q" and len(x[0]) % 32 else kind
        stored = quantize(x, own) if own[0] == "Q" else x.astype("<f2" if own == "F16" else "<f4")
        yield name, Entry(own, x.shape, 0), stored
