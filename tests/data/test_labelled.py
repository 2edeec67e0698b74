"""Tables of labelled texts: what is read of each kind of file, which rows come, what is refused."""

import gzip
import json

import numpy as np
import pytest

from jaxlm.data import LabelledTexts, TokenizerConfig
from jaxlm.data.labelled import examples, first
from jaxlm.errors import UserError
from jaxlm.text import ByteTokenizer, WordPieceTokenizer

ROWS = [('a "fine" film', "good"), ("dull, and long", "bad"), ("é", "good")]
NUMBERED = [(text, ["bad", "good"].index(label)) for text, label in ROWS]


def write(folder, kind, rows=ROWS, columns=("sentence", "label")):
    path = folder / f"x{kind}"
    if "jsonl" in kind:
        text = "\n\n".join(json.dumps(dict(zip(columns, row))) for row in rows)
    elif "csv" in kind:
        text = "\n".join(",".join('"' + cell.replace('"', '""') + '"' for cell in row) for row in (columns, *rows))
    else:
        text = "\n".join("\t".join(row) for row in (columns, *rows))
    path.write_bytes(gzip.compress(text.encode()) if kind.endswith(".gz") else text.encode())
    return path


def config(path, **changes):
    return LabelledTexts(**{"path": str(path), "labels": ("bad", "good"), "T": 8, "holdout": 0.5} | changes)


@pytest.mark.parametrize("kind", [".tsv", ".csv", ".jsonl", ".tsv.gz", ".jsonl.gz"])
def test_every_kind_of_file(kind, tmp_path):
    path = write(tmp_path, kind)
    assert list(examples(config(path), str(path))) == NUMBERED
    path = write(tmp_path, kind, columns=("t", "y"))
    assert list(examples(config(path, text="t", label="y"), str(path))) == NUMBERED


def test_numbers_are_labels_too(tmp_path):
    (tmp_path / "x.jsonl").write_text('{"sentence": "a", "label": 1}')
    path = tmp_path / "x.jsonl"
    assert list(examples(config(path, labels=("0", "1")), str(path))) == [("a", 1)]


def test_rows_and_batches(tmp_path):
    path = write(tmp_path, ".tsv", [(f"text {i}", "good" if i % 3 else "bad") for i in range(20)])
    data = config(path, heldout=str(path)).prepare()
    eot = ByteTokenizer().eot
    with data.train_batches(4) as batches:
        seen = [next(batches) for _ in range(10)]
    texts = [bytes(int(i) for i in row[1:] if i).decode() for batch in seen for row in batch["tokens"]]
    assert {texts.count(f"text {i}"[:7]) for i in range(10)} == {2}  # two epochs
    assert texts[:20] != texts[20:] and all((batch["tokens"][:, 0] == eot).all() for batch in seen)
    assert seen[0]["tokens"].shape == (4, 8) and seen[0]["labels"].shape == seen[0]["weights"].shape == (4, 1)
    np.testing.assert_array_equal(seen[0]["segments"].sum(1), 1 + np.array([min(len(t), 7) for t in texts[:4]]))
    held = list(data.heldout_rows().batches(8, range(8)))
    assert [batch["weights"].sum() for batch in held] == [8, 8, 4]
    labels = np.concatenate([batch["labels"][batch["weights"] > 0] for batch in held])
    np.testing.assert_array_equal(labels, [int(i % 3 > 0) for i in range(20)])
    part = np.concatenate([batch["labels"] for batch in data.heldout_rows().batches(8, [5, 1])])
    np.testing.assert_array_equal(part[:4, 0], [labels[i] for i in (5, 1, 13, 9)])
    assert len(data.heldout_rows(tokens=24)) == 3
    assert "20 texts to train on, 2 epochs" in data.summary(40) and "0.6500" in data.table({"accuracy": 0.5})


def test_held_out_by_hash(tmp_path):
    path = write(tmp_path, ".tsv", [(f"text {i}", "good") for i in range(50)])
    data = config(path).prepare()
    assert 15 < len(data.heldout) < 35 and not {*data.heldout} & {*data.train}
    assert data.fingerprint != config(path, seed=1).prepare().fingerprint


def test_a_long_text_is_cut_and_what_ends_it_stays():
    tokens = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b")
    tokenizer = WordPieceTokenizer({token: i for i, token in enumerate(tokens)})
    assert first(tokenizer, "a b a b a b", 5) == [2, 5, 6, 5, 3]
    assert first(tokenizer, "a b", 5) == [2, 5, 6, 3]
    assert first(ByteTokenizer(), "abc", 3) == [ByteTokenizer().eot, 97, 98]


def test_a_tokenizer_is_trained_once(tmp_path):
    path = write(tmp_path, ".tsv", [(f"a fine film of {i} minutes and no more", "good") for i in range(60)])
    how = {"tokenizer": TokenizerConfig("bpe", V=300), "cache": str(tmp_path / "cache"), "heldout": str(path)}
    one, again = (config(path, **how).prepare() for _ in range(2))
    assert one.fingerprint == again.fingerprint and one.tokenizer.V == 300
    ids = one.rows(one.train)[0]["tokens"]
    assert ids[0] == one.tokenizer.eot and len(list((tmp_path / "cache" / "tokenizers").iterdir())) == 1


def test_what_cannot_be(tmp_path):
    def said(kind, text, **changes):
        path = tmp_path / f"y{kind}"
        path.write_text(text)
        with pytest.raises(UserError) as error:
            config(path, **changes).prepare()
        return str(error.value)

    assert "line 3: the label 'god' is none of bad, good: did you mean 'good'?" in said(
        ".tsv", "sentence\tlabel\na\tbad\nb\tgod"
    )
    assert "line 2: no 'sentence' there, but text, label" in said(".tsv", "text\tlabel\na\tbad")
    assert "line 2: no 'label' there" in said(".tsv", "sentence\tlabel\na")
    assert "line 2: not valid JSON" in said(".jsonl", '{"sentence": "a", "label": "bad"}\n{')
    assert "line 1: a JSON object is wanted, not a list" in said(".jsonl", "[]")
    assert "are read from .tsv, .csv and .jsonl" in said(".txt", "a")
    assert "no text is left" in said(".tsv", "sentence\tlabel\n")
    with pytest.raises(UserError, match=r"cannot read .*nowhere"):
        config("nowhere.tsv").prepare()
    with pytest.raises(UserError, match="need a path and the names"):
        config("x.tsv", labels=())
