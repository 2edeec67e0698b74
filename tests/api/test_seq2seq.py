"""An encoder-decoder behind the public face: of a folder, of a run, and what is refused."""

import dataclasses
import json

import jax
import numpy as np
import pytest

import jaxlm
from jaxlm import cli
from jaxlm.api import Seq2Seq, Writing
from jaxlm.api.seq2seq import read_writing
from jaxlm.convert import ours
from jaxlm.data import TextPairs, TokenizerConfig
from jaxlm.errors import UserError
from jaxlm.models import init_boxed
from jaxlm.nn import LearnedConfig
from jaxlm.objectives import SequenceToSequence
from jaxlm.optim import OptimizerConfig
from jaxlm.sharding import MeshConfig, unbox
from jaxlm.text import ByteTokenizer
from jaxlm.train.loop import train
from tests import tiny
from tests.convert import golden_pairs
from tests.convert.test_goldens import contents
from tests.models.test_seq2seq import MODEL

SOURCE = np.array([[5, 6, 7, 8], [9, 4, 0, 0]])
MASK = np.array([[1, 1, 1, 1], [1, 1, 0, 0]])


def made(**changes):
    config = dataclasses.replace(MODEL, **changes)
    return Seq2Seq(config, unbox(init_boxed(config, jax.random.key(0))), None, writing=Writing(1))


@pytest.fixture(scope="module")
def model():
    return made()


def test_bad_input_has_one_clear_line(model):
    with pytest.raises(UserError, match="a source of 9 tokens exceeds the 8 positions of the model"):
        made(positions=LearnedConfig(8)).encode(np.ones((1, 9), int))
    with pytest.raises(UserError, match="source 1 has no real token: its mask is all zeros"):
        model.encode(SOURCE, MASK * [[1], [0]])
    with pytest.raises(UserError, match="2 sources, but 1 targets"):
        model.logits(SOURCE, np.ones((1, 3), int), MASK)
    with pytest.raises(UserError, match="31 beams are more than the 30 tokens of the vocabulary"):
        model.generate(SOURCE, 4, jaxlm.Beam(31), mask=MASK)
    with pytest.raises(UserError, match=r"token ids must lie in 0\.\.29"):
        model.encode(SOURCE + 30)
    with pytest.raises(UserError, match="this model has no tokenizer"):
        model.encode("a text")
    with pytest.raises(UserError, match="name no decoder_start_token_id: give start="):
        Seq2Seq(model.config, model.params, None).generate(SOURCE, 4)
    with pytest.raises(UserError, match="a stop must be an integer"):
        model.generate(SOURCE, 4, stop="x", mask=MASK)
    with pytest.raises(UserError, match="first must be at least 0 and at most 29"):
        model.generate(SOURCE, 4, first=30)


def test_what_is_forced_and_banned(model):
    free = model.generate(SOURCE, 5, mask=MASK)
    out = model.generate(SOURCE, 5, mask=MASK, first=3, last=7, banned=[int(free.tokens[0, 0])])
    assert (out.tokens[:, 0] == 3).all() and (out.tokens[:, -1] == 7).all()
    assert not (out.tokens[:, 1:-1] == free.tokens[0, 0]).any()
    stopped = model.generate(SOURCE, 5, mask=MASK, stop=free.tokens[0, 0])
    assert (stopped.tokens[0, 1:] == -1).all()


def test_texts(model):
    tokenizer = ByteTokenizer()
    config = dataclasses.replace(MODEL, V=300)
    texts = Seq2Seq(config, unbox(init_boxed(config, jax.random.key(0))), tokenizer, writing=Writing(tokenizer.eot))
    out = texts.generate(["ab", "c"], 6, jaxlm.Beam(2))
    assert out.texts == [tokenizer.decode(row[row >= 0].tolist(), skip_special=True) for row in out.tokens]
    ids = [tokenizer.encode(text, special=True) for text in ("ab", "c")]
    padded = np.array([ids[0], ids[1] + [0]])
    again = texts.generate(padded, 6, jaxlm.Beam(2), mask=padded > 0)
    np.testing.assert_array_equal(again.alternatives[0], out.alternatives[0])
    with pytest.raises(UserError, match="a mask goes with tokens"):
        texts.encode("ab", MASK)


