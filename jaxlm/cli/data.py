"""The verbs of training sets."""

from jaxlm.cli.verb import Args, Parser, Verb, natural
from jaxlm.errors import UserError


def _files(parser: Parser, out: bool = True) -> None:
    parser.add_argument("files", nargs="+", metavar="FILE", help="texts, JSON lines, parquet; folders, globs")
    parser.add_argument("--field", default="text", help="of JSON lines and parquet; default: text")
    if out:
        parser.add_argument("--out", required=True, metavar="FILE.jsonl", help="where what stays is written")


def _dedup_arguments(parser: Parser) -> None:
    _files(parser)
    parser.add_argument("--threshold", type=float, default=0.7, metavar="X", help="least similarity; default: 0.7")
    parser.add_argument("--texts", type=natural, default=1 << 20, metavar="N", help="remembered; default: 1048576")


def dedup(args: Args) -> None:
    from jaxlm.data import clean
    from jaxlm.data.duplicates import NearDuplicates

    counts = clean.Counts()
    finder = NearDuplicates(args.threshold, args.texts)
    clean.write(clean.dedup(clean.read(args.files, args.field), finder, counts), args.out)
    print(counts)


def _filter_arguments(parser: Parser) -> None:
    _files(parser)
    parser.add_argument("--rules", nargs="+", metavar="NAME", help="default: all of jaxlm.data.quality.RULES")
    parser.add_argument("--languages", nargs="+", default=[], metavar="CODE", help="that stay, such as en es")
    parser.add_argument("--keep-personal-data", action="store_true", help="do not hide addresses and numbers")


def clean_up(args: Args) -> None:
    from jaxlm.data import clean
    from jaxlm.data.quality import RULES, Filter

    rules = Filter(tuple(args.rules or RULES), tuple(args.languages))
    counts = clean.Counts()
    found = clean.cleaned(clean.read(args.files, args.field), rules, counts, not args.keep_personal_data)
    clean.write(found, args.out)
    print(counts)


def _check_arguments(parser: Parser) -> None:
    _files(parser, out=False)
    parser.add_argument("--against", nargs="+", required=True, metavar="KIND=FILE", help="tasks, as `jaxlm eval` has")
    parser.add_argument("--n", type=natural, default=13, metavar="N", help="words of a run; default: 13")
    parser.add_argument("--share", type=float, default=0.5, metavar="X", help="of an item's runs; default: 0.5")


def check(args: Args) -> None:
    from jaxlm.data import clean
    from jaxlm.data.quality import Contamination
    from jaxlm.evals.items import Choices, Reading
    from jaxlm.evals.tasks import task

    items = []
    for said in args.against:
        kind, equals, path = said.partition("=")
        if not equals:
            raise UserError(f"--against wants KIND=FILE, such as gsm8k=gsm8k_test.jsonl, not {said!r}")
        for one in task(kind, path).items:
            asked = (
                one.pairs[0][0] if isinstance(one, Choices) else one.text if isinstance(one, Reading) else one.prompt
            )
            items.append(asked)
    found = clean.check(clean.read(args.files, args.field), Contamination(items, max(1, args.n), args.share))
    print(f"{len(found.contaminated)} of {len(items)} items are in the training texts")
    for i in found.contaminated:
        print(f"  item {i + 1}: {100 * found.overlap[i]:.0f} % in {found.where[i]}: {items[i][:60]!r}")


def report(args: Args) -> None:
    from jaxlm.data.clean import mixture

    count = None
    if args.tokenizer:
        import jaxlm

        tokenizer = jaxlm.load_tokenizer(args.tokenizer)
        count = lambda text: len(tokenizer.encode(text, literal=True))
    print(mixture(args.files, args.field, count))


def _report_arguments(parser: Parser) -> None:
    _files(parser, out=False)
    parser.add_argument("--tokenizer", metavar="PATH", help="count its tokens in place of words")


VERBS = {
    "data dedup": Verb(
        "leave out near duplicates", "jaxlm data dedup crawl/*.jsonl --out unique.jsonl", _dedup_arguments, dedup
    ),
    "data filter": Verb(
        "leave out bad texts, hide personal data",
        "jaxlm data filter unique.jsonl --languages en es --out clean.jsonl",
        _filter_arguments,
        clean_up,
    ),
    "data check": Verb(
        "find evaluation items in training texts",
        "jaxlm data check clean.jsonl --against gsm8k=gsm8k_test.jsonl",
        _check_arguments,
        check,
    ),
    "data report": Verb("what a mixture holds", "jaxlm data report a.jsonl b.txt", _report_arguments, report),
}
