"""ELECTRA (Clark et al. 2020, arXiv 2003.10555): a generator and the discriminator that is kept, trained together."""

from jaxlm.convert import lm_config
from jaxlm.models import ElectraConfig, EncoderConfig
from jaxlm.objectives import ReplacedTokens
from jaxlm.run import RunConfig

from ._masked import pretrain


def electra(N: int, D: int, H: int, E: int, of: tuple[int, int]) -> ElectraConfig:
    """Embeddings of E numbers; the generator has as many layers, of width and heads `of`."""

    def one(kind: str, D: int, H: int) -> EncoderConfig:
        sizes = {"hidden_size": D, "num_hidden_layers": N, "num_attention_heads": H, "intermediate_size": 4 * D}
        sizes |= {"embedding_size": E, "vocab_size": 30_522, "max_position_embeddings": 512, "type_vocab_size": 2}
        return lm_config({"model_type": "electra", "architectures": [f"Electra{kind}"]} | sizes)

    return ElectraConfig(one("ForMaskedLM", *of), one("ForPreTraining", D, H))


def electra_small() -> RunConfig:
    """ELECTRA small, 12 x 256: 14,196,475 parameters, of which the discriminator has 13,549,057.

        jaxlm train electra_small 'data.sources.0.path=my_text/*.txt'

    Training state of 0.3 GB. A million steps of 128 rows of 128 tokens, 16B tokens: about an H100-hour.
    """
    model = electra(12, 256, 4, 128, (64, 1))
    return pretrain(model, T=128, tokens=1.64e10, batch=128, learning_rate=5e-4, objective=ReplacedTokens)


def electra_base() -> RunConfig:
    """ELECTRA base, 12 x 768: 119,387,963 parameters, of which the discriminator has 109,483,009.

        jaxlm train electra_base 'data.sources.0.path=my_text/*.txt'

    Training state of 2 GB: one device of 16 GB. 766,000 steps of 256 rows, 100B tokens: about 2.3 H100-days.
    """
    model = electra(12, 768, 12, 768, (256, 4))
    return pretrain(model, T=512, tokens=1.0e11, batch=256, learning_rate=2e-4, objective=ReplacedTokens)


def electra_large() -> RunConfig:
    """ELECTRA large, 24 x 1024: 354,657,339 parameters, of which the discriminator has 335,142,913.

        jaxlm train electra_large 'data.sources.0.path=my_text/*.txt' objective.rate=0.25

    Training state of 6 GB: one device of 24 GB. 1.75M steps of 2,048 rows, 1.84T tokens: about 124 H100-days.
    """
    model = electra(24, 1024, 16, 1024, (256, 4))
    return pretrain(model, T=512, tokens=1.84e12, batch=2048, learning_rate=2e-4, objective=ReplacedTokens)
