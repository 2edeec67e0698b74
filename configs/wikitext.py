"""Four kinds of language model of about one size on WikiText-2, for one table (benchmarks/wikitext.md)."""

from jaxlm.data import DataConfig, Source, TokenizerConfig
from jaxlm.errors import unknown
from jaxlm.models import LMConfig
from jaxlm.nn import AttentionConfig, BlockConfig, MambaConfig, MLPConfig, RetNetConfig, group_layers, xlstm_layers
from jaxlm.optim import OptimizerConfig
from jaxlm.run import RunConfig

D, H, V = 96, 3, 2048
LAYERS = {  # about as many weights each
    "transformer": lambda: group_layers([BlockConfig(AttentionConfig(H, K=D // H), MLPConfig(304))] * 4),
    "retnet": lambda: group_layers([BlockConfig(RetNetConfig(H, D // H, 2 * D // H), MLPConfig(320))] * 3),
    "mamba": lambda: group_layers([BlockConfig(MambaConfig(F=2 * D), None)] * 7),
    "xlstm[7:1]": lambda: xlstm_layers(D, H, 8, 7, 1),
}


def wikitext(model: str = "transformer", steps: int = 300) -> RunConfig:
    """WikiText-2's validation and test text, the last tenth of each held out; half a million weights.

    jaxlm train 'wikitext(model="mamba")' 'data.sources=wikitext-2/*.txt.gz'

    """
    if model not in LAYERS:
        raise unknown("model", model, LAYERS)
    return RunConfig(
        model=LMConfig(V=V, D=D, layers=LAYERS[model]()),
        data=DataConfig((Source("wikitext-2/*.txt.gz"),), TokenizerConfig("bpe", V), T=128, holdout=0.1),
        optimizer=OptimizerConfig(learning_rate=4e-3, warmup=40, final=0.02, weight_decay=0.1),
        steps=steps,
        batch=8,
        eval_every=steps,
        save_every=steps,
        log_every=50,
        prompts=(),
    )
