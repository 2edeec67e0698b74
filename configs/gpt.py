"""One dial: `depth` says how large a GPT is, and published rules say all the rest.

    jaxlm train gpt 'data.sources.0.path=my_text/*.txt'                  depth 12
    jaxlm train 'gpt(depth=24)' 'data.sources.0.path=my_text/*.txt'      the same recipe, larger
    jaxlm plan 'gpt(depth=24)'                                           what that is and costs

The dial is nanochat's (Karpathy 2025); the rules that have no source are marked as choices. What a bare config of this
size would leave to a search, namely learning rate, batch, weight decay and horizon, follows from the model's size.

The block is what small modern models agree on (nanochat, OLMo 2, Qwen3): rotary positions, no biases, RMSNorm before
each branch and of queries and keys, which lets the learning rate be high (Henry et al. 2020, arXiv:2010.04245; Dehghani
et al. 2023, arXiv:2302.05442), and a head of its own, whose learning a tied table would share. The feed-forward is
squared ReLU (So et al. 2021, arXiv:2109.08668), as good as a gated one at equal size, and one matrix simpler.
"""

import math

from jaxlm.data import DataConfig, TokenizerConfig
from jaxlm.errors import UserError
from jaxlm.models import LMConfig, flops
from jaxlm.models import mup as parametrisation
from jaxlm.nn import AttentionConfig, BlockConfig, LayersConfig, MLPConfig, QKNormConfig, RMSNormConfig
from jaxlm.optim import OptimizerConfig
from jaxlm.run import RunConfig
from jaxlm.sharding import MeshConfig

TUNED = 12  # the depth whose learning rate and weight decay others are measured by


def model(depth: int, V: int) -> LMConfig:
    K = 128  # head width: that of nanochat, Llama and Qwen3; fills a matrix unit of GPUs and TPUs
    # Width is 64 a layer (nanochat; GPT-2's 768 at 12), rounded up to whole heads. Around it and around F = 4 D (GPT-2)
    # the loss changes little (Kaplan et al. 2020, arXiv:2001.08361, figure 5).
    H = math.ceil(64 * depth / K)
    block = BlockConfig(
        mixer=AttentionConfig(H=H, K=K, qk_norm=QKNormConfig(RMSNormConfig())),
        ffn=MLPConfig(F=4 * H * K, activation="relu2", gated=False),
    )
    layers = (LayersConfig((block,), depth),)
    return LMConfig(V=V, D=H * K, layers=layers, tied=False, dtype="bfloat16", remat="mlp")


def gpt(depth: int = 12, ratio: float = 20.0, T: int = 2048, V: int = 32_768, mup: bool = False) -> RunConfig:
    """A GPT of `depth` layers, and the run that trains it on `ratio` tokens a parameter of your own text.

        jaxlm train 'gpt(depth=12)' 'data.sources.0.path=my_text/*.txt'

    On one H100 or H200, or as many as you have; hours are at 40% of an H100's 989 TFLOP/s. Every number is the
    planner's (`jaxlm plan 'gpt(depth=12)'`), none is measured.

        depth  width     parameters          tokens  rows  steps     rate  decay     FLOPs  H100-hours
            4    256     19,926,272     230,686,720    32   3520  0.00288  0.136  1.89e+16      0.0132
            8    512     58,731,008     838,860,800    64   6400  0.00208  0.103  2.53e+17       0.178
           12    768    135,288,576   2,202,009,600   128   8400  0.00164  0.100  1.70e+18        1.20
           16   1024    268,473,344   4,697,620,480   256   8960  0.00136  0.113  7.57e+18        5.31
           24   1536    780,221,952  14,596,177,920   512  13920  0.00103  0.096  7.05e+19        49.5
           32   2048  1,744,971,776  33,554,432,000  1024  16000 0.000839  0.103  3.65e+20         256

    With `mup` the learning rate is that of depth 12 for every depth, and each weight gets its share of it, as its
    initial size, by maximal-update parametrisation (`jaxlm.models.mup`): tune at depth 12 or below, train at any.
    """
    if depth < 1 or ratio <= 0:
        raise UserError(f"gpt needs depth >= 1 and ratio > 0, got depth={depth} ratio={ratio}")
    shape, tuned = model(depth, V), model(TUNED, V)
    rows, steps, rate = _schedule(shape, ratio, T)
    _, tuned_steps, tuned_rate = _schedule(tuned, 20.0, T)
    rate = tuned_rate if mup else rate
    # AdamW's memory, 1 / (rate decay) steps, is a fixed share of the run (Wang & Aitchison 2024, arXiv:2405.13698), a
    # smaller one with more tokens a parameter (Bergsma et al. 2025, arXiv:2505.13738). At depth 12 decay is 0.1, that
    # of GPT-3 and DeepSeek.
    decay = 0.1 * (tuned_rate * tuned_steps) / (rate * steps) * (ratio / 20) ** 0.527
    return RunConfig(
        model=parametrisation.scaled(shape, tuned) if mup else shape,
        mup_base=tuned if mup else None,
        data=DataConfig(tokenizer=TokenizerConfig(kind="bpe", V=V), T=T),
        optimizer=OptimizerConfig(
            learning_rate=rate,
            schedule="linear",  # to zero: better than to a tenth (Bergsma et al. 2025, arXiv:2502.15938)
            final=0.0,
            warmup=min(2000, steps // 10),  # DeepSeek's 2000 steps, or a tenth of a short run (Bergsma et al.)
            weight_decay=decay,
            options=(("b2", 0.95), ("eps", 1e-12)) if mup else (("b2", 0.95),),  # b2 as GPT-3's; eps: see models.mup
        ),
        mesh=MeshConfig(data=1, fsdp=-1),  # a choice: no replicas, everything divided over all devices
        steps=steps,
        batch=rows,
        accumulate=min(rows, 2 ** max(0, round(math.log2(rows * T / 2**17)))),  # some 131,072 tokens a part
        eval_every=500,
        eval_tokens=2**21,
        save_every=1000,
        sample_every=1000,
    )


def _schedule(model: LMConfig, ratio: float, T: int) -> tuple[int, int, float]:
    """Rows of a batch, steps, and the peak learning rate.

    Batch and rate are DeepSeek LLM's laws (Bi et al. 2024, arXiv:2401.02954), which they fitted for AdamW on 1e17 to
    2e19 FLOPs and used up to 67B parameters. Parameters are those of matrices, the head included (as nanochat counts).
    """
    tokens = ratio * flops.matmul_parameters(model)  # 20 a parameter: Hoffmann et al. 2022, arXiv:2203.15556
    compute = tokens * flops.train_flops(model, T)
    rows = 2 ** max(0, round(math.log2(0.2920 * compute**0.3271 / T)))  # to the nearest power of two, to divide well
    return rows, max(1, round(tokens / (rows * T))), 0.3118 * compute**-0.1250
