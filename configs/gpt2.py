"""GPT-2 (Radford et al. 2019): learned positions, LayerNorm, GELU, biases, tied head."""

from jaxlm.data import DataConfig, TokenizerConfig
from jaxlm.models import LMConfig
from jaxlm.nn import AttentionConfig, BlockConfig, LayerNormConfig, LayersConfig, LearnedConfig, MLPConfig
from jaxlm.optim import OptimizerConfig
from jaxlm.run import RunConfig


def model(N: int, D: int, H: int, V: int = 50257, T: int = 1024) -> LMConfig:
    block = BlockConfig(
        mixer=AttentionConfig(H=H, K=D // H, rope=None, bias=True, bias_out=True),
        ffn=MLPConfig(F=4 * D, activation="gelu_tanh", gated=False, bias=True),
        norm=LayerNormConfig(),
    )
    return LMConfig(
        V=V,
        D=D,
        layers=(LayersConfig((block,), N),),
        positions=LearnedConfig(T),
        norm=LayerNormConfig(),
        remat="mlp",
    )


def _train(model: LMConfig, learning_rate: float, accumulate: int) -> RunConfig:
    return RunConfig(
        model=model,
        data=DataConfig(tokenizer=TokenizerConfig(kind="bpe", V=50257), T=1024),
        optimizer=OptimizerConfig(learning_rate=learning_rate, warmup=700, weight_decay=0.1, options=(("b2", 0.95),)),
        steps=20_000,
        batch=512,
        accumulate=accumulate,
        save_every=1000,
        eval_every=1000,
        sample_every=1000,
    )


def gpt2_124m() -> RunConfig:
    """GPT-2 small, 12 x 768, 124,439,808 parameters, on your own text.

        jaxlm train gpt2_124m 'data.sources.0.path=my_text/*.txt' model.dtype=bfloat16

    One GPU or TPU of 16 GB and more; on CPU only for measuring. 600,000 steps of half a million tokens of web text
    reach a loss of about 2.9 (GPT-2's own data); 20,000 steps about 3.3.
    """
    return _train(model(N=12, D=768, H=12), learning_rate=6e-4, accumulate=8)


def gpt2_355m() -> RunConfig:
    """GPT-2 medium, 24 x 1024, 354,823,168 parameters, on your own text.

        jaxlm train gpt2_355m 'data.sources.0.path=my_text/*.txt' model.dtype=bfloat16

    One device of 24 GB and more. OpenAI's weights have a loss of 2.84 on OpenWebText, where GPT-2 small's have 3.12
    (nanoGPT's README).
    """
    return _train(model(N=24, D=1024, H=16), learning_rate=3e-4, accumulate=16)


def gpt2_774m() -> RunConfig:
    """GPT-2 large, 36 x 1280, 774,030,080 parameters, on your own text.

        jaxlm train gpt2_774m 'data.sources.0.path=my_text/*.txt' model.dtype=bfloat16

    One device of 40 GB and more. OpenAI's weights have a loss of 2.67 on OpenWebText (nanoGPT's README).
    """
    return _train(model(N=36, D=1280, H=20), learning_rate=2.5e-4, accumulate=32)


def gpt2_1558m() -> RunConfig:
    """GPT-2 XL, 48 x 1600, 1,557,611,200 parameters, on your own text.

        jaxlm train gpt2_1558m 'data.sources.0.path=my_text/*.txt' model.dtype=bfloat16

    One device of 80 GB and more. OpenAI's weights have a loss of 2.54 on OpenWebText (nanoGPT's README).
    """
    return _train(model(N=48, D=1600, H=25), learning_rate=2e-4, accumulate=64)
