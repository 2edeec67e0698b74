"""xLSTM 7B, and the table of the xLSTM paper (Beck et al. 2024, arXiv:2405.04517, section 4.2): models of 356 to 456
million parameters that all read the same 15 billion tokens of SlimPajama. Sizes are those of the paper where it says
them: width 1024, 24 layers (48 where the mixer is all of a layer), GPT-2's vocabulary in 50,304, head and embedding
apart but for GPT-3. Their counts are within two percent of the table's.
"""

import dataclasses
from typing import Any

from jaxlm.models import LMConfig
from jaxlm.nn import (
    AttentionConfig,
    BlockConfig,
    ChannelMixConfig,
    GLAConfig,
    H3Config,
    HGRN2Config,
    HGRNConfig,
    HyenaConfig,
    LayerNormConfig,
    LayersConfig,
    LearnedConfig,
    MambaConfig,
    MixerConfig,
    MLPConfig,
    MLSTMConfig,
    RetNetConfig,
    RMSNormConfig,
    RopeConfig,
    TimeMix5Config,
    TimeMix6Config,
    matrix_rwkv_layer,
    rwkv_layer,
    xlstm_layers,
)
from jaxlm.run import RunConfig

from ._pretrain import pretrain

V, D = 50_304, 1024
FFN = MLPConfig(F=4 * D, activation="gelu_tanh", gated=False, bias=True)


def xlstm_7b() -> RunConfig:
    """xLSTM 7B (Beck et al. 2025, arXiv:2503.13427), 32 x 4096, 6,865,424,896 parameters.

        jaxlm train xlstm_7b 'data.sources.0.path=my_text/*.txt'

    The state takes 110 GB; 2.3 trillion tokens of 8192 a row, 65,000 hours of H100.
    """
    mixer = MLSTMConfig(H=8, K=256, J=512)
    block = BlockConfig(mixer, MLPConfig(F=10_944))
    model = LMConfig(V=V, D=4096, layers=(LayersConfig((block,), 32),), tied=False, softcap=30.0)
    return pretrain(model, T=8192, tokens=2.3e12, batch=512, learning_rate=5e-4)


def gpt3_356m() -> RunConfig:
    """The table's GPT-3, 24 x 1024, 355,919,872 parameters; its perplexity there is 14.26.

        jaxlm train gpt3_356m 'data.sources.0.path=my_text/*.txt'

    The state takes 5.7 GB; 15 billion tokens of 2048 a row, 23 hours of H100, as all of the table about.
    """
    attention = AttentionConfig(H=16, K=64, rope=None, bias=True, bias_out=True)
    layers = (LayersConfig((BlockConfig(attention, FFN, LayerNormConfig()),), 24),)
    return _row(layers, LayerNormConfig(), positions=LearnedConfig(2048), tied=True)


def llama_407m() -> RunConfig:
    """The table's Llama, 24 x 1024, 406,635,520 parameters; its perplexity there is 14.25.

    Of the paper, there trained on 15B tokens of SlimPajama:

        jaxlm train llama_407m 'data.sources.0.path=my_text/*.txt'
    """
    block = BlockConfig(AttentionConfig(H=16, K=64, rope=RopeConfig()), MLPConfig(F=2752))
    return _row((LayersConfig((block,), 24),), RMSNormConfig())


def mamba_423m() -> RunConfig:
    """The table's Mamba, 48 x 1024, 423,052,288 parameters; its perplexity there is 13.70.

    Of the paper, there trained on 15B tokens of SlimPajama:

        jaxlm train mamba_423m 'data.sources.0.path=my_text/*.txt'
    """
    norm = RMSNormConfig(1e-5)
    return _row((LayersConfig((BlockConfig(MambaConfig(F=2 * D), None, norm),), 48),), norm)


def rwkv4_430m() -> RunConfig:
    """The table's RWKV-4, 24 x 1024, 430,452,736 parameters; its perplexity there is 15.62.

    Of the paper, there trained on 15B tokens of SlimPajama:

        jaxlm train rwkv4_430m 'data.sources.0.path=my_text/*.txt'
    """
    norm = LayerNormConfig()
    return _row((LayersConfig((rwkv_layer(D, D, 4 * D),), 24),), norm, embed_norm=norm)


def h3_420m() -> RunConfig:
    """The table's H3, 24 x 1024, 413,149,184 parameters; its perplexity there is 18.23.

        jaxlm train h3_420m 'data.sources.0.path=my_text/*.txt'

    The paper does not say how its layers are made. With 64 pairs of states and GPT-3's feed-forward they have its count
    within 1.7 percent.
    """
    return _row((LayersConfig((BlockConfig(H3Config(F=D, Z=64), FFN, LayerNormConfig()),), 24),), LayerNormConfig())


