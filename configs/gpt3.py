"""GPT-3 (Brown et al. 2020, arXiv 2005.14165): GPT-2's architecture with 2048 learned positions, eight sizes.

The sizes, learning rates and batches are those of table 2.1, but two of its rows contradict themselves: in XL 24 heads
of 128 do not make 2048, so it has 16 here; in 13B 40 heads of 128 do not make 5140, so D is 5120. The paper's layers
alternate dense and locally banded sparse attention; here all are dense. Its vocabulary is GPT-2's, 50257.
"""

from jaxlm.run import RunConfig

from ._pretrain import pretrain
from .gpt2 import model


def gpt3_small() -> RunConfig:
    """GPT-3 Small, 12 x 768: 125,226,240 parameters (Brown et al. 2020, arXiv 2005.14165).

        jaxlm train gpt3_small 'data.sources.0.path=my_text/*.txt'

    Training state of 2 GB: one device of 16 GB. Trained on 300B tokens: about 7 H100-days.
    """
    return pretrain(model(N=12, D=768, H=12, T=2048), T=2048, tokens=3e11, batch=256, learning_rate=6e-4)


def gpt3_medium() -> RunConfig:
    """GPT-3 Medium, 24 x 1024: 355,871,744 parameters (Brown et al. 2020, arXiv 2005.14165).

        jaxlm train gpt3_medium 'data.sources.0.path=my_text/*.txt'

    Training state of 5.7 GB: one device of 16 GB. Trained on 300B tokens: about 19 H100-days. The paper calls it 350M.
    """
    return pretrain(model(N=24, D=1024, H=16, T=2048), T=2048, tokens=3e11, batch=256, learning_rate=3e-4)


def gpt3_large() -> RunConfig:
    """GPT-3 Large, 24 x 1536: 760,300,032 parameters (Brown et al. 2020, arXiv 2005.14165).

        jaxlm train gpt3_large 'data.sources.0.path=my_text/*.txt'

    Training state of 12 GB: one device of 80 GB. Trained on 300B tokens: about 40 H100-days.
    """
    return pretrain(model(N=24, D=1536, H=16, T=2048), T=2048, tokens=3e11, batch=256, learning_rate=2.5e-4)


def gpt3_xl() -> RunConfig:
    """GPT-3 XL, 24 x 2048: 1,315,723,264 parameters (Brown et al. 2020, arXiv 2005.14165).

        jaxlm train gpt3_xl 'data.sources.0.path=my_text/*.txt'

    Training state of 21 GB: one device of 80 GB. Trained on 300B tokens: about 69 H100-days. 16 heads: the table's 24 x
    128 is not 2048.
    """
    return pretrain(model(N=24, D=2048, H=16, T=2048), T=2048, tokens=3e11, batch=512, learning_rate=2e-4)


def gpt3_2_7b() -> RunConfig:
    """GPT-3 2.7B, 32 x 2560: 2,651,553,280 parameters (Brown et al. 2020, arXiv 2005.14165).

        jaxlm train gpt3_2_7b 'data.sources.0.path=my_text/*.txt'

    Training state of 42 GB: one device of 80 GB. Trained on 300B tokens: about 140 H100-days.
    """
    return pretrain(model(N=32, D=2560, H=32, T=2048), T=2048, tokens=3e11, batch=512, learning_rate=1.6e-4)


def gpt3_6_7b() -> RunConfig:
    """GPT-3 6.7B, 32 x 4096: 6,658,404,352 parameters (Brown et al. 2020, arXiv 2005.14165).

        jaxlm train gpt3_6_7b 'data.sources.0.path=my_text/*.txt'

    Training state of 107 GB: from 2 devices of 80 GB. Trained on 300B tokens: about 350 H100-days.
    """
    return pretrain(model(N=32, D=4096, H=32, T=2048), T=2048, tokens=3e11, batch=1024, learning_rate=1.2e-4)


def gpt3_13b() -> RunConfig:
    """GPT-3 13B, 40 x 5120: 12,853,386,240 parameters (Brown et al. 2020, arXiv 2005.14165).

        jaxlm train gpt3_13b 'data.sources.0.path=my_text/*.txt'

    Training state of 206 GB: from 4 devices of 80 GB. Trained on 300B tokens: about 680 H100-days. 5120: the table's
    5140 is not 40 x 128.
    """
    return pretrain(model(N=40, D=5120, H=40, T=2048), T=2048, tokens=3e11, batch=1024, learning_rate=1e-4)


def gpt3_175b() -> RunConfig:
    """GPT-3 175B, 96 x 12288: 174,604,259,328 parameters (Brown et al. 2020, arXiv 2005.14165).

        jaxlm train gpt3_175b 'data.sources.0.path=my_text/*.txt'

    Training state of 2,790 GB: from 64 devices of 80 GB. Trained on 300B tokens: about 9,200 H100-days.
    """
    return pretrain(model(N=96, D=12288, H=96, T=2048), T=2048, tokens=3e11, batch=1536, learning_rate=6e-5)
