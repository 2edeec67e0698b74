import dataclasses
import functools
import json
import math
import subprocess
import sys
from typing import Any

import pytest

from jaxlm import cli, config_tree
from jaxlm import config as configs
from jaxlm.config_tree import from_dict, to_dict
from jaxlm.errors import UserError
from jaxlm.models import EncoderConfig
from jaxlm.nn import (
    AttentionConfig,
    BlockConfig,
    DifferentialConfig,
    LayersConfig,
    MoEConfig,
    RMSNormConfig,
    TemperatureConfig,
)
from jaxlm.objectives import NextToken
from tests import tiny
from tests.config_zoo import Attention, Layer, Mixer, Model, Run, Thawed

FULL = Run(
    steps=10**12,
    model=Model(layers=(Layer(None), Layer(Mixer(3), 1 / 3))),
    lr=5e-324,
    sizes=(1, 2),
    note='a\nb ☃ \\ "q"',
    options=(("a", 1), ("b", (True, None, 2.0)), ("c", Attention(window=8))),
    weights={"x": 0.1, "y": 1},
)


@pytest.mark.parametrize("config", [Run(steps=1), FULL, Attention()])
def test_a_config_survives_json_exactly(config):
    again = from_dict(json.loads(json.dumps(to_dict(config))))
    assert again == config
    assert repr(again) == repr(config)  # also int against float, True against 1


def test_every_dataclass_is_named():
    data = to_dict(Run(steps=1))
    assert data["type"] == "jaxlm.config_zoo.Run"
    assert data["model"]["layers"][1]["mixer"] == {"type": "jaxlm.config_zoo.Mixer", "Z": 16}
    assert data["betas"] == [0.9, 0.95]


def test_fields_that_are_absent_take_their_defaults():
    assert from_dict({"type": "jaxlm.config_zoo.Run", "steps": 3}) == Run(steps=3)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"stps": 3}, r"unknown key 'stps': did you mean 'steps'\? \(steps, model, lr,"),
        (
            {"model": {"type": "jaxlm.config_zoo.Model", "d": 3}},
            r"unknown key 'model.d': did you mean 'model.D'\? \(D, K, layers\)",
        ),
        ({"steps": "3"}, "steps must be int, not '3'"),
        ({"steps": True}, "steps must be int, not True"),
        ({"steps": 3.0}, "steps must be int, not 3.0"),
        ({"lr": True}, "lr must be float, not True"),
        ({"lr": None}, "lr must be float, not None"),
        ({"lr": math.inf}, "lr is inf: a config holds finite numbers only"),
        ({"options": [["a", math.nan]]}, "options.0.1 is nan"),
        ({"betas": [0.9]}, r"betas must be a tuple \(float, float\), not \(0.9,\)"),
        ({"betas": 0.9}, "betas must be a tuple"),
        ({"sizes": [1, "2"]}, "sizes must be a tuple of int"),
        ({"weights": {"a": "b"}}, "weights must be dict.* or none"),
        ({"model": None}, "model must be Model, not None"),
        ({"model": {"type": "jaxlm.config_zoo.Layer"}}, "model must be Model, not Layer"),
        ({"model": {"D": 3}}, "model must be Model, not {'D': 3}"),
        (
            {"model": {"type": "jaxlm.config_zoo.Modle"}},
            "unknown config class 'jaxlm.config_zoo.Modle': did you mean 'jaxlm.config_zoo.Model'",
        ),
        ({"model": {"type": "jaxlm.config_zoo.Thawed"}}, "unknown config class"),
        ({"model": {"type": "jaxlm.config_zoo.Foreign"}}, "unknown config class"),
        ({"model": {"type": "jaxlm.config_zoo.NAME"}}, "unknown config class"),
        ({"model": {"type": "jaxlm.config_zoo.dataclasses"}}, "unknown config class"),
        ({"model": {"type": "jaxlm.nowhere.Model"}}, "there is no module jaxlm.nowhere"),
        ({"model": {"type": "os.Model"}}, "must name a config class of jaxlm"),
        ({"model": {"type": "jaxlmevil.x.Model"}}, "must name a config class of jaxlm"),
        ({"model": {"type": "jaxlm..Model"}}, "must name a config class of jaxlm"),
        ({"model": {"type": ["jaxlm"]}}, "must name a config class of jaxlm"),
        ({"model": {"type": "jaxlm.config_zoo.Model", "D": 63}}, "D must be a multiple of K"),
    ],
)
def test_a_spoilt_config_gives_one_line_naming_the_key(changes, message):
    data = {"type": "jaxlm.config_zoo.Run", "steps": 3, **changes}
    with pytest.raises(UserError, match=message) as caught:
        from_dict(data)
    assert "\n" not in str(caught.value)


def test_missing_fields_and_foreign_data_are_refused():
    with pytest.raises(UserError, match="steps is missing: Run needs it"):
        from_dict({"type": "jaxlm.config_zoo.Run"})
    for data in ([], 3, None, "x", {}, {"model_type": "gpt2"}):
        with pytest.raises(UserError, match="not a jaxlm config"):
            from_dict(data)


def test_nothing_outside_the_package_is_imported():
    with pytest.raises(UserError):
        from_dict({"type": "antigravity.Model"})
    assert "antigravity" not in sys.modules


