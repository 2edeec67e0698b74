"""Conversations as rows: what counts, what is packed with what, and a run on them."""

import dataclasses
import json

import numpy as np
import pytest

from jaxlm.data import Conversations, Source
from jaxlm.data.conversations import pack_lengths
from jaxlm.errors import UserError
from jaxlm.objectives import NextToken
from jaxlm.sharding import MeshConfig
from jaxlm.text import ByteTokenizer
from jaxlm.train import loop
from jaxlm.train.evaluate import prompts_of
from tests import tiny
from tests.weights import weights


def chats(count=12):
    say = lambda role, content: {"role": role, "content": content}
    return [
        {
            "messages": [
                say("user", f"{i}?"),
                say("assistant", "ab" * (1 + i % 3)),
                say("user", "so"),
                say("assistant", "z"),
            ]
        }
        for i in range(count)
    ]


def data(folder, records=None, **changes):
    path = folder / "chats.jsonl"
    path.write_text("\n".join(map(json.dumps, chats() if records is None else records)))
    how = {"sources": (Source(str(path)),), "template": "chatml", "T": 256, "holdout": 0.2}
    return Conversations(**how | changes)


def counted(row):
    """The texts of the runs of labels that count."""
    labels, on = row["labels"], row["weights"] > 0
    edges = np.flatnonzero(np.diff(np.concatenate([[0], on, [0]]).astype(int)))
    return [bytes(labels[a:b].astype(np.uint8)).decode() for a, b in zip(edges[::2], edges[1::2])]


TAGLESS = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}</>\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def test_only_answers_count(tmp_path):
    dataset = data(tmp_path).prepare()
    found = sorted(text for i in range(len(dataset.rows)) for text in counted(dataset.rows[i]))
    assert len(dataset.train) + len(dataset.heldout) == 12 and dataset.heldout
    assert set(found) <= {f"{'ab' * n}<|im_end|>" for n in (1, 2, 3)} | {"z<|im_end|>"}
    assert len(found) == 2 * len(dataset.train)


def test_without_tags_by_rendering(tmp_path):
    """As the template writes it after its generation prompt; white space at the end is not learned."""
    tokenizer = ByteTokenizer()
    tokenizer.settings = dataclasses.replace(tokenizer.settings, chat_template=TAGLESS)
    dataset = data(tmp_path).prepare()
    encoded = [dataset.config._encoded(one, tokenizer, TAGLESS, None) for one in dataset.told]
    for (ids, mask), one in zip(encoded, dataset.told):
        wanted = [f"{m['content']}</>" for m in one.messages if m["role"] == "assistant"]
        edges = np.flatnonzero(np.diff(np.concatenate([[0], mask, [0]]).astype(int)))
        assert [bytes(ids[a:b].astype(np.uint8)).decode() for a, b in zip(edges[::2], edges[1::2])] == wanted


def test_packing_is_best_fit_and_whole():
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 33, 200).tolist()
    rows = pack_lengths(lengths, 64)
    assert sorted(i for row in rows for i in row) == list(range(200))
    assert all(sum(lengths[i] for i in row) <= 64 for row in rows)
    assert sum(lengths) / (64 * len(rows)) > 0.95
    assert pack_lengths([4, 3, 2, 1, 0], 5) == [[0, 3], [1, 2]]


def test_packed_conversations_do_not_see_each_other(tmp_path):
    """The losses of a packed row are those of its conversations alone."""
    dataset = data(tmp_path).prepare()
    packed = dataset.rows[0]
    assert packed["segments"].max() > 1
    alone = [dataclasses.replace(dataset.rows, conversations=[dataset.train[i]])[0] for i in dataset.rows.bins[0]]
    model = tiny.model()
    params = weights(model.build(), np.zeros((1, 4), np.int32))

    def loss(row):
        batch = {name: x[None] for name, x in row.items()}
        return NextToken().loss(model, params, batch)[0]

    total = sum(float(loss(row).total) for row in alone)
    np.testing.assert_allclose(loss(packed).total, total, rtol=1e-5)


def test_a_run_learns_answers_and_samples_heldout_prompts(tmp_path, capsys):
    run = tiny.run(data=data(tmp_path, holdout=0.3), objective=NextToken(), epochs=16, batch=8, mesh=MeshConfig())
    rows, steps = run.data.prepare().epoch, -(-16 * run.data.prepare().epoch // 8)
    assert rows and run.planned(rows).steps == steps
    loop.train(run, tmp_path / "run")
    samples = (tmp_path / "run" / "samples.txt").read_text()
    assert "<|im_start|>assistant" in samples
    said = capsys.readouterr().out
    assert "conversations in" in said and "of what the assistant wrote" in said
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = [line["train/loss"] for line in lines if "train/loss" in line]
    assert losses[-1] < losses[0] and lines[-1]["step"] == steps
    assert "16 epochs in this run" in said and f"epochs=16: {steps} steps of 8 rows" in said


def test_prompts_of_the_user_come_first(tmp_path):
    ready = data(tmp_path, holdout=0.3).prepare()
    run = tiny.run(data=data(tmp_path), prompts=("who?",))
    ((text, ids),) = prompts_of(run, ready)
    assert text == "<|im_start|>user\nwho?<|im_end|>\n<|im_start|>assistant\n"
    assert ready.tokenizer.decode(ids) == text
    assert prompts_of(dataclasses.replace(run, prompts=("",)), ready) == ready.prompts != []
    assert prompts_of(dataclasses.replace(run, prompts=()), ready) == []


def test_epochs_need_data_of_a_size():
    with pytest.raises(UserError, match="epochs=2: DataConfig goes on for ever: give steps"):
        tiny.run(epochs=2).planned(None)
    assert tiny.run(steps=7).planned(None).steps == 7
    with pytest.raises(UserError, match="epochs=-1 must be at least 0"):
        tiny.run(epochs=-1)


def test_bad_input(tmp_path):
    with pytest.raises(UserError, match=r"the tokenizer has no chat template: name one, such as data.template=chatml"):
        data(tmp_path, template="").prepare()
    with pytest.raises(UserError, match="unknown chat template 'chatnl'"):
        data(tmp_path, template="chatnl").prepare()
    with pytest.raises(UserError, match="one conversation cannot be both"):
        data(tmp_path, chats(1)).prepare()
    with pytest.raises(UserError, match="each of the default weight"):
        Conversations(sources=(Source("a.jsonl", weight=2.0),))
