"""Marian's translators (Junczys-Dowmunt et al. 2018, arXiv 1804.00344) as OPUS-MT publishes them: one for each pair of
languages, each with a vocabulary of its own. This is that of German to English.
"""

from jaxlm.convert import lm_config
from jaxlm.run import RunConfig

from ._pairs import pairs


def marian_base() -> RunConfig:
    """Marian, the Transformer base of 6 + 6 layers of 512: 73,944,309 parameters (arXiv 1804.00344).

        jaxlm train marian_base data.source=pairs.tsv

    Training state of 1.2 GB: one device of 16 GB.
    """
    stacks = ("encoder", "decoder")
    model = lm_config(
        {
            "model_type": "marian",
            "vocab_size": 58_101,
            "d_model": 512,
            **{f"{stack}_layers": 6 for stack in stacks},
            **{f"{stack}_ffn_dim": 2048 for stack in stacks},
            **{f"{stack}_attention_heads": 8 for stack in stacks},
            "activation_function": "swish",
            "scale_embedding": True,
            "pad_token_id": 58_100,
        }
    )
    return pairs(model)
