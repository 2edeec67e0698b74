"""What a verb of the command line is made of, and the kinds of values that several take."""

import argparse
import dataclasses
import sys
from collections.abc import Callable
from typing import NoReturn

from jaxlm.errors import UserError
from jaxlm.paths import expand

Args = argparse.Namespace


class Parser(argparse.ArgumentParser):
    """argparse, with mistakes as UserError."""

    def error(self, message: str) -> NoReturn:
        such = f", such as: {self.epilog}" if "arguments are required" in message else ""
        raise UserError(f"{self.prog.removeprefix('jaxlm ')}: {message}{such} (see `{self.prog} --help`)")


@dataclasses.dataclass(frozen=True)
class Verb:
    summary: str
    example: str
    arguments: Callable[[Parser], None]
    run: Callable[[Args], None]


def natural(text: str) -> int:
    value = int(text)
    if not 0 <= value < 2**63:
        raise argparse.ArgumentTypeError(f"must be at least 0 and below 2**63, not {text}")
    return value


natural.__name__ = "integer"  # argparse says "invalid integer value"


def read_text(path: str) -> str:
    try:
        data = sys.stdin.buffer.read() if path == "-" else expand(path).read_bytes()
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        name = "standard input" if path == "-" else path
        raise UserError(f"{name} is not UTF-8 text: byte {error.start} is {data[error.start]:#04x}") from error
