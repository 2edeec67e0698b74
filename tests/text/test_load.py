import gzip
import subprocess
import sys
from pathlib import Path

import pytest

from jaxlm.errors import UserError
from jaxlm.text import ByteTokenizer, FastTokenizer, Tokenizer, load_readable, load_tokenizer
from jaxlm.text.load import has_tokenizer
from jaxlm.text.readable.common import ReadableTokenizer


def test_what_was_saved_loads_from_its_folder_and_from_a_run(
    tmp_path: Path, tokenizer: Tokenizer, strange: list[str]
) -> None:
    tokenizer.save(tmp_path / "run" / "tokenizer")
    for path in (tmp_path / "run" / "tokenizer", str(tmp_path / "run")):
        again = load_tokenizer(path)
        assert again.fingerprint == tokenizer.fingerprint or isinstance(tokenizer, FastTokenizer)
        assert isinstance(again, FastTokenizer if isinstance(tokenizer, ReadableTokenizer) else type(tokenizer))
        assert again.encode_batch(strange) == tokenizer.encode_batch(strange)


def test_a_model_file_loads_by_itself(tmp_path: Path, trained: dict[str, Tokenizer]) -> None:
    trained["bpe"].save(tmp_path)
    (tmp_path / "tokenizer.model").rename(tmp_path / "other.model")
    assert load_tokenizer(tmp_path / "other.model").fingerprint == trained["bpe"].fingerprint


def test_saving_twice_replaces_the_file(tmp_path: Path) -> None:
    ByteTokenizer().save(tmp_path)
    ByteTokenizer().save(tmp_path)
    assert len(list(tmp_path.iterdir())) == 1


def test_a_gzipped_file_is_unpacked(tmp_path: Path, trained: dict[str, Tokenizer]) -> None:
    trained["bpe"].save(tmp_path)
    data = (tmp_path / "tokenizer.model").read_bytes()
    (tmp_path / "x.model.gz").write_bytes(packed := gzip.compress(data))
    assert load_tokenizer(tmp_path / "x.model.gz").fingerprint == trained["bpe"].fingerprint
    for damaged in (packed[:-20], packed[:100] + b"oh no" + packed[105:]):
        (tmp_path / "x.model.gz").write_bytes(damaged)
        with pytest.raises(UserError, match=r"x\.model\.gz: the gzipped file is cut short or damaged"):
            load_tokenizer(tmp_path / "x.model.gz")


def test_a_vocabulary_without_its_merges_says_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "vocab.json").write_text('{"a": 0}')
    with pytest.raises(UserError, match=r"vocab\.json: not a tokenizer\.json, and no merges\.txt beside it"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("beside", ["tokenizer_config.json", "merges.txt"])
def test_files_beside_a_vocabulary_that_is_not_there_are_warned_of(tmp_path: Path, beside: str) -> None:
    assert not has_tokenizer(tmp_path)
    (tmp_path / beside).write_text("{}")
    with pytest.warns(UserWarning, match=f"has {beside}, but no tokenizer: no tokenizer.json, a Sent"):
        assert not has_tokenizer(tmp_path)


def test_nothing_to_load_says_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="absent: no such tokenizer"):
        load_tokenizer(tmp_path / "absent")
    with pytest.raises(UserError, match=r"no tokenizer here \(looked for tokenizer\.json, a Sent"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer_config.json").write_bytes(b"\xff not JSON")
    with pytest.raises(UserError, match="no tokenizer here"):
        load_tokenizer(tmp_path)
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(UserError, match=r"notes\.txt: no line of 1 is \[UNK\]: this is not a whole vocab\.txt"):
        load_tokenizer(tmp_path / "notes.txt")
    (tmp_path / "notes.md").write_text("hello")
    with pytest.raises(UserError, match=r"notes\.md: not a tokenizer: wanted tokenizer\.json, a"):
        load_tokenizer(tmp_path / "notes.md")


def test_files_of_every_kind_open_by_what_they_hold(tmp_path: Path, shared: Path) -> None:
    data = shared / "data/tokenizers"
    gpt2 = tmp_path / "gpt2"
    gpt2.mkdir()
    (gpt2 / "vocab.json").write_bytes((data / "gpt2_encoder.json").read_bytes())
    (gpt2 / "merges.txt").write_bytes((data / "gpt2_vocab.bpe").read_bytes())
    text = "¿Qué tal? It's 1605.\n\n  日本\U0001f600<|endoftext|>"
    ids = load_tokenizer(gpt2).encode(text)
    assert ids[:3] == [126, 123, 4507] and ids[-1] == 50256
    for path in (gpt2 / "vocab.json", data / "gpt2.tiktoken", data / "gpt2_encoder.json"):
        assert load_tokenizer(path).encode(text) == ids
    llama3 = tmp_path / "tokenizer.model"  # what Meta calls a rank file
    llama3.write_bytes((data / "gpt2.tiktoken").read_bytes())
    assert load_tokenizer(llama3).encode(text) == ids
    bert = tmp_path / "bert"
    bert.mkdir()
    (bert / "vocab.txt").write_bytes((shared / "parity/tokenizers/wordpiece_bert/vocab.txt").read_bytes())
    whole = load_tokenizer(shared / "parity/tokenizers/wordpiece_bert")
    assert load_tokenizer(bert).encode(text, special=True) == whole.encode(text, special=True)
    (bert / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    assert load_tokenizer(bert).encode("Él") != whole.encode("Él")


def test_readable_forms_of_files(shared: Path) -> None:
    parity = shared / "parity/tokenizers"
    for name in ("byte_bpe_gpt2", "byte_bpe_split", "unigram", "wordpiece_bert"):
        fast, readable = load_tokenizer(parity / name), load_readable(parity / name)
        assert isinstance(readable, ReadableTokenizer)
        assert readable.encode("El gato come, 2 veces.", special=True) == fast.encode(
            "El gato come, 2 veces.", special=True
        )
        assert "gato" in str(readable.explain("gato")).replace(" ", "").lower()
    for name, message in [
        ("spm_bpe", "SentencePieceTokenizer has no readable form"),
        ("bpe_byte_fallback", "FastTokenizer"),
    ]:
        with pytest.raises(UserError, match=message):
            load_readable(parity / name)


def test_importing_the_room_does_not_import_jax() -> None:
    heavy = ("jax", "grain", "sentencepiece", "flax", "jinja2")
    code = f"import sys, jaxlm.text; print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"
