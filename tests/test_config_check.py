"""Every number of every config has a range."""

import dataclasses
import importlib
import inspect
import pkgutil
from typing import Any

import pytest

import jaxlm
from jaxlm import config
from jaxlm.config_check import check, within
from jaxlm.config_tree import hints, is_config_class, members
from jaxlm.data import DataConfig, Source, TokenizerConfig
from jaxlm.errors import OutOfRange, UserError
from jaxlm.nn import AttentionConfig, BlockConfig, LayersConfig, MLPConfig, ParallelConfig, RMSNormConfig
from jaxlm.ops.sparse import Strided
from jaxlm.optim import OptimizerConfig
from tests import tiny

ROOMS = ("nn", "models", "data", "optim", "sharding", "ops", "objectives", "train", "tune")
NEEDED: dict[str, Any] = {  # what classes need that is no number, or more than a 2
    "mixer": AttentionConfig(H=4, K=8),
    "ffn": MLPConfig(F=8),
    "norm": RMSNormConfig(),
    "layers": tiny.model().layers,
    "blocks": tiny.model().layers[0].blocks,
    "model": tiny.model(),
    "pattern": Strided(4, 2),
    "short": (1.0,),
    "long": (2.0,),
    "high": 4.0,
}
SEEING = (LayersConfig((BlockConfig(AttentionConfig(H=4, K=8, causal=False), MLPConfig(F=8)),)),)
NEEDED_BY: dict[str, dict[str, Any]] = {  # the same for one class
    "EncoderConfig": {"layers": SEEING},
    "Seq2SeqConfig": {"encoder": SEEING, "decoder": tiny.model().layers},
    "BranchConfig": {"name": "ffn", "of": MLPConfig(F=8)},
    "SequenceHead": {"labels": ("a", "b")},
    "ViTConfig": {"layers": SEEING, "patch": 14},
    "TokenHead": {"labels": ("a", "b")},
    "SyntheticTask": {"task": "parity"},
    "TaskFile": {"kind": "othello"},
    "AttentiveRNNConfig": {"F": 4},
    "BahdanauConfig": {"F": 4},
    "PreUpMLSTMConfig": {"M": 1},
    "SharedConfig": {"layer": tiny.model().layers[0].blocks[0]},
}
NO_CONFIG = (
    "HeldoutPairs",
    "PairDataset",
    "PreferenceRows",
    "Scores",
    "PromptDataset",
    "EmbeddingDataset",
    "ConversationRows",
    "Kind",
    "Scales",
    "HeldoutRows",
    "SyntheticRows",
    "State",
    "KVSlots",
    "Int8KVSlots",
    "Fake",
    "Product",
    "Row",
    "_Step",
    "Recurrent",
    "Memory",
    "LowRank",
    "Task",
    "Schedule",
    "Band",
    "Rule",
    "Axes",
    "Dispatch",
    "Pattern",
    "Preparation",
)  # frozen, but made by programs only


def classes() -> list[type]:
    found = {}
    for module in pkgutil.walk_packages(jaxlm.__path__, "jaxlm."):
        if module.name.split(".")[1] in ROOMS:
            for name, cls in vars(importlib.import_module(module.name)).items():
                if is_config_class(cls) and cls.__module__ == module.name and name not in NO_CONFIG:
                    found[name] = cls
    return [cls for cls in found.values() if numbers_of(cls) and not inspect.isabstract(cls)]


def numbers_of(cls: type) -> dict[str, Any]:
    return {name: kind for name, kind in hints(cls).items() if {int, float} & {*members(kind)}}


def made(cls: type, **changes: Any) -> Any:
    needed = {f.name for f in dataclasses.fields(cls) if f.default is f.default_factory is dataclasses.MISSING}
    values = {
        n: NEEDED.get(n, 2.0 if hints(cls)[n] is float else (2.0,) if n in ("short", "long") else 2) for n in needed
    }
    values |= {"pattern": Strided(4, 2)} if "pattern" in needed else {}
    return cls(**values | NEEDED_BY.get(cls.__name__, {}) | changes)


