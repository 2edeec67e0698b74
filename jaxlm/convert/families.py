"""The families that are known, which of them a config.json means, and where a loaded model came from."""

import dataclasses
import itertools
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from jaxlm.convert import (
    albert,
    arcee,
    bart,
    bert,
    bert_like,
    big_bird,
    bloom,
    cohere,
    deepseek,
    diffllama,
    distilbert,
    electra,
    gemma2,
    gemma3,
    glm,
    gpt2,
    gpt_neox,
    gpt_oss,
    granite,
    llama,
    llama4,
    longformer,
    mamba,
    mamba2,
    marian,
    mistral,
    mixtral,
    modernbert,
    mpt,
    olmo2,
    opt,
    ours,
    phi3,
    qwen2,
    qwen3,
    qwen3_moe,
    recurrent_gemma,
    roberta,
    rwkv,
    smollm3,
    switch_transformers,
    t5,
    whisper,
    xlstm,
)
from jaxlm.convert.fields import Fields
from jaxlm.convert.names import Names, Tensor, tensors
from jaxlm.errors import UserError, unknown
from jaxlm.models import ModelConfig

FAMILIES = (
    arcee,
    bloom,
    cohere,
    deepseek,
    diffllama,
    gemma2,
    gemma3,
    glm,
    gpt2,
    gpt_neox,
    gpt_oss,
    granite,
    llama,
    llama4,
    mamba,
    mamba2,
    mistral,
    mixtral,
    mpt,
    olmo2,
    opt,
    phi3,
    qwen2,
    qwen3,
    qwen3_moe,
    recurrent_gemma,
    rwkv,
    smollm3,
    xlstm,
)
ENCODERS = (bert, albert, big_bird, distilbert, electra, longformer, modernbert, roberta)
SEQ2SEQ = (bart, marian, switch_transformers, t5, whisper)

Family = Any  # one of these modules; `jaxlm.convert` says what is in it
Spelling = Mapping[str, str]  # how a file's names begin, or end, where they do otherwise than ours: ours -> the file's
FEW = 3  # culprits that a message names
READ_ELSEWHERE = (("dtype", "torch_dtype"), ("quantization_config",))
OF_BOTH = ("tie_word_embeddings", "dtype", "torch_dtype", "quantization_config")  # a wrapper may say these for its text


@dataclasses.dataclass(frozen=True)
class Source:
    """What is needed to write a model as it was found."""

    family: Family
    fields: dict[str, Any]  # of config.json
    spelling: Spelling = dataclasses.field(default_factory=dict)
    folder: Path | None = None  # has the files beside the weights
    narrow: dict[str, str] = dataclasses.field(default_factory=dict)  # dtypes of tensors narrower than our weights

    def tensors(self, config: ModelConfig) -> Iterator[Tensor]:
        """The model's tensors under the names of this source."""
        return spelled(tensors(_names(self.family, config), config), self.spelling)


def model_types() -> list[str]:
    return [
        name for family in (*FAMILIES, *ENCODERS, *SEQ2SEQ, ours) for name in (*family.MODEL_TYPES, *wrappers(family))
    ]


def _names(family: Family, config: Any) -> Names:
    return family.names(config) if hasattr(family, "names") else family.NAMES


def wrappers(family: Family) -> tuple[str, ...]:
    return getattr(family, "WRAPPERS", ())


def find(fields: dict[str, Any], where: str = "config.json") -> tuple[Family, dict[str, Any]]:
    """The family of a config.json, and the fields of its text model where that is only a part of it."""
    kind = fields.get("model_type")
    if not isinstance(kind, str):
        raise UserError(f"{where}: model_type must be a text, not {repr(kind)[:60]}")
    for family in (*FAMILIES, *ENCODERS, *SEQ2SEQ, ours):
        if kind in family.MODEL_TYPES:
            return family, fields
        if kind in wrappers(family):
            text = Fields(fields, where).section("text_config").values
            above = {key: fields[key] for key in OF_BOTH if key in fields}
            return family, {"model_type": next(iter(family.MODEL_TYPES)), **above, **text}
    error = unknown("model_type", kind, model_types())
    raise UserError(f"{where}: {error}")


def lm_config(fields: dict[str, Any], where: str = "config.json") -> Any:
    """The model that a config.json describes, computed in float32. Raises UserError, naming the file `where`, and warns
    of keys that are probably misspelt."""
    family, given = find(fields, where)
    c = Fields({**getattr(family, "DEFAULTS", {}), **given}, where)
    try:
        config = family.config(c)
        for keys in READ_ELSEWHERE:
            c.get(*keys)
        if mistyped := c.mistyped(given):
            said = ", ".join(mistyped[:FEW]) + (", ..." if len(mistyped) > FEW else "")
            warnings.warn(f"{where}: unknown keys are ignored, and these may be misspelt: {said}", stacklevel=4)
        return config
    except UserError as error:  # a config's own validation knows no file
        raise error if str(error).startswith(where) else UserError(f"{where}: {error}") from None


def spelled(found: Iterable[Tensor], spelling: Spelling) -> Iterator[Tensor]:
    for tensor in found:
        yield dataclasses.replace(tensor, name=_spell(tensor.name, spelling)) if spelling else tensor


def as_stored(config: Any, source: Source, stored: Mapping[str, Any]) -> Any:
    """An encoder with what the file has beside its head, see `bert_like.as_stored`."""
    has = lambda name: _spell(name, source.spelling) in stored
    return bert_like.as_stored(config, source.family.names(config), has)


def spelling_of(family: Family, config: ModelConfig, stored: Mapping[str, Any]) -> tuple[Spelling, bool]:
    """The spelling by which most of the model's tensors are among the stored ones, and whether the family has it: any
    other has one more beginning, or one less, as when a wrapper (torch.compile) or a part of the model was saved."""
    names = [tensor.name for tensor in itertools.islice(tensors(_names(family, config), config), 2 * len(stored))]
    known = [{}, *getattr(family, "SPELLINGS", ())]
    count = lambda spelling: sum(_spell(name, spelling) in stored for name in names)
    best = max([*known, *_other_spellings(names, stored)], key=count)
    return best, best in known


def _other_spellings(names: list[str], stored: Iterable[str]) -> Iterator[Spelling]:
    """Those by which a tensor of a layer is found among the stored ones: all that is the same in both names is its end,
    from some dot on."""
    if name := next((name for name in names if any(part.isdecimal() for part in name.split("."))), None):
        parts = name.split(".")
        for i in range(len(parts)):
            end = ".".join(parts[i:])
            found = [other for other in stored if f".{other}".endswith(f".{end}")]
            if found:
                begins = name.removesuffix(end)
                yield from ({begins: other.removesuffix(end)} for other in found)
                return


def _spell(name: str, spelling: Spelling) -> str:
    begin = next((usual for usual in spelling if name.startswith(usual)), None)
    end = next((usual for usual in spelling if usual and name.endswith(usual)), None)
    name = name if begin is None else spelling[begin] + name.removeprefix(begin)
    return name if end is None else name.removesuffix(end) + spelling[end]
