import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jinja2
import jinja2.ext
import numpy as np
import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment

from jaxlm.errors import UserError
from jaxlm.text import builtin_template, render_chat, render_chat_spans
from jaxlm.text.chat.sandbox import compiled

FAMILIES = ["chatml", "deepseek", "gemma", "llama3", "mistral", "qwen3"]
TALK = [
    {"role": "user", "content": "¿Qué? 😀"},
    {"role": "assistant", "content": "<b> & 你好"},
    {"role": "user", "content": "two\nlines"},
    {"role": "assistant", "content": "end"},
]
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
CALL = {"id": "abcdefghi", "type": "function", "function": {"name": "f", "arguments": {"x": "ñ"}}}
TOOL_TALK = [
    {"role": "user", "content": "q"},
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "content": "r", "tool_call_id": "abcdefghi"},
    {"role": "assistant", "content": "a"},
]


def _parity(shared: Path, family: str) -> tuple[str, dict[str, str], list[dict[str, Any]]]:
    data = json.loads((shared / "parity" / "chat_templates" / f"{family}.json").read_text())
    tokens = {name: data[name] for name in ("bos_token", "eos_token") if data[name]}
    return data["chat_template"], tokens, data["cases"]


def _render(template: str, case: dict[str, Any], tokens: dict[str, str]) -> str:
    flags = case["add_generation_prompt"]
    return render_chat(template, case["messages"], case["tools"], flags, **tokens, **case["kwargs"])


@pytest.mark.parametrize("family", ["chatml", "deepseek", "gemma", "llama3", "mistral", "qwen3_think"])
def test_every_recorded_conversation_is_rendered_exactly(shared: Path, family: str) -> None:
    template, tokens, cases = _parity(shared, family)
    for case in cases:
        if case["expected"] is not None:
            assert _render(template, case, tokens) == case["expected"]
            continue
        with pytest.raises(UserError) as refused:
            _render(template, case, tokens)
        assert str(refused.value) == f"chat template: {case['error']}"


@pytest.mark.parametrize("family", FAMILIES)
def test_our_templates_write_what_their_families_write(shared: Path, family: str) -> None:
    _, tokens, cases = _parity(shared, {"qwen3": "qwen3_think"}.get(family, family))
    # The recorded templates of these families drop tools and calls in silence: ours write them, or refuse.
    toolless = family in ("chatml", "deepseek", "mistral")
    compared = 0
    for case in cases:
        if toolless and (case["tools"] or any("tool_calls" in message for message in case["messages"])):
            continue
        if case["expected"] is None:
            with pytest.raises(UserError):
                _render(builtin_template(family), case, tokens)
        else:
            assert _render(builtin_template(family), case, tokens) == case["expected"]
        compared += 1
    assert compared >= 26


def _wide(text: str) -> str:
    """DeepSeek's bars."""
    return text.replace("|", "\uff5c")


EXPECTED = {
    "chatml": "<|im_start|>user\n¿Qué? 😀<|im_end|>\n<|im_start|>assistant\n[<b> & 你好<|im_end|>]\n"
    "<|im_start|>user\ntwo\nlines<|im_end|>\n<|im_start|>assistant\n[end<|im_end|>]\n",
    "deepseek": _wide(
        "<|begin▁of▁sentence|><|User|>¿Qué? 😀<|Assistant|>[<b> & 你好<|end▁of▁sentence|>]"
        "<|User|>two\nlines<|Assistant|>[end<|end▁of▁sentence|>]"
    ),
    "gemma": "<bos><start_of_turn>user\n¿Qué? 😀<end_of_turn>\n<start_of_turn>model\n[<b> & 你好<end_of_turn>]\n"
    "<start_of_turn>user\ntwo\nlines<end_of_turn>\n<start_of_turn>model\n[end<end_of_turn>]\n",
    "llama3": "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\n"
    "Today Date: 26 Jul 2024\n\n<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n¿Qué? 😀<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n[<b> & 你好<|eot_id|>]"
    "<|start_header_id|>user<|end_header_id|>\n\ntwo\nlines<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n[end<|eot_id|>]",
    "mistral": "<s>[INST] ¿Qué? 😀[/INST][ <b> & 你好</s>][INST] two\nlines[/INST][ end</s>]",
    "qwen3": "<|im_start|>user\n¿Qué? 😀<|im_end|>\n<|im_start|>assistant\n[<b> & 你好<|im_end|>]\n<|im_start|>user\n"
    "two\nlines<|im_end|>\n<|im_start|>assistant\n[<think>\n\n</think>\n\nend<|im_end|>]\n",
}


