import json
from pathlib import Path

from jaxlm.text import ByteTokenizer


def test_ids_are_the_utf8_bytes() -> None:
    tokenizer = ByteTokenizer()
    assert tokenizer.encode("a\u20ac") == [97, 0xE2, 0x82, 0xAC]
    assert (tokenizer.V, tokenizer.eot) == (257, 256)


def test_saving_writes_one_small_readable_file(tmp_path: Path) -> None:
    ByteTokenizer().save(tmp_path / "new" / "folder")
    assert [path.name for path in (tmp_path / "new" / "folder").iterdir()] == ["tokenizer_config.json"]
    assert json.loads((tmp_path / "new/folder/tokenizer_config.json").read_text())["V"] == 257


def test_the_fingerprint_does_not_change_between_releases() -> None:
    assert ByteTokenizer().fingerprint == "04d19ecd0a4f9bc6b0ed9f66688662eb"
