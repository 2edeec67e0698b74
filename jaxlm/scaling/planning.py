"""What to train with so much compute: the best size, the sizes of an isoFLOP sweep, and a model to be served.

Laws count 6 N D FLOPs. A sweep counts each config's own FLOPs, attention and head included (`models.flops`).
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxlm import arguments
from jaxlm.errors import UserError
from jaxlm.machine.chips import chip as chip_of
from jaxlm.models import flops as counted
from jaxlm.run import RunConfig
from jaxlm.scaling.fitting import Estimate, Fit
from jaxlm.scaling.law import Allocation, Law

SPREAD = 4.0  # sizes of a sweep lie within this factor of the best


def budget(chips: int, chip: str, hours: float, mfu: float) -> float:
    """FLOPs = chips x peak x seconds x the share of the peak that training reaches (model FLOPs utilisation)."""
    chips, chip = arguments.integer(chips, "chips", most=2**63), arguments.text(chip, "chip")
    hours, mfu = arguments.number(hours, "hours"), arguments.number(mfu, "mfu")
    if chips < 1 or not hours > 0 or not 0 < mfu <= 1:
        raise UserError(f"a budget needs chips >= 1, hours > 0 and 0 < mfu <= 1, got {chips}, {hours:g} and {mfu:g}")
    return chips * chip_of(chip.lower()).flops * hours * 3600 * mfu


def estimate(source: Law | Fit, f: Any) -> Estimate:
    """Of a fit with its interval; of a published law, whose resamples are not known, without."""
    if isinstance(source, Fit):
        return source.estimate(f)
    source, nan = _law(source), float("nan")
    return Estimate(float(f(source)), nan, nan, nan)


def optimum(source: Law | Fit, flops: float, batch: int) -> dict[str, Any]:
    """The best model of this budget: parameters, tokens and loss as estimates, and the steps of `batch` tokens."""
    flops, batch = arguments.positive(flops, "flops"), arguments.integer(batch, "batch", 1, 2**63)
    best = {
        name: estimate(source, lambda law, name=name: getattr(law.optimum(flops), name)) for name in Allocation._fields
    }
    tokens, parameters = best["tokens"].value, best["parameters"].value
    return {
        "flops": flops,
        "batch": batch,
        **best,
        "tokens_per_parameter": tokens / parameters,
        "steps": round(tokens / batch),
    }


@dataclasses.dataclass(frozen=True)
class Size:
    """One run of a sweep: the config with the steps that spend the budget, and the loss that is expected of it."""

    name: str
    run: RunConfig
    parameters: int
    tokens: int
    loss: Estimate


def sweep(source: Law | Fit, flops: float, configs: Mapping[str, RunConfig], count: int | None = None) -> list[Size]:
    """Every config trained for `flops`, the smallest first; with `count` so many, evenly spread round the best size.

    Of a family, `{f"depth {n}": gpt(n) for n in range(4, 33)}`. Raises UserError where not one lies within `SPREAD` of
    the best size.
    """
    flops = arguments.positive(flops, "flops")
    sizes = sorted(((counted.active_parameters(run.model), name) for name, run in configs.items()), key=lambda n: n[0])
    if count is not None:
        best = float(_law(source).optimum(flops).parameters)
        near = [size for size in sizes if best / SPREAD <= size[0] <= best * SPREAD]
        if not near:
            raise UserError(
                f"no config lies within a factor {SPREAD:g} of the best size, {best:.3g} parameters: the nearest has "
                f"{min((n for n, _ in sizes), key=lambda n: abs(np.log(n / best))):.3g}"
            )
        wanted = np.log(best) + np.linspace(-1, 1, count) * np.log(SPREAD)
        have = np.log([n for n, _ in near])
        sizes = [near[i] for i in sorted({int(np.abs(have - size).argmin()) for size in wanted})]
    return [_size(source, flops, name, configs[name], parameters) for parameters, name in sizes]


def _size(source: Law | Fit, flops: float, name: str, run: RunConfig, parameters: int) -> Size:
    per_token = counted.train_flops(run.model, run.data.T)
    steps = max(1, round(flops / (per_token * run.tokens_per_step)))
    tokens = steps * run.tokens_per_step
    loss = estimate(source, lambda law: law.loss(parameters, tokens))
    return Size(name, dataclasses.replace(run, steps=steps), parameters, tokens, loss)


def serve(source: Law | Fit, flops: float, served: float) -> dict[str, Any]:
    """The model as good as the best of this training budget that is cheapest to train and to serve `served` tokens.

    Minimises 6 N D + 2 N served over N with L(N, D) kept (Sardana et al. 2024, arXiv:2401.00448): the more is served,
    the smaller the model and the longer its training.
    """
    flops, served = arguments.positive(flops, "flops"), arguments.positive(served, "served")
    law = _law(source)
    best = law.optimum(flops)
    sizes = best.parameters * np.geomspace(1e-3, 1, 100_001)  # steps of 0.007 %; no larger model is cheaper to serve
    tokens = law.tokens(sizes, best.loss)
    total = 6 * sizes * tokens + 2 * sizes * served
    i = int(total.argmin())
    before = flops + 2 * best.parameters * served
    return {
        "served": served,
        "parameters": float(sizes[i]),
        "tokens": float(tokens[i]),
        "tokens_per_parameter": float(tokens[i] / sizes[i]),
        "train_flops": float(6 * sizes[i] * tokens[i]),
        "total_flops": float(total[i]),
        "saved": float(1 - total[i] / before),  # of training and serving the best of the training budget
    }


def _law(source: Law | Fit) -> Law:
    if not (isinstance(source, Fit) or hasattr(source, "optimum")):
        raise UserError(f"a law or a fit of one is needed, got {arguments.kind(source)}")
    return source.law if isinstance(source, Fit) else source
