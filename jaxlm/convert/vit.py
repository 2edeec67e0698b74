"""ViT (Dosovitskiy et al. 2020, arXiv:2010.11929) and DeiT (Touvron et al. 2020, arXiv:2012.12877), which has a
distillation token, and where it was trained with a teacher a second head."""

import dataclasses

import numpy as np

from jaxlm.convert import bert_like
from jaxlm.convert.fields import Fields
from jaxlm.convert.names import Names, Row, Rule, Weight, same
from jaxlm.convert.usual import activation, layers
from jaxlm.models.vit import ViTConfig
from jaxlm.nn import AttentionConfig, BlockConfig, MLPConfig, group_layers

MODEL_TYPES = {"vit": "ViTForImageClassification", "deit": "DeiTForImageClassificationWithTeacher"}
SPELLINGS = ({"vit.": "", "deit.": ""},)  # of bare models
IGNORED = ("*embeddings.mask_token", "decoder.*", "*pooler.*", "*classifier.*")  # of other tasks


@dataclasses.dataclass(frozen=True)
class Convolution(Rule):
    """The tensor is a convolution's (outputs, channels, height, width); ours is turned round."""

    def shape(self, weights: tuple[Weight, ...]) -> tuple[int, ...]:
        Y, X, C, D = weights[0].shape
        return D, C, Y, X

    def read(self, tensor: np.ndarray, weights: tuple[Weight, ...]) -> list[np.ndarray]:
        return [tensor.transpose(2, 3, 1, 0)]

    def write(self, ours: list[np.ndarray], weights: tuple[Weight, ...]) -> np.ndarray:
        return ours[0].transpose(3, 2, 0, 1)


def names(config: ViTConfig) -> Names:
    body = "vit" if config.tokens == 1 else "deit"
    layer = f"{body}.encoder.layer.{{}}"
    return {
        f"{body}.embeddings.cls_token": Row(("class_token",)),
        f"{body}.embeddings.distillation_token": Row(("distillation_token",)),
        f"{body}.embeddings.position_embeddings": Row(("positions",)),
        f"{body}.embeddings.patch_embeddings.projection.weight": Convolution(("patch",)),
        f"{body}.embeddings.patch_embeddings.projection.bias": same("patch_bias"),
        **bert_like.norm(f"{layer}.layernorm_before", "norm1"),
        **bert_like.projection(f"{layer}.attention.attention.query", "mixer.q"),
        **bert_like.projection(f"{layer}.attention.attention.key", "mixer.k"),
        **bert_like.projection(f"{layer}.attention.attention.value", "mixer.v"),
        **bert_like.affine(f"{layer}.attention.output.dense", "mixer.o"),
        **bert_like.norm(f"{layer}.layernorm_after", "norm2"),
        **bert_like.affine(f"{layer}.intermediate.dense", "ffn.up"),
        **bert_like.affine(f"{layer}.output.dense", "ffn.down"),
        **bert_like.norm(f"{body}.layernorm", "norm"),
        **bert_like.affine(f"{body}.pooler.dense", "pooler"),
        **bert_like.affine("cls_classifier" if config.distilled else "classifier", "head"),
        **bert_like.affine("distillation_classifier", "head_distilled"),
    }


def config(c: Fields) -> ViTConfig:
    deit = c.get("model_type") == "deit"
    prefix = "DeiT" if deit else "ViT"
    found = c.list("architectures", default=None) or [f"{prefix}Model"]
    kind = str(found[0]).removeprefix(prefix)
    known = ("Model", "ForImageClassification", "ForImageClassificationWithTeacher")[: 2 + deit]
    if kind not in known:
        raise c.error("architectures", f"asks for {kind[:60]!r}, and the heads known here are {', '.join(known)}")
    Y, X = pair(c, "image_size", 224)
    patch, across = pair(c, "patch_size", 16)
    if patch != across:
        raise c.error("patch_size", f"must be a square, not {patch} x {across}")
    norm = bert_like.norm_config(c)
    mixer = AttentionConfig(
        **bert_like.heads(c),
        rope=None,
        causal=False,
        bias=c.bool("qkv_bias", default=True),
        bias_out=True,
        dropout=c.float("attention_probs_dropout_prob", default=0.0),
    )
    drop = c.float("hidden_dropout_prob", default=0.0)
    ffn = MLPConfig(c.size("intermediate_size"), activation(c, "hidden_act", "gelu"), gated=False, bias=True)
    block = BlockConfig(mixer, ffn, norm, dropout=drop)
    if (width := c.size("pooler_output_size", default=None)) not in (None, c.size("hidden_size")):
        raise c.error("pooler_output_size", f"must be hidden_size, not {width}")
    return ViTConfig(
        D=c.size("hidden_size"),
        layers=group_layers([block] * layers(c)),
        patch=patch,
        Y=Y,
        X=X,
        C=c.size("num_channels", default=3),
        tokens=2 if deit else 1,
        norm=norm,
        labels=() if kind == "Model" else bert_like.labels(c),
        distilled=kind.endswith("WithTeacher"),
        pooler=activation(c, "pooler_act", "tanh") if kind == "Model" else None,
        dropout=drop,
    )


def pair(c: Fields, key: str, default: int) -> tuple[int, int]:
    """Height and width, of a number or a list of two."""
    found = c.get(key, default=default)
    sides = tuple(found) if isinstance(found, list) else (found, found)
    if len(sides) != 2 or not all(type(n) is int and n > 0 for n in sides):
        raise c.error(key, f"must be a size in pixels or two of them, not {repr(found)[:60]}")
    return sides
