"""Tasks put to a model: scores with intervals, as a table or JSON, and a log of every item."""

import dataclasses
import json
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxlm import arguments
from jaxlm.errors import UserError
from jaxlm.evals.items import Choices, Reading, Writing, asked
from jaxlm.evals.metrics import expected_calibration_error, pass_at_k
from jaxlm.evals.model import Model
from jaxlm.evals.statistics import bootstrap, standard_error, wilson
from jaxlm.evals.tasks import Task
from jaxlm.files import write_file

Say = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Measure:
    """One number of a task, with its 95 % interval and standard error; `n` items."""

    task: str
    metric: str
    value: float
    low: float
    high: float
    stderr: float
    n: int
    shots: int = 0


@dataclasses.dataclass(frozen=True)
class Report:
    """Measures, and a row for each item: task, item, what was asked, what came, scores."""

    model: str
    measures: tuple[Measure, ...]
    log: tuple[dict[str, Any], ...]

    def __getitem__(self, key: tuple[str, str]) -> float:
        """The value of (task, metric)."""
        return next(one.value for one in self.measures if (one.task, one.metric) == key)

    def table(self) -> str:
        head = ["task", "shots", "metric", "value", "95 % interval", "n"]
        lines = [
            [m.task, str(m.shots), m.metric, f"{m.value:.4f}", f"{m.low:.4f} .. {m.high:.4f}", str(m.n)]
            for m in self.measures
        ]
        width = [max(len(line[i]) for line in [head, *lines]) for i in range(len(head))]
        return "\n".join("  ".join(f"{word:{w}}" for word, w in zip(line, width)).rstrip() for line in [head, *lines])

    def json(self) -> str:
        # NaN and infinities are no JSON.
        plain = lambda m: {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in m.items()}
        return json.dumps(
            {"model": self.model, "measures": [plain(dataclasses.asdict(m)) for m in self.measures]}, indent=1
        )

    def save(self, folder: str | Path) -> None:
        """results.json, and items.jsonl."""
        write_file(Path(folder) / "results.json", self.json().encode() + b"\n")
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in self.log)
        write_file(Path(folder) / "items.jsonl", lines.encode("utf-8", "surrogatepass"))


def evaluate(
    model: Model,
    tasks: Sequence[Task],
    limit: int | None = None,
    shots: int = 0,
    samples: int = 1,
    temperature: float | None = None,
    stride: int | None = None,
    seed: int = 0,
    say: Say = lambda line: None,
) -> Report:
    """Every task's first `limit` items behind `shots` answered ones, the task's first, which are then not asked.

    `samples` texts are written for each prompt, at a temperature of .8 where there are several: shares that are right
    become pass@1 and pass@samples. Raises UserError for a task too small, and for two tasks of one name.
    """
    arguments.integer(shots, "shots", 0)
    arguments.integer(samples, "samples", 1)
    names = [task.name for task in tasks]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f"two tasks are named {twice!r}: give one of them another name (name:kind=file)")
    temperature = (0.8 if samples > 1 else 0.0) if temperature is None else temperature
    measures, log = [], []
    for task in tasks:
        say(f"{task.name}: {len(task.items)} items")
        k = 0 if isinstance(task.items[0], Reading) else shots  # a text is read alone
        if len(task.items) <= k:
            raise UserError(f"{task.name} has {len(task.items)} items, too few for {k} shots and a question")
        shown = [item.shown for item in task.items[:k]]
        if not all(shown):
            raise UserError(f"{task.name} has no answers to show before a question: use 0 shots")
        before = "".join(f"{one}\n\n" for one in shown)
        items = [asked(item, before) for item in task.items[k:][:limit]]
        rows, found = _asked(model, items, samples, temperature, stride, seed)
        measures += _measured(task, items, rows, found, samples, k)
        log += [{"task": task.name, "item": i, **row} for i, row in enumerate(rows)]
    return Report(model.name, tuple(measures), tuple(log))


