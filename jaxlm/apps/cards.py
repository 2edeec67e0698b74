"""What a run cost, and cards of models and data written from what lies in their folders."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxlm import arguments
from jaxlm.errors import UserError
from jaxlm.files import write_file
from jaxlm.paths import expand


@dataclasses.dataclass(frozen=True)
class Footprint:
    """Energy of a computation and the carbon dioxide of its electricity."""

    kwh: float
    kg_co2: float

    def __str__(self) -> str:
        return f"{self.kwh:.3g} kWh, {self.kg_co2:.3g} kg CO2"


def footprint(hours: float, watts: float, chips: int = 1, pue: float = 1.1, g_per_kwh: float = 400) -> Footprint:
    """kWh = chips watts hours pue / 1000 (Strubell et al. 2019; Patterson et al. 2021, arXiv:2104.10350).

    `watts` of one chip with its share of the host, `pue` what the building adds, `g_per_kwh` of the grid: the mean of
    the world is about 450, of Spain's about 120; ask the operator for the true ones.
    """
    for name, value in (("hours", hours), ("watts", watts), ("pue", pue)):
        arguments.positive(value, name)
    if arguments.number(g_per_kwh, "g_per_kwh") < 0 or pue < 1:
        raise UserError("g_per_kwh cannot be negative, nor pue below 1")
    kwh = arguments.integer(chips, "chips", 1) * watts * hours * pue / 1000
    return Footprint(kwh, kwh * g_per_kwh / 1000)


def hours_of(flops: float, peak: float, mfu: float, chips: int = 1) -> float:
    """Hours that so many FLOPs take on chips of `peak` FLOP/s used at `mfu` (0 .. 1)."""
    arguments.positive(flops, "flops")
    if not 0 < arguments.number(mfu, "mfu") <= 1:
        raise UserError(f"mfu must lie in 0 .. 1, got {mfu:g}")
    return flops / (arguments.positive(peak, "peak") * mfu * chips) / 3600


def model_card(run: str | Path, notes: str = "", cost: Footprint | None = None, results: str | Path = "") -> str:
    """A model card (Mitchell et al. 2019) of a run's folder: its config, data, last metrics; `results` is a
    results.json of `jaxlm eval`. What no file says is left to be filled in, and named so."""
    folder = expand(run)
    config = _json(folder / "config.json")
    metrics = _last_metrics(folder / "metrics.jsonl")
    part = lambda title, lines: f"## {title}\n\n" + "\n".join(lines or ["To be filled in."]) + "\n"
    model = config.get("model", {})
    kind = str(model.get("type", "?")).rpartition(".")[2]
    sizes = [f"- {k}: {model[k]}" for k in ("V", "D", "depth", "dtype") if k in model]
    data = config.get("data", {})
    sources = [
        f"- {s.get('path')} (weight {s.get('weight', 1)})" for s in data.get("sources", []) if isinstance(s, dict)
    ]
    steps = [f"- {name}: {config[name]}" for name in ("steps", "batch", "seed") if name in config]
    measured = [f"- {name}: {value:.4g}" for name, value in metrics.items() if isinstance(value, int | float)]
    if results:
        for one in _json(expand(results)).get("measures", []):
            measured.append(f"- {one['task']}, {one['metric']}: {one['value']:.4g} (n = {one['n']})")
    sections = [
        part("Model", [f"- a {kind} of jaxlm", *sizes]),
        part("Training data", sources),
        part("Training", steps),
        part("Measured", measured),
        part("Energy", [f"- {cost}"] if cost else []),
        part("Intended use, limits and risks", [notes] if notes else []),
    ]
    return f"# {folder.name}\n\n" + "\n".join(sections)


def data_card(name: str, table: str, notes: str = "", cleaning: Sequence[str] = ()) -> str:
    """A data sheet (Gebru et al. 2021): `table` is `data.clean.mixture`'s, `cleaning` what passes printed."""
    passes = "\n\n".join(f"```\n{one}\n```" for one in cleaning) or "None recorded."
    said = notes or "To be filled in: where the texts come from, their licences, whom they concern."
    holds = f"# {name}\n\n## What it holds\n\n```\n{table}\n```\n"
    return f"{holds}\n## Cleaning\n\n{passes}\n\n## Origin and licences\n\n{said}\n"


def save(card: str, path: str | Path) -> None:
    write_file(expand(path), card.encode())


def _json(path: Path) -> Any:
    try:
        found = json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}: a card is written from a run's folder") from None
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(found, dict):
        raise UserError(f"{path} must hold an object")
    return found


def _last_metrics(path: Path) -> dict[str, Any]:
    """The last value of each metric; a line that is cut short, of a run that was killed, is passed over."""
    found: dict[str, Any] = {}
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            found |= json.loads(line)
        except (ValueError, TypeError):
            continue
    return found
