"""Chat templates: a conversation becomes the one text that a model was trained on."""

import marshal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxlm.errors import UserError, unknown

_TEMPLATES = Path(__file__).parent / "templates"
# Of models that have no template: what is said, line by line.
PLAIN = "{% for message in messages %}{{ message.content }}{% if not loop.last %}\n{% endif %}{% endfor %}"
_MESSAGE = 256  # bytes that a message takes beside its text
_NAMES = ("reasoning_content", "thinking", "reasoning")  # of the assistant's reasoning
_REASONING = frozenset(_NAMES)


def render_chat(
    template: str,
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]] | None = None,
    add_generation_prompt: bool = False,
    **variables: Any,
) -> str:
    """The text of a conversation, as Hugging Face's `apply_chat_template` writes it.

    A template is somebody else's program: it runs in a sandbox, and may do an amount of work that grows with the
    conversation, so that it ends within seconds whatever it tries (see `jaxlm.text.chat.sandbox`).

    Args:
        template: Jinja source, as in `tokenizer_config.json` or from `builtin_template`.
        messages: mappings with a `role` and whatever else the template reads, mostly `content`. A key whose value is
            None is left out.
        tools: the JSON schemas of the functions that the model may call.
        add_generation_prompt: whether to end where the assistant's next message begins.
        **variables: what else the template reads: `bos_token`, `eos_token`, `documents`, `enable_thinking`, ...

    Raises:
        UserError: the template is not Jinja (the line is named), refuses the conversation (in its own words), makes a
            mistake, reaches outside the sandbox or does too much; the messages or tools are not lists of mappings.
    """
    return _run(template, messages, tools, add_generation_prompt, variables)[0]


def render_chat_spans(
    template: str,
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]] | None = None,
    add_generation_prompt: bool = False,
    **variables: Any,
) -> tuple[str, list[tuple[int, int]]]:
    """As `render_chat`, with the (start, stop) of each part that the assistant wrote, in characters and in order.

    These are the parts inside `{% generation %}...{% endgeneration %}`; a template without the tag has none.

    Raises:
        UserError: as `render_chat`; or the tag is inside a macro or a captured text, so that its place is not known.
    """
    text, spans, captures = _run(template, messages, tools, add_generation_prompt, variables)
    if captures:
        raise UserError(
            "chat template: a generation block inside a macro, a set or call block has no place in the text"
        )
    return text, spans


def builtin_template(name: str) -> str:
    """The source of one of our templates: chatml, deepseek, gemma, llama3, mistral, qwen3.

    All mark what the assistant writes, its end-of-turn token included, with the generation tag. They read `bos_token`
    where the family begins with one, and have that family's own as the default.

    Raises:
        UserError: there is none of this name.
    """
    names = sorted(path.stem for path in _TEMPLATES.glob("*.jinja"))
    if name not in names:
        raise unknown("chat template", name, names)
    return (_TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8")


def _run(
    template: str, messages: Any, tools: Any, add_generation_prompt: bool, variables: dict[str, Any]
) -> tuple[str, list[tuple[int, int]], bool]:
    from jaxlm.text.chat.sandbox import compiled  # Jinja is only imported where a template runs

    if not isinstance(template, str):
        raise UserError(f"a chat template is a string of Jinja source, not a {type(template).__name__}")
    program = compiled(template)
    _check("messages", messages)
    if tools is not None:
        _check("tools", tools)
    given = {
        "documents": None,
        **variables,
        "messages": messages,
        "tools": tools,
        "add_generation_prompt": add_generation_prompt,
    }
    try:
        size = len(marshal.dumps(given))  # refuses at once what is not Python's own
    except ValueError:
        given = _plain(given)
        size = len(marshal.dumps(given))
    given["messages"] = [
        {key: value for key, value in message.items() if value is not None} for message in given["messages"]
    ]
    if not all(map(_REASONING.isdisjoint, given["messages"])):
        given["messages"] = list(map(_with_reasoning, given["messages"]))
    return *program.run(given, size + _MESSAGE * len(messages)), program.captures


def _check(name: str, values: Any) -> None:
    if not isinstance(values, list | tuple):
        raise UserError(f"{name} must be a list of mappings, not a {type(values).__name__}")
    for kind in set(map(type, values)):
        if not issubclass(kind, Mapping):
            raise UserError(f"{name} must be mappings, and one is a {kind.__name__}")


def _plain(value: Any) -> Any:
    """The value in JSON's types. An image or another object, which templates only ask for, becomes its type's name.

    Raises:
        UserError: it is nested too deeply, or holds itself.
    """
    try:
        if isinstance(value, Mapping):
            return {str(key) if isinstance(key, tuple) else _plain(key): _plain(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [_plain(item) for item in value]
    except RecursionError:
        raise UserError("the conversation is nested too deeply") from None
    except UserError:
        raise
    except Exception as error:  # of a mapping that is not Python's own
        raise UserError(f"the conversation cannot be read: {str(error)[:200]}") from None
    if isinstance(value, np.generic):
        value = value.item()
    for kind in (bool, str, int, float):
        if isinstance(value, kind):
            return kind(value)
    return None if value is None else f"<{type(value).__name__}>"


def _with_reasoning(message: dict[str, Any]) -> dict[str, Any]:
    """Templates read reasoning under one name or another, so a message that has it gets it under the first two."""
    reasoning = [message[name] for name in _NAMES if message.get(name) is not None][:1]
    return {"thinking": reasoning[0]} | message | {"reasoning_content": reasoning[0]} if reasoning else message
