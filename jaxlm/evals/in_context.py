"""In-context learning: a task's score against the examples that the model is shown (Brown et al. 2020)."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from jaxlm import picture
from jaxlm.errors import UserError
from jaxlm.evals.model import Model
from jaxlm.evals.run import Measure, evaluate
from jaxlm.evals.tasks import Task


def by_shots(model: Model, task: Task, metric: str, shots: Sequence[int] = (0, 1, 2, 4, 8)) -> list[Measure]:
    """The metric with each number of examples; the same items are asked every time, those behind the most shots."""
    most, found = max(shots), []
    for k in shots:
        same = dataclasses.replace(task, items=task.items[most - k :])
        report = evaluate(model, [same], shots=k)
        measure = next((one for one in report.measures if one.metric == metric), None)
        if measure is None:
            raise UserError(f"{task.name} has no metric {metric!r}, but {', '.join(m.metric for m in report.measures)}")
        found.append(measure)
    return found


def plot_shots(curves: dict[str, Sequence[Measure]], path: str | Path) -> None:
    """A curve for each model, with its 95 % intervals."""
    figure, axes = picture.blank(6, 3.4)
    for i, (name, measures) in enumerate(curves.items()):
        x, colour = [one.shots for one in measures], picture.COLOURS[i % len(picture.COLOURS)]
        axes.plot(x, [one.value for one in measures], "o-", color=colour, label=name, linewidth=1.3)
        axes.fill_between(x, [m.low for m in measures], [m.high for m in measures], color=colour, alpha=0.15)
    picture.dress(axes, "In-context learning", "examples shown", next(iter(curves.values()))[0].metric)
    axes.legend(fontsize=8, frameon=False)
    picture.save(figure, path)
