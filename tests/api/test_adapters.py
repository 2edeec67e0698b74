"""Adapters side by side: each row's is as if it were alone."""

import shutil

import jax
import numpy as np
import pytest

import jaxlm
from jaxlm.errors import UserError
from jaxlm.sharding import MeshConfig, make_mesh
from tests.convert import golden
from tests.convert.test_peft import FOLDERS

LORA, DORA, TABLES = (next(f for f in FOLDERS if f.name == f"llama-{kind}") for kind in ("lora", "dora", "tables"))
TOKENS = np.load(LORA / "expected.npz")["tokens"]
ROWS = ["lora", None, "dora", "lora"]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return golden.write(tmp_path_factory.mktemp("base"), "llama")


def together(base, **how):
    lm = jaxlm.load(base, **how)
    for name, folder in (("lora", LORA), ("dora", DORA)):
        lm.add_adapter(name, folder)
    return lm


@pytest.fixture(scope="module")
def lm(base):
    return together(base)


@pytest.fixture(scope="module")
def alone(base):
    return {"lora": jaxlm.load(base, adapter=LORA), "dora": jaxlm.load(base, adapter=DORA), None: jaxlm.load(base)}


def rows(alone, function):
    found = {name: np.asarray(function(one)) for name, one in alone.items()}
    return np.stack([found[name][i] for i, name in enumerate(ROWS)])


def test_logits(lm, alone):
    tokens_BT = np.tile(TOKENS, (2, 1))
    expected = rows(alone, lambda one: one.logits(tokens_BT))
    np.testing.assert_allclose(lm.logits(tokens_BT, adapter=ROWS), expected, atol=2e-5)
    np.testing.assert_allclose(lm.logits(TOKENS, adapter="dora"), alone["dora"].logits(TOKENS), atol=2e-5)
    np.testing.assert_array_equal(lm.logits(TOKENS), alone[None].logits(TOKENS))
    expected = rows(alone, lambda one: one.logprobs(tokens_BT))
    np.testing.assert_allclose(lm.logprobs(tokens_BT, adapter=ROWS), expected, atol=2e-5)


@pytest.mark.parametrize("sampler", [jaxlm.Greedy(), jaxlm.Beam(3)], ids=["greedy", "beam"])
def test_generate(lm, alone, sampler):
    tokens_BT = np.arange(24).reshape(4, 6) % 29
    expected = rows(alone, lambda one: one.generate(tokens_BT, 5, sampler=sampler).tokens)
    np.testing.assert_array_equal(lm.generate(tokens_BT, 5, sampler=sampler, adapter=ROWS).tokens, expected)
    assert len({row.tobytes() for row in expected[:3]}) == 3


def test_on_a_quantised_base(base):
    lm, one = together(base, quantize="int8"), jaxlm.load(base, quantize="int8", adapter=DORA)
    np.testing.assert_allclose(lm.logits(TOKENS, adapter=["dora", None])[:1], one.logits(TOKENS)[:1], atol=2e-5)


@pytest.mark.parametrize("explicit", [True, False], ids=["explicit", "auto"])
def test_on_a_mesh(base, alone, explicit):
    tokens_BT, names = np.tile(TOKENS, (4, 1)), [*ROWS, *ROWS]
    expected = rows(alone, lambda one: one.logits(tokens_BT))
    with jax.set_mesh(make_mesh(MeshConfig(data=2, fsdp=4, explicit=explicit))):
        lm = together(base)
        logits = np.asarray(lm.logits(tokens_BT, adapter=names))
        np.testing.assert_allclose(logits, np.concatenate([expected, expected]), atol=5e-5)
        short = lm.generate(tokens_BT[:3], 3, adapter=ROWS[:3]).tokens  # rows that the mesh does not divide
    np.testing.assert_array_equal(short, rows(alone, lambda one: one.generate(np.tile(TOKENS, (2, 1)), 3).tokens)[:3])


def test_merging_into_a_quantised_base_says_what_it_changes(base):
    lm, said = jaxlm.load(base, quantize="int8", adapter=LORA), []
    merged = lm.merge(say=said.append)
    assert "merging made the quantised base dense" in said[0] and "nats a token on 128 tokens" in said[0]
    assert float(said[0].partition("KL ")[2].split()[0]) < 1e-5
    np.testing.assert_allclose(merged.logits(TOKENS), lm.logits(TOKENS), atol=1e-4)
    assert jaxlm.load(base, adapter=LORA).merge(say=said.append) and len(said) == 1  # nothing to say


def test_bad_input(lm, base, tmp_path):
    for names, line in (
        ("sql", "unknown adapter 'sql'"),
        (["lora"], "1 adapters for 2 rows"),
    ):
        with pytest.raises(UserError, match=line):
            lm.logits(TOKENS, adapter=names)
    with pytest.raises(UserError, match="an adapter 'lora' already"):
        lm.add_adapter("lora", DORA)
    with pytest.raises(UserError, match=r"'tables' changes .* by more than a low rank"):
        lm.add_adapter("tables", TABLES)
    with pytest.raises(UserError, match="no adapter 'lora': add_adapter"):
        jaxlm.load(base).generate(TOKENS, 3, adapter="lora")
    with pytest.raises(UserError, match="side by side"):
        lm.merge()
    shutil.copytree(LORA, tmp_path / "lora")
    other = jaxlm.load(golden.write(tmp_path / "other", "gpt2"))
    with pytest.raises(UserError, match="an adapter of another base"):
        other.add_adapter("lora", tmp_path / "lora")
    assert lm.adapters == ("lora", "dora")
