import dataclasses

import pytest

from jaxlm.config_override import override
from jaxlm.errors import UserError
from tests.config_zoo import Attention, Layer, Mixer, Model, Run

RUN = Run(steps=10)


@pytest.mark.parametrize(
    "text, field, value",
    [
        ("steps=20", "steps", 20),
        ("steps=1_000", "steps", 1000),
        ("steps=1e6", "steps", 1000000),
        ("steps=-3", "steps", -3),
        ("steps=9007199254740993", "steps", 9007199254740993),  # exact, not by way of a float
        ("lr=3", "lr", 3.0),
        ("lr=1e-4", "lr", 1e-4),
        ("resume=false", "resume", False),
        ("resume=True", "resume", True),
        ("name=a=b", "name", "a=b"),
        ("name=", "name", ""),
        ("name=3", "name", "3"),
        ("note=None", "note", None),
        ("note=hello", "note", "hello"),
        ("betas=0.5,1", "betas", (0.5, 1.0)),
        ("betas=[0.5, 1]", "betas", (0.5, 1.0)),
        ("betas=(0.5, 1)", "betas", (0.5, 1.0)),
        ("betas.1=1", "betas", (0.9, 1.0)),
        ("betas.*=0", "betas", (0.0, 0.0)),
        ("sizes=3", "sizes", (3,)),
        ("sizes=3,", "sizes", (3,)),
        ("sizes=", "sizes", ()),
        ("sizes=()", "sizes", ()),
        ("sizes=[]", "sizes", ()),
        ("sizes=1e3,2_0", "sizes", (1000, 20)),
        ('options={"a": 1, "b": [true, "x"]}', "options", (("a", 1), ("b", (True, "x")))),
        ('options=[["a", null]]', "options", (("a", None),)),
        ('options=[["a", "word"]]', "options", (("a", "word"),)),
        ('weights={"a": 1}', "weights", {"a": 1.0}),
        ("weights=none", "weights", None),
        ('blocks=[[3, ["c"]], [1, []]]', "blocks", ((3, ("c",)), (1, ()))),
        ("blocks.0.0=7", "blocks", ((7, ("a", "b")),)),
        (
            'scalars={"a": 1, "b": 0.5, "c": "1", "d": "x", "e": true}',
            "scalars",
            (("a", 1), ("b", 0.5), ("c", "1"), ("d", "x"), ("e", True)),
        ),
        ('scalars=[["a", 1.0], ["b", "none"]]', "scalars", (("a", 1.0), ("b", "none"))),
        ("either=3", "either", 3),
        ("either=0.5", "either", 0.5),
        ("either=x", "either", "x"),
        ("blocks.0.1=c", "blocks", ((2, ("c",)),)),
    ],
)
def test_values_are_read_by_their_annotation(text, field, value):
    changed = override(RUN, [text])
    assert repr(changed) == repr(dataclasses.replace(RUN, **{field: value}))


def model(text: str) -> Model:
    return override(RUN, [text]).model


def test_paths_reach_nested_configs_and_tuples():
    assert model("model.layers.0.dropout=0.5").layers == (Layer(dropout=0.5), Layer(Mixer()))
    assert model("model.layers.-1.mixer.Z=2").layers[1] == Layer(Mixer(2))
    assert model("model.layers.0.mixer.window=8").layers[0].mixer == Attention(window=8)
    assert model("model.layers.0.mixer.kind=local").layers[0].mixer == Attention(kind="local")


def test_a_star_means_every_entry_that_has_the_rest():
    assert [layer.dropout for layer in model("model.layers.*.dropout=0.5").layers] == [0.5, 0.5]
    assert model("model.layers.*.mixer.H=2").layers == (Layer(Attention(2)), Layer(Mixer()))


def test_a_whole_config_is_replaced_by_json():
    for text in ('{"type": "jaxlm.config_zoo.Mixer", "Z": 5}', '{"type": "Mixer", "Z": 5}'):
        assert model(f"model.layers.0.mixer={text}").layers[0].mixer == Mixer(5)
    assert model('model={"D": 32}') == Model(D=32)
    assert model("model.layers.0.mixer=none").layers[0].mixer is None
    assert model('model.layers=[{"dropout": 1, "mixer": {"type": "jaxlm.config_zoo.Mixer"}}]').layers == (
        Layer(Mixer(), 1),
    )


def test_json_inside_json_is_read_by_annotation_too():
    @dataclasses.dataclass(frozen=True)
    class Outer:
        run: Run = Run(steps=1)

    text = 'run={"steps": 2, "scalars": {"a": 1}, "weights": {"b": 1}, '
    text += '"model": {"layers": [{"mixer": {"type": "Mixer"}}]}}'
    assert override(Outer(), [text]).run == Run(
        steps=2, scalars=(("a", 1),), weights={"b": 1}, model=Model(layers=(Layer(Mixer()),))
    )


