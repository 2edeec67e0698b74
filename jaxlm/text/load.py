"""One way in for every tokenizer on disk."""

import json
from pathlib import Path

from jaxlm.errors import UserError
from jaxlm.text.base import Tokenizer
from jaxlm.text.bytes import CONFIG, ByteTokenizer
from jaxlm.text.sentencepiece import SentencePieceTokenizer


def load_tokenizer(path: str | Path) -> Tokenizer:
    """Opens a tokenizer: a `.model` file, a folder with `tokenizer.model` or our `tokenizer_config.json`, or a run.

    Raises:
        UserError: nothing there, or nothing of these kinds.
    """
    path = Path(path).expanduser()
    if path.is_file():
        if path.suffix == ".model":
            return SentencePieceTokenizer(path)
        if path.name == "tokenizer.json":
            raise UserError(_unsupported(path))
        raise UserError(f"{path}: not a tokenizer (.model) file")
    if not path.is_dir():
        raise UserError(f"{path}: no such tokenizer file or folder")
    if (path / "tokenizer.model").is_file():
        return SentencePieceTokenizer(path / "tokenizer.model")
    if _is_ours(path / "tokenizer_config.json"):
        return ByteTokenizer()
    if (path / "tokenizer").is_dir():
        return load_tokenizer(path / "tokenizer")
    if (path / "tokenizer.json").is_file():
        raise UserError(_unsupported(path / "tokenizer.json"))
    raise UserError(f"{path}: no tokenizer here (looked for tokenizer.model, tokenizer_config.json and tokenizer/)")


def _is_ours(path: Path) -> bool:
    try:
        return json.loads(path.read_bytes()) == CONFIG
    except (OSError, ValueError):  # absent, or not JSON: somebody else's file
        return False


def _unsupported(path: Path) -> str:
    return f"{path}: tokenizer.json is not supported yet: use the model's SentencePiece file (tokenizer.model)"
