"""Where words begin, with bytes and with pieces."""

import numpy as np

from jaxlm.data import DataConfig, Source, pack
from jaxlm.data.words import with_words
from jaxlm.text import ByteTokenizer, WordPieceTokenizer


def test_spaces_special_tokens_and_segments():
    tokenizer = ByteTokenizer()
    rows = np.array([[*b"ab cd", tokenizer.eot, *b"ef gh"]])
    words = with_words(pack(rows, tokenizer.eot), tokenizer)["words"]
    np.testing.assert_array_equal(words, [[0, 0, 2, 2, 2, 5, 6, 6, 8, 8]])


def test_pieces():
    names = ("[UNK]", "[CLS]", "[SEP]", "[MASK]", "[PAD]", "cat", "##s", "##y")
    tokenizer = WordPieceTokenizer({word: i for i, word in enumerate(names)})
    batch = pack(np.array([[1, 5, 6, 5, 6, 7, 2, 5, 0]]), 1)
    np.testing.assert_array_equal(with_words(batch, tokenizer)["words"], [[0, 1, 1, 3, 3, 3, 6, 7]])


def test_a_dataset_tells_them(tmp_path):
    (tmp_path / "a.txt").write_text("to be or not to be " * 20)
    data = DataConfig((Source(str(tmp_path / "a.txt")),), T=16, holdout=0.2, cache=str(tmp_path / "c"), words=True)
    made = data.prepare()
    with made.train_batches(2) as batches:
        batch = next(batches)
    again = with_words({name: x for name, x in batch.items() if name != "words"}, made.tokenizer)
    np.testing.assert_array_equal(batch["words"], again["words"])
    assert "words" in next(iter(made.heldout_batches(2)))
