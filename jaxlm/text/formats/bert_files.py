"""BERT's published vocabularies, one token a line, put into the layout of `tokenizer.json`."""

from jaxlm.errors import UserError
from jaxlm.text.formats.layout import Json, bert_normalizer, document, wordpiece

NEEDED = ("[UNK]", "[CLS]", "[SEP]")


def vocab_txt_to_json(
    data: bytes,
    name: str = "vocab.txt",
    lowercase: bool = True,
    strip_accents: bool | None = None,
    chinese: bool = True,
) -> Json:
    """The `tokenizer.json` of a `vocab.txt`: the token of the first line has the id 0.

    A text becomes `[CLS] A [SEP]`, two become `[CLS] A [SEP] B [SEP]`, the last two parts of type 1. The flags are
    `do_lower_case`, `strip_accents` and `tokenize_chinese_chars` of `tokenizer_config.json`; see `BertNormalizer`.

    Raises:
        UserError: not UTF-8, an empty or repeated line, or `[UNK]`, `[CLS]` or `[SEP]` missing.
    """
    vocab: dict[str, int] = {}
    for i, token in enumerate(_lines(data, name)):
        if not token:
            raise UserError(f"{name}: line {i + 1} is empty: every line is one token")
        if token in vocab:
            raise UserError(f"{name}: lines {vocab[token] + 1} and {i + 1} are both {token!r}: a token has one id")
        vocab[token] = i
    for token in NEEDED:
        if token not in vocab:
            raise UserError(f"{name}: no line of {len(vocab)} is {token}: this is not a whole vocab.txt of BERT")
    specials = {token: vocab[token] for token in ("[PAD]", *NEEDED, "[MASK]") if token in vocab}
    return document(
        wordpiece(vocab),
        specials,
        normalizer=bert_normalizer(lowercase, chinese, strip_accents),
        pre_tokenizer={"type": "BertPreTokenizer"},
        decoder={"type": "WordPiece", "prefix": "##", "cleanup": True},
        prefix=["[CLS]"],
        suffix=["[SEP]"],
    )


def _lines(data: bytes, name: str) -> list[str]:
    try:
        lines = data.decode().replace("\r\n", "\n").split("\n")  # some tokens are other ends of lines, such as U+2028
    except UnicodeDecodeError as error:
        raise UserError(f"{name}: byte {error.start} is not UTF-8: this is another kind of file, or damaged") from None
    return lines if lines[-1] else lines[:-1]
