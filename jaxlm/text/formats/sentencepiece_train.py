"""Training SentencePiece models that lose nothing."""

import io
import re
from collections import Counter
from collections.abc import Iterable, Iterator

from jaxlm import arguments
from jaxlm.errors import UserError, unknown
from jaxlm.text.base import EOT, utf8
from jaxlm.text.formats.sentencepiece import SentencePieceTokenizer

LIMITS = {"bpe": 20_000_000, "unigram": 5_000_000}  # bytes of text: each takes 5 to 15 seconds on two cores
LEAST_V = 300  # 256 bytes, four special pieces, and some room for characters
SEPARATE = re.compile("[\n\t\0\u2581\u2585]+")  # U+2581 is learned as a space, U+2585 drops the whole sentence
LINE = 4096  # characters: the trainer's work on one sentence grows faster than its length


def train_sentencepiece(
    texts: Iterable[str], V: int, kind: str = "bpe", limit: int | None = None
) -> SentencePieceTokenizer:
    """Learns a vocabulary of exactly `V` pieces from the first `limit` bytes of `texts` (`LIMITS[kind]` if None).

    `kind` is "bpe" (Sennrich et al. 2016, arXiv:1508.07909) or "unigram" (Kudo 2018, arXiv:1804.10959; ten to twenty
    times slower to train). The text is taken as it is: no normalisation, no added or removed space. Newline and tab are
    pieces of their own, runs of spaces are pieces, every digit is one piece, and a character outside the vocabulary is
    spelled in byte pieces. The same texts give the same model, byte for byte, on any number of cores.

    Raises:
        UserError: no text, an unknown kind, or V too small or larger than the text supports.
    """
    # Kept off the import path of `jaxlm --help`. (Pyright takes the neighbouring file for the library.)
    from sentencepiece import SentencePieceTrainer  # pyright: ignore[reportAttributeAccessIssue]

    if kind not in LIMITS:
        raise unknown("tokenizer kind", kind, LIMITS)
    V = arguments.integer(V, "V", most=2**31 - 1)
    if V < LEAST_V:
        raise UserError(f"V={V} is too small for a {kind} vocabulary: use at least {LEAST_V}, say 4096")
    lines = list(_lines(texts, LIMITS[kind] if limit is None else limit))
    lines = _spell_rare(lines, most=(V - LEAST_V) // 2 + 20)
    if not lines:
        raise UserError(f"there is no text to train a {kind} tokenizer on")
    model = io.BytesIO()
    try:
        SentencePieceTrainer.train(
            sentence_iterator=iter(lines),
            model_writer=model,
            model_type=kind,
            vocab_size=V,
            character_coverage=1.0,
            byte_fallback=True,
            normalization_rule_name="identity",
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            allow_whitespace_only_pieces=True,
            split_digits=True,
            user_defined_symbols=["\n", "\t"],
            eos_id=0,
            eos_piece=EOT,
            unk_id=1,
            bos_id=-1,
            pad_id=-1,
            max_sentence_length=8 * LINE,
            shuffle_input_sentence=False,
            num_threads=4,  # fixed: the unigram sums are split over threads
            minloglevel=3,
        )
    except RuntimeError as error:
        if most := re.search(r"value <= (\d+)", str(error)):
            raise UserError(f"V={V} is more than this text supports: use at most {most[1]}, or more text") from None
        raise UserError(f"training a {kind} tokenizer with V={V} failed: {error}") from None
    return SentencePieceTokenizer(model.getvalue())


def _lines(texts: Iterable[str], limit: int) -> Iterator[str]:
    for text in texts:
        data = utf8(text)
        if len(data) > limit:
            text = data[:limit].decode("utf-8", "ignore")
        limit -= len(data)
        for line in SEPARATE.split(text):
            yield from (line[at : at + LINE] for at in range(0, len(line), LINE))
        if limit <= 0:
            return


def _spell_rare(lines: list[str], most: int) -> list[str]:
    """Cuts the lines at rare characters, which are left to byte pieces.

    What stays covers 0.9995 of the text, in at most `most` characters. (The library's own coverage is at least 0.98.)
    """
    counts: Counter[str] = Counter()
    for line in lines:
        counts.update(line)
    covered = 0
    rare = {}
    for rank, (character, count) in enumerate(counts.most_common()):
        if rank >= most or covered >= 0.9995 * counts.total():
            rare[ord(character)] = "\n"
        covered += count
    return [part for line in lines for part in line.translate(rare).split("\n") if part]
