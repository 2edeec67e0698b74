"""The two files of a byte-level BPE as GPT-2 published it, put into the layout of `tokenizer.json`.

`vocab.json` has the tokens with their ids, `merges.txt` the merges in their order. How a text is cut and what is put
around it is in neither: it follows from the class that `tokenizer_config.json` names.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from jaxlm.errors import UserError
from jaxlm.text.base import EOT
from jaxlm.text.formats.layout import QWEN2, Json, added_token, around, bpe, document
from jaxlm.text.readable.reading import check_vocab

Config = Mapping[str, Any]

CLIP = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"
ROLES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


@dataclass(frozen=True)
class Kind:
    """What a tokenizer class does beside BPE.

    Attributes:
        specials: the special token of each role, where the config names no other.
        pattern: what a word is; None for GPT-2's, which the library has built in.
        wrapped: the roles of the tokens before and after a text.
        normalizer, options: of the tokenizer.json and of its BPE model.
    """

    specials: Mapping[str, str]
    pattern: str | None = None
    wrapped: tuple[str, str] | None = None
    normalizer: Json | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


NFC = {"type": "NFC"}
ONE_SPACE = {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "}
_GPT2 = Kind(dict.fromkeys(("bos_token", "eos_token", "unk_token"), EOT))
_QWEN2 = Kind(dict.fromkeys(("eos_token", "unk_token", "pad_token"), EOT), QWEN2, normalizer=NFC)
_ROBERTA = Kind(
    dict(zip(ROLES, ("<s>", "</s>", "<unk>", "</s>", "<pad>", "<s>", "<mask>"))), wrapped=("cls_token", "sep_token")
)
_CLIP = Kind(
    {"bos_token": "<|startoftext|>", "eos_token": EOT, "unk_token": EOT, "pad_token": EOT},
    CLIP,
    ("bos_token", "eos_token"),
    {"type": "Sequence", "normalizers": [NFC, ONE_SPACE, {"type": "Lowercase"}]},
    {"end_of_word_suffix": "</w>", "unk_token": EOT},
)
KINDS = {
    "GPT2Tokenizer": _GPT2,
    "CodeGenTokenizer": _GPT2,
    "WhisperTokenizer": _GPT2,
    "Qwen2Tokenizer": _QWEN2,
    "RobertaTokenizer": _ROBERTA,
    "BartTokenizer": _ROBERTA,
    "LongformerTokenizer": _ROBERTA,
    "LEDTokenizer": _ROBERTA,
    "CLIPTokenizer": _CLIP,
}


def gpt2_files_to_json(
    vocab: bytes,
    merges: bytes,
    names: tuple[str, str] = ("vocab.json", "merges.txt"),
    tokenizer_class: str | None = None,
    config: Config | None = None,
) -> Json:
    """The `tokenizer.json` of these two files.

    Args:
        vocab, merges: what the files hold.
        names: of the files, for error messages.
        tokenizer_class: one of `KINDS`, with or without "Fast" at its end; None for GPT-2's.
        config: the folder's `tokenizer_config.json`, of which these count: the special tokens (`bos_token` and so on,
            `additional_special_tokens` or `extra_special_tokens`, `added_tokens_decoder`), `add_bos_token`,
            `add_prefix_space` and Whisper's `predict_timestamps`. Special tokens that have no id get the next ones.

    Raises:
        UserError: another class; a file of another kind or cut short; ids that are shared or left out; a merge that is
            given twice, is of parts that are no tokens, or makes no token.
    """
    config = config or {}
    name = (tokenizer_class or "GPT2Tokenizer").removesuffix("Fast")
    if name not in KINDS:
        raise UserError(
            f"{names[0]}: how a {tokenizer_class} uses it is not known here (known: {', '.join(KINDS)}): "
            "save the model's tokenizer.json and open that"
        )
    kind = KINDS[name]
    ids = _read_vocab(vocab, names[0])
    pairs = _read_merges(merges, ids, *names)
    roles = {role: token for role, token in {**kind.specials, **_named(config)}.items() if token is not None}
    added = _added_tokens(ids, roles, config, names[0])
    ids_of_all = check_vocab(ids | {token["content"]: token["id"] for token in added}, (), names[0])
    cut, decoder = _cut_and_decoder(kind, config)
    spec = document(bpe(ids, pairs, **kind.options), {}, kind.normalizer, cut, decoder)
    tokens = {role: _content(token) for role, token in roles.items()}
    return spec | {"added_tokens": added, "post_processor": _post(name, tokens, ids_of_all, config, names[0])}


def _read_vocab(data: bytes, name: str) -> dict[str, int]:
    try:
        pairs = json.loads(_text(data, name), object_pairs_hook=tuple)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{name}: not JSON, or cut short: {str(error)[:100]}") from None
    if not isinstance(pairs, tuple) or not pairs or any(type(i) is not int for _, i in pairs):
        raise UserError(f"{name}: not an object of tokens and their ids: is it another file of the model?")
    vocab: dict[str, int] = {}
    for token, i in pairs:
        if token in vocab:
            raise UserError(f"{name}: the token {token!r} is given twice: give it one id")
        vocab[token] = i
    return vocab


def _read_merges(data: bytes, ids: Mapping[str, int], vocab_name: str, name: str) -> list[tuple[str, str]]:
    lines = _text(data, name).replace("\r\n", "\n").rstrip("\n").split("\n")
    first = int(lines[0].startswith("#version") or not lines[0])
    pairs: dict[tuple[str, str], int] = {}
    for number, line in enumerate(lines[first:], first + 1):
        left, _, right = line.partition(" ")
        if not left or not right or " " in right:
            raise UserError(f"{name}: line {number} is {line[:60]!r}, not two tokens: is this a whole merges.txt?")
        for token, does in ((left, "needs"), (right, "needs"), (left + right, "makes")):
            if token not in ids:
                raise UserError(f"{name}: the merge {line!r} (line {number}) {does} {token!r}, not in {vocab_name}")
        if (left, right) in pairs:
            raise UserError(f"{name}: the merge {line!r} is in lines {pairs[left, right]} and {number}: keep the first")
        pairs[left, right] = number
    made = {left + right for left, right in pairs}
    unmade = [token for token in ids if len(token.removesuffix("</w>")) > 1 and token not in made]
    if len(unmade) > max(50, len(ids) // 10):  # special tokens are fewer
        raise UserError(
            f"{name}: its {len(pairs)} merges do not make {unmade[0]!r} and {len(unmade) - 1} others of {vocab_name}: "
            "is it cut short, or of another model?"
        )
    return list(pairs)


def _text(data: bytes, name: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise UserError(f"{name}: byte {error.start} is not UTF-8: this is another kind of file, or damaged") from None


def _named(config: Config) -> dict[str, Any]:
    return {role: config[role] for role in ROLES if role in config}


def _content(token: Any) -> str:
    """The spelling of a token that a config gives by itself, or with its flags."""
    return token["content"] if isinstance(token, Mapping) else token


def _added_tokens(ids: Mapping[str, int], roles: Config, config: Config, name: str) -> list[Json]:
    """The special and other added tokens by their ids, with the flags that the config gives them."""
    added: dict[str, Json] = {}
    last = max(ids.values())

    def add(token: Any, usual: Json) -> None:
        content = _content(token)
        if content not in added:
            nonlocal last
            given = token if isinstance(token, Mapping) else {}
            flags = added_token(0, content, special=given.get("special", True)) | usual
            flags |= {flag: given[flag] for flag in flags if flag in given}
            added[content] = flags | {"id": usual.get("id", ids.get(content, last + 1))}
            last = max(last, added[content]["id"])

    for i, token in sorted((int(i), token) for i, token in (config.get("added_tokens_decoder") or {}).items()):
        if ids.get(token["content"], i) != i:
            raise UserError(f"{name}: {token['content']!r} has the id {ids[token['content']]}, but {i} in the config")
        add(token, {"id": i})
    for role, token in roles.items():
        add(token, {"lstrip": role == "mask_token"})  # a mask takes the space before it
    for name_of_list in ("additional_special_tokens", "extra_special_tokens"):
        extra = config.get(name_of_list) or ()
        for token in extra.values() if isinstance(extra, Mapping) else extra:
            add(token, {})
    for token in roles.values():
        added[_content(token)]["special"] = True
    return sorted(added.values(), key=lambda token: token["id"])


def _cut_and_decoder(kind: Kind, config: Config) -> tuple[Json, Json]:
    level = {
        "type": "ByteLevel",
        "add_prefix_space": bool(config.get("add_prefix_space")) and kind is not _CLIP,
        "trim_offsets": True,
        "use_regex": kind.pattern is None or kind is _CLIP,
    }
    if kind.pattern is None:
        return level, level
    split = {"type": "Split", "pattern": {"Regex": kind.pattern}, "behavior": "Isolated", "invert": False}
    if kind is not _CLIP:
        return {"type": "Sequence", "pretokenizers": [split, level]}, level
    split |= {"behavior": "Removed", "invert": True}  # what is between words is lost, </w> tells where they end
    ends = {"type": "Replace", "pattern": {"String": "</w>"}, "content": "Ġ"}
    strip = {"type": "Replace", "pattern": {"Regex": r"^\s+|\s+$"}, "content": ""}
    return {"type": "Sequence", "pretokenizers": [split, level]}, {"type": "Sequence", "decoders": [ends, level, strip]}


def _post(name: str, tokens: Mapping[str, str], ids: Mapping[str, int], config: Config, file: str) -> Json | None:
    """The post-processing: which special tokens are put around a text."""
    kind = KINDS[name]
    needed = (kind.wrapped or ()) + (("eos_token",) if name == "WhisperTokenizer" else ())
    needed += ("bos_token",) if config.get("add_bos_token") and not needed else ()
    for role in needed:
        if role not in tokens:
            raise UserError(f"{file}: {name} puts its {role} around a text: name it in tokenizer_config.json")
    if kind.wrapped:
        cls, sep = ([tokens[role], ids[tokens[role]]] for role in kind.wrapped)
        flags = {"trim_offsets": kind is _ROBERTA, "add_prefix_space": bool(config.get("add_prefix_space"))}
        return {"type": "RobertaProcessing", "sep": sep, "cls": cls, **flags}
    if name == "WhisperTokenizer":
        begin = ["<|startoftranscript|>"] + ["<|notimestamps|>"] * (not config.get("predict_timestamps"))
        post = around(ids, [token for token in begin if token in ids], [tokens["eos_token"]])
        return post | {"pair": post["single"][:-1] + post["pair"][-2:]}
    return around(ids, [tokens["bos_token"]], []) if needed else None
