import pytest

from jaxlm.config import resolve
from jaxlm.config_names import BLOCK, USUAL, meant
from jaxlm.config_override import override
from jaxlm.config_tree import plain
from jaxlm.errors import UserError


@pytest.fixture(scope="module")
def run():
    return resolve("quickstart")


def test_every_usual_name_leads_to_a_key_of_a_run(run):
    tree = plain(run)
    assert {name: meant(tree, name) for name in USUAL} == {name: [path] for name, path in USUAL.items()}


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("lr=3e-4", "optimizer.learning_rate=3e-4"),
        ("LR=1", "optimizer.learning_rate=1"),
        ("optim.lr=1", "optimizer.learning_rate=1"),
        ("optimizer.lr=1", "optimizer.learning_rate=1"),
        ("learning_rate=1", "optimizer.learning_rate=1"),
        ("learning-rate=1", "optimizer.learning_rate=1"),
        ("optimizer.learningrate=1", "optimizer.learning_rate=1"),
        ("weight_decay=0", "optimizer.weight_decay=0"),
        ("data.path=a.txt", "data.sources.0.path=a.txt"),
        ("per_device_train_batch_size=4", "batch=4"),
        ("num_train_steps=40", "steps=40"),
        ("model.n_layer=4", "model.layers.0.repeat=4"),
        ("H=4", f"{BLOCK}.mixer.H=4"),
        ("stpes=30", "steps=30"),
        ("model.layers.*.blocks.*.mixerr.H=3", f"{BLOCK}.mixer.H=3"),
        ("T=4", "data.T=4"),
        ("bf16=true", "model.dtype=bfloat16"),
        ("dropout=0.1", "model.dropout=0.1"),
        ("mesh=data=2", "mesh.data=2"),
        ("skips=3", "max_nonfinite_steps=3"),
        ("keep=3", "max_to_keep=3"),
        ("model.segments.0.repeat=4", "model.layers.0.repeat=4"),
        ("model.segments.*.blocks.*.dropout=0.1", f"{BLOCK}.dropout=0.1"),
        ("num_train_epochs=3", "epochs=3"),
    ],
)
def test_a_key_of_another_place_or_program_is_found(text, right, run):
    with pytest.raises(UserError) as caught:
        override(run, [text])
    assert (caught.value.right, caught.value.wrong) == (right, (text,))
    override(run, [right])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("adam_beta2=0.95", 'optimizer.options={"b1": 0.9, "b2": 0.95}'),
        ("output_dir=x", "--run FOLDER"),
        ("stpes=3", "unknown key 'stpes': did you mean 'steps'? (model, data, objective"),
        ("dropout=0.1", f"did you mean 'model.dropout'? (also {BLOCK}.dropout, {BLOCK}.mixer.dropout)"),
        ("x" * 100_000 + "=1", "unknown key 'xxx"),
    ],
)
def test_what_is_no_key_is_told(text, said, run):
    with pytest.raises(UserError) as caught:
        override(run, [text])
    assert said in str(caught.value) and len(str(caught.value)) < 700
