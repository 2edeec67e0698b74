"""The command line: one small function a verb, which reads its arguments and calls its room.

Heavy imports happen inside the verbs, so that `jaxlm --help` answers at once. Exit codes: 0 on success, 2 with one
line on bad input, 130 on Ctrl-C.
"""

import contextlib
import io
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterable, Sequence

import jaxlm
from jaxlm import config
from jaxlm.cli import data, evals, families, info, models, plan, scaling, serve, tokenizer, transcribe, working
from jaxlm.cli.verb import Args, Parser
from jaxlm.errors import UserError, machine_trouble, nearest, one_line, unknown

ROOMS = (models, evals, data, families, info, plan, tokenizer, scaling, serve, transcribe)
VERBS = {name: verb for room in ROOMS for name, verb in room.VERBS.items()}
HELP = ("-h", "--help")


def usage(names: Iterable[str] = tuple(VERBS)) -> str:
    """The verbs of these names, each with what it does and an example."""
    lines = [f"  {name:18}{VERBS[name].summary}\n  {'':18}  {VERBS[name].example}" for name in names]
    first = "usage: jaxlm VERB ... (jaxlm VERB --help says more; also jaxlm --version)"
    own = "       jaxlm --module my.py VERB ... where saved configs have classes of my.py"
    return "\n".join([first, own, "", *lines])


def _dispatch(argv: list[str]) -> None:
    """Run the verb that `argv` begins with."""
    if not argv:
        raise UserError(f"say what to do: {', '.join(VERBS)} (see `jaxlm --help`)")
    if argv[0] in HELP:
        return print(usage())
    while argv[0] == "--module":
        if len(argv) < 3:
            raise UserError("--module: name a file or module, then a verb: jaxlm --module my.py generate runs/mine")
        config.trust(argv[1])
        argv = argv[2:]
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
    try:
        if strays:
            _refuse(parser, args, argv, strays[0])
        verb.run(args)
    except UserError as error:
        if command := working.command(name, argv, error):
            stop = "" if str(error).endswith("?") else "."
            raise UserError(f"{error}{stop} Try: {command}") from error
        raise


def _refuse(parser: Parser, args: Args, argv: list[str], stray: str) -> None:
    """Raises UserError for an argument that a verb does not take: it may be a field of the config."""
    if not stray.startswith("-"):
        parser.error(f"unexpected {stray!r}")
    options = [option for option in parser._option_string_actions if option.startswith("--")]
    near = nearest(stray.partition("=")[0], options)
    if right := working.as_override(args, argv, stray, near):
        kind = "an argument" if right[1][0] == args.config else "a field"
        raise UserError(f"{parser.prog.removeprefix('jaxlm ')}: {stray} is no option but {kind} of the config", *right)
    parser.error(f"unexpected {stray!r}: the nearest is {near!r}")


def console() -> int:
    """`main` as a program of its own, which may choose how its process is started."""
    if sys.argv[1:2] in (["train"], ["generate"]):
        from jaxlm.machine import host

        host.restart_with_huge_pages()
    warnings.showwarning = _show_warning
    try:
        code = main()
    except KeyboardInterrupt:  # one that came while another was being handled
        code = 128 + signal.SIGINT
    if threading.current_thread() is threading.main_thread():
        # What Python does at its end is no place for an exception.
        signal.signal(signal.SIGINT, lambda *_: os._exit(code or 128 + signal.SIGINT))
    return code


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


def _show_warning(message: Warning | str, *where: object, **more: object) -> None:
    """A warning in one line: where in the code it was raised is not for the reader of a terminal."""
    with contextlib.suppress(OSError):
        print(f"jaxlm: warning: {one_line(str(message))}", file=sys.stderr)


def _fail(line: str) -> int:
    print(f"jaxlm: error: {one_line(line)}", file=sys.stderr)
    return 2
