"""The config `recurrent`: every mixer by its name, alone and between layers of attention."""

import pytest

from jaxlm import config, models
from jaxlm.errors import UserError
from jaxlm.nn import AttentionConfig, TimeMix7Config

NAMES = "retnet gla hgrn hgrn2 rwkv4 rwkv5 rwkv6 rwkv7 deltanet deltanet_negative gated_deltanet kda mamba2 rg_lru gru"


@pytest.mark.parametrize("name", NAMES.split())
def test_every_mixer_makes_a_model(name):
    run = config.resolve(f'recurrent(mixer="{name}", pattern="RA", N=3, D=48)')
    mixers = [mixer for group in run.model.layers for block in group.blocks for mixer in block.mixers]
    assert any(isinstance(mixer, AttentionConfig) for mixer in mixers)
    assert models.abstract(run.model)[0]


def test_the_first_layer_of_rwkv7_hands_on_its_values():
    run = config.resolve('recurrent(mixer="rwkv7", N=3)')
    blocks = [block for group in run.model.layers for block in group.blocks * group.repeat]
    times = [mixer for block in blocks for mixer in block.mixers if isinstance(mixer, TimeMix7Config)]
    assert [time.first for time in times] == [True, False, False]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ('pattern=""', "pattern='' over N=4 layers: R and A in an order"),
        ("N=0", "pattern='R' over N=0 layers"),
        ("H=5", "H=5 heads do not divide D=192 into even widths"),
        ('mixer="rwkv8"', "rwkv8.*rwkv7"),
    ],
)
def test_what_makes_no_sense(given, said):
    with pytest.raises(UserError, match=said):
        config.resolve(f"recurrent({given})")
