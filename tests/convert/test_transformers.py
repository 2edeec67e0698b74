"""What is written here, opened by transformers itself. Needs the `parity` extra."""

import json

import jax
import numpy as np
import pytest

import jaxlm
from jaxlm import sharding
from jaxlm.api import LanguageModel
from jaxlm.models import lm as models
from tests import tiny
from tests.convert import golden
from tests.convert.reference import close

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.filterwarnings("ignore")  # theirs
FOREIGN = {"kimi_k2": "deepseek_v3"}  # published with code of its own, which is DeepSeek's


def opened(folder):
    """transformers' model in the folder, which has all its tensors and no others."""
    fields = json.loads((folder / "config.json").read_text())
    fields["model_type"] = FOREIGN.get(fields["model_type"], fields["model_type"])
    (folder / "config.json").write_text(json.dumps(fields))
    how = {"attn_implementation": "eager", "dtype": torch.float32, "output_loading_info": True}
    model, info = transformers.AutoModelForCausalLM.from_pretrained(folder, **how)
    assert not any(info[f"{kind}_keys"] for kind in ("missing", "unexpected", "mismatched")), info
    return model.eval()


def computed(model, tokens):
    with torch.no_grad():
        return model(torch.tensor(tokens, dtype=torch.long), use_cache=False).logits.numpy()


@pytest.mark.parametrize("name", golden.NAMES)
def test_saved_as_loaded(name, tmp_path):
    e = golden.expected(name)
    jaxlm.load(golden.write(tmp_path / "a", name)).save(tmp_path / "b", max_shard_size="8KB")
    close(computed(opened(tmp_path / "b"), e["tokens"]), e["logits"])


@pytest.mark.parametrize("name", golden.NAMES)
def test_described_anew(name, tmp_path):
    """The same model with a config.json that was made from what it is, not from how it came."""
    e = golden.expected(name)
    lm = jaxlm.load(golden.write(tmp_path / "a", name))
    LanguageModel(lm.config, lm.params, None).save(tmp_path / "b")
    close(computed(opened(tmp_path / "b"), e["tokens"]), e["logits"])


@pytest.mark.parametrize("changes", [{}, {"tied": False}])
def test_made_here(changes, tmp_path):
    config = tiny.model(**changes)
    params = sharding.unbox(jax.jit(models.init_boxed, static_argnums=0)(config, jax.random.key(0)))
    lm = LanguageModel(config, params, None)
    lm.save(tmp_path)
    tokens = np.random.default_rng(0).integers(0, config.V, (2, 16))
    close(computed(opened(tmp_path), tokens), np.asarray(lm.logits(tokens)))
