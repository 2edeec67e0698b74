"""Jinja's sandbox with what chat templates expect in it, where everything is paid for."""

from datetime import datetime
from types import BuiltinMethodType, FunctionType, MethodType
from typing import Any, ClassVar, NoReturn

from jinja2 import nodes
from jinja2.exceptions import SecurityError, TemplateError
from jinja2.ext import Extension, LoopControlExtension
from jinja2.parser import Parser
from jinja2.runtime import BlockReference, Context, LoopContext, Macro, TemplateReference, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment, SandboxedFormatter, safe_range
from jinja2.utils import Cycler, Joiner, Namespace

from jaxlm.text.chat.sandbox import growth, toll
from jaxlm.text.chat.sandbox.budget import Budget
from jaxlm.text.chat.sandbox.filters import TOLLS, filters, tests

_METHODS = (
    (str, frozenset(dir(str)) - {"encode", "expandtabs", "maketrans", "translate"}),
    (dict, frozenset({"copy", "get", "items", "keys", "values"})),
    (tuple, frozenset({"count", "grouper", "index", "list"})),  # two of them name the parts of groupby's pairs
    (list, frozenset({"copy", "count", "index"})),
    (float, frozenset({"is_integer"})),
)
_DATA = tuple(kind for kind, _ in _METHODS)
_NUMBERS = {bool, int, float}
_UNREAD = {
    "copy",
    "endswith",
    "get",
    "items",
    "keys",
    "startswith",
    "values",
}  # methods that do not read all of their data
_DEEPEST = 100  # macros within macros: Python's own limit may have been raised above what the stack bears
_BODIES = (Macro, LoopContext, BlockReference)
_JINJAS = (*_BODIES, Cycler, Joiner, Namespace, TemplateReference)


class Refused(TemplateError):
    """The template called `raise_exception`."""


class Marks:
    """The pieces written so far, and the (start, stop) in characters of what the assistant wrote."""

    def __init__(self) -> None:
        self.pieces: list[str] = []
        self.spans: list[tuple[int, int]] = []
        self.open: list[int] = []
        self._counted = self._position = 0

    def start(self) -> None:
        self.open.append(self._here())

    def stop(self) -> None:
        self.spans.append((self.open.pop(), self._here()))

    def _here(self) -> int:
        self._position += sum(map(len, self.pieces[self._counted :]))
        self._counted = len(self.pieces)
        return self._position


class PayingContext(Context):
    """The variables of one rendering, what it may still spend, and its marks."""

    budget: Budget
    marks: Marks

    def derived(self, locals: dict[str, Any] | None = None) -> Context:
        context = super().derived(locals)
        vars(context).update(budget=self.budget, marks=self.marks)
        return context


