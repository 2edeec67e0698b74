"""What the files beside a vocabulary change."""

import json
from pathlib import Path

import pytest

from jaxlm.errors import UserError
from jaxlm.text import chat_text, load_tokenizer, train_sentencepiece
from jaxlm.text.formats import layout
from jaxlm.text.settings import read_settings

MERGES = [("h", "o"), ("l", "a"), ("ho", "la")]
TOKENS = [*layout.byte_characters(), *map("".join, MERGES), "<s>", "</s>"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    split, level = layout.byte_level(layout.GPT2)
    model = layout.bpe({token: i for i, token in enumerate(TOKENS)}, MERGES)
    write(tmp_path / "tokenizer.json", layout.document(model, {"<s>": 259}, None, split, level))
    return tmp_path


def write(path: Path, content: object) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content))


def test_a_vocabulary_alone_goes_by_the_usual_spellings(folder: Path) -> None:
    for path in (folder, folder / "tokenizer.json"):
        tokenizer = load_tokenizer(path)
        assert (tokenizer.bos, tokenizer.eos, tokenizer.stops, tokenizer.eot) == (259, None, (259,), 259)
        assert tokenizer.encode("hola", special=True) == [258]


def test_roles_come_from_the_config_and_make_tokens_special(folder: Path) -> None:
    write(
        folder / "special_tokens_map.json", {"eos_token": {"content": "</s>", "lstrip": False}, "pad_token": "nowhere"}
    )
    write(folder / "tokenizer_config.json", {"bos_token": "<s>", "model_max_length": 1e30})
    tokenizer = load_tokenizer(folder)
    assert (tokenizer.bos, tokenizer.eos, tokenizer.pad, tokenizer.stops) == (259, 260, None, (260, 259))
    assert tokenizer.encode("hola</s>") == [258, 260] and tokenizer.decode([258, 260], skip_special=True) == "hola"
    assert load_tokenizer(folder / "tokenizer.json").encode("</s>") != [260]


def test_the_config_says_what_stands_around_a_text(folder: Path) -> None:
    config = {"bos_token": "<s>", "eos_token": "</s>"}
    for bos, eos, ids in [(True, False, [259, 258]), (True, True, [259, 258, 260]), (False, False, [258])]:
        write(folder / "tokenizer_config.json", {**config, "add_bos_token": bos, "add_eos_token": eos})
        assert load_tokenizer(folder).encode("hola", special=True) == ids
    write(folder / "tokenizer_config.json", {**config, "add_bos_token": True, "add_eos_token": True})
    both = load_tokenizer(folder).encoding("hola", "hola", special=True)
    assert (both.ids, both.types) == ([259, 258, 260] * 2, [0] * 3 + [1] * 3)


@pytest.mark.parametrize(
    ("said", "ids"),
    [
        ({}, [259, 258]),
        ({"add_eos_token": False}, [259, 258]),
        ({"add_eos_token": True}, [259, 258, 260]),
        ({"add_bos_token": None, "add_eos_token": None}, [259, 258]),
        ({"add_bos_token": True}, [259, 258]),
        ({"add_bos_token": False}, [258]),
    ],
)
def test_what_the_config_does_not_say_stays_around_a_text(folder: Path, said: dict, ids: list[int]) -> None:
    spec = json.loads((folder / "tokenizer.json").read_text())
    write(folder / "tokenizer.json", spec | {"post_processor": layout.around({"<s>": 259}, ["<s>"], [])})
    write(folder / "tokenizer_config.json", {"bos_token": "<s>", "eos_token": "</s>", **said})
    assert load_tokenizer(folder).encode("hola", special=True) == ids