@pytest.mark.parametrize("family", FAMILIES)
def test_our_templates_and_what_the_assistant_writes_in_them(family: str) -> None:
    text, spans = render_chat_spans(builtin_template(family), TALK)
    marked = text
    for start, stop in reversed(spans):
        marked = f"{marked[:start]}[{marked[start:stop]}]{marked[stop:]}"
    assert marked == EXPECTED[family] and len(spans) == 2
    assert render_chat(builtin_template(family), TALK) == text
    asked = render_chat(builtin_template(family), TALK[:3], add_generation_prompt=True)
    assert asked.endswith({"mistral": "[/INST]"}.get(family, asked[-9:]))
    if family != "deepseek":  # R1's next answer begins by thinking, but the history forgets the thoughts
        assert text.startswith(asked)


@pytest.mark.parametrize("family", FAMILIES)
def test_content_in_parts_is_the_same_text(family: str) -> None:
    parts = [
        {
            **message,
            "content": [{"type": "text", "text": half} for half in (message["content"][:3], message["content"][3:])],
        }
        for message in TALK
    ]
    assert render_chat(builtin_template(family), parts) == render_chat(builtin_template(family), TALK)
    with pytest.raises(UserError, match="Only text is supported, not image"):
        render_chat(builtin_template(family), [{"role": "user", "content": [{"type": "image"}]}])


TOOLS_EXPECTED = {
    "llama3": ['{"name": "f", "parameters": {"x": "ñ"}}<|eot_id|>', "a<|eot_id|>"],
    "mistral": ['[TOOL_CALLS] [{"name": "f", "arguments": {"x": "ñ"}, "id": "abcdefghi"}]</s>', " a</s>"],
    "qwen3": [
        '<tool_call>\n{"name": "f", "arguments": {"x": "ñ"}}\n</tool_call><|im_end|>',
        "<think>\n\n</think>\n\na<|im_end|>",
    ],
    "deepseek": [
        _wide("<|tool▁calls▁begin|><|tool▁call▁begin|>function<|tool▁sep|>f\n```json\n")
        + '{"x": "ñ"}\n'
        + _wide("```<|tool▁call▁end|><|tool▁calls▁end|><|end▁of▁sentence|>"),
        _wide("a<|end▁of▁sentence|>"),
    ],
}


@pytest.mark.parametrize("family", TOOLS_EXPECTED)
def test_tool_calls_and_results(family: str) -> None:
    tools = None if family == "deepseek" else [TOOL]
    text, spans = render_chat_spans(builtin_template(family), TOOL_TALK, tools)
    assert [text[start:stop] for start, stop in spans] == TOOLS_EXPECTED[family]
    between = text[spans[0][1] : spans[1][0]]
    assert (
        between
        == {
            "llama3": "<|start_header_id|>ipython<|end_header_id|>\n\nr<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\n",
            "mistral": '[TOOL_RESULTS] {"content": "r", "call_id": "abcdefghi"}[/TOOL_RESULTS]',
            "qwen3": "\n<|im_start|>user\n<tool_response>\nr\n</tool_response><|im_end|>\n<|im_start|>assistant\n",
            "deepseek": _wide("<|tool▁outputs▁begin|><|tool▁output▁begin|>r<|tool▁output▁end|><|tool▁outputs▁end|>"),
        }[family]
    )
    assert tools is None or json.dumps(TOOL, indent=4 if family == "llama3" else None) in text


