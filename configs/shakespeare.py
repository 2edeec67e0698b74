"""Character-level Shakespeare: the classic first experiment (Karpathy's char-rnn and nanoGPT)."""

from jaxlm.data import DataConfig, Source
from jaxlm.models import LMConfig
from jaxlm.nn import AttentionConfig, BlockConfig, LayersConfig, MLPConfig
from jaxlm.optim import OptimizerConfig
from jaxlm.run import RunConfig


def model(N: int, D: int, H: int, dropout: float) -> LMConfig:
    block = BlockConfig(
        AttentionConfig(H=H, K=D // H), MLPConfig(F=4 * D, activation="relu2", gated=False), dropout=dropout
    )
    return LMConfig(V=257, D=D, layers=(LayersConfig((block,), N),), dropout=dropout)


def shakespeare() -> RunConfig:
    """Tiny Shakespeare by bytes, 4 layers x 128, context 64: a laptop's CPU, a few minutes.

    jaxlm train shakespeare data.sources=tinyshakespeare.txt
    """
    return RunConfig(
        model=model(N=4, D=128, H=4, dropout=0.0),
        data=DataConfig(sources=(Source("tinyshakespeare.txt"),), T=64, holdout=0.1),
        optimizer=OptimizerConfig(learning_rate=2e-3, warmup=100, options=(("b2", 0.99),)),
        steps=2000,
        batch=12,
        eval_every=500,
        save_every=500,
        sample_every=500,
        sample_tokens=256,
        prompts=("\n",),
    )
