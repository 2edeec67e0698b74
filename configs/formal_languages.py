"""Formal languages (Beck et al. 2024, arXiv:2405.04517, 4.1): small models on tasks that tell them apart."""

from jaxlm.data import SyntheticTask
from jaxlm.errors import unknown
from jaxlm.models import LMConfig
from jaxlm.nn import (
    AttentionConfig,
    BlockConfig,
    GRUConfig,
    LayersConfig,
    LSTMConfig,
    Mamba2Config,
    MambaConfig,
    MLPConfig,
    RGLRUConfig,
    rwkv_layer,
    xlstm_layers,
)
from jaxlm.objectives import Answers
from jaxlm.optim import OptimizerConfig
from jaxlm.run import RunConfig

HEADS = 4
MODELS = ("llama", "mamba", "mamba2", "rwkv4", "lstm", "lstm_block", "gru", "rg_lru")
MODELS += ("xlstm[0:1]", "xlstm[1:0]", "xlstm[1:1]")


def layers(model: str, D: int) -> tuple[LayersConfig, ...]:
    """The two layers of a model of the table, by the table's name in small letters."""
    if model not in MODELS:
        raise unknown("model", model, MODELS)
    if model.startswith("xlstm"):
        return xlstm_layers(D, 1, 2, int(model[6]), int(model[8]))
    ffn = MLPConfig(F=-(-D * 8 // 3 // 16) * 16)
    block = lambda mixer: BlockConfig(mixer, ffn)
    made = {
        "llama": lambda: block(AttentionConfig(H=HEADS, K=D // HEADS)),
        "mamba": lambda: BlockConfig(MambaConfig(F=2 * D), None),
        "mamba2": lambda: BlockConfig(Mamba2Config(H=HEADS, K=2 * D // HEADS, Z=32), None),
        "rwkv4": lambda: rwkv_layer(D, D, 4 * D),
        "lstm": lambda: block(LSTMConfig(D)),
        "lstm_block": lambda: block(LSTMConfig(D, HEADS)),
        "gru": lambda: block(GRUConfig(D)),
        "rg_lru": lambda: block(RGLRUConfig(D, HEADS)),
    }
    return (LayersConfig((made[model](),), 2),)


def formal_languages(
    model: str = "lstm", task: str = "parity", D: int = 64, steps: int = 20_000, rate: float = 1e-3, batch: int = 256
) -> RunConfig:
    """The paper's protocol: two blocks, lengths 3 to 40 to learn from and 40 to 256 to be tested on, AdamW.

        jaxlm train 'formal_languages(model="mamba", task="cycle_navigation", steps=3000, batch=64)'

    `scripts/formal_languages` runs models x tasks x seeds x rates and writes one table; benchmarks/formal.md has what
    was measured. An LSTM finds parity (scaled accuracy 1.0), a Transformer does not.
    """
    data = SyntheticTask(task)
    return RunConfig(
        model=LMConfig(V=data.vocabulary, D=D, layers=layers(model, D), tied=False),
        data=data,
        objective=Answers(),
        optimizer=OptimizerConfig(learning_rate=rate, warmup=steps // 10, final=1e-3, weight_decay=0.1),
        steps=steps,
        batch=batch,
        eval_every=steps // 4,
        save_every=steps // 4,
        prompts=(),
    )