@pytest.mark.parametrize("family", TOOLS_EXPECTED)
def test_arguments_that_are_json_already_are_written_as_they_are(family: str) -> None:
    call = {**CALL, "function": {"name": "f", "arguments": '{"x": "ñ"}'}}
    talk = [TOOL_TALK[0], {"role": "assistant", "content": None, "tool_calls": [call]}, *TOOL_TALK[2:]]
    assert render_chat(builtin_template(family), talk) == render_chat(builtin_template(family), TOOL_TALK)


@pytest.mark.parametrize(
    ("family", "messages", "tools", "says"),
    [
        ("chatml", TALK, [TOOL], "ChatML has no tools"),
        ("chatml", TOOL_TALK, None, "without tool calls"),
        ("gemma", [{"role": "system", "content": "s"}], None, "Gemma has no system message"),
        ("gemma", TALK, [TOOL], "Gemma has no tools"),
        ("gemma", TALK[1:], None, "message 1 is out of turn"),
        ("mistral", TALK[1:], None, "message 1 is out of turn"),
        ("mistral", [TALK[0], {"role": "assistant", "tool_calls": [{**CALL, "id": 1}]}], None, "id of nine characters"),
        ("llama3", [TALK[0], {"role": "assistant", "tool_calls": [CALL, CALL]}], None, "one tool call at a time"),
        ("llama3", [{"role": "alien", "content": ""}], None, "not alien"),
        ("qwen3", [{"role": "alien", "content": ""}], None, "not alien"),
        ("deepseek", [{"role": "alien", "content": ""}], None, "not alien"),
        ("deepseek", TALK, [TOOL], "no list of tools"),
    ],
)
def test_what_our_templates_refuse(family: str, messages: Any, tools: Any, says: str) -> None:
    with pytest.raises(UserError, match=says):
        render_chat(builtin_template(family), messages, tools)


def test_an_unknown_template_names_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean 'llama3'"):
        builtin_template("llama")


