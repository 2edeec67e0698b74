"""A template ready to run: compiled once, run many times, from any thread."""

from functools import lru_cache
from types import TracebackType
from typing import Any

from jinja2.environment import Template
from jinja2.exceptions import TemplateRuntimeError, TemplateSyntaxError

from jaxlm.errors import UserError
from jaxlm.text.chat.sandbox.budget import Budget
from jaxlm.text.chat.sandbox.environment import Marks, PayingContext, PayingEnvironment, Refused
from jaxlm.text.chat.sandbox.toll import add_tolls, captures_generation

LONGEST_SOURCE = 200_000  # characters; published templates have up to about 20,000
LONGEST_MESSAGE = 300  # characters of a template's own complaint
_ENVIRONMENT = PayingEnvironment()


class Program:
    """A compiled template. `captures` says that a generation block is where its place in the text is not known."""

    def __init__(self, source: str) -> None:
        if len(source) > LONGEST_SOURCE:
            raise UserError(f"chat template: {len(source):,} characters are too many (at most {LONGEST_SOURCE:,})")
        trouble = None
        try:
            tree = _ENVIRONMENT.parse(source)
            self.captures = captures_generation(tree)
            code = _ENVIRONMENT.compile(add_tolls(tree))
            self._template = Template.from_code(_ENVIRONMENT, code, _ENVIRONMENT.globals)
        except TemplateSyntaxError as error:
            trouble = _line(error.message or "not a Jinja template", error.lineno)
        except Exception as error:  # nested too deeply for Python, a number with too many digits
            trouble = _line(f"cannot be compiled: {error}")
        if trouble:  # raised out here so that the error holds none of the template's values
            raise UserError(trouble)

    def run(self, variables: dict[str, Any], size: int) -> tuple[str, list[tuple[int, int]]]:
        """The text for these variables, of `size` bytes, and the spans (start, stop) written in generation blocks.

        Raises:
            UserError: the template refuses, makes a mistake, reaches outside the sandbox or does too much.
        """
        context = self._template.new_context(variables)
        assert isinstance(context, PayingContext)
        context.budget, context.marks = budget, marks = Budget(size), Marks()
        pieces, room = marks.pieces, budget.most
        try:
            for piece in self._template.root_render_func(context):
                pieces.append(piece)
                room -= len(piece)
                if room < 0:
                    budget.stop()
            if marks.open:
                raise TemplateRuntimeError("a loop was left inside a generation block")
            return "".join(pieces), sorted(marks.spans)
        except Refused as error:
            trouble = _line(str(error))
        except Exception as error:
            trouble = _line(_said(error), self._lineno(error.__traceback__))
        raise UserError(trouble)

    def _lineno(self, traceback: TracebackType | None) -> int | None:
        lineno = None
        while traceback:
            if traceback.tb_frame.f_globals.get("__jinja_template__") is self._template:
                lineno = self._template.get_corresponding_lineno(traceback.tb_lineno)
            traceback = traceback.tb_next
        return lineno


@lru_cache(maxsize=64)
def compiled(source: str) -> Program:
    """The program of a template's text; the last few are kept."""
    return Program(source)


def _said(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "stopped: it calls itself too deeply"
    if isinstance(error, MemoryError):
        return "stopped: out of memory"
    return str(error)[:300] or type(error).__name__


def _line(message: str, lineno: int | None = None) -> str:
    line = " ".join(message.splitlines())
    short = line if len(line) <= LONGEST_MESSAGE else f"{line[:LONGEST_MESSAGE]}..."
    return f"chat template{f', line {lineno}' if lineno else ''}: {short}"