def test_how_it_writes_is_read_from_its_files(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"decoder_start_token_id": 2, "forced_eos_token_id": 4}))
    said = {"decoder_start_token_id": 3, "forced_bos_token_id": 9, "bad_words_ids": [[7], [1, 2]]}
    (tmp_path / "generation_config.json").write_text(json.dumps(said))
    assert read_writing(tmp_path) == Writing(3, 9, 4, (7,))
    (tmp_path / "generation_config.json").write_text('{"forced_bos_token_id": "x"}')
    with pytest.raises(UserError, match="forced_bos_token_id must be an integer"):
        read_writing(tmp_path)


def test_a_model_of_no_family_is_saved_in_a_layout_of_our_own(model, tmp_path):
    model.save(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == ours.MODEL_TYPE
    found = jaxlm.load(tmp_path)
    assert isinstance(found, jaxlm.Seq2Seq) and found.config == model.config
    np.testing.assert_array_equal(found.logits(SOURCE, SOURCE, MASK), model.logits(SOURCE, SOURCE, MASK))
    assert "encoder.layers.1.mixer.q" in contents(tmp_path) and "decoder.layers.0.cross.k" in contents(tmp_path)


def test_a_folder_without_the_head_has_no_bias_of_the_logits(tmp_path):
    from safetensors.numpy import load_file, save_file

    folder = golden_pairs.write(tmp_path / "a", "bart")
    tensors = load_file(folder / "model.safetensors")
    whole = jaxlm.load(folder)
    bias = tensors.pop("final_logits_bias")
    bare = {name.removeprefix("model."): x for name, x in tensors.items()}
    bare["encoder.embed_tokens.weight"] = bare["shared.weight"]
    save_file(bare, folder / "model.safetensors")
    found = jaxlm.load(folder)
    assert not found.config.logit_bias
    logits = found.logits(SOURCE, SOURCE, MASK)
    np.testing.assert_allclose(logits + bias[None], whole.logits(SOURCE, SOURCE, MASK), atol=1e-4)


def test_a_run_on_pairs_is_trained_sampled_and_opened(tmp_path):
    """It learns to say the source again, in another order of words; its loss falls, and text goes in and comes out."""
    words = ["ab", "cd", "ef", "gh"]
    pairs = [(f"{a} {b}", f"{b} {a}") for a in words for b in words]
    (tmp_path / "pairs.tsv").write_text("".join(f"{a}\t{b}\n" for a, b in pairs * 4))
    data = TextPairs(str(tmp_path / "pairs.tsv"), tokenizer=TokenizerConfig(), T=16, holdout=0.2)
    run = tiny.run(
        model=dataclasses.replace(MODEL, V=257),
        data=data,
        objective=SequenceToSequence(0.1),
        optimizer=OptimizerConfig(learning_rate=3e-3, schedule="noam", warmup=4, weight_decay=0.0),
        mesh=MeshConfig(),
        steps=12,
        batch=8,
        prompts=("ab cd",),
    )
    train(run, tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = [line["train/loss"] for line in lines if "train/loss" in line]
    assert losses[-1] < losses[0]
    assert "ab cd -> " in (tmp_path / "run" / "samples.txt").read_text()
    model = jaxlm.load(tmp_path / "run")
    assert isinstance(model, jaxlm.Seq2Seq) and model.config == run.model
    out = model.generate("ab cd", 6, jaxlm.Beam(2))
    assert len(out.texts) == 1 and out.alternatives[0].shape == (1, 2, 6)
    assert (
        cli.main(["generate", str(tmp_path / "run"), "--prompt", "ab cd", "--beams", "2", "--max-new-tokens", "6"]) == 0
    )


def test_pairs_of_unequal_length_are_one_line(tmp_path, capsys):
    (tmp_path / "a").write_text("one\ntwo\n")
    (tmp_path / "b").write_text("eins\n")
    config = f'multi30k_transformer(folder="{tmp_path}")'
    words = [f"data.{name}={tmp_path}/{file}" for name, file in (("source", "a"), ("target", "b"))]
    held = [f"data.heldout_source={tmp_path}/a", f"data.heldout_target={tmp_path}/b"]
    assert cli.main(["train", config, *words, *held, "--run", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert (
        f"{tmp_path}/a:2: this line has no partner: {tmp_path}/b ends at line 1" in error and "Traceback" not in error
    )
