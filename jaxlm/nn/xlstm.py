"""xLSTM's two kinds of layers in turn."""

from jaxlm.errors import UserError
from jaxlm.nn.block import BlockConfig
from jaxlm.nn.mlp import MLPConfig
from jaxlm.nn.mlstm import PreUpMLSTMConfig
from jaxlm.nn.norm import LayerNormConfig
from jaxlm.nn.slstm import SLSTMConfig
from jaxlm.nn.stack import LayersConfig, group_layers


def xlstm_layers(D: int, H: int, N: int, a: int, b: int) -> tuple[LayersConfig, ...]:
    """The N layers of xLSTM[a:b] (Beck et al. 2024, arXiv:2405.04517): a of mLSTM, which has its projections up and
    down around it, then b of sLSTM, which has a gated feed-forward behind it, and so on. Raises UserError where that is
    no whole number of times."""
    if a < 0 or b < 0 or a + b < 1 or N % (a + b):
        raise UserError(f"xLSTM[{a}:{b}] is a pattern of {a + b} layers, which must divide all {N}")
    if D % H or 2 * D // H % 4:
        raise UserError(f"H={H} heads must divide the model's width D={D}, and by two more")
    norm, width = LayerNormConfig(bias=False), -(-13 * D // 640) * 64  # 1.3 times, rounded up to a multiple of 64
    mlstm = BlockConfig(PreUpMLSTMConfig(H, 2 * D // H), None, norm)
    slstm = BlockConfig(SLSTMConfig(H, D // H), MLPConfig(width, "gelu"), norm)
    return group_layers(([mlstm] * a + [slstm] * b) * (N // (a + b)))