def test_fields_that_must_agree_change_together():
    assert override(RUN, ["model.D=21", "model.K=7"]).model == Model(D=21, K=7)
    with pytest.raises(UserError, match="D must be a multiple of K, got 21 and 16"):
        override(RUN, ["model.D=21"])


def test_defaults_of_a_replaced_config_take_overrides():
    texts = [
        'model={"layers": [{"mixer": {"type": "jaxlm.config_zoo.Mixer"}}]}',
        "model.D=32",
        "model.layers.*.mixer.Z=2",
    ]
    assert override(RUN, texts).model == Model(D=32, layers=(Layer(Mixer(2)),))


def test_the_last_of_two_overrides_holds():
    assert override(RUN, ["steps=1", "steps=2"]).steps == 2


def test_the_config_given_is_left_alone():
    config = Run(steps=1, weights={"a": 1.0})
    assert override(config, ["weights.a=2"]).weights == {"a": 2.0}
    assert config.weights == {"a": 1.0}


@pytest.mark.parametrize(
    "text, message",
    [
        ("steps", "'steps' is not an override: write key.path=value"),
        ("=3", "'=3' is not an override"),
        ("stpes=3", "unknown key 'stpes': did you mean 'steps'? (steps, model, lr,"),
        ("model.layer=3", "unknown key 'model.layer': did you mean 'model.layers'? (D, K, layers)"),
        ("model..D=3", "unknown key 'model..D': did you mean 'model.D'?"),
        ("model.type=x", "unknown key 'model.type'"),
        ("model.layers.2.dropout=3", "model.layers is a tuple with entries 0 to 1, it has no '2'"),
        ("model.layers.x.dropout=3", "model.layers is a tuple with entries 0 to 1"),
        ("sizes.*=3", "sizes is a tuple with no entries"),
        ("model.*.D=3", "unknown key 'model.*.D': did you mean 'model.D'?"),
        ("model.layers.*.drop=3", "unknown key 'model.layers.0.drop': did you mean 'model.layers.0.dropout'?"),
        ("weights.a=3", 'weights is none; first give it a value: weights={"type": ...}'),
        ("lr.x=3", "lr is the value 0.001, with nothing below it"),
        ("steps=x", "steps must be int, not 'x'"),
        ("steps=1.5", "steps must be int, not '1.5'"),
        ("steps=1e400", "steps must be int"),
        ("steps=none", "steps must be int, not 'none'"),
        ("steps=", "steps must be int, not ''"),
        ("lr=nan", "lr must be float, not 'nan': it must be finite"),
        ("lr=fast", "lr must be float, not 'fast'"),
        ("resume=1", "resume must be bool, not '1': write one of true, false"),
        ("betas=0.9", "betas must be a tuple (float, float), not (0.9,)"),
        ("betas=0.9,x", "betas must be a tuple (float, float), not '0.9,x'"),
        ("sizes=[1", "sizes must be a tuple of int, not '[1': not valid JSON"),
        ("sizes=" + "[" * 100_000, "not valid JSON"),
        ("model.layers.0.mixer.window=x", "model.layers.0.mixer.window must be int or none, not 'x'"),
        ("model.layers.0.mixer.kind=fll", "must be one of 'full', 'local', not 'fll'"),
        ("model=3", "model must be Model, not '3': write it as JSON"),
        ("model={}}", "model must be Model, not '{}}': not valid JSON"),
        ('model={"DD": 3}', "unknown key 'model.DD': did you mean 'model.D'?"),
        ('model={"type": "Layer"}', "must name a config class of jaxlm"),
        ('model={"type": ["x"]}', "must name a config class of jaxlm"),
        ('model={"type": "jaxlm.config_zoo.Layer"}', "model must be Model, not Layer("),
        ('model={"D": NaN}', "model.D is nan"),
        ("model.layers.0.mixer={}", 'it needs a "type": one of Attention, Mixer'),
        ('weights={"a": "x"}', "weights must be dict"),
        ('scalars={"a": [1]}', "scalars must be a tuple of a tuple (str, float or int or str or bool)"),
        ("scalars=[[1, 1]]", "scalars must be a tuple"),
        (
            'model={"layers": [{"mixer": {}}]}',
            'model must be Model, not \'{"layers": [{"mixer": {}}]}\': it needs a "type"',
        ),
        ('model={"layers": [{"mixer": {"type": "Mixxer"}}]}', "must name a config class of jaxlm"),
    ],
)
def test_mistakes_give_one_line_naming_the_key(text, message):
    with pytest.raises(UserError) as caught:
        override(RUN, [text])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400