class PayingEnvironment(ImmutableSandboxedEnvironment):
    """Hands every operation whose cost depends on data to the context's budget first."""

    context_class = PayingContext
    intercepted_binops = frozenset({"-", "*", "/", "//", "%", "**"})  # `toll.py` has its own way with +

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[LoopControlExtension, _Generation],
            optimized=False,  # constants would be worked out at each level of an expression anew
        )
        self.filters = filters() | TOLLS
        self.tests = tests()
        self.globals |= {"dict": _dict, "namespace": _Names}
        self.globals |= {"raise_exception": _raise_exception, "strftime_now": _strftime_now}
        del self.globals["lipsum"]

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Only attributes known to be cheap and harmless: bytes, functions and iterators have none."""
        if not super().is_safe_attribute(obj, attr, value):
            return False
        return isinstance(obj, _JINJAS) or any(isinstance(obj, kind) and attr in names for kind, names in _METHODS)

    def unsafe_undefined(self, obj: Any, attribute: str) -> NoReturn:
        raise SecurityError(f"the attribute {attribute!r} of a {type(obj).__name__} is not available")

    def wrap_str_format(self, value: Any) -> Any:
        """`str.format` in the hands of a formatter that pays; only `call` knows what to do with it."""
        method = isinstance(value, BuiltinMethodType | MethodType) and value.__name__ in ("format", "format_map")
        return _Format(value.__self__, value.__name__) if method and isinstance(value.__self__, str) else None

    def call(self, context: Any, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        budget = context.budget
        if isinstance(obj, _BODIES):  # these pay for themselves as they run
            if budget.depth > _DEEPEST:
                raise RecursionError
            budget.depth += 1
            result = super().call(context, obj, *args, **kwargs)
            budget.depth -= 1
            return result
        kwargs.pop("_loop_vars", None)
        kwargs.pop("_block_vars", None)
        if args or kwargs:
            budget.spend(sum(map(budget.weight, (*args, *kwargs.values()))))
        if isinstance(obj, _Format):
            return budget.made(obj.apply(self, budget, args, kwargs))
        owner = getattr(obj, "__self__", None)
        if isinstance(owner, _DATA):
            return budget.made(_method(budget, owner, obj, args, kwargs))
        function = type(obj) in (FunctionType, type) and obj in _FUNCTIONS
        if not function and not isinstance(owner, _JINJAS) and not isinstance(obj, Joiner | Undefined):
            raise TypeError(f"a {type(obj).__name__} cannot be called")
        return budget.made(obj(*args, **kwargs))

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if type(left) in _NUMBERS and type(right) in _NUMBERS:
            if operator in ("*", "**"):
                growth.number(operator, left, right)
            return self.binop_table[operator](left, right)
        budget = context.budget
        if operator == "%" and isinstance(left, str):
            growth.printf(budget, left, right)
        elif operator == "*":
            growth.repeated(budget, left, right)
        elif not isinstance(left, Undefined) and not isinstance(right, Undefined):
            raise TypeError(f"{type(left).__name__} {operator} {type(right).__name__} is not available")
        return budget.made(super().call_binop(context, operator, left, right))


def _method(budget: Budget, owner: Any, method: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Calls a method of text, of a list or of a mapping, paid for beforehand."""
    name = method.__name__
    if name not in _UNREAD:
        budget.spend(budget.weight(owner))
        if args and isinstance(owner, str) and name in growth.METHODS:
            if name == "join":
                args = tuple(map(list, args))
            times = 1 if type(owner) is str else 6  # escaped text escapes what joins it
            budget.spend(times * growth.METHODS[name](owner, *args, **kwargs))
    return method(*args, **kwargs)


class _Format:
    """A text's `format` or `format_map`, whose fields are paid for one by one."""

    def __init__(self, text: str, name: str) -> None:
        self.text, self.name = text, name

    def apply(
        self, environment: PayingEnvironment, budget: Budget, args: tuple[Any, ...], named: dict[str, Any]
    ) -> str:
        if self.name == "format_map":
            (named,), args = args, ()
        budget.spend(16 * len(self.text))
        return _Formatter(environment, budget).vformat(str(self.text), args, named)


class _Formatter(SandboxedFormatter):
    def __init__(self, environment: PayingEnvironment, budget: Budget) -> None:
        super().__init__(environment)
        self.budget = budget

    def format_field(self, value: Any, format_spec: str) -> str:
        growth.field(self.budget, value, format_spec)
        return super().format_field(value, format_spec)


class _Names(Namespace):
    """Jinja's namespace, which may hold itself: so it is never written out."""

    def __init__(self, names: Any = (), /, **more: Any) -> None:
        super().__init__(names, **more)
        for name in (*names, *more):
            _public(name)

    def __setitem__(self, name: str, value: Any) -> None:
        _public(name)
        super().__setitem__(name, value)

    def __repr__(self) -> str:
        return "<namespace>"


class _Generation(Extension):
    """`{% generation %}...{% endgeneration %}` around what the assistant writes: a scope between two marks."""

    tags: ClassVar = {"generation"}

    def parse(self, parser: Parser) -> list[nodes.Node]:
        lineno = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        marks = toll.statement(toll.START, 0, lineno), toll.statement(toll.STOP, 0, lineno)
        return [marks[0], nodes.Scope(body, lineno=lineno), marks[1]]


def _public(name: Any) -> None:
    if not isinstance(name, str) or name.startswith("_"):
        raise SecurityError("a namespace holds only names that do not begin with _")


def _dict(*args: Any, **kwargs: Any) -> dict[Any, Any]:
    return dict(*args, **kwargs)


def _raise_exception(message: Any) -> NoReturn:
    raise Refused(str(message))


def _strftime_now(pattern: str) -> str:
    if len(pattern) > 1000:
        raise ValueError("strftime_now: a pattern of more than 1,000 characters")
    return datetime.now().strftime(pattern)


_FUNCTIONS = {_Names, Cycler, Joiner, _dict, _raise_exception, _strftime_now, safe_range}
