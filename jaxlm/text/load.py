"""One way in for every tokenizer on disk: by what a file holds, not by what it is called."""

import json
import re
import warnings
from pathlib import Path
from typing import Any

from jaxlm.errors import UserError
from jaxlm.files import read_file
from jaxlm.paths import expand
from jaxlm.text.base import Tokenizer
from jaxlm.text.bytes import CONFIG, ByteTokenizer
from jaxlm.text.formats.bert_files import vocab_txt_to_json
from jaxlm.text.formats.fast import FastTokenizer
from jaxlm.text.formats.gpt2_files import gpt2_files_to_json
from jaxlm.text.formats.layout import Json
from jaxlm.text.formats.sentencepiece import SentencePieceTokenizer
from jaxlm.text.formats.tiktoken import tiktoken_to_json
from jaxlm.text.settings import Settings, read_settings

# What a folder is opened by, the first that is there.
NAMES = ("tokenizer.json", "tokenizer.model", "spiece.model", "tiktoken.model", "*.tiktoken", "vocab.json", "vocab.txt")
BESIDE = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "merges.txt")
MERGES = {"vocab.json": "merges.txt", "encoder.json": "vocab.bpe"}
RANK = re.compile(rb"[A-Za-z0-9+/]+=* \d+\s")
KINDS = "tokenizer.json, a SentencePiece .model, tiktoken ranks, vocab.json beside merges.txt, or vocab.txt"


def load_tokenizer(path: str | Path) -> Tokenizer:
    """Opens a tokenizer: a file, a folder in Hugging Face's layout, or a run.

    A file is a tokenizer.json, a SentencePiece model, tiktoken ranks, GPT-2's vocab.json with its merges.txt beside it,
    or BERT's vocab.txt; gzipped files are unpacked. Of a folder the settings beside it are respected too (see
    `Settings`): special tokens, chat template, the end tokens of generation_config.json.

    Raises:
        UserError: nothing there, or nothing of these kinds, or a file that is damaged.
    """
    path = expand(path)
    if path.is_file():
        return _open(path, Settings())
    if not path.is_dir():
        raise UserError(f"{path}: no such tokenizer file or folder")
    if found := _find(path):
        return _open(found, read_settings(path))
    if _is_ours(path / "tokenizer_config.json"):
        return ByteTokenizer()
    if (path / "tokenizer").is_dir():
        return load_tokenizer(path / "tokenizer")
    raise UserError(f"{path}: no tokenizer here (looked for {KINDS}, and tokenizer/)")


def load_readable(path: str | Path) -> Any:
    """The same tokenizer in plain Python, which can `explain` what it does; see `ReadableTokenizer`.

    Raises:
        UserError: as `load_tokenizer`, or it is of a kind that has no readable form here.
    """
    from jaxlm import text as room

    tokenizer = load_tokenizer(path)
    if isinstance(tokenizer, ByteTokenizer):
        return tokenizer
    if not isinstance(tokenizer, FastTokenizer):
        raise UserError(f"{path}: a {type(tokenizer).__name__} has no readable form here: only a tokenizer.json has")
    kind = tokenizer.spec["model"].get("type", "BPE")
    if kind == "WordLevel":
        alone = tokenizer.spec.get("pre_tokenizer") == room.CharacterTokenizer.CUT
        kind = "characters" if alone else "words"
    kinds = {"BPE": room.BPETokenizer, "Unigram": room.UnigramTokenizer, "WordPiece": room.WordPieceTokenizer}
    kinds |= {"words": room.WordTokenizer, "characters": room.CharacterTokenizer}
    return kinds[kind].from_json(tokenizer.spec, str(path))


def has_tokenizer(folder: Path) -> bool:
    """Whether `load_tokenizer` has something to open there. Warns where only the files beside a vocabulary are."""
    if _find(folder) is not None or _is_ours(folder / "tokenizer_config.json") or (folder / "tokenizer").is_dir():
        return True
    if beside := next((name for name in BESIDE if (folder / name).is_file()), None):
        warnings.warn(f"{folder} has {beside}, but no tokenizer: no {KINDS}", stacklevel=4)
    return False


def _find(folder: Path) -> Path | None:
    return next((path for name in NAMES for path in sorted(folder.glob(name))), None)


def _open(path: Path, settings: Settings) -> Tokenizer:
    data, name = read_file(path), str(path)
    try:
        return _made(path, data, name, settings)
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
        raise UserError(f"{path}: not a whole tokenizer, or the files beside it are damaged") from None


def _made(path: Path, data: bytes, name: str, settings: Settings) -> Tokenizer:
    if data[:1] != b"{" and not RANK.match(data) and path.suffix != ".txt":
        if path.suffix == ".model" or data[:1] == b"\n":
            return SentencePieceTokenizer(data, name, settings)
        raise UserError(f"{path}: not a tokenizer: wanted {KINDS}")
    spec = _spec(path, data, settings)
    try:
        whole = settings.complete(spec)
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
        raise UserError(f"{path}: not a whole tokenizer.json") from None
    return FastTokenizer(whole, name, settings)


def _spec(path: Path, data: bytes, settings: Settings) -> Json:
    """What the file says, in the layout of a tokenizer.json."""
    if RANK.match(data):
        specials = {token["content"]: i for i, token in settings.added.items()}
        return tiktoken_to_json(data, str(path), specials=specials or None)
    config = settings.config
    if data[:1] != b"{":
        lowercase, chinese = config.get("do_lower_case", True), config.get("tokenize_chinese_chars", True)
        return vocab_txt_to_json(data, str(path), lowercase, config.get("strip_accents"), chinese)
    try:
        spec = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not whole JSON: {error}") from None
    if isinstance(spec.get("model"), dict):  # a vocabulary may have a token "model" too
        return spec
    for vocab, merges in MERGES.items():
        beside = path.with_name(path.name.replace(vocab, merges))
        if path.name.endswith(vocab) and beside.is_file():
            names = str(path), str(beside)
            return gpt2_files_to_json(data, read_file(beside), names, config.get("tokenizer_class"), config)
    raise UserError(f"{path}: not a tokenizer.json, and no merges.txt beside it: wanted {KINDS}")


def _is_ours(path: Path) -> bool:
    try:
        return json.loads(path.read_bytes()) == CONFIG
    except (OSError, ValueError):  # absent, or not JSON: somebody else's file
        return False
