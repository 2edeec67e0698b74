"""Every head of every encoder against what transformers computed on the goldens, and folders read and written again."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxlm
from jaxlm.convert import families
from tests.convert import golden, golden_encoders
from tests.convert.reference import close
from tests.convert.test_goldens import assert_equal_folders

GRADIENTS = (  # heads add products, whose gradients are no news: one of each kind of layer
    "modernbert-ModernBertForMaskedLM.biased",
    "bert-BertForPreTraining",
    "albert-AlbertForPreTraining",
    "big_bird-BigBirdForQuestionAnswering",
)
AS_ANOTHER = (  # equations that another golden has: only the names of their tensors are compared
    *(f"roberta-RobertaFor{kind}" for kind in ("MaskedLM", "TokenClassification", "QuestionAnswering")),
    *(f"distilbert-DistilBertFor{kind}" for kind in ("MaskedLM", "TokenClassification", "QuestionAnswering")),
    *(f"electra-ElectraFor{kind}" for kind in ("TokenClassification", "QuestionAnswering")),
    *(f"albert-AlbertFor{kind}" for kind in ("MaskedLM", "TokenClassification", "QuestionAnswering")),
    *(f"longformer-LongformerFor{kind}" for kind in ("MaskedLM", "TokenClassification")),
    *(f"big_bird-BigBirdFor{kind}" for kind in ("MaskedLM", "TokenClassification")),
)


def test_every_family_has_one():
    found = {one["fields"]["model_type"] for one in golden_encoders.CONFIGS.values()}
    assert found == {next(iter(family.MODEL_TYPES)) for family in families.ENCODERS}


@pytest.mark.parametrize("name", golden_encoders.NAMES)
def test_names_and_shapes_of_tensors(name):
    fields, wanted = golden_encoders.config(name), golden_encoders.expected(name)["tensors"]
    source = families.Source(families.find(fields)[0], fields)
    config = families.as_stored(families.lm_config(fields), source, wanted)
    assert {tensor.name: tensor.shape for tensor in source.tensors(config)} == wanted


@pytest.fixture(params=[name for name in golden_encoders.NAMES if name not in AS_ANOTHER], scope="module")
def golden_of(request, tmp_path_factory):
    """Its name, what is expected, and the encoder."""
    name = request.param
    encoder = jaxlm.load(golden_encoders.write(tmp_path_factory.mktemp("golden") / name, name))
    return name, golden_encoders.expected(name), encoder


def inputs(e):
    return {f"{key}_BT": np.int32(e[key]) for key in ("tokens", "mask", "types", "global") if key in e}


def masked(found, e, of_text):
    """Logits of tokens with zeros at padding."""
    return found if of_text else found * e["mask"].reshape(*e["mask"].shape, *[1] * (found.ndim - 2)).astype(np.float32)


def test_hidden_states_heads_and_files(golden_of, tmp_path):
    _, e, encoder = golden_of
    close(encoder.hidden(**inputs(e)), e["hidden"], e["mask"])
    if "logits" in e:
        close(masked(encoder.logits(**inputs(e)), e, encoder.config.head.of_text), e["logits"])
    if "next" in e:
        close(encoder.next_sentence(**inputs(e)), e["next"])
    encoder.save(tmp_path)
    assert_equal_folders(tmp_path, encoder.source.folder)


@pytest.mark.parametrize("golden_of", GRADIENTS, indirect=True, ids=GRADIENTS)
def test_gradients(golden_of):
    _, e, encoder = golden_of
    noise = {key: golden.noise(key, e[key].shape, int(e["seed"])) for key in ("logits", "next") if key in e}

    def loss(params):
        total = jnp.sum(masked(encoder.logits(**inputs(e), params=params), e, False) * noise["logits"])
        return total + (
            jnp.sum(encoder.next_sentence(**inputs(e), params=params) * noise["next"]) if "next" in e else 0
        )

    total, gradients = jax.jit(jax.value_and_grad(loss))(encoder.params)
    np.testing.assert_allclose(total, e["loss"], atol=1e-4 * max(float(np.abs(e[key]).sum()) for key in noise))
    gradients = encoder.to_hf(gradients)
    assert {key: x.shape for key, x in gradients.items()} == e["tensors"]
    for key, norm, projection in zip(e["tensors"], e["gradients"], e["projections"]):
        d, size = np.float64(gradients[key]), max(1e-3 * norm, 1e-5)
        assert abs(np.linalg.norm(d) - norm) < size, key
        assert abs(np.sum(d * golden.noise(key, d.shape, int(e["seed"]) + 1)) - projection) < size, key
