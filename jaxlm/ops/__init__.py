"""The mathematics: plain functions of arrays, no parameters."""

from jaxlm.ops.activations import ACTIVATIONS, glu
from jaxlm.ops.additive import additive_attention, multiplicative_attention
from jaxlm.ops.attention import attention, attention_with_past, reference_attention
from jaxlm.ops.blocked_scan import blocked_scan, blocked_scan_step
from jaxlm.ops.blockwise import blockwise_attention
from jaxlm.ops.conv import causal_conv
from jaxlm.ops.cross import cross_attention
from jaxlm.ops.delta import delta_rule, delta_step, diagonal_plus_rank_one, rank_one_step
from jaxlm.ops.dropout import dropout
from jaxlm.ops.embedding import lookup, one_hot_lookup
from jaxlm.ops.gated_linear import gated_linear, gated_linear_step
from jaxlm.ops.hyena import conv_with_past, filter_features, filter_window
from jaxlm.ops.linear_attention import (
    causal_linear_attention,
    elu_features,
    linear_attention,
    linear_attention_step,
    orthogonal_directions,
    positive_features,
)
from jaxlm.ops.linformer import linformer_attention
from jaxlm.ops.long_conv import long_conv
from jaxlm.ops.masks import cache_slots, visible
from jaxlm.ops.mla import latent_attention_with_past
from jaxlm.ops.mlstm import mlstm, mlstm_step
from jaxlm.ops.norms import grouped_rms_norm, layer_norm, rms_norm
from jaxlm.ops.pipeline import pipeline
from jaxlm.ops.positions import sinusoidal, temperature
from jaxlm.ops.relative import (
    alibi_bias,
    alibi_bias_at,
    alibi_slopes,
    bucket_bias,
    bucket_bias_at,
    dense_bias,
    shaw_attention,
    t5_bucket,
)
from jaxlm.ops.rg_lru import rg_lru, rg_lru_step
from jaxlm.ops.ring import ring_attention
from jaxlm.ops.rnn import elman, elman_step, gru, gru_step, lstm, lstm_step
from jaxlm.ops.rope import rotate
from jaxlm.ops.s4 import DPLR, hippo_legs, s4_conv, s4_kernel, s4_scan, s4_step
from jaxlm.ops.selective_scan import selective_scan, selective_scan_step
from jaxlm.ops.similarity import analogy, cosine_similarity, nearest_neighbours
from jaxlm.ops.slstm import slstm, slstm_step
from jaxlm.ops.sparse import Fixed, Local, Pattern, Strided, block_sparse_attention, dense_mask, pattern_mask
from jaxlm.ops.ssd import ssd, ssd_step
from jaxlm.ops.ssm import (
    diagonal_conv,
    diagonal_kernel,
    diagonal_scan,
    diagonal_step,
    s4d_rates,
    zero_order_hold,
)
from jaxlm.ops.ulysses import ulysses_attention
from jaxlm.ops.wkv import wkv, wkv_step

__all__ = [
    "ACTIVATIONS",
    "DPLR",
    "Fixed",
    "Local",
    "Pattern",
    "Strided",
    "additive_attention",
    "alibi_bias",
    "alibi_bias_at",
    "alibi_slopes",
    "analogy",
    "attention",
    "attention_with_past",
    "block_sparse_attention",
    "blocked_scan",
    "blocked_scan_step",
    "blockwise_attention",
    "bucket_bias",
    "bucket_bias_at",
    "cache_slots",
    "causal_conv",
    "causal_linear_attention",
    "conv_with_past",
    "cosine_similarity",
    "cross_attention",
    "delta_rule",
    "delta_step",
    "dense_bias",
    "dense_mask",
    "diagonal_conv",
    "diagonal_kernel",
    "diagonal_plus_rank_one",
    "diagonal_scan",
    "diagonal_step",
    "dropout",
    "elman",
    "elman_step",
    "elu_features",
    "filter_features",
    "filter_window",
    "gated_linear",
    "gated_linear_step",
    "glu",
    "grouped_rms_norm",
    "gru",
    "gru_step",
    "hippo_legs",
    "latent_attention_with_past",
    "layer_norm",
    "linear_attention",
    "linear_attention_step",
    "linformer_attention",
    "long_conv",
    "lookup",
    "lstm",
    "lstm_step",
    "mlstm",
    "mlstm_step",
    "multiplicative_attention",
    "nearest_neighbours",
    "one_hot_lookup",
    "orthogonal_directions",
    "pattern_mask",
    "pipeline",
    "positive_features",
    "rank_one_step",
    "reference_attention",
    "rg_lru",
    "rg_lru_step",
    "ring_attention",
    "rms_norm",
    "rotate",
    "s4_conv",
    "s4_kernel",
    "s4_scan",
    "s4_step",
    "s4d_rates",
    "selective_scan",
    "selective_scan_step",
    "shaw_attention",
    "sinusoidal",
    "slstm",
    "slstm_step",
    "ssd",
    "ssd_step",
    "t5_bucket",
    "temperature",
    "ulysses_attention",
    "visible",
    "wkv",
    "wkv_step",
    "zero_order_hold",
]
