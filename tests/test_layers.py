"""The rooms of the library and who may import whom, read from the sources.

    cli, scripts, colab, configs -> serve, apps -> api, plan, scaling -> align, tune, evals, interpret
        -> train, decode -> objectives -> models -> nn -> ops -> sharding -> axes

A new room or top-level file needs a place in `MAY_IMPORT`.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LINES = 400

GROUND = {"arguments", "axes", "errors", "config", "compat", "files", "paths", "picture", "progress"}
BESIDE = {"text", "data"}  # numpy, grain and tokenizer libraries only
OPS = GROUND | {"sharding", "ops"}
LOSSES = OPS | {"losses", "optim"}
MODELS = LOSSES | {"nn", "models"}
OBJECTIVES = MODELS | {"objectives"}
RUN = OBJECTIVES | {"data", "trains", "run"}
TRAIN = MODELS | BESIDE | RUN | {"machine", "checkpoints", "train", "decode", "convert"}
ABOVE = TRAIN | {"tune", "align", "evals"}
APPS = ABOVE | {"api", "plan", "scaling", "serve", "apps"}

MAY_IMPORT = {
    "arguments": {"errors"},
    "axes": {"errors"},
    "errors": set(),
    "compat": {"errors"},
    "config": {"arguments", "errors", "config", "files", "paths"},
    "files": {"errors"},
    "picture": {"files", "paths"},
    "progress": set(),
    "paths": {"errors"},
    "machine": GROUND | {"sharding", "machine"},
    "sharding": GROUND,
    "ops": OPS,
    "losses": OPS,
    "optim": OPS,
    "nn": MODELS - {"models", "optim"},
    "models": MODELS,
    "text": GROUND | {"text"},
    "data": GROUND | BESIDE,
    "convert": MODELS | {"text", "convert"},
    "interpret": MODELS | {"decode", "interpret"},
    "objectives": OBJECTIVES,
    "trains": LOSSES | {"trains"},
    "run": RUN,
    "checkpoints": GROUND | {"machine", "checkpoints"},
    "decode": MODELS | {"text", "decode", "machine"},
    "train": TRAIN,
    "tune": ABOVE,
    "align": ABOVE,
    "evals": ABOVE,
    "api": TRAIN | {"tune", "interpret", "api"},
    "plan": TRAIN | {"plan"},
    "scaling": TRAIN | {"plan", "scaling"},
    "serve": TRAIN | {"api", "serve"},
    "apps": APPS,
    "cli": APPS | {"cli", "machine", "__init__"},
    "__init__": APPS | {"compat"},  # lazily: see LIGHT
}

# Importing these must not import an array library.
LIGHT = {"__init__", "arguments", "cli", "compat", "config", "errors", "files", "paths"}
HEAVY = {"jax", "flax", "optax", "orbax", "grain", "numpy", "matplotlib", "pyarrow", "sentencepiece", "rich"}
BANNED = {"torch", "transformers", "tensorflow", "pickle", "cloudpickle"}
NOT_BESIDE = {"jax", "flax", "optax", "orbax", "chex"}
LINEN_IN = {"nn", "models", "interpret", "sharding"}  # sharding: it declares the weights of modules
MESH_NAMES_IN = {"sharding", "ops", "plan"}


def room(path: str) -> str:
    """The room of a file: "jaxlm/nn/attention.py" is in nn, "jaxlm/config_tree.py" belongs to config."""
    name = Path(path).parts[1].removesuffix(".py")
    return "config" if name.startswith("config_") else name


def imports(tree: ast.Module, path: str) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of everything a file imports, also inside functions."""
    package = Path(path).with_suffix("").parts[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*above, *filter(None, [node.module])])
            yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)


def top_level(tree: ast.Module) -> Iterator[ast.stmt]:
    """The statements that importing a file runs, but for functions and `if TYPE_CHECKING:`."""
    for node in tree.body:
        if not isinstance(node, ast.FunctionDef) and not (
            isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        ):
            yield node


def faults(path: str, source: str) -> Iterator[str]:
    """Every broken rule in one file of the library, as "path:line: what"."""
    tree, here = ast.parse(source), room(path)
    if len(source.splitlines()) > LINES:
        yield f"{path}: more than {LINES} lines"
    if here not in MAY_IMPORT:
        yield f"{path}: the room {here!r} has no place in tests/test_layers.py"
        return
    for line, name in imports(tree, path):
        parts = name.split(".")
        if parts[0] == "jaxlm":
            there = room("/".join(parts)) if len(parts) > 1 else "__init__"
            if there not in MAY_IMPORT[here]:
                yield f"{path}:{line}: {here} must not import {there} ({name})"
        if parts[0] in BANNED:
            yield f"{path}:{line}: {parts[0]} has no place in the library"
        if here in BESIDE and parts[0] in NOT_BESIDE:
            yield f"{path}:{line}: {here} must not import {parts[0]}"
        if parts[:2] == ["flax", "linen"] and here not in LINEN_IN:
            yield f"{path}:{line}: only nn and models import flax.linen"
    if here in LIGHT:
        light = ast.Module(list(top_level(tree)), [])
        for line, name in imports(light, path):
            parts = name.split(".")
            if parts[0] in HEAVY or (parts[0] == "jaxlm" and len(parts) > 1 and room("/".join(parts)) not in LIGHT):
                yield f"{path}:{line}: import {name} where it is used: `jaxlm --help` must stay quick"
    for node in ast.walk(tree):
        if here in MESH_NAMES_IN:
            break
        if isinstance(node, ast.Constant) and node.value in ("fsdp", "tensor"):
            yield f"{path}:{node.lineno}: mesh axes are named in jaxlm/sharding.py, not {node.value!r} here"
        if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in ("P", "PartitionSpec") and node.args:
            yield f"{path}:{node.lineno}: partition specs are made in jaxlm/sharding.py"
        if isinstance(node, ast.Attribute) and ast.unparse(node) == "flax.linen" and here not in LINEN_IN:
            yield f"{path}:{node.lineno}: only nn and models use flax.linen"


