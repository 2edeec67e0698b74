"""Conversations through a tokenizer: its template, its special tokens, and the mask of what the assistant wrote."""

import dataclasses
from pathlib import Path

import pytest

from jaxlm.errors import UserError
from jaxlm.text import (
    ByteTokenizer,
    FastTokenizer,
    Tokenizer,
    builtin_template,
    chat_text,
    encode_chat,
    load_tokenizer,
    render_chat,
)
from jaxlm.text.chat.conversation import parted
from jaxlm.text.formats import layout
from jaxlm.text.settings import Settings

TALK = [
    {"role": "user", "content": "¿Qué tal?"},
    {"role": "assistant", "content": "Bien — 日本 \U0001f600."},
    {"role": "user", "content": "Adiós"},
]
MARKED = (
    "{{ bos_token }}{% for m in messages %}{{ '<' + m.role + '>' }}{% if m.role == 'assistant' %}"
    "{% generation %}{{ m.content + eos_token }}{% endgeneration %}{% else %}{{ m.content }}{% endif %}{% endfor %}"
)


def test_the_mask_covers_what_the_assistant_wrote(tokenizer: Tokenizer) -> None:
    eos = tokenizer.token(tokenizer.eot)
    ids, mask = encode_chat(tokenizer, TALK, template=MARKED, bos_token="")
    assert tokenizer.decode(ids) == f"<user>¿Qué tal?<assistant>{TALK[1]['content']}{eos}<user>Adiós"
    assert tokenizer.decode([i for i, kept in zip(ids, mask) if kept]) == TALK[1]["content"] + eos
    assert ids.count(tokenizer.eot) == 1 and set(mask) == {0, 1}


def test_templates_without_the_tag_mask_everything_out(tokenizer: Tokenizer) -> None:
    ids, mask = encode_chat(tokenizer, TALK, template="{% for m in messages %}{{ m.content }}{% endfor %}")
    assert set(mask) == {0} and len(mask) == len(ids)


def test_the_settings_template_and_special_tokens_are_used() -> None:
    tokenizer = ByteTokenizer()
    with pytest.raises(UserError, match="has no chat template: give template="):
        chat_text(tokenizer, TALK)
    tokenizer.describe(Settings(chat_template="{{ messages | length }} {{ eos_token }} {{ name }}"))
    assert chat_text(tokenizer, TALK, name="x") == "3 <|endoftext|> x"
    named = {"default": "plain", "tool_use": "{{ tools[0].name }}"}
    tokenizer.describe(dataclasses.replace(tokenizer.settings, chat_template=named))
    assert chat_text(tokenizer, TALK) == "plain" and chat_text(tokenizer, TALK, tools=[{"name": "f"}]) == "f"
    assert chat_text(tokenizer, TALK, template="given") == "given"


def test_the_mask_covers_space_at_the_end_of_what_was_written() -> None:
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    model = layout.bpe({token: i for i, token in enumerate(layout.byte_characters())}, [])
    template = "{% generation %}{{ messages[0].content }}{% endgeneration %}<end>"
    for post in (level, {"type": "Sequence", "processors": [level]}):
        spec = layout.document(model, {"<end>": 256}, None, *layout.byte_level(layout.GPT2)) | {"post_processor": post}
        assert encode_chat(FastTokenizer(spec), [{"content": "a  "}], template=template)[1] == [1, 1, 1, 0]


def test_a_prompt_that_begins_with_the_bos_has_the_ids_of_the_conversation(shared: Path, trained: dict) -> None:
    llama = load_tokenizer(shared / "data/tokenizers/llama2_tokenizer.model")
    for tokenizer, name in [(llama, "mistral"), (trained["fast_bpe"], "gemma"), (trained["bytes"], "gemma")]:
        bos = tokenizer.token(tokenizer.eot)
        text = render_chat(builtin_template(name), TALK, bos_token=bos)
        ids, _ = encode_chat(tokenizer, TALK, template=builtin_template(name), bos_token=bos)
        assert tokenizer.encode_prompt(text) == ids and ids.count(tokenizer.eot) == 1
        assert tokenizer.encode_prompt("hola") == tokenizer.encode("hola", special=True)


def test_llama2_finds_its_special_tokens_in_conversations_only(shared: Path) -> None:
    tokenizer = load_tokenizer(shared / "data/tokenizers/llama2_tokenizer.model")
    ids, mask = encode_chat(tokenizer, TALK[:2], template=builtin_template("mistral"))
    assert (ids[0], ids[-1]) == (1, 2) and 1 not in tokenizer.encode("<s>")
    assert tokenizer.decode([i for i, kept in zip(ids, mask) if kept]).strip() == TALK[1]["content"] + "</s>"


def test_a_fast_tokenizer_takes_its_library_s_offsets(shared: Path) -> None:
    tokenizer = load_tokenizer(shared / "parity/tokenizers/byte_bpe_split")
    ids, mask = encode_chat(tokenizer, TALK, template=builtin_template("chatml"))
    text = render_chat(builtin_template("chatml"), TALK)
    assert ids == tokenizer.encode(text) and tokenizer.decode(ids) == text
    assert tokenizer.decode([i for i, kept in zip(ids, mask) if kept]) == TALK[1]["content"] + "<|im_end|>"


@pytest.mark.parametrize(
    "text, begun, found",
    [
        ("<think>\na\n</think>\n\nb", False, ("a", "b")),
        ("a</think>b", True, ("a", "b")),
        ("a", True, ("a", "")),
        (" plain </think>", False, ("", " plain </think>")),
    ],
)
def test_thoughts_are_parted_from_answers(text, begun, found):
    assert parted(text, begun) == found