@pytest.mark.parametrize(
    "said",
    [
        {"additional_special_tokens": ["</s>", {"content": "nowhere"}]},
        {"extra_special_tokens": ["</s>"]},
        {"extra_special_tokens": {"user_token": "</s>"}},
        {"user_token": {"content": "</s>"}, "add_x_token": True, "x_token": None},
    ],
)
def test_special_tokens_that_stand_only_in_the_vocabulary(folder: Path, said: dict) -> None:
    write(folder / "tokenizer_config.json", said)
    tokenizer = load_tokenizer(folder)
    assert tokenizer.encode("hola</s>") == [258, 260] and tokenizer.decode([258, 260], skip_special=True) == "hola"
    named = "user_token" in str(said)
    assert chat_text(tokenizer, [], template="{{ user_token }}") == "</s>" * named


def test_added_tokens_beside_the_vocabulary(folder: Path) -> None:
    added = {"261": {"content": "<tool>", "special": False}, "300": {"content": "<end>", "special": True}}
    write(folder / "tokenizer_config.json", {"added_tokens_decoder": added, "eos_token": "<end>"})
    tokenizer = load_tokenizer(folder)
    assert tokenizer.encode("hola<tool>hola<end>") == [258, 261, 258, 300]
    assert (tokenizer.V, tokenizer.eos) == (301, 300)
    assert tokenizer.decode([258, 261, 299, 300], skip_special=True) == "hola<tool>"
    (folder / "tokenizer_config.json").unlink()
    write(folder / "added_tokens.json", {"<old>": 261})
    assert load_tokenizer(folder).encode("<old>") == [261]


def test_added_tokens_of_a_sentencepiece_folder(tmp_path: Path) -> None:
    model = train_sentencepiece(["hola, qué tal. el gato come pescado. " * 50], V=300)
    model.save(tmp_path)
    added = {str(300): {"content": "<|im_start|>", "special": True}, str(301): {"content": "<tool>", "special": False}}
    config = {"added_tokens_decoder": added, "add_bos_token": False, "add_eos_token": True, "eos_token": "<|im_start|>"}
    write(tmp_path / "tokenizer_config.json", config)
    tokenizer = load_tokenizer(tmp_path)
    hola = model.encode("hola")
    assert tokenizer.encode("hola<|im_start|>hola<tool>", special=True) == [*hola, 300, *hola, 301, 300]
    assert tokenizer.decode([*hola, 300, 301]) == "hola<|im_start|><tool>" and tokenizer.V == 302
    assert 300 not in tokenizer.encode("<|im_start|>", literal=True)
    assert tokenizer.encoding("hola<tool>").tokens[-1] == "<tool>"
    assert tokenizer.fingerprint != model.fingerprint


def test_special_tokens_that_stand_only_in_a_sentencepiece_model(tmp_path: Path) -> None:
    model = train_sentencepiece(["hola, qué tal. el gato come pescado. " * 50], V=300)
    model.save(tmp_path)
    piece = next(model.token(i) for i in range(299, 0, -1) if model.token(i).isalpha() and len(model.token(i)) > 1)
    write(tmp_path / "tokenizer_config.json", {"extra_special_tokens": [piece, "nowhere"], "unk_token": "<unk>"})
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.V == 300 and tokenizer.encode(f"{piece}.") == [model.id(piece), *model.encode(".")]
    assert tokenizer.decode(tokenizer.encode(f"{piece}."), skip_special=True) == "."


def test_generation_config_says_where_generation_stops(folder: Path) -> None:
    write(folder / "tokenizer_config.json", {"eos_token": "</s>"})
    for stated, stops in [(7, (7,)), ([260, 258], (260, 258)), (None, (260,)), (-1, (260,)), ([], (260,))]:
        write(folder / "generation_config.json", {"eos_token_id": stated})
        assert load_tokenizer(folder).stops == stops
    write(folder / "generation_config.json", {})
    for stated, stops in [({"eos_token_id": [5]}, (5,)), ({"text_config": {"eos_token_id": 6}}, (6,)), ({}, (260,))]:
        write(folder / "config.json", stated)
        assert load_tokenizer(folder).stops == stops


