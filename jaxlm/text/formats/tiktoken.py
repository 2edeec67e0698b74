"""Rank files of the `tiktoken` library, as OpenAI, Meta, Qwen and others publish them, as a tokenizer.json.

Such a file has a line for each token: its bytes in base64, and its rank, which is its id too. What a word is and which
special tokens there are, it does not say: published encodings are recognised by how many ranks they have.
"""

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from jaxlm.errors import UserError
from jaxlm.text.base import EOT
from jaxlm.text.formats.fast_files import FAR
from jaxlm.text.formats.layout import CL100K, GPT2, QWEN2, Json, bpe, byte_characters, byte_level, document

NEVER = 1 << 60
DIGITS = 12  # of a rank at most


def _by_case(but: str, line_end: str) -> str:
    """Words begin where small letters are followed by a capital, and keep 's, 't, 'll and the like."""
    upper, lower = rf"[\p{{Lu}}\p{{Lt}}\p{{Lm}}\p{{Lo}}\p{{M}}{but}]", rf"[\p{{Ll}}\p{{Lm}}\p{{Lo}}\p{{M}}{but}]"
    begin, end = r"[^\r\n\p{L}\p{N}]?", r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    words = rf"{begin}{upper}*{lower}+{end}|{begin}{upper}+{lower}*{end}"
    return rf"{words}|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[{line_end}]*|\s*[\r\n]+|\s+(?!\S)|\s+"


O200K = _by_case("", r"\r\n/")
KIMI = r"[\p{Han}]+|" + _by_case(r"&&[^\p{Han}]", r"\r\n")  # Chinese characters are words apart


@dataclass(frozen=True)
class Published:
    """What a rank file does not say: the pattern of words, special tokens, those that begin a text, normalisation."""

    name: str
    pattern: str
    specials: Mapping[str, int]
    prefix: tuple[str, ...] = ()
    normalizer: Json | None = field(default=None)


def _numbered(first: int, *spellings: str) -> dict[str, int]:
    return {spelling: first + i for i, spelling in enumerate(spellings)}


# By the number of ranks. Sources: tiktoken's openai_public.py, whisper's tokenizer.py, llama3's tokenizer.py,
# tokenization_qwen.py of Qwen-7B, tokenization_chatglm.py of glm-4-9b, tokenization_kimi.py and the configuration of
# Kimi-K2. Whisper's languages differ between its versions and are left out; Llama 3.1 renamed some reserved tokens.
PUBLISHED = {
    50256: Published("GPT-2 (r50k_base)", GPT2, {EOT: 50256}),
    50257: Published("Whisper multilingual", GPT2, _numbered(50257, EOT, "<|startoftranscript|>")),
    50280: Published("p50k_base", GPT2, {EOT: 50256}),
    100256: Published(
        "cl100k_base (GPT-4)",
        CL100K,
        _numbered(100257, EOT, "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>") | {"<|endofprompt|>": 100276},
    ),
    128000: Published(
        "Llama 3",
        CL100K,
        _numbered(
            128000,
            "<|begin_of_text|>",
            "<|end_of_text|>",
            *(f"<|reserved_special_token_{i}|>" for i in range(4)),
            "<|start_header_id|>",
            "<|end_header_id|>",
            "<|reserved_special_token_4|>",
            "<|eot_id|>",
            *(f"<|reserved_special_token_{i}|>" for i in range(5, 251)),
        ),
        prefix=("<|begin_of_text|>",),
    ),
    151329: Published(
        "GLM-4",
        CL100K,
        _numbered(151329, EOT, "[MASK]", "[gMASK]", "[sMASK]", "<sop>", "<eop>")
        | _numbered(151335, "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>")
        | _numbered(151339, "<|begin_of_image|>", "<|end_of_image|>", "<|begin_of_video|>", "<|end_of_video|>"),
        prefix=("[gMASK]", "<sop>"),
    ),
    151643: Published(
        "Qwen",
        QWEN2,
        _numbered(151643, EOT, "<|im_start|>", "<|im_end|>", *(f"<|extra_{i}|>" for i in range(205))),
        normalizer={"type": "NFC"},
    ),
    163584: Published(
        "Kimi K2",
        KIMI,
        _numbered(163584, "[BOS]", "[EOS]", "<|im_end|>", "<|im_user|>", "<|im_assistant|>")
        | _numbered(163590, "<|start_header_id|>", "<|end_header_id|>")
        | _numbered(163593, "[EOT]", "<|im_system|>", "<|tool_calls_section_begin|>", "<|tool_calls_section_end|>")
        | _numbered(163597, "<|tool_call_begin|>", "<|tool_call_argument_begin|>", "<|tool_call_end|>")
        | {"<|im_middle|>": 163601}
        | _numbered(163838, "[UNK]", "[PAD]"),
    ),
    199998: Published("o200k_base (GPT-4o)", O200K, {EOT: 199999, "<|endofprompt|>": 200018}),
}