@pytest.mark.parametrize(
    "value, message",
    [
        ([1], "sizes is a list"),
        ((1, {2}), "sizes.1 is a set"),
        ((math.nan,), "sizes.0 is nan"),
        ((Thawed(),), "sizes.0 is a Thawed"),
        ({"type": 1}, "sizes is a dict"),
        ({1: 1}, "sizes is a dict"),
        (len, "sizes is a builtin"),
    ],
)
def test_what_a_config_cannot_hold_is_named(value, message):
    with pytest.raises(UserError, match=message):
        to_dict(Run(steps=1, sizes=value))


def test_a_field_called_type_is_refused():
    bad = dataclasses.make_dataclass("Bad", [("type", str, "x")], frozen=True)
    with pytest.raises(UserError, match="cannot be called 'type'"):
        to_dict(bad())


def test_a_dataclass_that_raises_valueerror_gives_one_line():
    def refuse(self):
        raise ValueError("no")

    bad = dataclasses.make_dataclass("Refuse", [], namespace={"__post_init__": refuse}, frozen=True)
    from jaxlm.config_tree import build

    with pytest.raises(UserError, match="Refuse: no"):
        build({"type": bad})


def test_configs_do_not_import_jax():
    code = "import sys, jaxlm.config; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_a_class_that_moved_is_found_by_its_old_name(monkeypatch):
    monkeypatch.setitem(config_tree.MOVED, "jaxlm.old_zoo.Mixture", "jaxlm.config_zoo.Mixer")
    assert from_dict({"type": "jaxlm.old_zoo.Mixture", "Z": 3}) == Mixer(3)


def test_what_moved_is_where_it_is_said_to_be():
    for old, new in config_tree.MOVED.items():
        assert config_tree.find_class(old).__name__ == new.rpartition(".")[2]


SEEING = LayersConfig((BlockConfig(AttentionConfig(2, 8, causal=False), None),))
ATTENTION: Any = {"scale_by_layer": True, "clip_qkv": 8.0, "attn_temperature": TemperatureConfig(0.2)}
EXPERTS = MoEConfig(
    F=8,
    E=8,
    top_k=2,
    norm_topk_prob=False,
    groups=4,
    topk_group=2,
    score_correction_bias=True,
    capacity_factor=1.5,
)
RENAMED = [  # every class with fields that had other names, with a value of its own in each
    tiny.model(),
    EncoderConfig(264, 32, (SEEING,)),
    AttentionConfig(2, 8, **ATTENTION),
    DifferentialConfig(2, 8, **ATTENTION),
    BlockConfig(AttentionConfig(2, 8), None, residual_from_norm=True),
    EXPERTS,
    RMSNormConfig(zero_centered=True),
    tiny.run(
        objective=NextToken(label_smoothing=0.1, z_loss=0.2),
        model=tiny.model(layers=(LayersConfig((BlockConfig(AttentionConfig(2, 8), EXPERTS),)),)),
        aux_loss_coef=0.1,
        bias_update_rate=0.01,
        max_nonfinite_steps=3,
        max_to_keep=4,
    ),
]


@pytest.mark.parametrize("config", RENAMED, ids=lambda config: type(config).__name__)
def test_fields_that_had_other_names_are_read_by_them(config):
    data, defaults = to_dict(config), {field.name: field.default for field in dataclasses.fields(config)}
    for old, path in config_tree.renamed(type(config)).items():
        *parents, name = path.split(".")
        place = functools.reduce(dict.__getitem__, parents, data)
        assert parents or getattr(config, name) != defaults[name]
        data[old] = place.pop(name)
    assert from_dict(data) == config
    for old, new in config_tree.MOVED.items():
        if new == data["type"]:
            assert from_dict(data | {"type": old}) == config


def test_every_class_with_renamed_fields_is_tried():
    tried = {f"{type(config).__module__}.{type(config).__qualname__}" for config in RENAMED}
    assert tried >= set(config_tree.RENAMED)


def test_a_class_of_ones_own_is_found_where_its_module_is_named(tmp_path, monkeypatch, capsys):
    code = "from dataclasses import dataclass\n@dataclass(frozen=True)\nclass Own: x: int = 1\ndef f(): return Own(2)\n"
    for name in ("my_module.py", "mine.py"):
        (tmp_path / name).write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(config_tree, "_trusted", set())
    saved = {"type": "my_module.Own", "x": 3}
    with pytest.raises(UserError, match="if my_module is a module of yours, name it: `jaxlm --module my_module"):
        from_dict(saved)
    configs.trust("my_module")
    assert from_dict(saved).x == 3
    made = configs.resolve(str(tmp_path / "mine.py"))
    configs.save(made, tmp_path / "config.json")
    assert configs.load(tmp_path) == made  # whoever made a run by a file of his own goes on with it
    config_tree._trusted.clear()
    (tmp_path / "config.json").write_text(json.dumps({"type": "own_config_mine.Own"}))
    assert cli.main(["--module", str(tmp_path / "mine.py"), "info", str(tmp_path / "config.json")]) in (0, 2)
    assert "name it" not in capsys.readouterr().err
    assert cli.main(["--module", "mine.py"]) == 2 and "then a verb" in capsys.readouterr().err
