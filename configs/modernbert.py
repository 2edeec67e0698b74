"""ModernBERT (Warner et al. 2024, arXiv 2412.13663)."""

from jaxlm.convert import lm_config
from jaxlm.run import RunConfig

from ._masked import pretrain

FIELDS = {"model_type": "modernbert", "architectures": ["ModernBertForMaskedLM"], "vocab_size": 50_368}
FIELDS |= {"max_position_embeddings": 8192, "local_attention": 128, "global_attn_every_n_layers": 3}


def modernbert_base() -> RunConfig:
    """ModernBERT base, 22 x 768: 149,655,232 parameters (Warner et al. 2024, arXiv 2412.13663).

        jaxlm train modernbert_base 'data.sources.0.path=my_text/*.txt' objective.rate=0.3

    Training state of 2.4 GB: one device of 16 GB. 2T tokens: about 58 H100-days. The authors train on rows of 1,024
    tokens, and of 8,192 for the last 300B.
    """
    sizes = {"hidden_size": 768, "intermediate_size": 1152, "num_hidden_layers": 22, "num_attention_heads": 12}
    return pretrain(lm_config(FIELDS | sizes), T=1024, tokens=2e12, batch=4608, learning_rate=8e-4, b2=0.98)


def modernbert_large() -> RunConfig:
    """ModernBERT large, 28 x 1024: 395,881,664 parameters (Warner et al. 2024, arXiv 2412.13663).

        jaxlm train modernbert_large 'data.sources.0.path=my_text/*.txt' objective.rate=0.3

    Training state of 6.3 GB: one device of 24 GB. 2T tokens: about 148 H100-days.
    """
    sizes = {"hidden_size": 1024, "intermediate_size": 2624, "num_hidden_layers": 28, "num_attention_heads": 16}
    return pretrain(lm_config(FIELDS | sizes), T=1024, tokens=2e12, batch=4928, learning_rate=5e-4, b2=0.98)
