"""The config of a training run: everything `jaxlm train` needs to know, and saves as `config.json`."""

import dataclasses
import math
from typing import Literal

from jaxlm.config import diff
from jaxlm.config_check import check
from jaxlm.data.config import Data, DataConfig
from jaxlm.errors import UserError
from jaxlm.models import ModelConfig, abstract, layers, mup
from jaxlm.nn import MoEConfig
from jaxlm.objectives import NextToken, Objective
from jaxlm.optim import OptimizerConfig, schedule
from jaxlm.sharding import MeshConfig
from jaxlm.trains import All, Trains


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """A model, its data, its optimizer, and what happens when. Steps are optimizer steps.

    What happens every so many steps also happens after the last one; 0 is then only.
    """

    model: ModelConfig
    data: Data = DataConfig()
    objective: Objective = NextToken()
    start: str = ""  # whose weights it begins from: a run, a checkpoint, a folder in Hugging Face's layout; "": new
    trains: Trains = All()  # which parameters
    optimizer: OptimizerConfig = OptimizerConfig()
    mesh: MeshConfig = MeshConfig()
    mup_base: ModelConfig | None = None  # the smaller model whose learning rate `model` takes over, see `models.mup`
    steps: int = 1000
    epochs: float = 0.0  # passes over data of a known size: how many steps that is, is found when it is read; 0: steps
    batch: int = 32  # rows per step, over all devices
    accumulate: int = 1  # parts of a batch whose gradients are added before one update
    seed: int = 0  # of the initial weights and of dropout
    aux_loss_coef: float = 0.0  # weight of the experts' load-balancing loss, see ops.routing.statistics
    router_z_loss: float = 0.0  # weight of the routers' z-loss
    bias_update_rate: float = 0.0  # how far a step moves the score_correction_bias of experts unevenly used
    ema: float = 0.0  # decay of an exponential moving average of the weights, used to evaluate and sample; 0: none
    max_nonfinite_steps: int = 10  # non-finite steps in a row after which the run stops
    log_every: int = 10
    eval_every: int = 200
    eval_tokens: int = 0  # held-out tokens per evaluation, a fixed sample spread over all sources; 0: all
    save_every: int = 200
    max_to_keep: int = 2  # newest checkpoints kept, beside the best
    sample_every: int = 200
    sample_tokens: int = 64
    prompts: tuple[str, ...] = ("",)  # what samples begin with; () writes none
    profile_at: int = 0  # first step of a profiler window (opens in TensorBoard or Perfetto); 0: none
    profile_steps: int = 3
    writers: tuple[Literal["jsonl", "tensorboard", "wandb"], ...] = ("jsonl", "tensorboard")
    eval_batches: int = 0  # the same in batches of batch / accumulate rows, as saved runs have it; becomes eval_tokens

    def __post_init__(self):
        counts = ("steps", "batch", "accumulate", "max_nonfinite_steps", "log_every", "max_to_keep")
        counts += ("sample_tokens", "profile_steps")
        rare = ("eval_every", "eval_tokens", "eval_batches", "save_every", "sample_every", "profile_at")
        weights = ("aux_loss_coef", "router_z_loss", "bias_update_rate")
        check(self, **dict.fromkeys(counts, ">= 1"), **dict.fromkeys(rare + weights, ">= 0"))
        check(self, ema="[0, 1)", epochs=">= 0")
        if self.batch % self.accumulate:
            raise UserError(f"accumulate={self.accumulate} must divide batch={self.batch}")
        schedule(self.optimizer, self.steps)  # refuses what does not fit into the run
        if self.eval_batches:
            object.__setattr__(self, "eval_tokens", self.eval_batches * (self.batch // self.accumulate) * self.data.T)
            object.__setattr__(self, "eval_batches", 0)
        if self.mup_base is not None and (changed := diff(self.model, mup.scaled(self.model, self.mup_base))):
            raise UserError(f"with mup_base, model.{changed[0]}: make the model by jaxlm.models.mup.scaled")
        self.objective.check(self.model)
        if not isinstance(self.trains, All):
            self.trains.check(abstract(self.model)[1])
        ffns = [ffn for layer in layers(self.model) for ffn in layer.config.ffns]
        experts = [ffn for ffn in ffns if isinstance(ffn, MoEConfig)]
        if (self.aux_loss_coef or self.router_z_loss) and not experts:
            raise UserError("aux_loss_coef and router_z_loss are for models with experts: leave them out, or use some")
        if self.bias_update_rate and not any(ffn.score_correction_bias for ffn in experts):
            raise UserError(
                f"bias_update_rate={self.bias_update_rate} moves nothing: set score_correction_bias=true in an ffn "
                "with experts"
            )

    def planned(self, rows: int | None) -> "RunConfig":
        """With the steps of its epochs, over so many rows. Raises UserError where the data has no number of them."""
        if not self.epochs:
            return self
        if rows is None:
            raise UserError(f"epochs={self.epochs:g}: {type(self.data).__name__} goes on for ever: give steps instead")
        return dataclasses.replace(self, steps=max(1, math.ceil(self.epochs * rows / self.batch)))

    @property
    def seldom_rated(self) -> str:
        """A warning where few of the checkpoints have a held-out loss, by which the best is chosen; else ""."""
        evals, saves = self.eval_every or self.steps, self.save_every or self.steps
        small, large = sorted((evals, saves))
        if large % small == 0 or large >= self.steps:
            return ""
        return (
            f"eval_every={evals} and save_every={saves} meet every {math.lcm(evals, saves)} steps only, and the best "
            "checkpoint is chosen among those: make one a multiple of the other"
        )

    @property
    def tokens_per_step(self) -> int:
        """Positions that the model computes, padding included."""
        return self.batch * sum(self.objective.lengths(self.data).values())

    @property
    def flops_per_token(self) -> float:
        """Training FLOPs of a position, on average."""
        return self.objective.flops(self.model, self.data) * self.batch / self.tokens_per_step

    @property
    def adds(self) -> bool:
        """Whether what is minimised is more than the loss that is shown, which is measured like the held-out one."""
        return bool(self.objective.adds or self.aux_loss_coef or self.router_z_loss)

    @property
    def samples(self) -> bool:
        """Whether it writes samples."""
        return bool(self.prompts) and self.model.decodes
