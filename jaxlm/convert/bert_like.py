"""What the encoders after BERT have in common: the names of its tensors, its layers, and heads by `architectures`.

A family of encoders is a module as `jaxlm.convert` says, with `names` (config -> `NAMES` and those of its head) in
place of one table, since heads of different kinds share the names of our weights.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from jaxlm.convert.fields import Fields
from jaxlm.convert.names import Names, Rule, flat, linear, same
from jaxlm.convert.usual import activation, layers
from jaxlm.errors import UserError
from jaxlm.models import EncoderConfig, HeadConfig, MaskedHead, SequenceHead, SpanHead, TokenHead
from jaxlm.nn import (
    AttentionConfig,
    BlockConfig,
    LayerNormConfig,
    LearnedConfig,
    MixerConfig,
    MLPConfig,
    group_layers,
)

IGNORED = ("*embeddings.position_ids", "*embeddings.token_type_ids", "*decoder.bias")
OLD_NORMS = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}  # of files from TensorFlow
LABELS = 2  # classes of a config.json that does not say


def affine(theirs: str, ours: str, bias: str | None = None) -> dict[str, Rule]:
    """A product and its bias."""
    return {f"{theirs}.weight": linear(ours), f"{theirs}.bias": same(bias or f"{ours}_bias")}


def projection(theirs: str, ours: str) -> dict[str, Rule]:
    """A product into heads and its bias."""
    return {f"{theirs}.weight": linear(ours), f"{theirs}.bias": flat(f"{ours}_bias")}


def norm(theirs: str, ours: str) -> dict[str, Rule]:
    return {f"{theirs}.weight": same(f"{ours}.scale"), f"{theirs}.bias": same(f"{ours}.bias")}


def embeddings(theirs: str) -> dict[str, Rule]:
    """Of tokens, positions and types, and their norm."""
    return {
        f"{theirs}.word_embeddings.weight": same("embed.table"),
        f"{theirs}.position_embeddings.weight": same("positions.table"),
        f"{theirs}.token_type_embeddings.weight": same("types.table"),
        **norm(f"{theirs}.LayerNorm", "embed_norm"),
    }


def layer(theirs: str) -> dict[str, Rule]:
    """Of one layer, as BERT's: attention and feed-forward, each with a norm of the sum."""
    return {
        **projection(f"{theirs}.attention.self.query", "mixer.q"),
        **projection(f"{theirs}.attention.self.key", "mixer.k"),
        **projection(f"{theirs}.attention.self.value", "mixer.v"),
        **affine(f"{theirs}.attention.output.dense", "mixer.o"),
        **norm(f"{theirs}.attention.output.LayerNorm", "norm1_sum"),
        **affine(f"{theirs}.intermediate.dense", "ffn.up"),
        **affine(f"{theirs}.output.dense", "ffn.down"),
        **norm(f"{theirs}.output.LayerNorm", "norm2_sum"),
    }


def body(theirs: str) -> dict[str, Rule]:
    """All of BERT but its heads, and its pooler."""
    return {
        **embeddings(f"{theirs}.embeddings"),
        **layer(f"{theirs}.encoder.layer.{{}}"),
        **affine(f"{theirs}.pooler.dense", "pooler"),
    }


CLS = {  # masked tokens, as BERT has them
    **affine("cls.predictions.transform.dense", "transform"),
    **norm("cls.predictions.transform.LayerNorm", "transform_norm"),
    "cls.predictions.decoder.weight": linear("head"),
    "cls.predictions.bias": same("head_bias"),
}
LM_HEAD = {  # as RoBERTa has them
    **affine("lm_head.dense", "transform"),
    **norm("lm_head.layer_norm", "transform_norm"),
    "lm_head.decoder.weight": linear("head"),
    "lm_head.bias": same("head_bias"),
}
CLASSIFIER = affine("classifier", "head")  # one product
DENSE_CLASSIFIER = affine("classifier.dense", "transform") | affine("classifier.out_proj", "head")  # two
SPANS = affine("qa_outputs", "head")
Heads = Mapping[type[HeadConfig], Mapping[str, Rule]]


def named(names: Mapping[str, Rule], heads: Heads, config: EncoderConfig) -> Names:
    """The table of a model with this head. Raises UserError for one that the family has not."""
    if config.head is None:
        return names
    if type(config.head) not in heads:
        raise UserError(f"no {type(config.head).__name__} is known in this family's files")
    return {**names, **heads[type(config.head)]}


# config.json ---------------------------------------------------------------------------------------------------------


def architecture(c: Fields, of: Mapping[str, str]) -> str:
    """What kind of head "architectures" asks for: the end of the class's name, "Model" where nothing is said."""
    found = c.list("architectures", default=None) or []
    prefix = of[c.get("model_type")].removesuffix("ForMaskedLM")
    return str(found[0]).removeprefix(prefix) if found else "Model"