FILES = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "jaxlm").rglob("*.py"))
CONFIGS = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "configs").rglob("*.py"))


@pytest.mark.parametrize("path", FILES)
def test_the_rooms_keep_their_direction(path):
    assert list(faults(path, (ROOT / path).read_text())) == []


@pytest.mark.parametrize("path", CONFIGS)
def test_configs_are_short_and_name_no_mesh_axis(path):
    source = (ROOT / path).read_text()
    assert len(source.splitlines()) <= LINES
    assert [name for _, name in imports(ast.parse(source), path) if name.partition(".")[0] in BANNED] == []
    assert not {"fsdp", "tensor"} & {
        node.value for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Constant)
    }


def test_the_table_is_one_direction():
    """No two rooms import each other, beyond those that stand side by side."""
    side_by_side = {"tune", "align", "evals"}
    for here, theirs in MAY_IMPORT.items():
        for there in theirs - {here}:
            assert here not in MAY_IMPORT[there] or {here, there} <= side_by_side, (here, there)


@pytest.mark.parametrize(
    "path, source, fault",
    [
        ("jaxlm/ops/x.py", "from jaxlm.nn import mlp", "ops must not import nn"),
        ("jaxlm/ops/x.py", "import jaxlm.nn.mlp", "ops must not import nn"),
        ("jaxlm/ops/x.py", "from jaxlm import nn", "ops must not import nn"),
        ("jaxlm/ops/x.py", "from ..nn.mlp import Mlp", "ops must not import nn"),
        ("jaxlm/ops/x.py", "from .. import nn", "ops must not import nn"),
        ("jaxlm/ops/x.py", "import jaxlm", "ops must not import __init__"),
        ("jaxlm/ops/x.py", "def f():\n    from jaxlm.models import lm", ":2: ops must not import models"),
        ("jaxlm/axes.py", "from jaxlm.sharding import spec", "axes must not import sharding"),
        ("jaxlm/decode/x.py", "from jaxlm.train.state import State", "decode must not import train"),
        ("jaxlm/train/x.py", "from jaxlm.evals import bits", "train must not import evals"),
        ("jaxlm/losses.py", "from jaxlm.nn.heads import Head", "losses must not import nn"),
        ("jaxlm/text/x.py", "import jax.numpy as jnp", "text must not import jax"),
        ("jaxlm/data/x.py", "from jaxlm.train import step", "data must not import train"),
        ("jaxlm/data/x.py", "from flax import struct", "data must not import flax"),
        ("jaxlm/ops/x.py", "import flax.linen as nn", "only nn and models import flax.linen"),
        ("jaxlm/train/x.py", "from flax import linen", "only nn and models import flax.linen"),
        ("jaxlm/train/x.py", "import flax\nModule = flax.linen.Module", ":2: only nn and models use flax.linen"),
        ("jaxlm/convert/x.py", "import torch.nn", "torch has no place"),
        ("jaxlm/text/x.py", "def f():\n    from transformers import AutoTokenizer", "transformers has no place"),
        ("jaxlm/nn/x.py", "import jax\nP = jax.P('data')", ":2: partition specs are made in"),
        ("jaxlm/nn/x.py", "from jax.sharding import PartitionSpec\nPartitionSpec(None)", "partition specs are made in"),
        ("jaxlm/nn/x.py", "from jax import P\nP(*names)", "partition specs are made in"),
        ("jaxlm/train/x.py", "AXIS = 'fsdp'", "mesh axes are named in"),
        ("jaxlm/cli/models.py", "import numpy", "import numpy where it is used"),
        ("jaxlm/config_tree.py", "import jax", "import jax where it is used"),
        ("jaxlm/__init__.py", "from jaxlm.decode import TopP", "import jaxlm.decode.TopP where it is used"),
        ("jaxlm/cli/models.py", "try:\n    import rich\nexcept ImportError: ...", "import rich where it is used"),
        ("jaxlm/newroom/x.py", "", "'newroom' has no place"),
        ("jaxlm/ops/x.py", "\n" * 401, "more than 400 lines"),
    ],
)
def test_a_violation_is_caught(path, source, fault):
    found = list(faults(path, source))
    assert len(found) == 1 and fault in found[0], found


@pytest.mark.parametrize(
    "path, source",
    [
        ("jaxlm/models/x.py", "from jaxlm.nn.stack import Stack\nimport flax.linen as nn\nfrom jaxlm import sharding"),
        ("jaxlm/train/x.py", "import flax.struct\nfrom jaxlm.decode import generate\nfrom jaxlm.data import pack"),
        ("jaxlm/ops/ring.py", "import jax\nfrom jax import P\nAXIS = 'tensor'"),
        ("jaxlm/train/x.py", "from jax.sharding import PartitionSpec\nREPLICATED = PartitionSpec()"),
        ("jaxlm/cli/models.py", "def f():\n    import jax\n    from jaxlm.train import loop"),
        ("jaxlm/__init__.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from jaxlm.api import load"),
        ("jaxlm/nn/x.py", '"""The tensor and fsdp axes are no business of this file."""'),
    ],
)
def test_what_is_allowed_passes(path, source):
    assert list(faults(path, source)) == []
