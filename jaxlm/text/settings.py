"""What the files beside a vocabulary say: special tokens and their roles, the chat template, where generation stops."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jaxlm.errors import UserError
from jaxlm.text import layout
from jaxlm.text.files import write_file
from jaxlm.text.layout import Json

ROLES = ("bos", "eos", "pad", "unk")
# Where no file tells the roles: how published vocabularies spell them, the likeliest first.
SPELLINGS = {
    "bos": ("<s>", "<|begin_of_text|>", "<bos>", "<|startoftext|>", "<｜begin▁of▁sentence｜>"),  # noqa: RUF001
    "eos": ("</s>", "<|end_of_text|>", "<eos>", "<|endoftext|>", "<｜end▁of▁sentence｜>"),  # noqa: RUF001
    "pad": ("<pad>", "[PAD]", "<|pad|>", "<|finetune_right_pad_id|>"),
    "unk": ("<unk>", "[UNK]"),
}


@dataclass(frozen=True)
class Settings:
    """The settings of a folder; empty for a vocabulary that stands alone.

    Attributes:
        config: tokenizer_config.json over special_tokens_map.json.
        added: added tokens beside the vocabulary: id to the fields of `added_tokens` in a tokenizer.json.
        chat_template: one Jinja source, or several by name.
        stops: the end tokens of generation_config.json.
    """

    config: Mapping[str, Any] = field(default_factory=dict)
    added: Mapping[int, Json] = field(default_factory=dict)
    chat_template: str | dict[str, str] | None = None
    stops: tuple[int, ...] = ()

    @property
    def roles(self) -> dict[str, Json]:
        """The special token of each role, as in `added_tokens` of a tokenizer.json, without its id."""
        named = {role: self.config.get(f"{role}_token") for role in (*ROLES, "sep", "cls", "mask")}
        return {role: _token(token) for role, token in named.items() if token}

    def complete(self, spec: Json) -> Json:
        """A tokenizer.json with these added tokens, and with the bos and eos that the settings put around a text."""
        vocab = layout.vocabulary(spec)
        added = {token["content"]: token for token in spec.get("added_tokens") or ()}
        for i, token in self.added.items():
            added.setdefault(token["content"], {**token, "id": i})
        for token in self.roles.values():
            if token["content"] in vocab:
                added.setdefault(token["content"], {**token, "id": vocab[token["content"]]})
        if len(added) > len(spec.get("added_tokens") or ()):
            spec = {**spec, "added_tokens": sorted(added.values(), key=lambda token: token["id"])}
        if around := self.around():
            ids = {**vocab, **{content: token["id"] for content, token in added.items()}}
            spec = {**spec, "post_processor": layout.around(ids, *around, again=True)}
        return spec

    def around(self) -> tuple[list[str], list[str]] | None:
        """The special tokens that the settings put before and after a text; None where they say nothing of it."""
        if "add_bos_token" not in self.config and "add_eos_token" not in self.config:
            return None
        bos, eos = (
            [self.roles[r]["content"]] if self.config.get(f"add_{r}_token") and r in self.roles else []
            for r in ROLES[:2]
        )
        return bos, eos

    def save(self, folder: Path) -> None:
        """Writes the files that `read_settings` reads; none where there is nothing to say."""
        config = dict(self.config)
        if self.added:
            config["added_tokens_decoder"] = {
                str(i): {k: v for k, v in t.items() if k != "id"} for i, t in self.added.items()
            }
        if isinstance(self.chat_template, dict):
            config["chat_template"] = [
                {"name": name, "template": source} for name, source in self.chat_template.items()
            ]
        elif self.chat_template:
            write_file(folder / "chat_template.jinja", self.chat_template.encode())
        if config:
            write_file(folder / "tokenizer_config.json", _json(config))
        if self.stops:
            write_file(folder / "generation_config.json", _json({"eos_token_id": list(self.stops)}))


def read_settings(folder: Path) -> Settings:
    """The settings in a folder; files that are absent say nothing.

    Raises:
        UserError: a file is not JSON of the kind that its name promises.
    """
    config = {**_read(folder / "special_tokens_map.json"), **_read(folder / "tokenizer_config.json")}
    added = {i: _token(content, special=False) for content, i in _read(folder / "added_tokens.json").items()}
    try:
        added |= {int(i): _token(token) for i, token in (config.get("added_tokens_decoder") or {}).items()}
    except (ValueError, TypeError, AttributeError, KeyError):
        raise UserError(f"{folder / 'tokenizer_config.json'}: added_tokens_decoder is not ids with tokens") from None
    stops = _read(folder / "generation_config.json").get("eos_token_id")
    stops = () if stops is None else tuple(stops) if isinstance(stops, list) else (stops,)
    return Settings(config, added, _chat_template(folder, config.pop("chat_template", None)), stops)


def _chat_template(folder: Path, stated: Any) -> str | dict[str, str] | None:
    """Files go before the setting, which may be a list of named templates."""
    found = {one["name"]: one["template"] for one in stated} if isinstance(stated, list) else {"default": stated}
    paths = {"default": folder / "chat_template.jinja"}
    paths |= {path.stem: path for path in sorted(folder.glob("additional_chat_templates/*.jinja"))}
    for name, path in paths.items():
        if path.is_file():
            try:
                found[name] = path.read_text(encoding="utf-8")
            except UnicodeDecodeError as error:
                raise UserError(f"{path} is not UTF-8 text: {error.reason} at byte {error.start}") from None
    found = {name: source for name, source in found.items() if source}
    return found.get("default") if set(found) <= {"default"} else found


def _read(path: Path) -> Json:
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise UserError(f"{path}: not JSON: {error}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: not a JSON object")
    return content


def _token(token: str | Json, special: bool = True) -> Json:
    """The fields of an added token, given as them or as its spelling."""
    given: Json = {"content": token} if isinstance(token, str) else token
    usual = layout.added_token(-1, given["content"], given.get("special", special))
    return {**usual, **{name: given[name] for name in usual if name in given}}


def _json(content: Json) -> bytes:
    return json.dumps(content, indent=2, ensure_ascii=False).encode() + b"\n"
