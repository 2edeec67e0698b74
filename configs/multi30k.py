"""German to English on Multi30k (Elliott et al. 2016, arXiv 1605.00459): 29,000 captions of pictures, in minutes.

Files of task 1, raw: train.de.gz, train.en.gz, val.de.gz and val.en.gz of the repository multi30k/dataset, read in
small letters, as papers score it.
"""

import dataclasses

from jaxlm.data import TextPairs, TokenizerConfig
from jaxlm.models import Seq2SeqConfig
from jaxlm.nn import (
    AttentionConfig,
    BahdanauConfig,
    BidirectionalConfig,
    BlockConfig,
    BranchConfig,
    BranchesConfig,
    CrossAttentionConfig,
    GRUConfig,
    LayerNormConfig,
    LayersConfig,
    MLPConfig,
)
from jaxlm.objectives import SequenceToSequence
from jaxlm.optim import OptimizerConfig
from jaxlm.run import RunConfig


def data(folder: str, V: int, T: int) -> TextPairs:
    train, heldout = ([f"{folder}/{split}.{language}.gz" for language in ("de", "en")] for split in ("train", "val"))
    return TextPairs(
        train[0], train[1], heldout[0], heldout[1], lower=True, tokenizer=TokenizerConfig(kind="bpe", V=V), T=T
    )


def transformer(V: int, N: int, D: int, F: int, H: int, dropout: float) -> Seq2SeqConfig:
    """The original Transformer (Vaswani et al. 2017, arXiv 1706.03762): post-norm, sinusoids, one table for both sides
    and the head."""
    how = {"norm": None, "norm_sum": LayerNormConfig(), "dropout": dropout}
    heads, ffn = {"H": H, "K": D // H, "bias": True, "bias_out": True}, MLPConfig(F, "relu", gated=False, bias=True)
    encoder = BlockConfig(AttentionConfig(**heads, rope=None, causal=False), ffn, **how)
    parts = {"attention": AttentionConfig(**heads, rope=None), "cross": CrossAttentionConfig(**heads), "ffn": ffn}
    decoder = BranchesConfig(tuple(BranchConfig(name, of, **how) for name, of in parts.items()))
    stacks = (LayersConfig((encoder,), N),), (LayersConfig((decoder,), N),)
    return Seq2SeqConfig(V, D, *stacks, embed_scale=D**0.5, dropout=dropout)


def attentive(V: int, D: int, Z: int, F: int, dropout: float) -> Seq2SeqConfig:
    """A GRU in both directions, and one that looks at what these made of the source before each step (Bahdanau et al.
    2015, arXiv 1409.0473). Both are residual branches, so the head sees the last word, too, as theirs does."""
    layer = lambda mixer: LayersConfig((BranchesConfig((BranchConfig("rnn", mixer, norm=None, dropout=dropout),)),))
    stacks = (layer(BidirectionalConfig(GRUConfig(Z))),), (layer(BahdanauConfig(Z, F)),)
    return Seq2SeqConfig(V, D, *stacks, positions=None, embed_scale=D**0.5, dropout=dropout)


def multi30k_transformer(folder: str = "multi30k") -> RunConfig:
    """A Transformer of 2 + 2 layers of 256, with label smoothing and the schedule of the paper.

        jaxlm train 'multi30k_transformer(folder="my/multi30k")'

    3.7M parameters; a row holds about eight pairs, an epoch has about 250 steps. On about a sixth of a CPU core,
    in 72 minutes, 561 steps: 34.5 BLEU on test2016 in small letters (`scripts/bleu`, benchmarks/multi30k.md). Then:

        s = jaxlm.load("runs/multi30k_transformer")
        s.generate(["ein hund rennt am strand."], sampler=jaxlm.Beam(5)).texts
    """
    V, D, warmup = 4000, 256, 400
    return RunConfig(
        model=transformer(V, N=2, D=D, F=512, H=4, dropout=0.1),
        data=data(folder, V, T=128),
        objective=SequenceToSequence(label_smoothing=0.1),
        optimizer=OptimizerConfig(
            learning_rate=1.5e-3,
            schedule="noam",
            warmup=warmup,
            weight_decay=0.0,
            options=(("b2", 0.98), ("eps", 1e-9)),
        ),
        steps=2000,
        batch=16,
        ema=0.99,
        eval_every=200,
        save_every=200,
        sample_every=200,
        prompts=("zwei junge weiße männer sind im freien in der nähe vieler büsche.", "ein hund rennt am strand."),
    )


def multi30k_bahdanau(folder: str = "multi30k") -> RunConfig:
    """GRUs of 192 units with Bahdanau's attention.

        jaxlm train 'multi30k_bahdanau(folder="my/multi30k")'

    1.8M parameters; a row holds about three pairs, an epoch has about 350 steps. On about a sixth of a CPU core,
    in 41 minutes, 624 steps: 32.4 BLEU on test2016 in small letters (`scripts/bleu`, benchmarks/multi30k.md).
    """
    V, D = 4000, 192
    return dataclasses.replace(
        multi30k_transformer(folder),
        model=attentive(V, D, Z=192, F=96, dropout=0.1),
        data=data(folder, V, T=48),
        objective=SequenceToSequence(),
        optimizer=OptimizerConfig(learning_rate=1.5e-3, schedule="linear", warmup=100, weight_decay=0.0),
        steps=1100,
        batch=32,
    )
