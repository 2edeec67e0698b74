import pytest

from jaxlm.convert.fields import Fields
from jaxlm.convert.whisper import config
from jaxlm.errors import UserError
from jaxlm.models import flops, whisper

COUNTS = {  # of the published files
    "tiny": 37_760_640,
    "tiny.en": 37_760_256,
    "base": 72_593_920,
    "small": 241_734_912,
    "medium": 763_857_920,
    "large": 1_543_304_960,
    "large-v3": 1_543_490_560,
    "turbo": 808_878_080,
}


@pytest.mark.parametrize("size", COUNTS)
def test_published_counts(size):
    assert flops.parameters(whisper(size)) == COUNTS[size]


def test_a_size_is_what_its_config_json_says():
    said = {"model_type": "whisper", "vocab_size": 51_865, "d_model": 384, "num_mel_bins": 80, "dropout": 0.0}
    for stack in ("encoder", "decoder"):
        said |= {f"{stack}_layers": 4, f"{stack}_attention_heads": 6, f"{stack}_ffn_dim": 1536}
    assert config(Fields(said, "config.json")) == whisper("tiny")


@pytest.mark.parametrize("size", ["huge", "turbo.en"])
def test_unknown_sizes(size):
    with pytest.raises(UserError, match=f"unknown size '{size}'"):
        whisper(size)