@pytest.mark.parametrize("cls", classes(), ids=lambda cls: cls.__name__)
def test_every_number_is_finite_of_its_type_and_bounded(cls):
    made(cls)
    for name, kind in numbers_of(cls).items():
        wrong = [float("nan"), float("inf"), -float("inf"), 1e300, 10**5000, "x", True, [1]]
        wrong += [] if float in members(kind) else [1.5]
        wrong += [] if type(None) in members(kind) else [None]
        for value in wrong:
            with pytest.raises(UserError) as caught:
                made(cls, **{name: value})
            assert name in str(caught.value) and len(str(caught.value)) < 300


RANGES = [  # class, field, the nearest wrong values, the nearest right ones
    (OptimizerConfig, "learning_rate", [-1e-9], [0, 1e30]),
    (OptimizerConfig, "weight_decay", [-0.1], [0]),
    (OptimizerConfig, "clip", [0, -1], [1e-9, None]),
    (OptimizerConfig, "final", [-0.1], [0, 1]),
    (OptimizerConfig, "decay", [-0.1, 1.1], [0, 1]),
    (OptimizerConfig, "warmup", [-1], [0]),
    (OptimizerConfig, "options", [((("b2", 1.0),)), ((("b1", -0.1),)), ((("eps", float("nan")),))], [(("b2", 0.99),)]),
    (BlockConfig, "dropout", [1.0, -0.1], [0, 0.99]),
    (ParallelConfig, "dropout", [1.0, -0.1], [0, 0.99]),
    (AttentionConfig, "dropout", [1.0, -0.1], [0, 0.99]),
    (AttentionConfig, "window", [0], [1, None]),
    (AttentionConfig, "softcap", [0.0, -1.0], [1.0]),
    (type(tiny.model()), "dropout", [1.0, -0.1], [0, 0.99]),
    (type(tiny.model()), "unroll", [0], [1]),
    (DataConfig, "limit", [0, 2**63], [1, 10**12, None]),
    (DataConfig, "holdout", [0.0, 1.0], [0.5]),
    (Source, "weight", [0, -1, 1e39], [1e-9, 3]),
    (TokenizerConfig, "V", [0], [257]),
]


@pytest.mark.parametrize("cls, name, wrong, right", RANGES, ids=lambda x: getattr(x, "__name__", str(x)[:20]))
def test_ranges(cls, name, wrong, right):
    for value in wrong:
        with pytest.raises(UserError, match=dict(value).popitem()[0] if name == "options" else name):
            made(cls, **{name: value})
    for value in right:
        made(cls, **{name: value})


def test_no_clipping_is_named():
    with pytest.raises(UserError, match=r"^optimizer clip=0 lets no weight move: clip=none does not clip$"):
        OptimizerConfig(clip=0)


def test_the_whole_key_is_named():
    for key, value in {
        "optimizer.weight_decay": -1,
        "model.layers.0.blocks.0.dropout": 1.0,
        "objective.z_loss": -1,
    }.items():
        with pytest.raises(UserError, match=rf"^{key}={value}(\.0)? must"):
            config.override(tiny.run(), [f"{key}={value}"])


def test_bounds():
    for bounds, wrong, right in ((">= 1", 0, 1), ("> 0", 0, 1e-9), ("[0, 1)", 1, 0), ("(0, 1]", 0, 1), ("", 2**31, -1)):
        within("x", right, bounds)
        with pytest.raises(OutOfRange, match=r"^x="):
            within("x", wrong, bounds)
    with pytest.raises(OutOfRange, match=r"^x=0 must be at least 1$"):
        within("x", 0, ">= 1")
    with pytest.raises(OutOfRange, match=r"^x=2 must lie in \[0, 1\)$"):
        within("x", 2, "[0, 1)")
    check(RMSNormConfig(eps=0), eps=">= 0")
