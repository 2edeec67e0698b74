"""Encoders' folders: which head a file asks for, names of every family and head there and back, what is refused."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import jaxlm
from jaxlm.convert import describe, families
from jaxlm.errors import UserError
from jaxlm.models import MaskedHead, ReplacedHead, SequenceHead, SpanHead, TokenHead
from jaxlm.nn import BigBirdConfig, LayersConfig, LongformerConfig

SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
SIZES |= {"vocab_size": 30, "max_position_embeddings": 20}
BERT = SIZES | {"model_type": "bert", "layer_norm_eps": 1e-12}
ROBERTA = BERT | {"model_type": "roberta", "pad_token_id": 1, "type_vocab_size": 1}
DISTILBERT = {"model_type": "distilbert", "vocab_size": 30, "dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 24}
DISTILBERT |= {"max_position_embeddings": 20}
ELECTRA = BERT | {"model_type": "electra", "embedding_size": 8}
LONGFORMER = ROBERTA | {"model_type": "longformer", "attention_window": [4, 8]}
BIG_BIRD = BERT | {"model_type": "big_bird", "block_size": 2, "num_random_blocks": 0, "max_position_embeddings": 40}
ALBERT = BERT | {"model_type": "albert", "embedding_size": 8, "num_hidden_layers": 4, "num_hidden_groups": 2}
MODERNBERT = SIZES | {"model_type": "modernbert", "local_attention": 4, "classifier_pooling": "mean"}
LABELS = {"id2label": {"0": "no", "2": "perhaps", "1": "yes"}}
THE_SAME = {  # models that another family has too
    "XLMRobertaForMaskedLM": "RobertaForMaskedLM",
    "CamembertModel": "RobertaModel",
    "ElectraForTokenClassification": "BertForTokenClassification",
    "BigBirdForTokenClassification": "BertForTokenClassification",
}
NAMED = ("no", "yes", "perhaps")
EVERY = [
    *[(BERT, f"Bert{kind}") for kind in ("Model", "ForMaskedLM", "ForPreTraining", "ForNextSentencePrediction")],
    *[(BERT, f"BertFor{kind}") for kind in ("SequenceClassification", "TokenClassification", "QuestionAnswering")],
    *[(ROBERTA, f"Roberta{kind}") for kind in ("Model", "ForMaskedLM", "ForSequenceClassification")],
    *[(ROBERTA, f"RobertaFor{kind}") for kind in ("TokenClassification", "QuestionAnswering")],
    (ROBERTA | {"model_type": "xlm-roberta"}, "XLMRobertaForMaskedLM"),
    (ROBERTA | {"model_type": "camembert"}, "CamembertModel"),
    *[(DISTILBERT, f"DistilBert{kind}") for kind in ("Model", "ForMaskedLM", "ForSequenceClassification")],
    *[(DISTILBERT, f"DistilBertFor{kind}") for kind in ("TokenClassification", "QuestionAnswering")],
    *[(ELECTRA, f"Electra{kind}") for kind in ("Model", "ForMaskedLM", "ForPreTraining", "ForSequenceClassification")],
    (ELECTRA | {"embedding_size": 16}, "ElectraForTokenClassification"),
    (ELECTRA, "ElectraForQuestionAnswering"),
    *[(LONGFORMER, f"Longformer{kind}") for kind in ("Model", "ForMaskedLM", "ForSequenceClassification")],
    *[(BIG_BIRD, f"BigBird{kind}") for kind in ("Model", "ForMaskedLM", "ForPreTraining", "ForSequenceClassification")],
    *[(ALBERT, f"Albert{kind}") for kind in ("Model", "ForMaskedLM", "ForPreTraining", "ForSequenceClassification")],
    *[(ALBERT | {"num_hidden_groups": 1}, f"AlbertFor{kind}") for kind in ("TokenClassification", "QuestionAnswering")],
    (BIG_BIRD | {"attention_type": "original_full"}, "BigBirdForTokenClassification"),
    (BIG_BIRD, "BigBirdForQuestionAnswering"),
    (MODERNBERT, "ModernBertForMaskedLM"),
    (MODERNBERT, "ModernBertForSequenceClassification"),
]


def write(folder, fields, architecture, spelling=None, **more):
    """A folder of this model with random weights; `more` are tensors beside them."""
    fields = fields | {"architectures": [architecture], "dtype": "float32"} | LABELS
    family, _ = families.find(fields)
    config = families.lm_config(fields)
    rng = np.random.default_rng(0)
    source = families.Source(family, fields, spelling or {})
    draw = lambda shape: rng.normal(size=shape).astype(np.float32)
    tensors = {t.name: draw(t.shape) for t in source.tensors(config)}
    folder.mkdir(exist_ok=True)
    save_file(tensors | {name: draw(shape) for name, shape in more.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(fields))
    return folder


def same(found, wanted):
    a, b = (load_file(folder / "model.safetensors") for folder in (found, wanted))
    return a.keys() == b.keys() and all(a[name].tobytes() == b[name].tobytes() for name in b)


@pytest.mark.parametrize("fields, architecture", EVERY, ids=[name for _, name in EVERY])
def test_every_head_of_every_family_there_and_back(fields, architecture, tmp_path):
    folder = write(tmp_path / "a", fields, architecture)
    encoder = jaxlm.load(folder)
    assert type(encoder) is jaxlm.Encoder
    encoder.save(tmp_path / "b")
    assert same(tmp_path / "b", folder)
    assert json.loads((tmp_path / "b" / "config.json").read_text()) == json.loads((folder / "config.json").read_text())
    # One made here is described as the same again.
    source = describe(encoder.config)
    assert source.fields["architectures"] == [THE_SAME.get(architecture, architecture)]
    found = families.lm_config(json.loads(json.dumps(source.fields)))
    assert dataclasses.replace(found, pooler=encoder.config.pooler) == encoder.config


@pytest.mark.parametrize(
    "fields, architecture, kind, shape",
    [
        (BERT, "BertForPreTraining", MaskedHead, (2, 5, 30)),
        (ELECTRA, "ElectraForPreTraining", ReplacedHead, (2, 5)),
        (BERT, "BertForSequenceClassification", SequenceHead, (2, 3)),
        (LONGFORMER, "LongformerForSequenceClassification", SequenceHead, (2, 3)),
        (DISTILBERT, "DistilBertForTokenClassification", TokenHead, (2, 5, 3)),
        (ROBERTA, "RobertaForQuestionAnswering", SpanHead, (2, 5, 2)),
    ],
)
def test_the_head_that_architectures_asks_for(fields, architecture, kind, shape, tmp_path):
    encoder = jaxlm.load(write(tmp_path / "a", fields, architecture))
    assert type(encoder.config.head) is kind
    assert getattr(encoder.config.head, "labels", NAMED) == NAMED
    logits = encoder.logits(np.arange(10).reshape(2, 5))
    assert logits.shape == shape and logits.dtype == np.float32


def test_options():
    read = lambda fields, **more: families.lm_config(fields | more)
    assert read(BERT).head is None and read(BERT).pooler
    assert read(BERT, layer_norm_eps=1e-5).embed_norm.eps == 1e-5
    assert read(BERT, hidden_act="relu").layers[0].blocks[0].ffn.activation == "relu"
    assert (read(ROBERTA).positions.length, read(ROBERTA).positions.offset) == (18, 2)
    assert [x.mixer.reach for s in read(LONGFORMER).layers for x in s.blocks] == [2, 4]
    assert read(LONGFORMER, attention_window=8).layers[0].blocks[0].mixer == LongformerConfig(2, 8, 4)
    assert read(BIG_BIRD).layers[0].blocks[0].mixer == BigBirdConfig(2, 8, 2, 0)
    assert read(BIG_BIRD, rescale_embeddings=True).embed_scale == 4
    assert read(ELECTRA).embed_width == 8 and read(ELECTRA, embedding_size=16).embed_width is None
    assert read(BERT, architectures=["BertForTokenClassification"]).head.labels == ("LABEL_0", "LABEL_1")


def test_layers_of_albert_share_their_weights(tmp_path):
    encoder = jaxlm.load(write(tmp_path / "a", ALBERT, "AlbertForMaskedLM"))
    (segment,) = encoder.config.layers
    assert segment.repeat == 2 and segment.blocks[0].times == 2
    # The same as a BERT with each layer twice.
    layer, params = segment.blocks[0].layer, dict(encoder.params)
    apart = jax.tree.map(lambda x: np.repeat(x, 2, 0), params["segment_0"]["periods"]["block_0"]["layer"])
    params["segment_0"] = {"periods": {"block_0": apart}}
    wide = dataclasses.replace(encoder.config, layers=(LayersConfig((layer,), 4),))
    tokens = np.arange(10).reshape(2, 5)
    np.testing.assert_allclose(encoder.logits(tokens), wide.build().apply({"params": params}, tokens), atol=1e-5)


def test_what_the_file_has_beside_its_head_is_kept(tmp_path):
    """As bert-base-uncased and roberta-base have a pooler, and files of untied heads their matrix."""
    pooler = {"bert.pooler.dense.weight": (16, 16), "bert.pooler.dense.bias": (16,)}
    more = pooler | {"cls.seq_relationship.weight": (2, 16), "cls.seq_relationship.bias": (2,)}
    more |= {"cls.predictions.decoder.weight": (30, 16)}
    folder = write(tmp_path / "a", BERT, "BertForMaskedLM", **more)
    encoder = jaxlm.load(folder)
    assert encoder.config.pooler and encoder.config.next_sentence and not encoder.config.head.tied
    assert encoder.next_sentence([[1, 2]]).shape == (1, 2)
    encoder.save(tmp_path / "b")
    assert same(tmp_path / "b", folder)


def test_other_spellings(tmp_path):
    old = families.bert.SPELLINGS[-1]
    folder = write(tmp_path / "a", BERT, "BertForMaskedLM", old)
    names = load_file(folder / "model.safetensors")
    assert "encoder.layer.1.output.LayerNorm.gamma" in names and "cls.predictions.transform.LayerNorm.beta" in names
    jaxlm.load(folder).save(tmp_path / "b")
    assert same(tmp_path / "b", folder)


def test_a_bare_encoder_needs_no_pooler(tmp_path):
    folder = write(tmp_path / "a", BERT, "BertForTokenClassification")
    fields = json.loads((folder / "config.json").read_text()) | {"architectures": ["BertModel"]}
    tensors = load_file(folder / "model.safetensors")
    save_file({k: x for k, x in tensors.items() if k.startswith("bert.")}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(fields))
    encoder = jaxlm.load(folder)
    assert encoder.config.head is None and not encoder.config.pooler


@pytest.mark.parametrize(
    "fields, line",
    [
        (BERT | {"architectures": ["BertForMultipleChoice"]}, "asks for 'ForMultipleChoice', and the heads known here"),
        (DISTILBERT | {"architectures": ["DistilBertForPreTraining2"]}, "asks for 'ForPreTraining2'"),
        (BIG_BIRD | {"architectures": ["BigBirdForCausalLM"]}, "asks for 'ForCausalLM'"),
        (BERT | {"position_embedding_type": "relative_key"}, "only absolute positions are read"),
        (BERT | {"is_decoder": True}, "only encoders are read here"),
        (BERT | {"num_attention_heads": 3}, "3 does not divide hidden_size 16"),
        (DISTILBERT | {"n_heads": 3}, "3 does not divide dim 16"),
        (LONGFORMER | {"attention_window": [4]}, "must be an even number, or one for each of 2 layers"),
        (LONGFORMER | {"attention_window": 5}, "must be an even number"),
        (ROBERTA | {"max_position_embeddings": 2}, "none is left"),
        (BIG_BIRD | {"attention_type": "sparse"}, "'sparse' is not supported: block_sparse, original_full"),
        (ALBERT | {"num_hidden_groups": 3}, "3 does not divide num_hidden_layers 4"),
        (ALBERT | {"inner_group_num": 2}, "only groups of one layer"),
        (BERT | {"architectures": ["BertForTokenClassification"], "id2label": {"1": "a"}}, "a name for each of 0, 1"),
    ],
)
def test_what_cannot_be(fields, line):
    with pytest.raises(UserError, match=line):
        families.lm_config(fields)
