"""Optimizers and learning-rate schedules: any of optax's, by name, told by the weights' `Axes` what to decay.

    optimizer = make(OptimizerConfig(learning_rate=3e-4, warmup=100), axes, steps=10_000)
    state = optimizer.init(params)
    updates, state = optimizer.update(grads, state, params)
    params = optax.apply_updates(params, updates)

Nothing here is an optimizer: optax has them. What is here is the part that needs to know the model, namely which
weights decay (matrices and tables, never norm scales and biases) and, for Muon, which dimensions make up the matrix.
"""

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
import optax.contrib
from jax.sharding import AxisType

from jaxlm.axes import Params
from jaxlm.config_check import check, within
from jaxlm.errors import UserError, unknown
from jaxlm.sharding import Axes

SCHEDULES = ("constant", "cosine", "linear", "noam", "wsd")
MASKS = ("mask", "weight_decay_mask")  # optax's two names for "which weights decay"
ADAM_LIKE = ("adam", "adamax", "adamaxw", "adamw", "amsgrad", "lion", "nadam", "nadamw", "radam")
OPTIONS = {"b1": "[0, 1)", "b2": "[0, 1)", "b3": "[0, 1)", "momentum": "[0, 1)", "eps": ">= 0"}  # their ranges
NEED_THE_LOSS = ("lbfgs", "momo", "momo_adam", "sophia")  # their update takes more than gradients


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """Which optimizer, and how its learning rate moves. Steps count updates of the weights."""

    name: str = "adamw"  # any factory of optax or optax.contrib: adamw, adafactor, lion, muon, sgd, ...
    learning_rate: float = 3e-4  # the peak
    schedule: str = (
        "cosine"  # after the warmup: constant, cosine, linear, noam, or wsd (constant, then linear at the end)
    )
    warmup: int = 0  # steps of linear warmup
    decay: float = 0.2  # wsd: fraction of all steps spent decaying
    final: float = 0.1  # learning rate at the end, as a fraction of the peak
    weight_decay: float = 0.1  # of matrices and tables; optimizers that have none want 0 here
    clip: float | None = 1.0  # largest global norm of the gradient; None does not clip
    options: tuple[tuple[str, float | int | str | bool], ...] = ()  # further arguments of the factory: (("b2", 0.95),)
    state_dtype: str = "float32"  # of the moments between steps; bfloat16 is half, and forgets what 1 - b2 < 2^-8 adds
    offload: bool = False  # the moments lie in host memory between steps (GPU and TPU)

    def __post_init__(self):
        check(self, learning_rate=">= 0", warmup=">= 0", decay="[0, 1]", final=">= 0", weight_decay=">= 0")
        if self.clip is not None and self.clip <= 0:
            raise UserError(f"optimizer clip={self.clip} lets no weight move: clip=none does not clip")
        for name, value in self.options:
            if isinstance(value, int | float):
                within(f"optimizer option {name}", value, OPTIONS.get(name, ""))
        if self.state_dtype not in ("float32", "bfloat16"):
            raise UserError(f"optimizer state_dtype={self.state_dtype!r} must be float32 or bfloat16")


def schedule(config: OptimizerConfig, steps: int) -> optax.Schedule:
    """The learning rate as a function of the number of updates made, for a run of `steps` updates.

    Warmup is linear and starts above zero, at peak / (warmup + 1), so that the first step is not lost; the value after
    `steps` updates is `final * peak`. "noam" is the Transformer's own (Vaswani et al. 2017, arXiv:1706.03762, 5.3):
    update t, counted from 1, has peak min(t / warmup, sqrt(warmup / t)), where the paper's peak is (D warmup)^-0.5.
    Raises UserError when the warmup and the decay do not fit into the run.
    """
    peak, rest = config.learning_rate, steps - config.warmup
    if config.schedule not in SCHEDULES:
        raise unknown("optimizer schedule", config.schedule, SCHEDULES)
    if config.warmup < 0 or rest <= 0:
        raise UserError(
            f"optimizer warmup={config.warmup} must be at least 0 and less than the {steps} steps of the run",
            right=f"optimizer.warmup={steps // 10}",
        )
    if config.schedule == "noam":
        if not config.warmup:
            raise UserError("optimizer schedule=noam falls from the end of its warmup on: set warmup, say to 4000")
        return lambda done: peak * jnp.minimum((done + 1) / config.warmup, jnp.sqrt(config.warmup / (done + 1)))
    if config.schedule == "constant":
        parts, starts = [optax.constant_schedule(peak)], [0]
    elif config.schedule == "cosine":
        parts, starts = [optax.cosine_decay_schedule(peak, rest, alpha=config.final)], [0]
    elif config.schedule == "linear":
        parts, starts = [optax.linear_schedule(peak, peak * config.final, rest)], [0]
    else:
        length = round(config.decay * steps)
        if not 1 <= length <= rest:
            raise UserError(
                f"optimizer decay={config.decay} means {length} of {steps} steps, but {rest} are left after the "
                f"warmup and at least 1 is needed: change decay or warmup"
            )
        parts = [optax.constant_schedule(peak), optax.linear_schedule(peak, peak * config.final, length)]
        starts = [0, rest - length]
    if config.warmup:
        parts.insert(0, optax.linear_schedule(peak / (config.warmup + 1), peak, config.warmup))
        starts = [0] + [config.warmup + start for start in starts]
    return optax.join_schedules(parts, starts[1:])


