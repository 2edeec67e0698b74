"""Conversations as a tokenizer's own template writes them, and as ids with a mask of what the assistant wrote."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from jaxlm.errors import UserError
from jaxlm.text.chat.template import render_chat, render_chat_spans
from jaxlm.text.settings import ROLES

if TYPE_CHECKING:
    from jaxlm.text.base import Tokenizer

Messages = Sequence[Mapping[str, Any]]
THINK, THOUGHT = "<think>", "</think>"


def chat_text(
    tokenizer: "Tokenizer",
    messages: Messages,
    tools: Messages | None = None,
    add_generation_prompt: bool = False,
    template: str | None = None,
    **variables: Any,
) -> str:
    """The text of a conversation by the tokenizer's own chat template, or by `template`; see `render_chat`.

    The template also gets the spellings of the special tokens, as `bos_token`, `eos_token` and so on; those too that
    the tokenizer's settings name, such as `image_token`.

    Raises:
        UserError: there is no template; also what `render_chat` raises.
    """
    template, variables = _template(tokenizer, tools, template), _special(tokenizer) | variables
    return render_chat(template, messages, tools, add_generation_prompt, **variables)


def encode_chat(
    tokenizer: "Tokenizer",
    messages: Messages,
    tools: Messages | None = None,
    add_generation_prompt: bool = False,
    template: str | None = None,
    **variables: Any,
) -> tuple[list[int], list[int]]:
    """The ids of `chat_text`, and a mask that is 1 for tokens with something that the assistant wrote.

    Special tokens in the text become ids with every tokenizer. The mask follows the template's `{% generation %}` tags;
    without them it is 0 everywhere.

    Raises:
        UserError: as `chat_text`; or the tokenizer does not know where its tokens stand in a text.
    """
    template, variables = _template(tokenizer, tools, template), _special(tokenizer) | variables
    text, spans = render_chat_spans(template, messages, tools, add_generation_prompt, **variables)
    return _marked(tokenizer, text, spans)


def encode_assistant(
    tokenizer: "Tokenizer", messages: Messages, tools: Messages | None = None, template: str | None = None
) -> tuple[list[int], list[int]]:
    """As `encode_chat`, also by templates without the tags: there an answer is what a conversation has more than all
    before it with the generation prompt, white space at its end left out.

    Of a template that writes earlier turns otherwise once later ones follow, only those are marked that stand as the
    model will write them; the last does.

    Raises:
        UserError: as `encode_chat`; or the last answer does not stand behind its generation prompt.
    """
    template, variables = _template(tokenizer, tools, template), _special(tokenizer)
    text, spans = render_chat_spans(template, messages, tools, False, **variables)
    if spans:
        return _marked(tokenizer, text, spans)
    for i, message in enumerate(messages):
        if message["role"] == "assistant":
            before = render_chat(template, messages[:i], tools, True, **variables)
            whole = render_chat(template, messages[: i + 1], tools, False, **variables).rstrip()
            if whole.startswith(before) and text.startswith(whole):
                spans.append((len(before), len(whole)))
    if not spans:
        raise UserError("the chat template writes answers otherwise than behind its generation prompt: tag them")
    return _marked(tokenizer, text, spans)


def _marked(tokenizer: "Tokenizer", text: str, spans: list[tuple[int, int]]) -> tuple[list[int], list[int]]:
    """The ids of the text, and which have something of the spans."""
    ids, offsets = tokenizer.encode_marked(text)
    if not spans:
        return ids, [0] * len(ids)
    if offsets is None:
        raise UserError("this tokenizer does not know where its tokens stand in a text: it cannot mask a conversation")
    mask, at = [], 0
    for start, stop in offsets:
        while at < len(spans) and spans[at][1] <= start:
            at += 1
        mask.append(int(at < len(spans) and spans[at][0] < stop))
    return ids, mask


def _template(tokenizer: "Tokenizer", tools: Messages | None, given: str | None) -> str:
    found = given or tokenizer.settings.chat_template
    if isinstance(found, dict):
        found = found.get("tool_use" if tools and "tool_use" in found else "default")
    if found is None:
        raise UserError("this tokenizer has no chat template: give template=, such as builtin_template('chatml')")
    return found


def _special(tokenizer: "Tokenizer") -> dict[str, str]:
    ids = {role: getattr(tokenizer, role) for role in ROLES}
    found = {role: tokenizer.token(i) for role, i in ids.items() if i is not None}
    named = {name: token["content"] for name, token in tokenizer.settings.named.items()}
    return {f"{role}_token": spelling for role, spelling in found.items()} | named


def parted(text: str, begun: bool = False) -> tuple[str, str]:
    """What of an answer is thought, between <think> and </think>, and what is said after it; `begun`: the prompt ended
    with <think>. A thought that does not end is all thought, and an answer without any is as it stands."""
    if not begun and not text.lstrip().startswith(THINK):
        return "", text
    thought, _, answer = text.partition(THOUGHT)
    return thought.strip().removeprefix(THINK).strip(), answer.lstrip("\n")
