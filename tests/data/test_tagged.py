"""Words with labels: first pieces, sentences of a file, lines that are refused."""

import numpy as np
import pytest

from jaxlm.data import TaggedWords, TokenizerConfig
from jaxlm.data.tagged import first_tokens
from jaxlm.errors import UserError
from jaxlm.text import ByteTokenizer, WordPieceTokenizer, load_tokenizer

LINES = "-DOCSTART- -X- O\n\nthe DT O\ncats NN B\nsat O\n\nmats B\n\n"
WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "cat", "sat", "the", "mat", "##s")
LABELS = ("O", "B")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tagged")
    WordPieceTokenizer({word: i for i, word in enumerate(WORDS)}).save(folder / "tokenizer")
    (folder / "train.txt").write_text(LINES)
    return folder


def data(folder, **changes):
    file = str(folder / "train.txt")
    tokenizer = TokenizerConfig("file", path=str(folder / "tokenizer"))
    return TaggedWords(file, LABELS, file, **{"tokenizer": tokenizer, "T": 8} | changes)


def test_the_first_piece_has_the_label(folder):
    made = data(folder).prepare()
    (batch,) = made.heldout_rows().batches(3, range(3))
    np.testing.assert_array_equal(batch["tokens"][0], [2, 7, 5, 9, 6, 3, 0, 0])
    np.testing.assert_array_equal(batch["weights"][0], [0, 1, 1, 0, 1, 0, 0, 0])
    np.testing.assert_array_equal(batch["labels"][0], [0, 0, 1, 0, 0, 0, 0, 0])
    np.testing.assert_array_equal(batch["weights"][1], [0, 1, 0, 0, 0, 0, 0, 0])
    assert not batch["weights"][2].any()  # beyond the two sentences
    assert made.table({"loss": 1.0}) == "held out: loss 1.0000 (the commonest label has 0.5000)"
    (cut,) = data(folder, T=3).prepare().heldout_rows().batches(2, range(2))
    np.testing.assert_array_equal(cut["weights"], [[0, 1, 1], [0, 1, 0]])
    with made.train_batches(2) as batches:
        assert next(batches)["labels"].shape == (2, 8)


def test_tokenizers_without_special_tokens_and_with_spaces(folder):
    ids, at = first_tokens(ByteTokenizer(), "a bc d")
    assert ids == [ByteTokenizer().eot, *b"a bc d"] and at == [1, 3, 6]
    ids, at = first_tokens(load_tokenizer(folder / "tokenizer"), "cats the")
    assert (ids, at) == ([2, 5, 9, 7, 3], [1, 3])


@pytest.mark.parametrize(
    "lines, said",
    [
        ("the O\ncat\n", r"train.txt, line 2: 'cat' is a word without a label"),
        ("the O\n\ncat BB\n", r"train.txt, line 3: the label 'BB' is none of O, B"),
        ("\n", "no sentence is left"),
    ],
)
def test_bad_lines(tmp_path, folder, lines, said):
    (tmp_path / "train.txt").write_text(lines)
    with pytest.raises(UserError, match=said):
        data(tmp_path, tokenizer=TokenizerConfig()).prepare()
