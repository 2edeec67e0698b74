"""The families that are known, which of them a config.json means, and where a loaded model came from."""

import dataclasses
import itertools
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from jaxlm.convert import (
    albert,
    apertus,
    arcee,
    bamba,
    bart,
    bert,
    bert_like,
    big_bird,
    bitnet,
    bloom,
    codegen,
    cohere,
    dbrx,
    deepseek,
    diffllama,
    distilbert,
    dots1,
    electra,
    ernie4_5_moe,
    exaone4,
    exaone_moe,
    falcon,
    gemma2,
    gemma3,
    glm,
    glm4,
    glm4_moe,
    gpt2,
    gpt_bigcode,
    gpt_neo,
    gpt_neox,
    gpt_oss,
    gptj,
    granite,
    granitemoe,
    granitemoehybrid,
    hunyuan_v1_dense,
    hunyuan_v1_moe,
    lfm2,
    llama,
    llama4,
    longformer,
    mamba,
    mamba2,
    marian,
    mimo,
    mimo_v2_flash,
    minimax_m2,
    ministral,
    mistral,
    mixtral,
    modernbert,
    mpt,
    nanochat,
    nemotron,
    nemotron_h,
    olmo2,
    olmo3,
    olmoe,
    opt,
    ours,
    phi,
    phi3,
    phimoe,
    qwen2,
    qwen2_moe,
    qwen3,
    qwen3_5,
    qwen3_moe,
    qwen3_next,
    recurrent_gemma,
    roberta,
    rwkv,
    seed_oss,
    smollm3,
    stablelm,
    starcoder2,
    switch_transformers,
    t5,
    vaultgemma,
    vit,
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
    # A model that was made here is called one of these where it is none of those above.
    apertus,
    bitnet,
    codegen,
    dbrx,
    dots1,
    ernie4_5_moe,
    exaone4,
    exaone_moe,
    falcon,
    glm4,
    glm4_moe,
    gpt_bigcode,
    gpt_neo,
    gptj,
    granitemoe,
    hunyuan_v1_dense,
    hunyuan_v1_moe,
    mimo,
    mimo_v2_flash,
    minimax_m2,
    ministral,
    nanochat,
    nemotron,
    olmo3,
    olmoe,
    phi,
    phimoe,
    qwen2_moe,
    seed_oss,
    stablelm,
    starcoder2,
    vaultgemma,
    qwen3_next,
    qwen3_5,
    nemotron_h,
    lfm2,
    granitemoehybrid,
    bamba,
)
ENCODERS = (bert, albert, big_bird, distilbert, electra, longformer, modernbert, roberta)
SEQ2SEQ = (bart, marian, switch_transformers, t5, whisper)
VISION = (vit,)

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
        name
        for family in (*FAMILIES, *ENCODERS, *SEQ2SEQ, *VISION, ours)
        for name in (*family.MODEL_TYPES, *wrappers(family))
    ]


def table() -> list[tuple[str, dict[str, str | None], tuple[str, ...]]]:
    """Of each family: what it is, in its own words; the model types with the class by which transformers opens each;
    and the wrappers whose text model it is."""
    every = (*FAMILIES, *ENCODERS, *SEQ2SEQ, *VISION)
    said = lambda family: " ".join(family.__doc__.split()).rstrip(".")
    return sorted((said(family), family.MODEL_TYPES, wrappers(family)) for family in every)


def _names(family: Family, config: Any) -> Names:
    return family.names(config) if hasattr(family, "names") else family.NAMES


def wrappers(family: Family) -> tuple[str, ...]:
    return getattr(family, "WRAPPERS", ())


def find(fields: dict[str, Any], where: str = "config.json") -> tuple[Family, dict[str, Any]]:
    """The family of a config.json, and the fields of its text model where that is only a part of it."""
    kind = fields.get("model_type")
    if not isinstance(kind, str):
        raise UserError(f"{where}: model_type must be a text, not {repr(kind)[:60]}")
    for family in (*FAMILIES, *ENCODERS, *SEQ2SEQ, *VISION, ours):
        if kind in family.MODEL_TYPES:
            return family, fields
        if kind in wrappers(family):
            text = Fields(fields, where).section("text_config").values
            above = {key: fields[key] for key in OF_BOTH if key in fields}
            named = text.get("model_type")
            own = named if named in family.MODEL_TYPES else next(iter(family.MODEL_TYPES))
            return family, {**above, **text, "model_type": own}
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