def test_where_chat_templates_lie(folder: Path) -> None:
    write(folder / "tokenizer_config.json", {"chat_template": "one"})
    assert load_tokenizer(folder).settings.chat_template == "one"
    named = [{"name": "default", "template": "one"}, {"name": "tool_use", "template": "two"}]
    write(folder / "tokenizer_config.json", {"chat_template": named})
    assert load_tokenizer(folder).settings.chat_template == {"default": "one", "tool_use": "two"}
    (folder / "chat_template.jinja").write_text("three")
    assert load_tokenizer(folder).settings.chat_template == {"default": "three", "tool_use": "two"}
    (folder / "tokenizer_config.json").unlink()
    assert load_tokenizer(folder).settings.chat_template == "three"


def test_what_is_saved_says_the_same(folder: Path, tmp_path: Path) -> None:
    added = {"300": {"content": "<end>", "special": True}}
    named = [{"name": "default", "template": "¿qué?"}, {"name": "tool_use", "template": "two"}]
    for at, template in enumerate(("¿qué?", named, None)):
        config = {"added_tokens_decoder": added, "eos_token": "<end>", "chat_template": template}
        write(folder / "tokenizer_config.json", config)
        write(folder / "generation_config.json", {"eos_token_id": [300, 258]})
        tokenizer = load_tokenizer(folder)
        tokenizer.save(tmp_path / str(at))
        again = load_tokenizer(tmp_path / str(at))
        assert (again.fingerprint, again.stops, again.eos) == (tokenizer.fingerprint, (300, 258), 300)
        assert again.settings.chat_template == tokenizer.settings.chat_template
        assert again.encode("hola<end>", special=True) == [258, 300]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("tokenizer_config.json", b"{", "not JSON"),
        ("generation_config.json", b"[1]", "not a JSON object"),
        ("tokenizer_config.json", b'{"added_tokens_decoder": {"x": {"content": "y"}}}', "not ids with tokens"),
        ("tokenizer_config.json", b'{"added_tokens_decoder": {"1": {}}}', "not ids with tokens"),
        ("tokenizer_config.json", b'{"added_tokens_decoder": {"1": {"content": "\\ud800"}}}', "not ids with tokens"),
        ("tokenizer_config.json", b'{"added_tokens_decoder": {"1": {"content": "a", "special": 1}}}', "not ids with"),
        ("tokenizer_config.json", b'{"added_tokens_decoder": {"-1": "a"}}', "not ids with tokens"),
        ("added_tokens.json", b'{"a": "1"}', "not tokens with their ids"),
        ("tokenizer_config.json", b'{"chat_template": ["x"]}', "chat_template must be a template, or a list"),
        ("tokenizer_config.json", b'{"chat_template": [{}]}', "chat_template must be a template, or a list"),
        ("tokenizer_config.json", b'{"chat_template": 1}', "chat_template must be a template, or a list"),
        ("tokenizer_config.json", b'{"bos_token": 2}', "bos_token must be a special token's spelling.*not 2"),
        ("tokenizer_config.json", b'{"extra_special_tokens": "x"}', "must be a list of special tokens, not 'x'"),
        ("tokenizer_config.json", b'{"extra_special_tokens": [1]}', "extra_special_tokens must be a special token"),
        *(
            ("generation_config.json", b'{"eos_token_id": %s}' % eos, "must be a token id or a list of them, not")
            for eos in (b'{"a": 1}', b'"x"', b"[null]", b"1.5", b"true", b"[[1]]", b"1%s" % (b"0" * 30))
        ),
        ("config.json", b'{"eos_token_id": "x"}', "must be a token id or a list of them, not"),
        ("config.json", b"[" * 100_000, "not JSON"),
        ("chat_template.jinja", b"\xff", "is not UTF-8 text"),
    ],
    ids=lambda value: str(value)[:50],
)
def test_damaged_settings_are_named(folder: Path, name: str, content: bytes, message: str) -> None:
    (folder / name).write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        read_settings(folder)
    assert name in str(error.value)
