"""What the files beside a vocabulary say: special tokens and their roles, the chat template, where generation stops."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jaxlm.errors import UserError
from jaxlm.files import write_file
from jaxlm.text.formats import layout
from jaxlm.text.formats.layout import Json
from jaxlm.text.readable.reading import SURROGATE, around_of

ROLES = ("bos", "eos", "pad", "unk")
# Where no file tells the roles: how published vocabularies spell them, the likeliest first.
SPELLINGS = {
    "bos": ("<s>", "<|begin_of_text|>", "<bos>", "<|startoftext|>", "<｜begin▁of▁sentence｜>"),  # noqa: RUF001
    "eos": ("</s>", "<|end_of_text|>", "<eos>", "<|endoftext|>", "<｜end▁of▁sentence｜>"),  # noqa: RUF001
    "pad": ("<pad>", "[PAD]", "<|pad|>", "<|finetune_right_pad_id|>"),
    "unk": ("<unk>", "[UNK]"),
}


BESIDE = ("sep", "cls", "mask")
FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")


@dataclass(frozen=True)
class Settings:
    """The settings of a folder; empty for a vocabulary that stands alone.

    Attributes:
        config: tokenizer_config.json over special_tokens_map.json.
        added: added tokens beside the vocabulary: id to the fields of `added_tokens` in a tokenizer.json.
        chat_template: one Jinja source, or several by name.
        stops: the end tokens of generation_config.json, else of config.json.
    """

    config: Mapping[str, Any] = field(default_factory=dict)
    added: Mapping[int, Json] = field(default_factory=dict)
    chat_template: str | dict[str, str] | None = None
    stops: tuple[int, ...] = ()

    @property
    def roles(self) -> dict[str, Json]:
        """The special token of each role, as in `added_tokens` of a tokenizer.json, without its id."""
        given = {role: self.config.get(f"{role}_token") for role in (*ROLES, *BESIDE)}
        return {role: fields for role, token in given.items() if token and (fields := _token(token, f"{role}_token"))}

    @property
    def named(self) -> dict[str, Json]:
        """The special tokens by the names that templates read, such as "bos_token" or "image_token"."""
        given = {name: token for name, token in self.config.items() if name.endswith("_token")}
        given = {name: token for name, token in given.items() if isinstance(token, str) or _has_content(token)}
        extra = self.config.get("extra_special_tokens")
        given |= extra if isinstance(extra, Mapping) else {}
        found = {name: _token(token, name) for name, token in given.items() if token}
        return {name: fields for name, fields in found.items() if fields} | {
            f"{role}_token": fields for role, fields in self.roles.items()
        }

    def special_tokens(self) -> list[Json]:
        """All special tokens that the settings name, `additional_special_tokens` and `extra_special_tokens` too."""
        found = [*self.named.values()]
        for name in ("additional_special_tokens", "extra_special_tokens"):
            extra = self.config.get(name) or ()
            if not isinstance(extra, list | tuple | Mapping):
                raise UserError(f"{name} must be a list of special tokens, not {extra!r:.60}")
            found += [] if isinstance(extra, Mapping) else [_token(token, name) for token in extra if token]
        return [fields for fields in found if fields]

    def complete(self, spec: Json) -> Json:
        """A tokenizer.json with these added tokens, and with the bos and eos that the settings put around a text."""
        vocab = layout.vocabulary(spec)
        added = {token["content"]: token for token in spec.get("added_tokens") or ()}
        for i, token in self.added.items():
            added.setdefault(token["content"], {**token, "id": i})
        for token in self.special_tokens():
            if token["content"] in vocab:
                added.setdefault(token["content"], {**token, "id": vocab[token["content"]]})
        if len(added) > len(spec.get("added_tokens") or ()):
            spec = {**spec, "added_tokens": sorted(added.values(), key=lambda token: token["id"])}
        if not self._around_is_said():
            return spec
        try:
            before = around_of(spec.get("post_processor"), "")
        except UserError:  # more than tokens around a text
            if len(self._around_is_said()) == 1:
                return spec
            before = [], []
        if (around := self.around(*before)) != before:
            ids = {**vocab, **{content: token["id"] for content, token in added.items()}}
            spec = {**spec, "post_processor": layout.around(ids, *around, again=True)}
        return spec

    def _around_is_said(self) -> list[str]:
        return [role for role in ROLES[:2] if self.config.get(f"add_{role}_token") is not None]

    def around(self, prefix: list[str], suffix: list[str]) -> tuple[list[str], list[str]]:
        """The special tokens before and after a text, which are these where the settings say nothing of bos or eos."""
        sides = {"bos": [*prefix], "eos": [*suffix]}
        for role in self._around_is_said():
            side, token = sides[role], self.roles.get(role)
            named = [token["content"]] if token else []
            if not self.config[f"add_{role}_token"]:
                sides[role] = [other for other in side if token and other not in named]
            elif not {*named} & {*side}:
                sides[role] = named + side if role == "bos" else side + named
        return sides["bos"], sides["eos"]

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
    path = folder / "tokenizer_config.json"
    config = {**_read(folder / "special_tokens_map.json"), **_read(path)}
    template = _chat_template(folder, config.pop("chat_template", None))
    added = {content: i for content, i in _read(folder / "added_tokens.json").items() if content}
    try:
        tokens = {_id(i): _token(content, "", special=False) for content, i in added.items()}
    except UserError:
        raise UserError(f"{folder / 'added_tokens.json'} is not tokens with their ids") from None
    try:
        decoder = config.get("added_tokens_decoder") or {}
        tokens |= {_id(int(i)): _token(token, "", special=False) for i, token in decoder.items()}
    except (UserError, ValueError, TypeError, AttributeError):
        raise UserError(f"{path}: added_tokens_decoder is not ids with tokens") from None
    settings = Settings(config, {i: t for i, t in tokens.items() if t}, template, read_stops(folder))
    try:
        settings.special_tokens()  # looks at every one
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    return settings


def read_stops(folder: Path) -> tuple[int, ...]:
    """The ids that end a generated text, by generation_config.json, else by config.json; none where neither says.

    Raises:
        UserError: one of the files is not a JSON object, or its `eos_token_id` is neither an id nor a list of ids.
    """
    config = folder / "config.json"
    whole = _read(config)
    text = whole.get("text_config")
    said = [(folder / "generation_config.json", _read(folder / "generation_config.json")), (config, whole)]
    said += [(config, text)] if isinstance(text, dict) else []
    path, stops = next(((p, s) for p, c in said if (s := c.get("eos_token_id")) is not None), (config, []))
    try:
        ids = [_id(i, least=-1) for i in (stops if isinstance(stops, list) else [stops])]
    except UserError:
        raise UserError(f"{path}: eos_token_id must be a token id or a list of them, not {stops!r:.60}") from None
    return tuple(i for i in ids if i >= 0)  # some write -1 for none


def _id(i: Any, least: int = 0) -> int:
    if type(i) is not int or not least <= i < 1 << 31:
        raise UserError(f"{i!r} is no token id")
    return i


def _chat_template(folder: Path, stated: Any) -> str | dict[str, str] | None:
    """Files go before the setting, which may be a list of named templates."""
    found: Any = stated if isinstance(stated, dict) else {"default": stated}
    try:
        if isinstance(stated, list):
            found = {one["name"]: one["template"] for one in stated}
        wrong = any(not isinstance(name, str) or not isinstance(one, str | None) for name, one in found.items())
    except (TypeError, KeyError):
        wrong = True
    if wrong:
        raise UserError(
            f"{folder / 'tokenizer_config.json'}: chat_template must be a template, or a list of objects that have a "
            "name and a template"
        )
    paths = {"default": folder / "chat_template.jinja"}
    paths |= {path.stem: path for path in sorted(folder.glob("additional_chat_templates/*.jinja"))}
    for name, path in paths.items():
        if path.is_file():
            try:
                found = {**found, name: path.read_text(encoding="utf-8")}
            except UnicodeDecodeError as error:
                raise UserError(f"{path} is not UTF-8 text: {error.reason} at byte {error.start}") from None
            except OSError as error:
                raise UserError(f"cannot read {path}: {error.strerror}") from None
    found = {name: source for name, source in found.items() if source}
    return found.get("default") if set(found) <= {"default"} else found


def _read(path: Path) -> Json:
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON: {error}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: not a JSON object")
    return content


def _has_content(token: Any) -> bool:
    return isinstance(token, Mapping) and "content" in token


def _token(token: Any, name: str, special: bool = True) -> Json | None:
    """The fields of an added token, given as them or as its spelling; None for an empty one, which no text has.

    Raises:
        UserError: it is neither, or its spelling is not Unicode; `name` is that of the setting.
    """
    given = {"content": token} if isinstance(token, str) else token
    if not isinstance(given, Mapping) or not isinstance(given.get("content"), str):
        raise UserError(f"{name} must be a special token's spelling, or an object with its content, not {token!r:.60}")
    if SURROGATE.search(given["content"]):
        raise UserError(f"{name}: the token {given['content']!r} holds half a character (a lone surrogate): remove it")
    usual = layout.added_token(-1, given["content"], given.get("special", special) is True)
    if any(not isinstance(given.get(flag, False), bool) for flag in FLAGS):
        raise UserError(f"{name}: the flags of a token are true or false: {token!r:.120}")
    return {**usual, **{flag: given[flag] for flag in FLAGS if flag in given}} if given["content"] else None


def _json(content: Json) -> bytes:
    try:
        return json.dumps(content, indent=2, ensure_ascii=False).encode() + b"\n"
    except UnicodeEncodeError:  # half characters in what is not read here
        return json.dumps(content, indent=2).encode() + b"\n"
