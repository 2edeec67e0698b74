"""BERT (Devlin et al. 2019, arXiv 1810.04805), RoBERTa (Liu et al. 2019, arXiv 1907.11692) and DistilBERT (Sanh et al.
2019, arXiv 1910.01108), and a small one that trains here."""

from jaxlm.convert import lm_config
from jaxlm.data import DataConfig, TokenizerConfig
from jaxlm.models import EncoderConfig
from jaxlm.nn import AttentionConfig, BlockConfig, LayerNormConfig, LayersConfig, LearnedConfig, MLPConfig
from jaxlm.objectives import MaskedTokens
from jaxlm.optim import OptimizerConfig
from jaxlm.run import RunConfig

from ._masked import pretrain


def bert(N: int, D: int, H: int) -> EncoderConfig:
    """Of 30,522 pieces, with heads for hidden tokens and for the next sentence."""
    sizes = {"hidden_size": D, "num_hidden_layers": N, "num_attention_heads": H, "intermediate_size": 4 * D}
    kind = {"model_type": "bert", "architectures": ["BertForPreTraining"]}
    return lm_config(kind | sizes | {"vocab_size": 30_522, "max_position_embeddings": 512, "type_vocab_size": 2})


def roberta(N: int, D: int, H: int) -> EncoderConfig:
    """Of GPT-2's pieces and five more; two rows stand before the first position."""
    sizes = {"hidden_size": D, "num_hidden_layers": N, "num_attention_heads": H, "intermediate_size": 4 * D}
    kind = {"model_type": "roberta", "architectures": ["RobertaForMaskedLM"], "layer_norm_eps": 1e-5}
    return lm_config(kind | sizes | {"vocab_size": 50_265, "max_position_embeddings": 514, "type_vocab_size": 1})


def bert_base() -> RunConfig:
    """BERT base, 12 x 768: 110,106,428 parameters (Devlin et al. 2019, arXiv 1810.04805).

        jaxlm train bert_base 'data.sources.0.path=my_text/*.txt'

    Training state of 1.8 GB: one device of 16 GB. A million steps of 256 rows, 131B tokens: about 3 H100-days. The
    authors read rows of 128 tokens for nine tenths of them, and trained on pairs of sentences too.
    """
    return pretrain(bert(12, 768, 12), T=512, tokens=1.31e11, batch=256, learning_rate=1e-4)


def bert_large() -> RunConfig:
    """BERT large, 24 x 1024: 336,226,108 parameters (Devlin et al. 2019, arXiv 1810.04805, which says 340M).

        jaxlm train bert_large 'data.sources.0.path=my_text/*.txt'

    Training state of 5.4 GB: one device of 24 GB. 131B tokens as BERT base: about 8 H100-days.
    """
    return pretrain(bert(24, 1024, 16), T=512, tokens=1.31e11, batch=256, learning_rate=1e-4)


def roberta_base() -> RunConfig:
    """RoBERTa base, 12 x 768: 124,697,433 parameters (Liu et al. 2019, arXiv 1907.11692).

        jaxlm train roberta_base 'data.sources.0.path=my_text/*.txt'

    Training state of 2 GB: one device of 16 GB. 500,000 steps of 8,192 rows, 2.1T tokens: about 50 H100-days.
    """
    return pretrain(roberta(12, 768, 12), T=512, tokens=2.1e12, batch=8192, learning_rate=6e-4, b2=0.98)


def roberta_large() -> RunConfig:
    """RoBERTa large, 24 x 1024: 355,412,057 parameters (Liu et al. 2019, arXiv 1907.11692).

        jaxlm train roberta_large 'data.sources.0.path=my_text/*.txt'

    Training state of 5.7 GB: one device of 24 GB. 2.1T tokens as RoBERTa base: about 140 H100-days.
    """
    return pretrain(roberta(24, 1024, 16), T=512, tokens=2.1e12, batch=8192, learning_rate=4e-4, b2=0.98)


def distilbert_base() -> RunConfig:
    """DistilBERT, 6 x 768: 66,985,530 parameters, 66,362,880 without its head (Sanh et al. 2019, arXiv 1910.01108).

        jaxlm train distilbert_base 'data.sources.0.path=my_text/*.txt'

    Training state of 1.1 GB: one device of 16 GB. The authors' learns from BERT base; this one from text alone. 131B
    tokens: about 2 H100-days.
    """
    model = lm_config(
        {
            "model_type": "distilbert",
            "architectures": ["DistilBertForMaskedLM"],
            "vocab_size": 30_522,
            "dim": 768,
            "n_layers": 6,
            "n_heads": 12,
            "hidden_dim": 3072,
            "max_position_embeddings": 512,
        }
    )
    return pretrain(model, T=512, tokens=1.31e11, batch=256, learning_rate=1e-4)


def bert_mlm() -> RunConfig:
    """A small BERT on the embedded corpus: restores hidden tokens of Python's standard library. Nothing is downloaded.

        jaxlm train bert_mlm

    Two CPU cores: about a second a step where they are shared. Nothing is learned but frequencies for 200 steps; the
    held-out loss of hidden tokens, in nats, is 4.97 after 500 steps, 4.36 after 1000 and 3.81 after 1500.
    """
    block = BlockConfig(
        AttentionConfig(H=4, K=32, rope=None, causal=False, bias=True, bias_out=True),
        MLPConfig(F=512, activation="gelu", gated=False, bias=True),
        norm=LayerNormConfig(),
    )
    V = 1024
    return RunConfig(
        model=EncoderConfig(
            V=V + 8,  # the last one hides tokens
            D=128,
            layers=(LayersConfig((block,), 3),),
            positions=LearnedConfig(64),
            norm=LayerNormConfig(),
        ),
        data=DataConfig(tokenizer=TokenizerConfig(kind="bpe", V=V), T=64),
        objective=MaskedTokens(mask=V + 7, vocabulary=V),
        optimizer=OptimizerConfig(learning_rate=3e-3, schedule="linear", warmup=100, weight_decay=0.01),
        steps=2000,
        batch=32,
        eval_every=500,
        eval_tokens=100_000,
        save_every=500,
    )
