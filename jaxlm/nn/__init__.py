"""Thin Linen modules: each owns the weights of one idea and calls `jaxlm.ops`."""

from jaxlm.nn.attention import Attention, AttentionConfig, QKNormConfig, TemperatureConfig
from jaxlm.nn.attentive_rnn import AttentiveRNN, AttentiveRNNConfig, BahdanauConfig, LuongConfig
from jaxlm.nn.bias import AlibiConfig, BucketsConfig, SharedBucketsConfig
from jaxlm.nn.bidirectional import Bidirectional, BidirectionalConfig
from jaxlm.nn.big_bird import BigBird, BigBirdConfig
from jaxlm.nn.block import Block, BlockConfig, Parallel, ParallelConfig
from jaxlm.nn.branches import BranchConfig, Branches, BranchesConfig
from jaxlm.nn.context import Context
from jaxlm.nn.cross import CrossAttention, CrossAttentionConfig
from jaxlm.nn.delta import DeltaNet, DeltaNetConfig
from jaxlm.nn.differential import Differential, DifferentialConfig
from jaxlm.nn.embed import Embed, Learned, LearnedConfig, Sinusoidal, SinusoidalConfig
from jaxlm.nn.frames import Frames, FramesConfig
from jaxlm.nn.gated_linear import GLA, HGRN2, GLAConfig, HGRN2Config, RetNet, RetNetConfig
from jaxlm.nn.h3 import H3, H3Config
from jaxlm.nn.hgrn import HGRN, HGRNConfig
from jaxlm.nn.hyena import Hyena, HyenaConfig
from jaxlm.nn.linear_attention import LinearAttention, LinearAttentionConfig
from jaxlm.nn.linformer import Linformer, LinformerConfig
from jaxlm.nn.longformer import Longformer, LongformerConfig
from jaxlm.nn.mamba import Mamba, MambaConfig
from jaxlm.nn.mamba2 import Mamba2, Mamba2Config
from jaxlm.nn.memory import DNCConfig, MemoryNetwork, NTMConfig
from jaxlm.nn.mixer import FeedForwardConfig, LayerConfig, MixerConfig
from jaxlm.nn.mla import MLA, MLAConfig
from jaxlm.nn.mlp import MLP, MLPConfig
from jaxlm.nn.mlstm import MLSTM, MLSTMConfig, PreUpMLSTM, PreUpMLSTMConfig
from jaxlm.nn.moe import MoE, MoEConfig
from jaxlm.nn.norm import LayerNorm, LayerNormConfig, RMSNorm, RMSNormConfig
from jaxlm.nn.pipeline import PipelineConfig
from jaxlm.nn.rg_lru import RGLRU, RGLRUConfig
from jaxlm.nn.rnn import GRU, LSTM, Elman, ElmanConfig, GRUConfig, LSTMConfig, RNNConfig
from jaxlm.nn.rope import RopeConfig
from jaxlm.nn.rwkv import ChannelMix, ChannelMixConfig, TimeMix, TimeMixConfig, rwkv_layer
from jaxlm.nn.rwkv567 import (
    TimeMix5,
    TimeMix5Config,
    TimeMix6,
    TimeMix6Config,
    TimeMix7,
    TimeMix7Config,
    matrix_rwkv_layer,
    rwkv7_layers,
)
from jaxlm.nn.s4 import S4, S4Config
from jaxlm.nn.shared import Shared, SharedConfig
from jaxlm.nn.short_conv import ShortConv, ShortConvConfig
from jaxlm.nn.slstm import SLSTM, SLSTMConfig
from jaxlm.nn.sparse import SparseAttention, SparseAttentionConfig
from jaxlm.nn.stack import LayersConfig, Stack, group_layers, stack, unstack
from jaxlm.nn.state import KVSlots, Memory, Recurrent, State
from jaxlm.nn.xlstm import xlstm_layers

__all__ = [
    "GLA",
    "GRU",
    "H3",
    "HGRN",
    "HGRN2",
    "LSTM",
    "MLA",
    "MLP",
    "MLSTM",
    "RGLRU",
    "S4",
    "SLSTM",
    "AlibiConfig",
    "Attention",
    "AttentionConfig",
    "AttentiveRNN",
    "AttentiveRNNConfig",
    "BahdanauConfig",
    "Bidirectional",
    "BidirectionalConfig",
    "BigBird",
    "BigBirdConfig",
    "Block",
    "BlockConfig",
    "BranchConfig",
    "Branches",
    "BranchesConfig",
    "BucketsConfig",
    "ChannelMix",
    "ChannelMixConfig",
    "Context",
    "CrossAttention",
    "CrossAttentionConfig",
    "DNCConfig",
    "DeltaNet",
    "DeltaNetConfig",
    "Differential",
    "DifferentialConfig",
    "Elman",
    "ElmanConfig",
    "Embed",
    "FeedForwardConfig",
    "Frames",
    "FramesConfig",
    "GLAConfig",
    "GRUConfig",
    "H3Config",
    "HGRN2Config",
    "HGRNConfig",
    "Hyena",
    "HyenaConfig",
    "KVSlots",
    "LSTMConfig",
    "LayerConfig",
    "LayerNorm",
    "LayerNormConfig",
    "LayersConfig",
    "Learned",
    "LearnedConfig",
    "LinearAttention",
    "LinearAttentionConfig",
    "Linformer",
    "LinformerConfig",
    "Longformer",
    "LongformerConfig",
    "LuongConfig",
    "MLAConfig",
    "MLPConfig",
    "MLSTMConfig",
    "Mamba",
    "Mamba2",
    "Mamba2Config",
    "MambaConfig",
    "Memory",
    "MemoryNetwork",
    "MixerConfig",
    "MoE",
    "MoEConfig",
    "NTMConfig",
    "Parallel",
    "ParallelConfig",
    "PipelineConfig",
    "PreUpMLSTM",
    "PreUpMLSTMConfig",
    "QKNormConfig",
    "RGLRUConfig",
    "RMSNorm",
    "RMSNormConfig",
    "RNNConfig",
    "Recurrent",
    "RetNet",
    "RetNetConfig",
    "RopeConfig",
    "S4Config",
    "SLSTMConfig",
    "Shared",
    "SharedBucketsConfig",
    "SharedConfig",
    "ShortConv",
    "ShortConvConfig",
    "Sinusoidal",
    "SinusoidalConfig",
    "SparseAttention",
    "SparseAttentionConfig",
    "Stack",
    "State",
    "TemperatureConfig",
    "TimeMix",
    "TimeMix5",
    "TimeMix5Config",
    "TimeMix6",
    "TimeMix6Config",
    "TimeMix7",
    "TimeMix7Config",
    "TimeMixConfig",
    "group_layers",
    "matrix_rwkv_layer",
    "rwkv7_layers",
    "rwkv_layer",
    "stack",
    "unstack",
    "xlstm_layers",
]
