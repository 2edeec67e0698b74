"""Pairs of texts, one a row, both sides alike."""

from jaxlm.data import EmbeddingPairs, TokenizerConfig


def test_rows(tmp_path):
    (tmp_path / "a.tsv").write_text("".join(f"question {i}\tanswer {i} is longer\n" for i in range(40)))
    data = EmbeddingPairs(str(tmp_path / "a.tsv"), tokenizer=TokenizerConfig(), T=12, holdout=0.2).prepare()
    eot = data.tokenizer.eot
    with data.train_batches(4) as batches:
        batch = next(batches)
    assert {name: x.shape for name, x in batch.items()} == {
        **dict.fromkeys(("source", "source_segments", "target", "target_segments"), (4, 12)),
        "weights": (4, 1),
    }
    for side in ("source", "target"):
        first, *ids = batch[side][0][batch[f"{side}_segments"][0] > 0].tolist()
        assert first == eot and len(ids) <= 11
        assert bytes(ids).decode().startswith("question" if side == "source" else "answer")
        assert not batch[side][batch[f"{side}_segments"] == 0].any()
    held = list(data.heldout_rows().batches(64, range(64)))
    assert len(held) == 1 and held[0]["weights"].sum() == len(data.heldout)
    assert "pairs to train on" in data.summary(8)
