"""Small language models of any recurrence, alone or between layers of attention."""

from jaxlm.data import DataConfig, TokenizerConfig
from jaxlm.errors import UserError
from jaxlm.models import LMConfig
from jaxlm.nn import LayerNormConfig
from jaxlm.optim import OptimizerConfig
from jaxlm.run import RunConfig

from ._mixers import layers


def recurrent(mixer: str = "rwkv7", pattern: str = "R", N: int = 4, D: int = 192, H: int = 3) -> RunConfig:
    """N layers over the embedded corpus, R of the mixer and A of attention in the order of the pattern, over and over.

        jaxlm train 'recurrent(mixer="gated_deltanet", pattern="RRA", N=6)'

    The mixers are those of `configs/_mixers.py`: mamba, mamba2, rg_lru, retnet, gla, hgrn, hgrn2, rwkv4 to rwkv7, s4,
    s4d, h3, hyena, deltanet, deltanet_negative, gated_deltanet, kda, lstm, lstm_block, gru. Two CPU cores; it was not
    trained to its end.
    """
    if not pattern or N < 1 or set(pattern) - {"R", "A"}:
        raise UserError(f"pattern={pattern!r} over N={N} layers: R and A in an order, such as 'RRA', and N at least 1")
    kinds = [{"R": mixer, "A": "llama"}[pattern[i % len(pattern)]] for i in range(N)]
    norm = LayerNormConfig() if mixer.startswith("rwkv") else None
    return RunConfig(
        model=LMConfig(V=4096, D=D, layers=layers(kinds, D, H), embed_norm=norm),
        data=DataConfig(tokenizer=TokenizerConfig(kind="bpe", V=4096), T=256),
        optimizer=OptimizerConfig(learning_rate=2e-3, warmup=50),
        steps=600,
        batch=8,
        eval_every=300,
        save_every=300,
        sample_every=300,
        sample_tokens=60,
        prompts=("def ",),
    )