def _asked(model: Model, items: Sequence[Any], samples: int, temperature: float, stride: int | None, seed: int) -> Any:
    """A row of the log for each item, and the texts of each, [] where none were written."""
    rows: list[dict[str, Any]] = [{} for _ in items]
    texts: list[list[str]] = [[] for _ in items]
    options = [(i, item) for i, item in enumerate(items) if isinstance(item, Choices)]
    scored = iter(model.logprobs([pair for _, item in options for pair in item.pairs])) if options else iter(())
    for i, item in options:
        found = [next(scored) for _ in item.pairs]
        scores, told = item.score(found)
        if len(item.pairs) == 1:  # the last word alone: is it what would be written?
            scores = {"acc": float(found[0].greedy), "nll": -found[0].logprob}
        rows[i] = {"prompt": item.pairs[0][0], "answer": told, "gold": list(item.gold), "scores": scores}
    reading = [(i, item) for i, item in enumerate(items) if isinstance(item, Reading)]
    for (i, item), found in zip(reading, model.rolling([item.text for _, item in reading], stride) if reading else ()):
        rows[i] = {"scores": item.score(found)[0]}
    kinds = defaultdict(list)  # prompts with the same stops and lengths go together
    for i, item in enumerate(items):
        if isinstance(item, Writing):
            kinds[item.stop, item.new].append(i)
    for (stop, new), at in kinds.items():
        for sample in range(samples):
            written = model.generate([items[i].prompt for i in at], new, stop, temperature, seed + sample)
            for i, text in zip(at, written):
                texts[i].append(text)
    for i, item in enumerate(items):
        if texts[i]:
            several = [item.judge(text) for text in texts[i]]
            mean = {name: float(np.mean([one[name] for one in several])) for name in several[0]}
            rows[i] = {"prompt": item.prompt, "answer": texts[i], "gold": item.reference, "scores": mean}
    return rows, texts


def _measured(task: Task, items: Sequence[Any], rows: Any, texts: Any, samples: int, shots: int) -> list[Measure]:
    found, of = [], [row["scores"] for row in rows]
    if isinstance(items[0], Reading):
        whole = Reading.measures(of)
        parts = np.array([[row[key] for key in ("nll", "tokens", "bytes", "words")] for row in of])
        for name, value in whole.items():
            measure = lambda drawn, name=name: _ratio(drawn, parts, name)
            low, high = bootstrap(np.arange(len(of)), 500, statistic=measure)
            found.append(Measure(task.name, name, value, low, high, 0.0, len(of), shots))
        return found
    names = [name for name in of[0] if all(name in one for one in of)]
    for name in names:
        values = np.array([one[name] for one in of])
        if name == "instructions":
            continue
        if name.startswith("inst_"):  # a share of instructions, not of prompts
            values = values * [one["instructions"] for one in of] / np.mean([one["instructions"] for one in of])
        found.append(_mean(task.name, name, values, shots))
        if samples > 1 and set(np.round(values * samples, 6)) <= set(range(samples + 1)):
            each = [pass_at_k(samples, round(v * samples), samples) for v in values]
            found.append(_mean(task.name, f"{name}@{samples}", np.array(each), shots))
    if "acc_norm" in names and len(of) > 1:
        p = [row["answer"]["confidence"] for row in rows]
        error = expected_calibration_error(p, [one["acc"] for one in of])
        found.append(Measure(task.name, "ece", error, math.nan, math.nan, math.nan, len(of), shots))
    groups = defaultdict(list)
    for item, one in zip(items, of):
        groups[item.group].append(one[names[0]])
    if len(groups) > 1:
        found += [_mean(task.name, f"{names[0]} of {group}", np.array(v), shots) for group, v in groups.items()]
    if task.corpus:
        scores = task.corpus([one[0].strip() for one in texts], [item.reference for item in items])
        for name, value in scores.items():
            if isinstance(value, float):
                found.append(Measure(task.name, name, value, math.nan, math.nan, math.nan, len(of), shots))
    return found


def _ratio(drawn: np.ndarray, parts: np.ndarray, name: str) -> np.ndarray:
    """`Reading.measures` of documents drawn again, (samples, n) -> (samples,)."""
    sums = parts[drawn.astype(int)].sum(1)
    return np.array([Reading.measures([dict(zip(("nll", "tokens", "bytes", "words"), row))])[name] for row in sums])


def _mean(task: str, name: str, values: np.ndarray, shots: int) -> Measure:
    """The mean, with Wilson's interval of zeros and ones and the bootstrap's of anything else."""
    n = len(values)
    low, high = wilson(int(values.sum()), n) if set(values) <= {0.0, 1.0} else bootstrap(values)
    return Measure(task, name, float(values.mean()), low, high, standard_error(values), n, shots)
