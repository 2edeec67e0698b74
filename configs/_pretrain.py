"""What the configs of published sizes share: a run that trains such a model from scratch.

The model is the one that its authors published in the end: what stretches positions to long texts is on from the start.
Tokens, batch and learning rate are the authors' where they publish them, else ours.

The docstrings say what the training state takes (weights, gradients and Adam's two moments in float32, 16 bytes a
parameter; activations come on top) and what the training costs: 6 FLOPs per active parameter and token, on H100s at
40% of their 989 TFLOP/s. `jaxlm plan NAME` tells more. For all of them:

    data.tokenizer.kind=file data.tokenizer.path=FOLDER     the published tokenizer in place of a new one
    accumulate=8                                            fewer rows at a time
"""

import dataclasses

from jaxlm.data import DataConfig, TokenizerConfig
from jaxlm.models import LMConfig
from jaxlm.optim import OptimizerConfig
from jaxlm.run import RunConfig
from jaxlm.sharding import MeshConfig


def pretrain(model: LMConfig, *, T: int, tokens: float, batch: int, learning_rate: float = 3e-4) -> RunConfig:
    """`tokens` tokens in batches of `batch` rows of T, AdamW as in GPT-3, everything divided over all devices."""
    return RunConfig(
        model=dataclasses.replace(model, dtype="bfloat16", remat="full"),
        # 20 MB of text, which is what the tokenizer learns from, support no larger vocabulary; the model may have one.
        data=DataConfig(tokenizer=TokenizerConfig(kind="bpe", V=32_000), T=T),
        optimizer=OptimizerConfig(learning_rate=learning_rate, warmup=2000, options=(("b2", 0.95),)),
        mesh=MeshConfig(data=1, fsdp=-1),
        steps=round(tokens / (batch * T)),
        batch=batch,
        eval_every=1000,
        eval_tokens=10_000_000,
        save_every=1000,
        sample_every=1000,
    )