def hyena_435m() -> RunConfig:
    """The table's Hyena, 24 x 1024, 435,840,512 parameters; its perplexity there is 17.59.

        jaxlm train hyena_435m 'data.sources.0.path=my_text/*.txt'

    The paper does not say how its layers are made. Of order three, with GPT-3's feed-forward, they have its count.
    """
    mixer = HyenaConfig(F=D, length=2048, order=3)
    return _row((LayersConfig((BlockConfig(mixer, FFN, LayerNormConfig()),), 24),), LayerNormConfig())


def rwkv5_456m() -> RunConfig:
    """The table's RWKV-5, 24 x 1024, 455,692,288 parameters; its perplexity there is 16.53.

        jaxlm train rwkv5_456m 'data.sources.0.path=my_text/*.txt'

    Heads of 64; with the channel mixing of version 4, four times as wide as the model, it has the table's count.
    """
    return _rwkv(TimeMix5Config(16, 64, D=D), 4 * D)


def rwkv6_442m() -> RunConfig:
    """The table's RWKV-6, 24 x 1024, 441,585,664 parameters; its perplexity there is 17.40.

        jaxlm train rwkv6_442m 'data.sources.0.path=my_text/*.txt'

    Heads of 64, mixtures of rank 32, decays of rank 64, and a channel mixing 3.5 times as wide as the model.
    """
    return _rwkv(TimeMix6Config(16, 64, D=D), 7 * D // 2)


def retnet_431m() -> RunConfig:
    """The table's RetNet, 24 x 1024, 431,801,344 parameters; its perplexity there is 16.23.

        jaxlm train retnet_431m 'data.sources.0.path=my_text/*.txt'

    Heads of 256 whose values are twice as wide. No rule gives the table's count: the feed-forward's width is ours, so
    chosen that it has it.
    """
    return _gated(RetNetConfig(4, 256, 512), 1728)


def gla_412m() -> RunConfig:
    """The table's GLA, 24 x 1024, 407,243,776 parameters; its perplexity there is 19.56.

        jaxlm train gla_412m 'data.sources.0.path=my_text/*.txt'

    Four heads, keys half as wide as the model, and Llama's feed-forward.
    """
    return _gated(GLAConfig(4, 128, 256))


def hgrn_411m() -> RunConfig:
    """The table's HGRN, 24 x 1024, 406,684,672 parameters; its perplexity there is 21.83.

        jaxlm train hgrn_411m 'data.sources.0.path=my_text/*.txt'

    Llama's feed-forward; real, as the package's HGRN is.
    """
    return _gated(HGRNConfig(8, 128))


def hgrn2_411m() -> RunConfig:
    """The table's HGRN2, 24 x 1024, 406,684,672 parameters; its perplexity there is 16.77.

        jaxlm train hgrn2_411m 'data.sources.0.path=my_text/*.txt'

    Heads of 128, and Llama's feed-forward.
    """
    return _gated(HGRN2Config(8, 128))


def xlstm_1_0_409m() -> RunConfig:
    """The table's xLSTM[1:0], 48 x 1024, 409,290,112 parameters; its perplexity there is 13.43.

    Of the paper, there trained on 15B tokens of SlimPajama:

        jaxlm train xlstm_1_0_409m 'data.sources.0.path=my_text/*.txt'
    """
    return _row(xlstm_layers(D, 4, 48, 1, 0), LayerNormConfig(bias=False))


def xlstm_7_1_408m() -> RunConfig:
    """The table's xLSTM[7:1], 48 x 1024, 408,436,048 parameters; its perplexity there is 13.48.

    Of the paper, there trained on 15B tokens of SlimPajama:

        jaxlm train xlstm_7_1_408m 'data.sources.0.path=my_text/*.txt'
    """
    return _row(xlstm_layers(D, 4, 48, 7, 1), LayerNormConfig(bias=False))


def _gated(mixer: MixerConfig, F: int = 2752) -> RunConfig:
    return _row((LayersConfig((BlockConfig(mixer, MLPConfig(F=F)),), 24),), RMSNormConfig())


def _rwkv(time: TimeMix5Config, F: int) -> RunConfig:
    norm = LayerNormConfig()
    return _row((LayersConfig((matrix_rwkv_layer(time, ChannelMixConfig(D, F)),), 24),), norm, embed_norm=norm)


def _row(layers: tuple[LayersConfig, ...], norm: RMSNormConfig | LayerNormConfig, **more: Any) -> RunConfig:
    model = LMConfig(V=V, D=D, layers=layers, norm=norm, tied=False)
    return pretrain(dataclasses.replace(model, **more), T=2048, tokens=15e9, batch=256, learning_rate=1e-3)
