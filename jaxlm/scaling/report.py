"""What the command line prints: tables of models, of fits and of plans."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxlm.run import RunConfig
from jaxlm.scaling.accounting import Part, chinchilla_flops, matrices, parts, summary
from jaxlm.scaling.fitting import LEVEL, Estimate, Fit
from jaxlm.scaling.isoflops import IsoFLOPs
from jaxlm.scaling.planning import Size
from jaxlm.scaling.runs import Runs

UNITS = ((1e12, "T"), (1e9, "B"), (1e6, "M"))


def short(x: float) -> str:
    """1.32B, 2.4e+21: three digits or so."""
    for scale, unit in UNITS:
        if scale <= abs(x) < 1000 * scale:
            return f"{x / scale:.3g}{unit}"
    return f"{x:,.0f}" if 1000 <= abs(x) < 1e6 else f"{x:.4g}"


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    """The first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = ("  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def one_model(run: RunConfig) -> str:
    """Parts and matrices of a config; FLOPs per token of texts as long as its data's."""
    model, T = run.model, run.data.T
    found = parts(model, T)
    total = sum(found.values(), Part())
    rows = [["part", "parameters", "a layer", "active", "forward FLOPs", "training FLOPs", "share"]]
    for name, part in [*found.items(), ("total", total)]:
        layered = name in ("attention", "attention scores", "feed-forward")
        rows.append(
            [
                name,
                f"{part.parameters:,}",
                f"{part.parameters // model.depth:,}" if layered else "",
                f"{part.active:,}",
                f"{part.forward_flops:.4g}",
                f"{part.train_flops:.4g}",
                f"{part.forward_flops / total.forward_flops:.1%}",
            ]
        )
    weights = [["matrix", "shape", "count", "parameters"]]
    for matrix in matrices(model):
        shape = " x ".join(map(str, matrix.shape))
        weights.append([matrix.name, shape, f"{matrix.count:,}", f"{matrix.parameters:,}"])
    rules = f"training FLOPs per token, T = {T}: {total.train_flops / (6 * total.active):.4f} of 6 N"
    theirs = chinchilla_flops(model, T)
    if theirs is not None:
        rules += f"; Chinchilla's own count is {theirs / total.train_flops:.4f} of ours"
    return "\n\n".join([_aligned(rows), _aligned(weights), rules])


def many_models(runs: Mapping[str, RunConfig]) -> str:
    """A row a config: its size, and the training that it plans."""
    rows: list[list[str]] = []
    for name, run in runs.items():
        row = summary(run)
        rows = rows or [["config", *row]]
        rows.append([name, *(f"{v:,}" if isinstance(v, int) and k != "tokens" else short(v) for k, v in row.items())])
    return _aligned(rows)


def interval(estimate: Estimate) -> str:
    if np.isnan(estimate.low):
        return short(estimate.value)
    return f"{short(estimate.value)} [{short(estimate.low)}, {short(estimate.high)}]"


def predictions(fit: Fit, runs: Runs) -> list[dict[str, float]]:
    """What the law says of runs that it was not fitted to, and how far it is off."""
    columns = dataclasses.asdict(runs) | {
        "predicted": fit.law.loss(runs.parameters, runs.tokens),
        "error": fit.errors(runs),
    }
    return [{name: float(values[i]) for name, values in columns.items()} for i in range(len(runs))]


def facts(fit: Fit, isoflops: IsoFLOPs | None, held: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """`fitted` as plain values."""
    found: dict[str, Any] = {name: _plain(e) for name, e in fit.constants().items()}
    return {
        "runs": len(fit.runs),
        "constants": found,
        "exponent": _plain(fit.estimate(lambda law: law.exponent)),
        "mean_error": float(np.abs(fit.errors()).mean()),
        "undetermined": fit.undetermined(),
        "drop": fit.far_off(),
        "isoflops": isoflops and {
            "curves": [{k: getattr(v, k) for k in ("flops", "parameters", "tokens", "loss")} for v in isoflops.valleys],
            "parameters": dataclasses.asdict(isoflops.parameters),
            "tokens": dataclasses.asdict(isoflops.tokens),
        },
        "held": list(held),
    }  # fmt: skip


def fitted(fit: Fit, isoflops: IsoFLOPs | None, held: Sequence[Mapping[str, float]]) -> str:
    """The constants with their intervals, how well they fit, and what they predict of runs held out."""
    rows = [["constant", "value", f"{LEVEL:.0%} interval", "standard error"]]
    named = {**fit.constants(), "a in N ~ C^a": fit.estimate(lambda law: law.exponent)}
    if isoflops is not None:
        named["a, isoFLOP"] = isoflops.parameters.exponent
        named["b, isoFLOP"] = isoflops.tokens.exponent
    for name, e in named.items():
        rows.append([name, f"{e.value:.4g}", f"{e.low:.4g} .. {e.high:.4g}", f"{e.error:.2g}"])
    off = np.abs(fit.errors())
    lines = [
        _aligned(rows),
        f"{len(fit.runs)} runs fitted: off by {off.mean():.2%} on average, {off.max():.2%} at most",
    ]
    if isoflops is not None:
        lines[-1] += f"; {len(isoflops.valleys)} isoFLOP curves"
    if count := fit.far_off():
        runs = "run of the highest loss is" if count == 1 else f"{count} runs of the highest loss are"
        lines.append(f"the {runs} far off, and few runs move all constants: try --drop {count}")
    if open_ := fit.undetermined():
        names, verb = ", ".join(open_), "is" if len(open_) == 1 else "are"
        lines.append(f"{names} {verb} not determined by these {len(fit.runs)} runs: foretell no loss far from theirs")
    for run in held:
        lines.append(
            f"held out: {short(run['parameters'])} parameters, {short(run['tokens'])} tokens: loss {run['loss']:.4f}, "
            f"predicted {run['predicted']:.4f} ({run['error']:+.2%})"
        )
    return "\n".join(lines)


def planned(facts: Mapping[str, Any], served: Mapping[str, Any] | None, sizes: Sequence[Size]) -> str:
    """The best model of a budget; the one to serve; the runs of a sweep."""
    lines = [
        f"compute     {facts['flops']:.4g} FLOPs",
        f"parameters  {interval(facts['parameters'])}",
        f"tokens      {interval(facts['tokens'])} ({facts['tokens_per_parameter']:.3g} a parameter)",
        f"steps       {facts['steps']:,} of {facts['batch']:,} tokens",
        f"loss        {interval(facts['loss'])}",
    ]
    if served:
        lines.append(
            f"to serve {short(served['served'])} tokens as well: {short(served['parameters'])} parameters on "
            f"{short(served['tokens'])} tokens ({served['tokens_per_parameter']:.3g} a parameter), "
            f"{served['total_flops']:.4g} FLOPs in all, {served['saved']:.1%} saved"
        )
    if sizes:
        rows = [["config", "parameters", "tokens", "a parameter", "steps", "loss"]]
        for size in sizes:
            ratio = f"{size.tokens / size.parameters:.3g}"
            row = [size.name, short(size.parameters), short(size.tokens), ratio, f"{size.run.steps:,}"]
            rows.append([*row, interval(size.loss)])
        lines += ["", _aligned(rows)]
    return "\n".join(lines)


def plan_facts(facts: Mapping[str, Any], served: Mapping[str, Any] | None, sizes: Sequence[Size]) -> dict[str, Any]:
    """`planned` as plain values; an interval that is not known is null."""
    plain = {key: _plain(value) if isinstance(value, Estimate) else value for key, value in facts.items()}
    table = [
        {
            "name": size.name,
            "parameters": size.parameters,
            "tokens": size.tokens,
            "steps": size.run.steps,
            "loss": _plain(size.loss),
        }
        for size in sizes
    ]
    return {**plain, "serve": served, "sizes": table}


def _plain(estimate: Estimate) -> dict[str, float | None]:
    return {name: value if np.isfinite(value) else None for name, value in dataclasses.asdict(estimate).items()}
