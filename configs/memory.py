"""Networks that learn to use a memory (Graves et al. 2014, arXiv:1410.5401; 2016, Nature 538): copy and repeat copy."""

from jaxlm.data import SyntheticTask
from jaxlm.models import MemoryConfig
from jaxlm.nn import DNCConfig, NTMConfig
from jaxlm.objectives import Answers
from jaxlm.optim import OptimizerConfig
from jaxlm.run import RunConfig


def memory(
    unit: str = "ntm", task: str = "copy", longest: int = 13, steps: int = 3000, batch: int = 32, rate: float = 5e-3
) -> RunConfig:
    """A small NTM or DNC learns to copy, once or several times, and is tested on rows twice as long.

        jaxlm train 'memory(unit="dnc", steps=1000)'

    Copies of up to six symbols of ten, seconds of processor time of one core: the NTM takes 46 for 3,000 steps and
    ends at 0.03 bits per sequence, 99 % exact; of rows twice as long 43 % of symbols are right, none wholly. The DNC
    takes 35 for 1,000 steps and ends at 0.01 bits, 100 % exact; twice as long 81 % of symbols (with a constant rate in
    place of the cosine 0.001 bits, and 97 % of symbols and 76 % of rows twice as long). Repeat copy, rows of up to 11:
    the DNC takes 76 for 3,000 steps and ends at 0.015 bits, 100 % exact; twice as long 40 % of symbols. The
    NTM takes 40 for 3,000 steps and ends at 0.024 bits, 99 % exact; twice as long 45 % of symbols.
    """
    units = {"ntm": NTMConfig(M=24, K=12), "dnc": DNCConfig(M=24, K=12)}
    twice = 2 * longest - 1
    data = SyntheticTask(task, lengths=(0, longest), test_lengths=(twice, twice), T=twice)
    return RunConfig(
        model=MemoryConfig(V=data.vocabulary, D=16, Z=48, memory=units[unit]),
        data=data,
        objective=Answers(),
        optimizer=OptimizerConfig(learning_rate=rate, warmup=50, final=0.02, weight_decay=0, clip=1.0),
        steps=steps,
        batch=batch,
        eval_every=steps // 4,
        save_every=steps // 4,
        prompts=(),
    )