FEATURES = Path(__file__).with_name("features.jinja").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def plain() -> Callable[..., str]:
    """Jinja's own sandbox with what chat templates expect, and nothing paid for."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = lambda value, **options: json.dumps(value, **{"ensure_ascii": False, **options})

    def render(template: str, **variables: Any) -> str:
        return environment.from_string(template).render(**variables)

    return render


def test_whatever_templates_use_comes_out_as_in_plain_jinja(plain: Callable[..., str]) -> None:
    for messages in (TALK, TOOL_TALK, TALK * 20):
        assert render_chat(FEATURES, messages) == plain(FEATURES, messages=messages)


def test_the_variables() -> None:
    template = "{{ tools is none }}{{ documents is none }}{{ add_generation_prompt }}{{ x }}{{ y is defined }}"
    assert render_chat(template, [], x="é") == "TrueTrueFalseéFalse"
    assert render_chat(template, [], [TOOL], True, documents=[], x=1) == "FalseFalseTrue1False"
    assert len(render_chat("{{ strftime_now('%Y-%m-%d') }}", [])) == 10


def test_keys_without_a_value_are_left_out() -> None:
    messages = [{"role": "assistant", "content": None, "call": {"x": None}}]
    assert render_chat("{{ 'content' in messages[0] }} {{ messages[0].call }}", messages) == "False {'x': None}"
    assert "content" in messages[0]


def test_reasoning_is_there_under_the_names_that_templates_read() -> None:
    template = "{% for m in messages %}{{ m.reasoning_content }}/{{ m.thinking }};{% endfor %}"
    messages = [{"role": "assistant", name: name} for name in ("reasoning_content", "thinking", "reasoning", "other")]
    given = json.dumps(messages)
    assert render_chat(template, messages) == (
        "reasoning_content/reasoning_content;thinking/thinking;reasoning/reasoning;/;"
    )
    assert json.dumps(messages) == given


def test_what_is_not_json_becomes_json_or_its_types_name() -> None:
    class Picture:
        def save(self) -> None:
            raise AssertionError

    messages = [{"image": Picture(), "pair": (1, 2), "number": np.float32(1.5), "text": np.str_("t")}]
    assert render_chat("{{ messages | tojson }}", messages) == (
        '[{"image": "<Picture>", "pair": [1, 2], "number": 1.5, "text": "t"}]'
    )
    assert render_chat("{{ x | tojson }}", [], x=np.int64(3)) == "3"
    messages = [{"content": np.array([1, 2]), ("a", 1): None, ("b", 2): Picture()}]
    assert render_chat("{{ messages[0] | length }}{{ messages[0]['content'] is string }}", messages) == "2True"


def test_spans_are_where_the_text_is() -> None:
    template = (
        "é{% for m in messages %}{% if m.role == 'assistant' %}😀{% generation %}{% set x = '!' %}{{ m.content + x }}"
        "{% for i in range(2) %}{{ i }}{% endfor %}{% endgeneration %}{{ x }}"
        "{% else %}{{ m.content }}{% endif %}{% endfor %}"
    )
    text, spans = render_chat_spans(template, TALK)
    assert [text[start:stop] for start, stop in spans] == ["<b> & 你好!01", "end!01"]  # and x did not get out
    assert text == "é¿Qué? 😀😀<b> & 你好!01two\nlines😀end!01"
    assert render_chat_spans("{{ messages }}", []) == ("[]", [])


def test_spans_without_a_place_are_refused_but_the_text_is_not() -> None:
    for template in (
        "{% macro a() %}{% generation %}x{% endgeneration %}{% endmacro %}{{ a() }}",
        "{% set a %}{% generation %}x{% endgeneration %}{% endset %}{{ a }}",
        "{% for i in [1] recursive %}{% generation %}x{% endgeneration %}{% endfor %}",
    ):
        assert render_chat(template, []) == "x"
        with pytest.raises(UserError, match="no place in the text"):
            render_chat_spans(template, [])
    with pytest.raises(UserError, match="left inside a generation block"):
        render_chat_spans("{% for i in [1] %}{% generation %}{% break %}{% endgeneration %}{% endfor %}", [])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((None, []), "a chat template is a string of Jinja source, not a NoneType"),
        (("", "hello"), "messages must be a list of mappings, not a str"),
        (("", [1]), "messages must be mappings, and one is a int"),
        (("", [], {"f": 1}), "tools must be a list of mappings, not a dict"),
        (("", [], [print]), "tools must be mappings"),
    ],
)
def test_what_is_no_conversation(arguments: Any, says: str) -> None:
    with pytest.raises(UserError, match=says):
        render_chat(*arguments)


def test_a_conversation_that_holds_itself_is_refused() -> None:
    message: dict[str, Any] = {"image": object()}
    message["content"] = message
    with pytest.raises(UserError, match="nested too deeply"):
        render_chat("", [message])


def test_a_message_of_any_length_is_one_short_line() -> None:
    for template in ("{{ raise_exception('x' * 5000) }}", "{{ a " + "f" * 5000 + " }}"):
        with pytest.raises(UserError, match=r"^chat template") as error:
            render_chat(template, [])
        assert len(str(error.value)) < 400


def test_a_template_is_compiled_once() -> None:
    before = compiled.cache_info().misses
    for i in range(10_000):
        render_chat("{{ messages[0].n }} compiled once", [{"n": i}])
    assert compiled.cache_info().misses == before + 1


def test_threads_do_not_mix() -> None:
    template = "{% for m in messages %}{% generation %}{{ m.n * 3 }}{% endgeneration %},{% endfor %}"

    def talk(i: int) -> tuple[str, list[tuple[int, int]]]:
        return render_chat_spans(template, [{"n": str(i)}] * (i % 50))

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(talk, range(2000))) == [talk(i) for i in range(2000)]


def test_long_conversations_are_not_too_much() -> None:
    messages = [{"role": ("user", "assistant")[i % 2], "content": f"{i} palabra 😀 " * 20} for i in range(5000)]
    for family in FAMILIES:
        assert len(render_chat(builtin_template(family), messages)) > 5000 * 20 * 10
    messages = [{"role": "user", "content": "x" * 3_000_000 + "😀"}]
    assert len(render_chat("{{ messages | tojson }}", messages)) > 3_000_000