def make(config: OptimizerConfig, axes: Any, steps: int, rates: Params | None = None) -> optax.GradientTransformation:
    """The optimizer of `config` for parameters described by `axes`, a tree like theirs with `Axes` as leaves.

    A chain of clipping by the global norm (unless `clip` is None) and the optax factory. Weight decay falls on weights
    with inputs and on embedding tables. Under `muon` (Jordan et al., 2024; optax.contrib.muon) the matrices
    inside the network are orthogonalised, layer by layer and expert by expert; embeddings, head and vectors go to its
    Adam, which decays nothing unless `adam_weight_decay` is among the options.

    `rates`, a tree like that of the weights, multiplies each one's learning rate, but not its decay (see `models.mup`).

    Raises UserError for an unknown name, an unknown or missing option, for weight decay that optax lacks there, and for
    `rates` with an optimizer whose steps depend on the size of the gradient.
    """
    factory = _factory(config.name)
    parameters = inspect.signature(factory).parameters
    arguments = {"learning_rate": _rate(config, parameters, steps), **_decay(config, parameters, axes)}
    if config.name == "muon":
        arguments["muon_weight_dimension_numbers"] = _over(axes, muon_dimensions)
    if rates is not None:
        if config.name not in ADAM_LIKE:
            raise UserError(
                f"optimizer {config.name} knows no learning rate for each weight: one of {', '.join(ADAM_LIKE)}"
            )
        arguments |= {"learning_rate": 1.0} | ({"weight_decay": 0.0} if "weight_decay" in arguments else {})
    optimizer = _on_any_mesh(factory(**arguments, **_options(config, parameters, arguments)))
    if config.state_dtype != "float32":
        optimizer = _kept_as(optimizer, jnp.dtype(config.state_dtype))
    if rates is not None:
        optimizer = optax.chain(
            optimizer,
            optax.stateless(lambda updates, params: jax.tree.map(lambda u, rate: u * rate, updates, rates)),
            optax.add_decayed_weights(-config.weight_decay, _over(axes, decays)),
            optax.scale_by_schedule(schedule(config, steps)),
        )
    return optimizer if config.clip is None else optax.chain(optax.clip_by_global_norm(config.clip), optimizer)


def decays(axes: Axes) -> bool:
    """Whether weight decay applies: to matrices (they have inputs) and tables, not to norm scales and biases."""
    return bool(axes.inputs) or ("vocab" in axes.names and len(axes.names) > 1)


def columns(axes: Axes) -> tuple[int, ...]:
    """The dimensions that a weight with inputs puts out: all others but leading layers, experts and blocks of a
    recurrence, which are separate matrices. A router's experts, which follow its input, are columns."""
    stacked = {
        i
        for i, name in enumerate(axes.names)
        if name in ("layers", "experts", "heads") and i < min(axes.inputs, default=0)
    }
    return tuple(i for i in range(len(axes.names)) if i not in stacked and i not in axes.inputs)


def muon_dimensions(axes: Axes) -> optax.contrib.MuonDimensionNumbers | None:
    """Which dimensions Muon flattens into the rows (inputs) and columns of a matrix; None is left to its Adam."""
    if not axes.inputs or "vocab" in axes.names or not columns(axes):
        return None
    return optax.contrib.MuonDimensionNumbers(axes.inputs, columns(axes))


