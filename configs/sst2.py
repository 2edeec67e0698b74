"""Sentiment of film reviews, SST-2 (Socher et al. 2013): a small encoder learns to classify."""

from jaxlm.data import LabelledTexts, TokenizerConfig
from jaxlm.models import EncoderConfig, SequenceHead
from jaxlm.nn import AttentionConfig, BlockConfig, LayerNormConfig, LayersConfig, LearnedConfig, MLPConfig
from jaxlm.objectives import Classify
from jaxlm.optim import OptimizerConfig
from jaxlm.run import RunConfig

LABELS = ("0", "1")  # negative, positive


def sst2() -> RunConfig:
    """A small encoder on SST-2's phrases, from scratch.

        jaxlm train sst2 data.path=train.tsv data.heldout=dev.tsv

    The files are GLUE's: a line of names, then "sentence TAB label". Two CPU cores that others share: 9 minutes, 1.6
    epochs of 60,614 phrases, and 79.7 % of the 872 sentences of GLUE's dev set (the commoner label has 50.9 %).
    With `start=FOLDER` the body of an encoder trained before is kept; its tokenizer must be the same.
    """
    block = BlockConfig(
        AttentionConfig(H=2, K=32, rope=None, causal=False, bias=True, bias_out=True, dropout=0.1),
        MLPConfig(F=128, activation="gelu", gated=False, bias=True),
        norm=LayerNormConfig(),
        dropout=0.1,
    )
    return RunConfig(
        model=EncoderConfig(
            V=8192,
            D=64,
            layers=(LayersConfig((block,), 2),),
            positions=LearnedConfig(48),
            norm=LayerNormConfig(),
            head=SequenceHead(LABELS, dropout=0.1),
            pooler=True,
            dropout=0.3,
        ),
        data=LabelledTexts("train.tsv", LABELS, "dev.tsv", tokenizer=TokenizerConfig("bpe", V=8192), T=48),
        objective=Classify(label_smoothing=0.1),
        optimizer=OptimizerConfig(learning_rate=2e-3, schedule="linear", warmup=100, weight_decay=0.1),
        steps=1500,
        batch=64,
        eval_every=500,
        save_every=500,
        log_every=50,
    )
