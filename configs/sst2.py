"""Sentiment of film reviews, SST-2 (Socher et al. 2013): a small encoder learns to classify, from scratch or after it
restored hidden tokens."""

import dataclasses

from jaxlm import tune
from jaxlm.data import DataConfig, LabelledTexts, Source, TokenizerConfig
from jaxlm.models import EncoderConfig, SequenceHead
from jaxlm.nn import AttentionConfig, BlockConfig, LayerNormConfig, LayersConfig, LearnedConfig, MLPConfig
from jaxlm.objectives import Classify, MaskedTokens
from jaxlm.optim import OptimizerConfig
from jaxlm.run import RunConfig

LABELS = ("0", "1")  # negative, positive
V, MASK = 8192, 8199  # pieces; the last id of the model hides tokens
BLOCK = BlockConfig(
    AttentionConfig(H=2, K=32, rope=None, causal=False, bias=True, bias_out=True, dropout=0.1),
    MLPConfig(F=128, activation="gelu", gated=False, bias=True),
    norm=LayerNormConfig(),
    dropout=0.1,
)
BODY = EncoderConfig(
    V=MASK + 1,
    D=64,
    layers=(LayersConfig((BLOCK,), 2),),
    positions=LearnedConfig(48),
    norm=LayerNormConfig(),
)


def sst2(method: str = "full", size: int = 16) -> RunConfig:
    """A small encoder on SST-2's phrases, from scratch or from `sst2_pretrain`; all of it, or by a `tune.method` a
    small part and the new head.

        jaxlm train sst2 data.path=train.tsv data.heldout=dev.tsv
        jaxlm train sst2 data.path=train.tsv data.heldout=dev.tsv start=runs/sst2_pretrain --run runs/sst2_from
        jaxlm train 'sst2("lora", 8)' data.path=train.tsv data.heldout=dev.tsv start=runs/sst2_pretrain --run runs/lora

    The files are GLUE's: a line of names, then "sentence TAB label". From scratch, three minutes of a CPU core: 80.4 %
    of the 872 sentences of GLUE's dev set after an epoch of 60,614 phrases (the commoner label has 50.9 %). More steps
    learn the phrases by heart: 1500 have 79.8 %. With `start` the body of an encoder trained before is kept; its
    tokenizer must be the same.
    """
    model = dataclasses.replace(BODY, head=SequenceHead(LABELS, dropout=0.1), pooler=True, dropout=0.3)
    model, trains = tune.method(method, model, size, also="head|pooler")
    T = 48 - (model.virtual.n if model.virtual else 0)  # positions that virtual tokens leave
    return RunConfig(
        model=model,
        data=LabelledTexts("train.tsv", LABELS, "dev.tsv", tokenizer=TokenizerConfig("bpe", V=V), T=T),
        objective=Classify(label_smoothing=0.1),
        trains=trains,
        optimizer=OptimizerConfig(
            learning_rate=2e-3 if method == "full" else 5e-3, schedule="linear", warmup=100, weight_decay=0.1
        ),
        steps=1000,
        batch=64,
        ema=0.995,
        eval_every=500,
        save_every=500,
        log_every=50,
    )


def sst2_pretrain() -> RunConfig:
    """The same small encoder restores hidden tokens of the phrases, before it learns to classify them.

        jaxlm train sst2_pretrain 'data.sources.0.path=phrases.jsonl' data.tokenizer.path=runs/sst2

    The file has the phrases of train.tsv, {"sentence": ...} a line; the tokenizer is that of the run `sst2`. What
    it gains has not been measured yet.
    """
    return RunConfig(
        model=BODY,
        data=DataConfig((Source("phrases.jsonl", field="sentence"),), TokenizerConfig("file", path="runs/sst2"), T=48),
        objective=MaskedTokens(mask=MASK, vocabulary=V),
        optimizer=OptimizerConfig(learning_rate=4e-3, schedule="linear", warmup=100, weight_decay=0.01),
        steps=2000,
        batch=64,
        eval_every=500,
        save_every=500,
        log_every=50,
    )
