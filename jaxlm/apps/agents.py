"""Agents: a model that thinks, calls a tool, reads what it gave, and goes on until it answers (ReAct, Yao et al. 2023).

    agent = Agent(write, [calculator(), python()])         # write(prompt, stop) -> text
    trace = agent.run("What is 17 * 23?")                  # trace.answer, print(trace)

In the text form a step is "Thought: ...", "Action: tool[{...}]", and the observation is written behind it. With
`NativeAgent` the model is a chat that gives `tool_calls` in OpenAI's form. Whatever goes wrong with a call is told to
the model as its observation: an unknown tool, arguments of another kind, a tool that raises or does not return.
"""

import ast
import dataclasses
import inspect
import json
import operator
import re
import threading
import time
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jaxlm import arguments as checks
from jaxlm.errors import UserError, nearest
from jaxlm.evals import sandbox

Write = Callable[[str, Sequence[str]], str]
Chat = Callable[[list[dict[str, Any]], list[dict[str, Any]]], dict[str, Any]]
TYPES = {str: "string", int: "integer", float: "number", bool: "boolean", list: "array", dict: "object"}
KINDS = {
    "string": str, "integer": int, "number": (int, float), "boolean": bool, "array": list, "object": dict
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Tool:
    """A function with a JSON schema of its arguments."""

    name: str
    description: str
    parameters: Mapping[str, Any]
    call: Callable[..., Any]

    def schema(self) -> dict[str, Any]:
        """In OpenAI's form."""
        return {"type": "function", "function": {k: getattr(self, k) for k in ("name", "description", "parameters")}}

    def checked(self, given: Any) -> dict[str, Any]:
        """The arguments. Raises UserError for ones that the schema has not; a text alone is the first argument."""
        properties = self.parameters.get("properties", {})
        required = self.parameters.get("required", [])
        if not isinstance(given, dict):
            if len(properties) < 1:
                raise UserError(f"{self.name} takes no arguments")
            given = {next(iter(properties)): given}
        for name, value in given.items():
            if name not in properties:
                raise UserError(f"{self.name} has no argument {name!r}; it has {', '.join(properties) or 'none'}")
            kind = properties[name].get("type")
            right = isinstance(value, KINDS.get(kind, object)) and (kind == "boolean" or not isinstance(value, bool))
            if not right:
                raise UserError(f"{self.name}: {name!r} must be of type {kind}, not {type(value).__name__}")
        if missing := [name for name in required if name not in given]:
            raise UserError(f"{self.name} needs {', '.join(missing)}")
        return given


def tool(function: Callable[..., Any], name: str = "", description: str = "") -> Tool:
    """A tool of a Python function: its name, the first line of its docstring, its annotated parameters."""
    signature, hints = inspect.signature(function), typing.get_type_hints(function)
    properties = {}
    for one in signature.parameters.values():
        if one.kind in (one.VAR_POSITIONAL, one.VAR_KEYWORD):
            raise UserError(f"{function.__name__}: a tool has named parameters only")
        kind = typing.get_origin(hints.get(one.name)) or hints.get(one.name, str)
        properties[one.name] = {"type": TYPES.get(kind, "string")}
    required = [one.name for one in signature.parameters.values() if one.default is one.empty]
    said = description or (inspect.getdoc(function) or "").partition("\n")[0]
    schema = {"type": "object", "properties": properties, "required": required}
    return Tool(name or function.__name__, said, schema, function)


@dataclasses.dataclass(frozen=True)
class Step:
    thought: str
    action: str
    arguments: Any
    observation: str
    seconds: float


@dataclasses.dataclass(frozen=True)
class Trace:
    """What an agent did. `ended`: "answer", "steps" or "time"."""

    question: str
    steps: tuple[Step, ...]
    answer: str | None
    ended: str

    def __str__(self) -> str:
        lines = [f"Question: {self.question}"]
        for i, step in enumerate(self.steps, 1):
            lines.append(f"{i}. {step.thought}".rstrip())
            lines.append(f"   {step.action}[{json.dumps(step.arguments, ensure_ascii=False)}] ({step.seconds:.1f} s)")
            lines.append(f"   -> {step.observation}")
        return "\n".join([*lines, f"Answer: {self.answer}" if self.ended == "answer" else f"No answer: {self.ended}"])


@dataclasses.dataclass(frozen=True)
class Limits:
    """Steps, seconds of all and of one tool, characters of an observation."""

    steps: int = 8
    seconds: float = 120.0
    tool_seconds: float = 10.0
    observation: int = 2000

    def __post_init__(self):
        checks.integer(self.steps, "steps", 1)
        checks.integer(self.observation, "observation", 1)
        checks.positive(self.seconds, "seconds")
        checks.positive(self.tool_seconds, "tool_seconds")


class _Caller:
    """Tools by name, called within their time."""

    def __init__(self, tools: Sequence[Tool], limits: Limits):
        names = [one.name for one in tools]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise UserError(f"two tools are named {twice!r}")
        self.tools, self.limits = {one.name: one for one in tools}, limits

    def __call__(self, name: str, given: Any) -> tuple[str, float]:
        began = time.monotonic()
        if name not in self.tools:
            near = nearest(name, self.tools)
            return f"Error: there is no tool {name!r}; did you mean {near!r}? ({', '.join(self.tools)})", 0.0
        done: dict[str, str] = {}

        def work() -> None:
            try:
                done["out"] = str(self.tools[name].call(**self.tools[name].checked(given)))
            except UserError as error:
                done["out"] = f"Error: {error}"
            except Exception as error:
                done["out"] = f"Error: {type(error).__name__}: {error}"

        thread = threading.Thread(target=work, daemon=True)  # one that never returns is left behind
        thread.start()
        thread.join(self.limits.tool_seconds)
        out = done.get("out", f"Error: {name} did not return within {self.limits.tool_seconds:g} s")
        most = self.limits.observation
        out = out if len(out) <= most else f"{out[:most]} ... ({len(out)} characters)"
        return out, time.monotonic() - began


INTRODUCTION = """Answer the question. Think step by step, and use these tools:

{tools}

Write in this form:

Thought: what to do next
Action: tool[{{"argument": "value"}}]
Observation: what the tool gave
... (as often as needed)
Thought: I know the answer
Answer: the answer alone
"""
ACTION = re.compile(r"Action\s*:\s*([\w.-]+)\s*\[(.*?)\]\s*(?:\n|$)", re.DOTALL)
ANSWER = re.compile(r"(?:Final )?Answer\s*:\s*(.*)", re.DOTALL)


class Agent:
    """ReAct in text. `write(prompt, stops)` continues a prompt; `memory` is what was learned in earlier runs, put
    before the question."""

    def __init__(
        self, write: Write, tools: Sequence[Tool], limits: Limits = Limits(), introduction: str = INTRODUCTION
    ):
        self.write, self.call, self.limits, self.introduction = write, _Caller(tools, limits), limits, introduction
        self.memory: list[tuple[str, str]] = []

    def prompt(self, question: str) -> str:
        spell = lambda one: f"{one.name}{json.dumps(one.parameters.get('properties', {}))}: {one.description}"
        text = self.introduction.format(tools="\n".join(map(spell, self.call.tools.values())))
        before = "".join(f"Question: {q}\nAnswer: {a}\n\n" for q, a in self.memory)
        return f"{text}\n{before}Question: {question}\n"

    def run(self, question: str, remember: bool = False) -> Trace:
        """Until it answers, or a limit is reached."""
        text, steps, until = self.prompt(question), [], time.monotonic() + self.limits.seconds
        for _ in range(self.limits.steps):
            if time.monotonic() > until:
                return Trace(question, tuple(steps), None, "time")
            said = self.write(text, ["\nObservation:"])
            said = said.partition("\nObservation:")[0].rstrip()
            thought = re.split(r"\n?(?:Action|(?:Final )?Answer)\s*:", said)[0].strip().removeprefix("Thought:").strip()
            action, answer = ACTION.search(f"{said}\n"), ANSWER.search(said)
            if answer and not (action and action.start() < answer.start()):
                found = answer[1].strip()
                if remember:
                    self.memory.append((question, found))
                return Trace(question, tuple(steps), found, "answer")
            if action is None:
                name, given = "", said
                told, took = 'Error: neither an answer nor an action: write Action: tool[{"argument": "value"}]', 0.0
            else:
                name, given = action[1], _read(action[2])
                told, took = self.call(name, given)
            steps.append(Step(thought, name, given, told, took))
            text += f"{said}\nObservation: {told}\n"
        return Trace(question, tuple(steps), None, "steps")


def _read(text: str) -> Any:
    """The arguments: JSON, else the text itself."""
    try:
        value = json.loads(text)
    except ValueError:
        return text.strip().strip("\"'")
    return value if isinstance(value, dict) else text.strip().strip("\"'")


class NativeAgent:
    """The same with a chat of OpenAI's form: `chat(messages, tools)` returns a message, whose `tool_calls` are done and
    answered by messages of the role "tool"."""

    def __init__(self, chat: Chat, tools: Sequence[Tool], limits: Limits = Limits(), system: str = ""):
        self.chat, self.call, self.limits = chat, _Caller(tools, limits), limits
        self.messages = [{"role": "system", "content": system}] if system else []

    def run(self, question: str) -> Trace:
        messages = [*self.messages, {"role": "user", "content": question}]
        steps, until = [], time.monotonic() + self.limits.seconds
        schemas = [one.schema() for one in self.call.tools.values()]
        while len(steps) < self.limits.steps:
            if time.monotonic() > until:
                return Trace(question, tuple(steps), None, "time")
            message = self.chat(messages, schemas)
            calls, content = message.get("tool_calls") or [], message.get("content") or ""
            messages.append({"role": "assistant", **message})
            if not calls:
                return Trace(question, tuple(steps), content.strip(), "answer")
            for one in calls:
                name, given = one.get("function", {}).get("name", ""), one.get("function", {}).get("arguments", "{}")
                given = _read(given or "{}") if isinstance(given, str) else given
                told, took = self.call(name, given)
                steps.append(Step(content.strip(), name, given, told, took))
                messages.append({"role": "tool", "tool_call_id": one.get("id", ""), "content": told})
        return Trace(question, tuple(steps), None, "steps")


# Tools -----------------------------------------------------------------------------------------------------------

_OPERATORS: dict[type, Callable[..., Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod, ast.USub: operator.neg, ast.UAdd: operator.pos,
}  # fmt: skip


def calculate(expression: str) -> float | int:
    """The value of an expression of numbers, + - * / // % ** and parentheses. Raises UserError for others."""

    def value(node: ast.AST) -> Any:
        if isinstance(node, ast.Expression):
            return value(node.body)
        if isinstance(node, ast.Constant) and type(node.value) in (int, float):
            return node.value
        if isinstance(node, ast.UnaryOp) and type(node.op) in _OPERATORS:
            return _OPERATORS[type(node.op)](value(node.operand))
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow):
            a, b = value(node.left), value(node.right)
            if abs(b) > 100 or abs(a) > 1e6:
                raise UserError("the power is too large")
            return a**b
        if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
            return _OPERATORS[type(node.op)](value(node.left), value(node.right))
        raise UserError(f"{expression[:80]!r} is not arithmetic of numbers")

    try:
        return value(ast.parse(expression.strip().replace("^", "**"), mode="eval"))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise UserError(f"{expression[:80]!r} is not arithmetic of numbers") from None
    except ArithmeticError as error:
        raise UserError(f"{expression[:80]!r}: {error}") from None


def calculator() -> Tool:
    return tool(calculate, "calculator", "the value of an arithmetic expression")


def search_tool(index: Any, k: int = 2) -> Tool:
    """Looks into an `apps.rag.Index`."""

    def search(query: str) -> str:
        found = index.search(query, k, "words" if index.embed is None else "fused")
        return "\n".join(f"[{i}] {hit.passage.text}" for i, hit in enumerate(found, 1)) or "nothing found"

    return tool(search, "search", "passages about a query")


def file_tools(files: dict[str, str]) -> list[Tool]:
    """Reads, writes and lists files that are entries of a dict: nothing of the machine is touched."""

    def read_file(name: str) -> str:
        if name not in files:
            raise UserError(f"there is no file {name!r}; there are {', '.join(files) or 'none'}")
        return files[name]

    def write_file(name: str, text: str) -> str:
        files[name] = text
        return f"wrote {len(text)} characters"

    def list_files() -> str:
        return ", ".join(files)

    said = ("the text of a file", "writes a text to a file", "the names of all files")
    return [tool(f, description=s) for f, s in zip((read_file, write_file, list_files), said)]


def python(limits: sandbox.Limits = sandbox.Limits(), files: dict[str, str] | None = None) -> Tool:
    """Runs a program in the sandbox, with the files beside it, and gives what it printed."""

    def run(program: str) -> str:
        ran = sandbox.run(program, files={k: v.encode() for k, v in (files or {}).items()}, limits=limits)
        last = ran.err.strip().splitlines()[-1:] or [ran.status]
        return ran.out if ran.ok else f"{ran.out}Error: {last[0]}"

    return tool(run, "python", "runs a Python program and gives what it prints")
