import pytest

from jaxlm.text import ByteTokenizer, WordPieceTokenizer
from jaxlm.text.truncate import truncated

TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b")
BERT = WordPieceTokenizer({token: i for i, token in enumerate(TOKENS)})


@pytest.mark.parametrize(
    "most, ids", [(None, [2, 5, 6, 5, 3]), (5, [2, 5, 6, 5, 3]), (4, [2, 5, 6, 3]), (2, [2, 3]), (1, [3])]
)
def test_the_end_of_the_text_is_left_out(most, ids):
    assert truncated(BERT, "a b a", most) == ids


def test_other_special_tokens():
    assert truncated(ByteTokenizer(), "abc", 3) == ByteTokenizer().encode("abc", special=True)[:3]
