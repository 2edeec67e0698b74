"""The verbs of scaling laws: table, fit, plan."""

from __future__ import annotations

from typing import Any

from jaxlm.cli.verb import Args, Parser, Verb, natural
from jaxlm.errors import UserError

FORMS = ("chinchilla", "tied", "kaplan")
BATCH = 2**19  # tokens a step


def _table_arguments(parser: Parser) -> None:
    parser.add_argument("configs", nargs="+", metavar="CONFIG", help="names of `jaxlm configs`, files, run folders")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def table(args: Args) -> None:
    from jaxlm.config import resolve

    runs = {name: resolve(name) for name in args.configs}
    import dataclasses
    import json

    from jaxlm.scaling import accounting, report

    if args.json:
        found = {
            name: {
                **accounting.summary(run),
                "parts": {k: dataclasses.asdict(v) for k, v in accounting.parts(run.model, run.data.T).items()},
            }
            for name, run in runs.items()
        }
        return print(json.dumps(found))
    if len(runs) == 1:
        print(report.one_model(*runs.values()))
        print()
    print(report.many_models(runs))


def _fit_arguments(parser: Parser) -> None:
    parser.add_argument("runs", nargs="+", metavar="RUNS", help="a .csv or .jsonl with a run a row, or run folders")
    parser.add_argument("--form", choices=FORMS, default=FORMS[0], help="of the law; tied: alpha = beta")
    parser.add_argument(
        "--drop",
        type=natural,
        default=0,
        metavar="N",
        help="leave out the N runs of the highest loss",
    )
    parser.add_argument("--hold", type=natural, default=0, metavar="N", help="... predict the N of the most compute")
    parser.add_argument("--plot", metavar="PNG", help="draw it")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def fit(args: Args) -> None:
    from jaxlm import scaling

    runs = scaling.read(args.runs)
    if args.drop + args.hold >= len(runs):
        raise UserError(f"--drop {args.drop} and --hold {args.hold} leave none of the {len(runs)} runs")
    runs = runs.without_highest(args.drop).by_compute()
    held = runs.take(slice(len(runs) - args.hold, None))
    runs = runs.take(slice(len(runs) - args.hold))
    found = scaling.fit(runs, _form(args.form))
    try:
        isoflops = scaling.fit_isoflops(runs)
    except UserError:  # runs need not lie on isoFLOP curves
        isoflops = None
    import json

    from jaxlm.scaling import report

    predictions = report.predictions(found, held)
    if args.json:
        print(json.dumps(report.facts(found, isoflops, predictions)))
    else:
        print(report.fitted(found, isoflops, predictions))
    if args.plot:
        from jaxlm.scaling.plot import plot

        plot(found, isoflops, args.plot)


def _form(name: str) -> Any:
    from jaxlm.scaling import ChinchillaForm, KaplanForm

    return KaplanForm() if name == "kaplan" else ChinchillaForm(tied=name == "tied")


def _plan_arguments(parser: Parser) -> None:
    parser.add_argument("--flops", type=float, metavar="C", help="the training budget, such as 1e21")
    parser.add_argument("--chips", type=natural, metavar="N", help="... or that of so many")
    parser.add_argument("--chip", metavar="NAME", help="... of this kind, such as h100")
    parser.add_argument("--hours", type=float, metavar="H", help="... for so long")
    parser.add_argument("--mfu", type=float, default=0.4, metavar="X", help="the share of peak reached; default: 0.4")
    parser.add_argument(
        "--runs", nargs="+", metavar="RUNS", help="fit the law to these; default: Besiroglu et al. 2024"
    )
    parser.add_argument("--batch", type=natural, default=BATCH, metavar="TOKENS", help=f"of a step; default: {BATCH}")
    parser.add_argument("--serve", type=float, metavar="TOKENS", help="also the cheapest as good model to serve these")
    parser.add_argument("--sizes", nargs="+", default=[], metavar="CONFIG", help="what these reach with that budget")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def plan(args: Args) -> None:
    machine = (args.chips, args.chip, args.hours)
    if machine.count(None) != (0 if args.flops is None else 3):
        raise UserError("say how much compute: --flops C, or all of --chips N --chip NAME --hours H")
    for name in ("flops", "serve", "batch"):
        value = getattr(args, name)
        if value is not None and not 0 < value < float("inf"):
            raise UserError(f"--{name} must be a positive number, not {value:g}")
    from jaxlm.config import resolve

    configs = {name: resolve(name) for name in args.sizes}
    from jaxlm import scaling

    flops = scaling.budget(*machine, args.mfu) if args.flops is None else args.flops
    source: Any = scaling.fit(scaling.read(args.runs)) if args.runs else scaling.BESIROGLU
    facts = scaling.optimum(source, flops, args.batch)
    served = scaling.serve(source, flops, args.serve) if args.serve else None
    sizes = scaling.sweep(source, flops, configs)
    import json

    from jaxlm.scaling import report

    if args.json:
        print(json.dumps(report.plan_facts(facts, served, sizes)))
    else:
        print(report.planned(facts, served, sizes))


VERBS = {
    "scaling table": Verb(
        "parameters and FLOPs, part by part or model by model",
        "jaxlm scaling table gpt3_small gpt3_175b",
        _table_arguments,
        table,
    ),
    "scaling fit": Verb(
        "fit a scaling law to finished runs",
        "jaxlm scaling fit runs.csv --plot law.png",
        _fit_arguments,
        fit,
    ),
    "scaling plan": Verb(
        "what to train with so much compute",
        "jaxlm scaling plan --flops 1e21 --sizes gpt3_large gpt3_xl",
        _plan_arguments,
        plan,
    ),
}