def labels(c: Fields) -> tuple[str, ...]:
    """The names of the classes, in the order of their numbers."""
    names = c.section("id2label", default=None)
    if names is None:
        return tuple(f"LABEL_{i}" for i in range(c.size("num_labels", default=LABELS)))
    try:
        found = {int(i): name for i, name in names.values.items()}
    except ValueError:
        found = {}
    if sorted(found) != list(range(len(found))) or not found or not all(type(x) is str for x in found.values()):
        raise c.error("id2label", "must have a name for each of 0, 1, 2, ...")
    return tuple(found[i] for i in range(len(found)))


def head(kind: str, c: Fields, heads: Mapping[str, Callable[[], HeadConfig | None]]) -> HeadConfig | None:
    """The head of this kind. Raises UserError where the family has none such."""
    if kind not in heads:
        known = ", ".join(sorted(heads))
        raise c.error("architectures", f"asks for {kind[:60]!r}, and the heads known here are {known}")
    return heads[kind]()


def usual_heads(c: Fields, masked: HeadConfig, activation: str | None) -> dict[str, Callable[[], HeadConfig | None]]:
    """Of all families; `activation` is that of a text's classes, None where the pooled text is read."""
    drop = c.float("classifier_dropout", "hidden_dropout_prob", "dropout", default=0.1)
    return {
        "Model": lambda: None,
        "ForMaskedLM": lambda: masked,
        "ForPreTraining": lambda: masked,
        "ForSequenceClassification": lambda: SequenceHead(labels(c), activation, drop),
        "ForTokenClassification": lambda: TokenHead(labels(c), drop),
        "ForQuestionAnswering": SpanHead,
    }


def norm_config(c: Fields, eps: float = 1e-12) -> LayerNormConfig:
    return LayerNormConfig(c.float("layer_norm_eps", default=eps))


def attention(c: Fields) -> AttentionConfig:
    return AttentionConfig(
        **heads(c),
        rope=None,
        causal=False,
        bias=True,
        bias_out=True,
        dropout=c.float("attention_probs_dropout_prob", default=0.1),
    )


def heads(c: Fields) -> dict[str, Any]:
    """How many, and how wide."""
    D, H = c.size("hidden_size"), c.size("num_attention_heads")
    if D % H:
        raise c.error("num_attention_heads", f"{H} does not divide hidden_size {D}")
    return {"H": H, "K": D // H}


def block(c: Fields, mixer: MixerConfig, act: str | None = None) -> BlockConfig:
    act = act or activation(c, "hidden_act", "gelu")
    return BlockConfig(
        mixer,
        MLPConfig(c.size("intermediate_size"), act, gated=False, bias=True),
        norm=None,
        norm_sum=norm_config(c),
        dropout=c.float("hidden_dropout_prob", default=0.1),
    )


def positions(c: Fields, offset: int = 0) -> LearnedConfig:
    """`offset` rows stand before that of the first token."""
    if (kind := c.get("position_embedding_type", default="absolute")) != "absolute":
        raise c.error("position_embedding_type", f"is {kind!r}: only absolute positions are read")
    rows = c.size("max_position_embeddings", default=512)
    if rows <= offset:
        raise c.error("max_position_embeddings", f"is {rows}, of which {offset} are not used: none is left")
    return LearnedConfig(rows - offset, offset)


def after_padding(c: Fields) -> int:
    """RoBERTa's first position: the one after that of padding, which is the id of padding."""
    return c.int("pad_token_id", default=1) + 1


def encoder(c: Fields, **changes: Any) -> EncoderConfig:
    if c.bool("is_decoder", default=False) or c.bool("add_cross_attention", default=False):
        raise c.error("is_decoder", "or add_cross_attention is true: only encoders are read here")
    usual: dict[str, Any] = {
        "V": c.size("vocab_size"),
        "D": c.size("hidden_size"),
        "types": c.size("type_vocab_size", default=2),
        "embed_norm": norm_config(c),
        "dropout": c.float("hidden_dropout_prob", default=0.1),
    }
    if "layers" not in changes:
        changes["layers"] = group_layers([block(c, attention(c))] * layers(c))
    return EncoderConfig(**usual | changes)


def masked(c: Fields, activation: str = "gelu") -> MaskedHead:
    return MaskedHead(activation, norm_config(c), tied=c.bool("tie_word_embeddings", default=True))


# The file says what is there -----------------------------------------------------------------------------------------


def as_stored(config: EncoderConfig, names: Names, stored: Callable[[str], bool]) -> EncoderConfig:
    """The config with what the weights of a file have beside its head: a pooler, a head for the next sentence, and a
    last matrix of its own. So nothing of the file is lost, and nothing is wanted that is not there."""
    name = {rule.paths[0]: name for name, rule in names.items() if isinstance(rule, Rule)}
    has = lambda path: path in name and stored(name[path])
    needed = config.head is not None and config.head.pooled
    pooler = has("pooler") or needed
    changes: dict[str, Any] = {"pooler": pooler, "next_sentence": pooler and has("next_sentence")}
    if isinstance(config.head, MaskedHead):
        changes["head"] = dataclasses.replace(config.head, tied=not has("head"))
    return dataclasses.replace(config, **changes)
