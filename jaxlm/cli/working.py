"""The command that would have worked, told with the mistake."""

import shlex
from collections.abc import Sequence

from jaxlm import config_names
from jaxlm.cli.verb import Args
from jaxlm.errors import UserError

MENDED = 8  # mistakes of one command


def command(name: str, argv: Sequence[str], error: UserError) -> str:
    """The verb `name` with `argv` as the error says it would be right, and further ones of its config; "" where that
    is not known."""
    if not error.right:
        return ""
    argv = _mended(list(argv), error)
    for _ in range(MENDED):
        again = _config_error(name, argv)
        if again is None:
            return shlex.join(["jaxlm", *name.split(), *argv])
        if not again.right:
            break
        argv = _mended(argv, again)
    return ""


def _mended(argv: list[str], error: UserError) -> list[str]:
    """`argv` with what is wrong replaced, or what is missing added."""
    if error.right.startswith("--run="):
        at = argv.index("--run") if "--run" in argv else len(argv)
        argv = [word for word in argv[:at] + argv[at + 2 :] if not word.startswith("--run=")]
        return [*argv, "--run", error.right.removeprefix("--run=")]
    wrong = list(error.wrong)
    for at in range(len(argv) - len(wrong) + 1):
        if wrong and argv[at : at + len(wrong)] == wrong:
            return [*argv[:at], error.right, *argv[at + len(wrong) :]]
    if wrong and all(word in argv for word in wrong):  # with others between
        argv[argv.index(wrong[0])] = error.right
        for word in wrong[1:]:
            argv.remove(word)
        return argv
    key = error.right.partition("=")[0]
    return [*(word for word in argv if not word.startswith(f"{key}=")), error.right]


def _config_error(name: str, argv: list[str]) -> UserError | None:
    """What is still wrong with the config that a verb is given, where it takes one."""
    if name not in ("train", "plan"):
        return None
    from jaxlm.cli import VERBS, Parser
    from jaxlm.config import resolve

    parser = Parser(prog=name, allow_abbrev=False)
    VERBS[name].arguments(parser)
    try:
        args, strays = parser.parse_known_intermixed_args(argv)
        if strays:
            near = next((option for option in parser._option_string_actions if option == strays[0]), "")
            right, wrong = as_override(args, argv, strays[0], near) or ("", ())
            return UserError("", right, wrong)
        resolve(args.config, args.overrides)
    except UserError as error:
        return error
    return None


def as_override(args: Args, argv: Sequence[str], stray: str, near: str) -> tuple[str, tuple[str, ...]] | None:
    """`right` and `wrong` of a UserError for an option that is a field of the config, as `--steps 10` is steps=10. None
    where it is no field, or is more like the option `near`."""
    if not hasattr(args, "overrides"):
        return None
    from jaxlm.config import resolve
    from jaxlm.config_tree import plain

    option, equals, value = stray.partition("=")
    key = option.lstrip("-").replace("-", "_")
    at = list(argv).index(stray)
    wrong = (stray,)
    if not equals and at + 1 < len(argv) and "=" not in argv[at + 1] and not argv[at + 1].startswith("--"):
        value, wrong = argv[at + 1], (stray, argv[at + 1])
    elif not equals:
        value = "true"
    try:
        tree = plain(resolve(args.config))
    except UserError:
        return None
    try:
        resolve(args.config, [f"{key}={value}"])
    except UserError as error:
        if error.wrong[:1] == (args.config,):  # an argument of the config's function
            return error.right, (args.config, *wrong)
    found = config_names.meant(tree, key, [near.lstrip("-").replace("-", "_")])
    if not found:
        return None
    return found[0] if "=" in found[0] else f"{found[0]}={value}", wrong
