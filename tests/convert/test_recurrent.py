"""What config.json files of the recurrent families say, there and back."""

import numpy as np
import pytest

from jaxlm.convert import describe, lm_config
from jaxlm.convert.depthwise import depthwise
from jaxlm.convert.names import Weight
from jaxlm.errors import UserError
from jaxlm.sharding import Axes
from tests.convert import golden
from tests.convert.configs import USUAL

NAMES = ("mamba", "falcon_mamba", "mamba2", "recurrent_gemma", "rwkv", "xlstm")


@pytest.mark.parametrize("name", NAMES)
def test_a_model_of_the_family_is_described_as_such(name):
    config = lm_config(golden.config(name))
    fields = describe(config).fields
    assert fields["model_type"] == name and lm_config(fields) == config


@pytest.mark.parametrize(
    "kind, said, problem",
    [
        ("mamba", {"hidden_act": "relu"}, "hidden_act: 'relu' is not supported|hidden_act 'relu' is not supported"),
        ("mamba2", {"num_heads": 3}, "num_heads 3 of width 64 are not expand times hidden_size 32"),
        ("mamba2", {"use_bias": True}, "use_bias is true"),
        ("mamba2", {"time_step_limit": [0.0, 1.0]}, "time_step_limit other than from 0 to infinity"),
        ("recurrent_gemma", {"block_types": ["mamba"]}, "block_types must be a list of recurrent and attention"),
        ("recurrent_gemma", {"lru_width": 30}, "num_attention_heads 8 does not divide lru_width 30"),
        ("recurrent_gemma", {"intermediate_size": 13}, "intermediate_size 13 is odd"),
        ("xlstm", {"num_heads": 3}, "num_heads 3 does not divide the widths 16 of keys and 32 of values"),
        ("xlstm", {"use_bias": True}, "use_bias is true"),
        ("xlstm", {"eps": 1e-3}, "eps other than 1e-6"),
        ("xlstm", {"weight_mode": "fused"}, "weight_mode.* 'fused' is not supported"),
    ],
)
def test_what_is_not_supported(kind, said, problem):
    with pytest.raises(UserError, match=problem):
        lm_config(USUAL | {"model_type": kind} | said)


def test_infinity_is_spelt_in_two_ways():
    sizes = {"num_heads": 4, "head_dim": 16, "n_groups": 2}
    read = lambda limit: lm_config(USUAL | sizes | {"model_type": "mamba2", "time_step_limit": limit})
    assert read([0.0, float("inf")]) == read([0.0, {"__float__": "Infinity"}]) == read(None)


def test_depthwise_convolutions_side_by_side():
    """PyTorch has channels first, and a dimension for the one input of each."""
    shapes = ((3, 2, 2), (3, 5))
    weights = tuple(Weight((str(i),), shape, Axes((None,) * len(shape))) for i, shape in enumerate(shapes))
    rule, tensor = depthwise("0", "1"), np.arange(27).reshape(9, 1, 3)
    first, second = rule.read(tensor, weights)
    assert rule.shape(weights) == tensor.shape and first.shape == shapes[0]
    np.testing.assert_array_equal(first[:, 1, 0], tensor[2, 0])
    np.testing.assert_array_equal(second[:, 4], tensor[8, 0])
    np.testing.assert_array_equal(rule.write([first, second], weights), tensor)
