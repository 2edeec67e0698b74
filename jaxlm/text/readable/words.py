"""The oldest tokenizer: words and punctuation marks are the tokens, and the rare ones are unknown."""

from typing import ClassVar

from jaxlm.text.formats.layout import Json
from jaxlm.text.readable.bert_text import cut, cut_spans
from jaxlm.text.readable.word_level import WordLevelTokenizer


class WordTokenizer(WordLevelTokenizer):
    """A vocabulary of words: white space separates them, and each punctuation mark is a word (see `bert_text.cut`).

        "¿El gato come?" -> ¿ | El | gato | <unk> | ?

    Texts are short and the vocabulary is large; upper and lower case are different words, and one that training did not
    see is lost. White space is lost too: decoding puts one space between tokens. Arguments as in `WordLevelTokenizer`.
    """

    KIND = "words"
    CUT: ClassVar[Json] = {"type": "BertPreTokenizer"}
    JOIN = None

    @staticmethod
    def spans(text: str) -> list[tuple[int, int]]:
        return cut_spans(text)

    def words(self, text: str) -> list[str]:
        return cut(text)
