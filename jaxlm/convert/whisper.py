"""Whisper (Radford et al. 2022, arXiv:2212.04356): BART with norms before each branch, which reads frames of sound by
two convolutions; keys have no biases, and the head is the table of tokens."""

from typing import Any

from jaxlm.convert import bart
from jaxlm.convert.fields import Fields
from jaxlm.convert.names import Turned, linear, same
from jaxlm.convert.usual import activation
from jaxlm.models import Seq2SeqConfig
from jaxlm.nn import FramesConfig, LayerNormConfig, LearnedConfig

MODEL_TYPES = {"whisper": "WhisperForConditionalGeneration"}
IGNORED = ("model.encoder.embed_tokens.weight",)
DEFAULTS = {"tie_word_embeddings": True, "dropout": 0.0}
OTHERS = ("model.shared.", "lm_head.", "final_logits_bias", "model.encoder.embed_positions", "model.encoder.layernorm_")


def _names() -> dict[str, Any]:
    found = {name: rule for name, rule in bart.NAMES.items() if not name.startswith(OTHERS)}
    found |= {"model.decoder.embed_tokens.weight": same("embed.table"), "proj_out.weight": linear("head")}
    found["model.encoder.embed_positions.weight"] = same("frames.positions")
    for conv in ("conv1", "conv2"):
        found[f"model.encoder.{conv}.weight"] = Turned((f"frames.{conv}",))
        found[f"model.encoder.{conv}.bias"] = same(f"frames.{conv}_bias")
    return found


NAMES = _names()
SPELLINGS = ({"model.": ""},)  # a file without the head


def config(c: Fields) -> Seq2SeqConfig:
    act = activation(c, "activation_function", "gelu")
    return bart.model(
        c,
        True,
        act,
        bias_k=False,
        source=FramesConfig(c.size("num_mel_bins", default=80), c.size("max_source_positions", default=1500), act),
        positions=LearnedConfig(c.size("max_target_positions", default=448)),
        norm=LayerNormConfig(),
        embed_scale=1.0,
        logit_bias=False,
    )
