import subprocess
import sys
from pathlib import Path

import pytest

from jaxlm.errors import UserError
from jaxlm.text import ByteTokenizer, Tokenizer, load_tokenizer


def test_what_was_saved_loads_from_its_folder_and_from_a_run(tmp_path: Path, tokenizer: Tokenizer) -> None:
    tokenizer.save(tmp_path / "run" / "tokenizer")
    for path in (tmp_path / "run" / "tokenizer", str(tmp_path / "run")):
        again = load_tokenizer(path)
        assert type(again) is type(tokenizer) and again.fingerprint == tokenizer.fingerprint


def test_a_model_file_loads_by_itself(tmp_path: Path, trained: dict[str, Tokenizer]) -> None:
    trained["bpe"].save(tmp_path)
    (tmp_path / "tokenizer.model").rename(tmp_path / "other.model")
    assert load_tokenizer(tmp_path / "other.model").fingerprint == trained["bpe"].fingerprint


def test_saving_twice_replaces_the_file(tmp_path: Path) -> None:
    ByteTokenizer().save(tmp_path)
    ByteTokenizer().save(tmp_path)
    assert len(list(tmp_path.iterdir())) == 1


def test_tokenizer_json_is_refused_in_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "LlamaTokenizer"}')
    for path in (tmp_path, tmp_path / "tokenizer.json"):
        with pytest.raises(UserError, match=r"tokenizer\.json is not supported yet"):
            load_tokenizer(path)


def test_nothing_to_load_says_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="absent: no such tokenizer"):
        load_tokenizer(tmp_path / "absent")
    with pytest.raises(UserError, match=r"no tokenizer here \(looked for tokenizer\.model"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer_config.json").write_bytes(b"\xff not JSON")
    with pytest.raises(UserError, match="no tokenizer here"):
        load_tokenizer(tmp_path)
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(UserError, match=r"notes\.txt: not a tokenizer"):
        load_tokenizer(tmp_path / "notes.txt")


def test_importing_the_room_does_not_import_jax() -> None:
    code = "import sys, jaxlm.text; print([m for m in ('jax', 'grain', 'sentencepiece', 'flax') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"
