"""The verb that evaluates a model on tasks."""

import jaxlm
from jaxlm.cli.verb import Args, Parser, Verb, natural
from jaxlm.errors import UserError
from jaxlm.paths import expand


def _arguments(parser: Parser) -> None:
    parser.add_argument("path", help="what `generate` opens, or the address of a server: http://HOST:PORT/v1")
    parser.add_argument(
        "--tasks", nargs="+", required=True, metavar="[NAME:]KIND=FILE", help="such as gsm8k=gsm8k_test.jsonl"
    )
    parser.add_argument("--limit", type=natural, metavar="N", help="only the first N items of each")
    parser.add_argument("--shots", type=natural, default=0, metavar="K", help="answered items before each; default: 0")
    parser.add_argument("--samples", type=natural, default=1, metavar="N", help="texts written for each; default: 1")
    parser.add_argument("--temperature", type=float, metavar="X", help="default: 0, .8 where there are several samples")
    parser.add_argument("--stride", type=natural, metavar="N", help="tokens that a window of a text adds")
    parser.add_argument("--length", type=natural, metavar="N", help="longest window; default: the model's, up to 2048")
    parser.add_argument("--batch", type=natural, default=8, metavar="N", help="texts at a time; default: 8")
    parser.add_argument("--model", default="", help="of a server: which; default: its first")
    parser.add_argument("--tokenizer", metavar="PATH", help="of a server: send tokens, cut as for a local model")
    parser.add_argument("--adapter", metavar="FOLDER", help="of peft's, put on the model (LoRA, DoRA, IA3)")
    parser.add_argument("--out", metavar="FOLDER", help="write results.json, and items.jsonl with every item")
    parser.add_argument("--json", action="store_true", help="print JSON in place of the table")


def run(args: Args) -> None:
    from jaxlm.evals.run import evaluate
    from jaxlm.evals.tasks import task

    tasks = []
    for said in args.tasks:
        kind, equals, path = said.partition("=")
        if not equals or not kind or not path:
            raise UserError(f"--tasks wants KIND=FILE, such as gsm8k=gsm8k_test.jsonl, not {said!r}")
        name, _, kind = kind.rpartition(":")
        tasks.append(task(kind, path, None if args.limit is None else args.limit + args.shots, name))
    report = evaluate(_model(args), tasks, args.limit, args.shots, args.samples, args.temperature, args.stride or None)
    if args.out:
        report.save(expand(args.out))
    print(report.json() if args.json else report.table())


def _model(args: Args):
    if args.path.startswith(("http://", "https://")):
        from jaxlm.evals.server import Server

        tokenizer = jaxlm.load_tokenizer(args.tokenizer) if args.tokenizer else None
        return Server(args.path, args.model, tokenizer, **({"length": args.length} if args.length else {}))
    from jaxlm.evals.local import Local

    return Local(jaxlm.load(args.path, adapter=args.adapter), args.path, args.batch, args.length)


VERBS = {
    "eval": Verb(
        "measure a model on tasks",
        "jaxlm eval runs/quickstart --tasks gsm8k=gsm8k_test.jsonl --limit 100",
        _arguments,
        run,
    )
}