def like_weights(state: Any, params: Params, values: Any, other: Any) -> Any:
    """A tree like the optimizer's `state`: where it has an array for a weight, of that weight's shape, the weight's
    entry of `values`, else `other`. Lays moments out as their weights lie, given shardings.

    Goes by the ends of paths, so it works for Muon, for which `optax.tree_map_params` fails.
    """
    shapes = {path: x.shape for path, x in jax.tree_util.tree_leaves_with_path(params)}
    entries = dict(zip(shapes, jax.tree.leaves(values)))

    def one(path, x) -> Any:
        for i in range(len(path)):
            if shapes.get(path[i:]) == x.shape:
                return entries[path[i:]]
        return other

    return jax.tree_util.tree_map_with_path(one, state)


def _over(axes: Any, f: Callable[[Axes], Any]) -> Params:
    return jax.tree.map(f, axes, is_leaf=lambda x: isinstance(x, Axes))


def _factories() -> dict[str, Callable]:
    found = {}
    for module in (optax.contrib, optax):  # a name that is in both is optax's own
        for name, f in inspect.getmembers(module, inspect.isfunction):
            if "learning_rate" in inspect.signature(f).parameters and not name.startswith(("_", "scale_by_")):
                found[name] = f
    return {name: f for name, f in found.items() if name not in NEED_THE_LOSS}


def _factory(name: str) -> Callable:
    found = _factories()
    if name not in found:
        raise unknown("optimizer", name, sorted(found))
    return found[name]


def _rate(config: OptimizerConfig, parameters: Any, steps: int) -> float | optax.Schedule:
    rate = schedule(config, steps)
    kind = str(parameters["learning_rate"].annotation)
    if "Callable" in kind or "Schedule" in kind:
        return rate
    if config.schedule != "constant" or config.warmup:
        raise UserError(f"optimizer {config.name} takes no schedule: set schedule=constant and warmup=0")
    return config.learning_rate


def _decay(config: OptimizerConfig, parameters: Any, axes: Any) -> dict[str, Any]:
    mask = {name: _over(axes, decays) for name in MASKS if name in parameters}
    if "weight_decay" in parameters and (mask or not config.weight_decay):
        return {"weight_decay": config.weight_decay, **mask}
    if config.weight_decay:
        reason = "decays norm scales and biases too" if "weight_decay" in parameters else "has no weight decay"
        # adafactor's weight_decay_rate is not scaled by the learning rate, so it is another quantity: an option.
        raise UserError(f"optimizer {config.name} {reason}: set weight_decay=0, or choose another, such as adamw")
    return mask


def _options(config: OptimizerConfig, parameters: Any, taken: dict[str, Any]) -> dict[str, Any]:
    options, free = dict(config.options), [name for name in parameters if name not in taken]
    for name in options:
        if name in taken:
            raise UserError(f"option {name!r} of optimizer {config.name} is set by a field of its own, or by the model")
        if name not in free:
            raise unknown(f"option of optimizer {config.name}", name, free)
    missing = [name for name in free if parameters[name].default is inspect.Parameter.empty and name not in options]
    if missing:
        raise UserError(f"optimizer {config.name} needs the options {', '.join(missing)}")
    return options


def _kept_as(optimizer: optax.GradientTransformation, dtype: Any) -> optax.GradientTransformation:
    """`optimizer` with what its state has for each weight rounded to `dtype` after a step; it computes in float32."""

    def cast(state: Any, params: Params, to: Any) -> Any:
        moments = like_weights(state, params, jax.tree.map(lambda p: True, params), False)
        return jax.tree.map(lambda x, moment: x.astype(to) if moment else x, state, moments)

    def update(updates, state, params=None):
        state = cast(state, updates, jnp.float32)
        new, state = optimizer.update(updates, state, params)
        return new, cast(state, updates, dtype)

    return optax.GradientTransformation(lambda params: cast(optimizer.init(params), params, dtype), update)


def _on_any_mesh(optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
    """`optimizer` with its update under automatic sharding, so that it may contract divided axes.

    On an explicit mesh Muon's products are refused as ambiguous; here the compiler chooses, and results come back laid
    out as their inputs were.
    """

    def update(updates, state, params=None):
        if AxisType.Explicit not in jax.sharding.get_abstract_mesh().axis_types:
            return optimizer.update(updates, state, params)
        layout = jax.tree.map(lambda x: jax.typeof(x).sharding.spec, (updates, state))
        automatic: Callable = jax.sharding.auto_axes(optimizer.update, out_sharding=layout)
        return automatic(updates, state, params)

    return optax.GradientTransformation(optimizer.init, update)
