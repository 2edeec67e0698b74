"""What the configs of published encoders share: a run that trains such a model from scratch to restore hidden tokens.

Tokens, batch and learning rate are the authors'; what the docstrings say of cost is as in `_pretrain`. The tokenizer is
a new one of 30,000 pieces, and what hides a token is the model's last id. For all of them, in place of that:

    data.tokenizer.kind=file data.tokenizer.path=FOLDER objective.mask=103 objective.vocabulary=null
                                     the published tokenizer (103 is [MASK] of BERT's; RoBERTa's <mask> is its last id)
"""

import dataclasses

from jaxlm.data import DataConfig, TokenizerConfig
from jaxlm.models import ElectraConfig, EncoderConfig
from jaxlm.objectives import MaskedTokens
from jaxlm.optim import OptimizerConfig
from jaxlm.run import RunConfig
from jaxlm.sharding import MeshConfig

PIECES, SPARE = 30_000, 8  # at least so many of the model's ids are no pieces


def pretrain(
    model: EncoderConfig | ElectraConfig,
    *,
    T: int,
    tokens: float,
    batch: int,
    learning_rate: float,
    b2: float = 0.999,
    objective: type[MaskedTokens] = MaskedTokens,
) -> RunConfig:
    """`tokens` tokens in batches of `batch` rows of T, Adam with linear decay, everything divided over all devices."""
    V = min(PIECES, model.V - SPARE)
    cheap = lambda one: dataclasses.replace(one, dtype="bfloat16", remat="full")
    if isinstance(model, ElectraConfig):
        model = ElectraConfig(cheap(model.generator), cheap(model.discriminator))
    else:
        model = cheap(model)
    return RunConfig(
        model=model,
        data=DataConfig(tokenizer=TokenizerConfig(kind="bpe", V=V), T=T),
        objective=objective(mask=model.V - 1, vocabulary=V),
        optimizer=OptimizerConfig(
            learning_rate=learning_rate, schedule="linear", warmup=10_000, weight_decay=0.01, options=(("b2", b2),)
        ),
        mesh=MeshConfig(data=1, fsdp=-1),
        steps=round(tokens / (batch * T)),
        batch=batch,
        eval_every=1000,
        eval_tokens=10_000_000,
        save_every=1000,
    )