def tiktoken_to_json(
    data: bytes,
    name: str = "this rank file",
    pattern: str | None = None,
    specials: Mapping[str, int] | None = None,
) -> Json:
    """The bytes of a rank file as a tokenizer.json that `FastTokenizer` and `BPETokenizer` open.

    Without a `pattern` the encoding must be one of `PUBLISHED`; `specials` then replace its special tokens.

    Raises:
        UserError: not a whole rank file, or an encoding that is not known here.
    """
    ranks = read_ranks(data, name)
    if pattern is not None:
        return ranks_to_json(ranks, pattern, specials or {})
    found = PUBLISHED.get(len(ranks))
    if found is None:
        known = ", ".join(f"{count} {published.name}" for count, published in PUBLISHED.items())
        raise UserError(f"{name}: no known encoding has {len(ranks)} ranks ({known}): give its pattern and specials")
    if specials is not None:
        return ranks_to_json(ranks, found.pattern, specials, normalizer=found.normalizer)
    return ranks_to_json(ranks, found.pattern, found.specials, found.prefix, found.normalizer)


def read_ranks(data: bytes, name: str = "this rank file") -> dict[bytes, int]:
    """The rank of each token of a rank file. Ranks may leave gaps, where encodings have special tokens.

    Raises:
        UserError: a line that is not base64 and a number, a token or a rank given twice, a byte without a rank, or a
            rank far above the number of tokens.
    """
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(data.splitlines(), 1):
        try:
            spelled, rank = line.split()
            token = base64.b64decode(spelled, validate=spelled != b"=")  # "=" is the empty token of Whisper's file
            if not rank.isdigit() or len(rank) > DIGITS:
                raise ValueError
        except (ValueError, binascii.Error):
            if not line.strip():
                continue
            raise UserError(f"{name}: line {number} is not base64 and a rank: not a whole tiktoken file") from None
        if token in ranks:
            raise UserError(f"{name}: line {number}: the token {token!r} has the rank {ranks[token]} already")
        ranks[token] = int(rank)
    if len({*ranks.values()}) < len(ranks):
        owner: dict[int, bytes] = {}
        token, rank = next((t, r) for t, r in ranks.items() if owner.setdefault(r, t) != t)
        raise UserError(f"{name}: tokens {owner[rank]!r} and {token!r} share the rank {rank}: give each its own")
    if (top := max(ranks.values(), default=0)) > len(ranks) + FAR:
        raise UserError(f"{name}: there is a rank {top}, but there are only {len(ranks)} tokens: is it damaged?")
    lacking = next((byte for byte in range(256) if bytes([byte]) not in ranks), None)
    if lacking is not None:
        raise UserError(f"{name}: the byte {lacking:#04x} has no rank: not a whole tiktoken file")
    return ranks


def ranks_to_json(
    ranks: Mapping[bytes, int],
    pattern: str,
    specials: Mapping[str, int],
    prefix: Sequence[str] = (),
    normalizer: Json | None = None,
) -> Json:
    """A tokenizer.json with the ids that `tiktoken` gives.

    Here any two neighbours merge that together spell a token, in the order of that token's rank; a tokenizer.json has
    merges of two given tokens. One merge for each token is enough, the last one that its own bytes go through: no merge
    has crossed the ends of two neighbours x y, so the bytes of x y were merged exactly as those of the token alone,
    always the best pair within, and alone they come to two parts in one way only. So there is one merge for each token,
    in the order of ranks. A word that is a token is taken whole in both. Ranks that the file leaves out, where there is
    no special token either, become special tokens `<|unused_17|>`.

    Raises:
        UserError: the id of a special token is that of another token.
    """
    taken = {*ranks.values()}
    for special, i in specials.items():
        if i in taken:
            raise UserError(f"the special token {special!r} cannot have the id {i}, which is taken")
        taken.add(i)
    top = max(ranks.values())
    specials = {f"<|unused_{i}|>": i for i in range(top) if i not in taken} | dict(specials)
    table = dict(enumerate(byte_characters()))
    spell = lambda token: token.decode("latin-1").translate(table)
    ordered = sorted(ranks, key=ranks.__getitem__)
    pairs = [_last_pair(ranks, token) for token in ordered if len(token) > 1]
    model = bpe(
        {spell(token): ranks[token] for token in ordered} | {s: i for s, i in specials.items() if i < top},
        [(spell(left), spell(right)) for left, right in filter(None, pairs)],
        ignore_merges=True,
    )
    return document(model, specials, normalizer, *byte_level(pattern), prefix)


def _last_pair(ranks: Mapping[bytes, int], token: bytes) -> tuple[bytes, bytes] | None:
    """The two parts that the bytes of a token come to; None if they stay more."""
    rank_of = ranks.get
    parts = [b"", *[token[at : at + 1] for at in range(len(token))], b""]
    found = [NEVER, *[rank_of(left + right, NEVER) for left, right in zip(parts[1:], parts[2:-1])], NEVER]
    while len(parts) > 4:  # two and the ends
        best = min(found)
        if best == NEVER:
            return None
        at = found.index(best)
        parts[at] += parts.pop(at + 1)
        del found[at]
        found[at - 1] = rank_of(parts[at - 1] + parts[at], NEVER) if at > 1 else NEVER
        found[at] = rank_of(parts[at] + parts[at + 1], NEVER) if at < len(parts) - 2 else NEVER
    return parts[1], parts[2]
