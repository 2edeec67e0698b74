"""The command line: one small function a verb, which reads its arguments and calls its room.

Heavy imports happen inside the verbs, so that `jaxlm --help` answers at once. Exit codes: 0 on success, 2 with one
line on bad input, 130 on Ctrl-C.
"""

import argparse
import dataclasses
import io
import os
import signal
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import jaxlm
from jaxlm import host
from jaxlm.errors import UserError, machine_trouble, nearest, unknown

Args = argparse.Namespace


class Parser(argparse.ArgumentParser):
    """argparse, with mistakes as UserError."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{self.prog.removeprefix('jaxlm ')}: {message} (see `{self.prog} --help`)")


@dataclasses.dataclass(frozen=True)
class Verb:
    summary: str
    example: str
    arguments: Callable[[Parser], None]
    run: Callable[[Args], None]


# train, plan, configs ------------------------------------------------------------------------------------------------


def _config_arguments(parser: Parser) -> None:
    parser.add_argument("config", help="a name of `jaxlm configs`, FILE.py:FUNCTION, or a saved config or run folder")
    parser.add_argument(
        "overrides", nargs="*", default=[], metavar="key=value", help="such as steps=100 or optim.clip=none"
    )


def _train_arguments(parser: Parser) -> None:
    _config_arguments(parser)
    parser.add_argument(
        "--run", metavar="FOLDER", help="where the run is kept (default: runs/NAME); resumes what is there"
    )


def train(args: Args) -> None:
    from jaxlm.config import resolve

    run = resolve(args.config, args.overrides)
    folder = Path(args.run) if args.run else _run_folder(args.config)
    from jaxlm.train import loop

    loop.train(run, folder)


def _run_folder(config: str) -> Path:
    """A run folder or its config names itself; any other config is run in runs/NAME."""
    path = Path(config)
    if path.is_dir():
        return path
    if path.suffix == ".json":
        return path.parent if path.name == "config.json" else Path("runs") / path.stem
    name = config.rpartition(":")[2]
    return Path("runs") / Path(name).name.removesuffix(".py")


def _plan_arguments(parser: Parser) -> None:
    _config_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def plan(args: Args) -> None:
    from jaxlm.config import resolve

    run = resolve(args.config, args.overrides)
    import json

    from jaxlm import plan as room

    facts = room.plan(run)
    print(json.dumps(facts) if args.json else room.table(facts))


def configs(args: Args) -> None:
    from jaxlm.config import list_configs

    rows = list_configs()
    width = max((len(name) for name, _ in rows), default=0)
    for name, summary in rows:
        print(f"{name:{width}}  {summary}".rstrip())


# generate ------------------------------------------------------------------------------------------------------------


def _generate_arguments(parser: Parser) -> None:
    parser.add_argument("path", help="a run, a checkpoint, or a folder in Hugging Face's layout")
    parser.add_argument("--prompt", required=True, help="the text to continue")
    parser.add_argument("--max-new-tokens", type=_natural, default=64, metavar="N", help="default: 64")
    parser.add_argument("--greedy", action="store_true", help="always the likeliest token, instead of sampling")
    parser.add_argument("--temperature", type=float, metavar="X", help="default: 1.0; 0 is --greedy")
    parser.add_argument("--top-k", type=int, metavar="N", help="sample from the N likeliest tokens")
    parser.add_argument("--top-p", type=float, metavar="P", help="... from the likeliest that together have P")
    parser.add_argument(
        "--min-p", type=float, metavar="P", help="... from those at least P times as likely as the first"
    )
    parser.add_argument("--seed", type=_natural, default=0, metavar="N", help="default: 0")
    parser.add_argument("--stop", action="append", metavar="TEXT", help="end before this text; may be repeated")


def generate(args: Args) -> None:
    sampler = _sampler(args)
    import jax

    lm = jaxlm.load(args.path)
    pieces = lm.stream(args.prompt, args.max_new_tokens, sampler, jax.random.key(args.seed), args.stop)
    first = next(pieces, "")  # a mistake shows here, before anything is printed
    print(args.prompt, first, sep="", end="", flush=True)
    for piece in pieces:
        print(piece, end="", flush=True)
    print()


def _sampler(args: Args) -> Any:
    """Temperature first, then every filter that was asked for."""
    picked = [name for name in ("temperature", "top_k", "top_p", "min_p") if getattr(args, name) is not None]
    if args.greedy and picked:
        raise UserError(f"--greedy does not sample: leave out --{picked[0].replace('_', '-')}")
    if args.greedy or args.temperature == 0:
        return jaxlm.Greedy()
    sampler = jaxlm.Temperature(1.0 if args.temperature is None else args.temperature)
    if args.top_k is not None:
        sampler |= jaxlm.TopK(args.top_k)
    if args.top_p is not None:
        sampler |= jaxlm.TopP(args.top_p)
    if args.min_p is not None:
        sampler |= jaxlm.MinP(args.min_p)
    return sampler


def _natural(text: str) -> int:
    value = int(text)
    if not 0 <= value < 2**63:
        raise argparse.ArgumentTypeError(f"must be at least 0 and below 2**63, not {text}")
    return value


_natural.__name__ = "integer"  # argparse says "invalid integer value"


# convert -------------------------------------------------------------------------------------------------------------


def _convert_arguments(parser: Parser) -> None:
    parser.add_argument("source", metavar="SRC", help="a run, a checkpoint, or a folder in Hugging Face's layout")
    parser.add_argument("target", metavar="DST", help="the folder to write, in Hugging Face's layout")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), help="default: as they are stored")
    parser.add_argument("--max-shard-size", default="5GB", metavar="SIZE", help="of one file of weights; default: 5GB")


def convert(args: Args) -> None:
    lm = jaxlm.load(args.source, say=print)
    lm.save(args.target, args.max_shard_size, args.dtype, say=print)


# tokenizer -----------------------------------------------------------------------------------------------------------


def _tokenizer_train_arguments(parser: Parser) -> None:
    parser.add_argument("files", nargs="+", metavar="FILE", help="UTF-8 text to learn the vocabulary from")
    parser.add_argument("--out", required=True, metavar="FOLDER", help="where to write the tokenizer")
    parser.add_argument("--vocab-size", type=_natural, default=4096, metavar="N", help="default: 4096")
    parser.add_argument("--kind", choices=("bpe", "unigram"), default="bpe", help="default: bpe")


def tokenizer_train(args: Args) -> None:
    from jaxlm.text import train_sentencepiece

    tokenizer = train_sentencepiece(map(_read_text, args.files), args.vocab_size, args.kind)
    tokenizer.save(args.out)
    print(f"{args.out}: {args.kind}, {tokenizer.V} tokens")


def _tokenizer_encode_arguments(parser: Parser) -> None:
    parser.add_argument("path", help="a tokenizer, a run, or a folder in Hugging Face's layout")
    parser.add_argument("text", nargs="?", help="default: standard input")
    parser.add_argument("--special", action="store_true", help="add what the tokenizer's own post-processing adds")


def tokenizer_encode(args: Args) -> None:
    tokenizer = jaxlm.load_tokenizer(args.path)
    text = _read_text("-") if args.text is None else args.text
    print(*tokenizer.encode(text, special=args.special))


def _tokenizer_decode_arguments(parser: Parser) -> None:
    parser.add_argument("path", help="a tokenizer, a run, or a folder in Hugging Face's layout")
    parser.add_argument("ids", nargs="*", metavar="ID", help="default: standard input")
    parser.add_argument("--skip-special", action="store_true", help="leave special tokens out")


def tokenizer_decode(args: Args) -> None:
    tokenizer = jaxlm.load_tokenizer(args.path)
    words = args.ids or _read_text("-").split()
    for word in words:
        if not word.isdecimal():
            raise UserError(f"{word!r} is not a token id")
    print(tokenizer.decode([int(word) for word in words], skip_special=args.skip_special))


def _read_text(path: str) -> str:
    try:
        data = sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        name = "standard input" if path == "-" else path
        raise UserError(f"{name} is not UTF-8 text: byte {error.start} is {data[error.start]:#04x}") from error


# The command ---------------------------------------------------------------------------------------------------------

VERBS = {
    "train": Verb("train a model, or resume a run", "jaxlm train quickstart steps=200", _train_arguments, train),
    "generate": Verb(
        "continue a prompt",
        'jaxlm generate runs/quickstart --prompt "def " --top-p 0.9',
        _generate_arguments,
        generate,
    ),
    "plan": Verb("parameters, FLOPs and memory of a config", "jaxlm plan gpt2.py:gpt2_124m", _plan_arguments, plan),
    "configs": Verb("list the configs", "jaxlm configs", lambda parser: None, configs),
    "convert": Verb(
        "write a model in Hugging Face's layout",
        "jaxlm convert runs/quickstart exported --dtype bfloat16",
        _convert_arguments,
        convert,
    ),
    "tokenizer train": Verb(
        "learn a vocabulary from text files",
        "jaxlm tokenizer train corpus.txt --out tokenizer --vocab-size 4096",
        _tokenizer_train_arguments,
        tokenizer_train,
    ),
    "tokenizer encode": Verb(
        "text to token ids",
        'jaxlm tokenizer encode runs/quickstart "Hello"',
        _tokenizer_encode_arguments,
        tokenizer_encode,
    ),
    "tokenizer decode": Verb(
        "token ids to text",
        "jaxlm tokenizer decode runs/quickstart 72 101",
        _tokenizer_decode_arguments,
        tokenizer_decode,
    ),
}


HELP = ("-h", "--help")


def usage(names: Iterable[str] = tuple(VERBS)) -> str:
    """The verbs of these names, each with what it does and an example."""
    lines = [f"  {name:18}{VERBS[name].summary}\n  {'':18}  {VERBS[name].example}" for name in names]
    return "\n".join(["usage: jaxlm VERB ... (jaxlm VERB --help says more; also jaxlm --version)", "", *lines])


def _dispatch(argv: list[str]) -> None:
    """Run the verb that `argv` begins with."""
    if not argv:
        raise UserError(f"say what to do: {', '.join(VERBS)} (see `jaxlm --help`)")
    if argv[0] in HELP:
        return print(usage())
    if argv[0] == "--version":
        return print(f"jaxlm {jaxlm.__version__}")
    for words in (2, 1):
        if " ".join(argv[:words]) in VERBS:
            return _run(" ".join(argv[:words]), argv[words:])
    below = [name for name in VERBS if name.startswith(f"{argv[0]} ")]
    if below and argv[1:2] in [[option] for option in HELP]:
        return print(usage(below))
    said = " ".join(argv[:2]) if below else argv[0]
    raise unknown("verb", said, below or VERBS)


def _run(name: str, argv: list[str]) -> None:
    verb = VERBS[name]
    parser = Parser(prog=f"jaxlm {name}", description=verb.summary, epilog=verb.example, allow_abbrev=False)
    verb.arguments(parser)
    args, strays = parser.parse_known_intermixed_args(argv)  # intermixed: overrides may stand after options
    if strays:
        options = [option for option in parser._option_string_actions if option.startswith("--")]
        offer = f": the nearest is {nearest(strays[0], options)!r}" if strays[0].startswith("-") else ""
        parser.error(f"unexpected {strays[0]!r}{offer}")
    verb.run(args)


def console() -> int:
    """`main` as a program of its own, which may choose how its process is started."""
    if sys.argv[1:2] in (["train"], ["generate"]):
        host.restart_with_huge_pages()
    return main()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` and return its exit code."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal that cannot show a character gets "?"
    try:
        _dispatch(list(sys.argv[1:] if argv is None else argv))
        sys.stdout.flush()
        return 0
    except UserError as error:
        return _fail(str(error))
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BrokenPipeError:  # the reader has left: say nothing, now and when Python flushes at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + 13
    except SystemExit as error:  # argparse, after --help
        return int(error.code or 0)
    except Exception as error:  # full disks and memories come from any library, wrapped in any exception
        line = machine_trouble(error)
        if line is None:
            raise
        return _fail(line)


def _fail(line: str) -> int:
    print(f"jaxlm: error: {' '.join(line.split())}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(console())
