"""What the configs of published encoder-decoders share: a run that trains such a model from scratch on pairs of texts.

The docstrings say what the training state takes, see `_pretrain`. Pairs are two files of lines, a .tsv or a .jsonl:

    data.source=train.de data.target=train.en               any number of pairs that fit into memory
    data.tokenizer.kind=file data.tokenizer.path=FOLDER     the published tokenizer in place of a new one
"""

import dataclasses

from jaxlm.data import TextPairs, TokenizerConfig
from jaxlm.models import Seq2SeqConfig
from jaxlm.objectives import SequenceToSequence
from jaxlm.optim import OptimizerConfig
from jaxlm.run import RunConfig
from jaxlm.sharding import MeshConfig


def pairs(model: Seq2SeqConfig, *, steps: int = 100_000, batch: int = 128, learning_rate: float = 1e-4) -> RunConfig:
    """Batches of `batch` pairs of up to 512 tokens, everything divided over all devices."""
    return RunConfig(
        model=dataclasses.replace(model, dtype="bfloat16", remat="full"),
        data=TextPairs("pairs.tsv", tokenizer=TokenizerConfig(kind="bpe", V=32_000), T=512),
        objective=SequenceToSequence(label_smoothing=0.1),
        optimizer=OptimizerConfig(learning_rate=learning_rate, warmup=2000),
        mesh=MeshConfig(data=1, fsdp=-1),
        steps=steps,
        batch=batch,
        eval_every=1000,
        save_every=1000,
        prompts=(),
    )
