"""Othello-GPT (Li et al. 2023, arXiv:2210.13382): a language model of moves, in whose stream a board may be found."""

from jaxlm.data import TaskFile
from jaxlm.models import LMConfig
from jaxlm.nn import AttentionConfig, BlockConfig, LayersConfig, LearnedConfig, MLPConfig
from jaxlm.objectives import Answers
from jaxlm.optim import OptimizerConfig
from jaxlm.run import RunConfig


def othello(D: int = 64, depth: int = 4, steps: int = 2000) -> RunConfig:
    """A small model of games that people played, lines that end with moves such as f5d6c4.

        jaxlm train othello data.path=othello_games.csv.gz

    On 19,488 games of eOthello, one core of a busy machine, 15 minutes for steps=1000: a held-out loss of 2.08, and
    36.6 % of moves foreseen. `scripts/othello runs/othello --games 60`: 21.0 % of the likeliest moves are illegal, and
    after layer 3 a linear probe reads 72.7 % of squares right (mine, yours, empty; 70.7 % as black, white, empty), a
    nonlinear one 72.4 %.
    """
    data = TaskFile("othello_games.csv", "othello", T=59)
    block = BlockConfig(AttentionConfig(H=D // 16, K=16, rope=None), MLPConfig(F=4 * D, activation="gelu", gated=False))
    return RunConfig(
        model=LMConfig(
            V=data.vocabulary, D=D, layers=(LayersConfig((block,), depth),), positions=LearnedConfig(60), tied=False
        ),
        data=data,
        objective=Answers(),
        optimizer=OptimizerConfig(learning_rate=3e-3, warmup=100, final=0.01, weight_decay=0.01),
        steps=steps,
        batch=32,
        eval_every=steps // 4,
        save_every=steps // 4,
        log_every=100,
        prompts=(),
    )
