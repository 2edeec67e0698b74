"""Weights that are there already: those that a run begins from, and those of a run that was saved."""

import dataclasses
import hashlib
import json
import warnings
from pathlib import Path
from typing import Any

import jax

from jaxlm import config as configs
from jaxlm import convert, sharding
from jaxlm.axes import Params
from jaxlm.checkpoints.checkpoint import folders, load_params
from jaxlm.checkpoints.digest import digest
from jaxlm.convert.files import CONFIG, is_model, read_json
from jaxlm.errors import UserError
from jaxlm.models import ElectraConfig, EncoderConfig, ModelConfig, WithHead, abstract, heads, init_boxed
from jaxlm.models.with_head import SCORE, TRUNK
from jaxlm.ops import leaves
from jaxlm.paths import expand
from jaxlm.run import RunConfig
from jaxlm.sharding import MeshConfig
from jaxlm.train.setup import Setup
from jaxlm.train.state import State
from jaxlm.trains import join, spell


def begin(setup: Setup, found: tuple[int, State, dict] | None) -> tuple[int, State, dict, Params]:
    """The step, the state, the note and the frozen parameters that a run goes on from: what was `found` of it, or a
    fresh start. Raises UserError where its frozen parameters are not those that it began with."""
    if found and not setup.freezes:
        return *found, setup.frozen
    state, frozen = setup.create(load(setup))
    note = {"skipped": 0} | ({"frozen": _mark(frozen)} if setup.freezes else {})
    if found and found[2].get("frozen") != note["frozen"]:
        raise UserError(f"start {setup.run.start} holds other weights than those that this run began with")
    step, state, note = found or (0, state, note)
    return step, state, note, frozen


def _mark(frozen: Params) -> str:
    """A hash of the arrays."""
    return hashlib.blake2b(json.dumps(digest(frozen)).encode(), digest_size=16).hexdigest()


def load(setup: Setup) -> Params | None:
    """The parameters in the folder `start` of a run, a checkpoint or a model in Hugging Face's layout, over the run's
    mesh; None where it begins anew. Raises UserError, naming the first array, where they are of another model."""
    if not setup.run.start:
        return None
    folder = expand(setup.run.start)
    with sharding.use(setup.mesh):
        read = read_run if isinstance(setup.run.model, ElectraConfig | WithHead) else read_model
        params = convert.load(folder)[1] if is_model(folder) else leaves.dense(read(folder, setup.mesh)[1])
        params = _with_own_parts(setup, params)
        if isinstance(setup.run.model, WithHead) and SCORE not in params:
            params = {TRUNK: params, SCORE: _made(setup, [SCORE])[SCORE]}
    compare(folder, params, setup.run.model)
    return params


def check(run: RunConfig) -> None:
    """Raises UserError as `load` does, from what the config of `start` says alone: before anything is prepared."""
    if not run.start:
        return
    folder = expand(run.start)
    if is_model(folder):
        model: Any = convert.lm_config(read_json(folder / CONFIG), str(folder / CONFIG))
    else:
        model = _config(folder)[1].model
    if isinstance(model, ElectraConfig) and isinstance(run.model, EncoderConfig):
        model = model.discriminator
    if isinstance(model, EncoderConfig) and isinstance(run.model, EncoderConfig):
        model = dataclasses.replace(  # another head is begun anew
            model, head=run.model.head, pooler=run.model.pooler, next_sentence=run.model.next_sentence
        )
    wanted: Any = run.model
    if hasattr(model, "virtual") and hasattr(wanted, "virtual"):  # virtual tokens are begun anew
        model = dataclasses.replace(model, virtual=wanted.virtual)
    if (tied := getattr(getattr(run.model, "trunk", run.model), "tied", None)) is not None and hasattr(model, "tied"):
        model = dataclasses.replace(model, tied=tied)  # the weights tell
    if isinstance(model, WithHead) != isinstance(wanted, WithHead):  # a head is begun anew, or left out
        model, wanted = getattr(model, "trunk", model), getattr(wanted, "trunk", wanted)
    compare(folder, abstract(model)[0], wanted)


def compare(folder: Path, params: Params, model: ModelConfig) -> None:
    """Raises UserError, naming the first array, where a folder's parameters are of another model than this."""
    shape = lambda tree: {spell(path): x.shape for path, x in jax.tree_util.tree_leaves_with_path(tree)}
    there, here = shape(params), shape(abstract(model)[0])
    for name in [*here, *there]:
        if here.get(name) != there.get(name):
            raise UserError(
                f"start {folder} is another model: {name} is {there.get(name, 'absent')} there and "
                f"{here.get(name, 'absent')} in this run's model"
            )


def _with_own_parts(setup: Setup, params: Params) -> Params:
    """Parameters with fresh virtual tokens, and of an encoder a fresh head, and pooler, where those that are there are
    of another kind: one that restored hidden tokens learns to classify."""
    shapes = abstract(setup.run.model)[0]
    sizes = lambda tree, names: {name: jax.tree.map(lambda x: x.shape, tree[name]) for name in names if name in tree}
    parts: list[tuple[str, ...]] = [("prompt",), ("prefix",)]
    if isinstance(setup.run.model, EncoderConfig):
        parts += [heads.WEIGHTS, ("pooler", "pooler_bias"), ("next_sentence", "next_sentence_bias")]
    other = [name for part in parts if sizes(params, part) != sizes(shapes, part) for name in part]
    if not other:
        return params
    new = [name for name in other if name in shapes]
    return {name: tree for name, tree in params.items() if name not in other} | _made(setup, new)


def _made(setup: Setup, names: list[str]) -> Params:
    """Fresh parameters of these names."""
    shapes, axes = abstract(setup.run.model)
    where = {name: sharding.shardings(axes[name], shapes[name], setup.mesh) for name in names}
    init = lambda key: {name: sharding.unbox(init_boxed(setup.run.model, key))[name] for name in names}
    return jax.jit(init, out_shardings=where)(jax.random.key(setup.run.seed))


def read_model(path: Path, mesh: Any = None) -> tuple[Any, Params]:
    """As `read_run`, of the model that is used: of two that were trained together the discriminator, of one with a head
    what stands below it."""
    run, params = read_run(path, mesh)
    if isinstance(run.model, WithHead):
        return run.model.trunk, params[TRUNK]
    return run.model.part(params) if isinstance(run.model, ElectraConfig) else (run.model, params)


def read_run(path: Path, mesh: Any = None) -> tuple[RunConfig, Params]:
    """The config of the run in a folder and the parameters of its newest whole checkpoint, or of the one checkpoint
    that `path` is: their moving average where it keeps one, over the mesh, or on the first device.

    Raises UserError where there is no run or nothing whole in it.
    """
    folder, run = _config(path)
    alone = sharding.make_mesh(MeshConfig(data=1), jax.local_devices()[:1])
    setup, here = Setup(run, mesh or alone), jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    place = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding if mesh else here)
    like = jax.tree.map(place, setup.state.params)
    candidates = (
        [path] if path != folder else [folder / "checkpoints" / str(s) for s in folders(folder / "checkpoints")]
    )
    for i, candidate in enumerate(candidates):
        try:
            params = load_params(candidate, like, "ema" if run.ema else "params")
        except UserError as e:
            if i == len(candidates) - 1:
                raise
            warnings.warn(f"{e}; trying the one before", stacklevel=4)
            continue
        frozen = setup.create(load(setup))[1] if setup.freezes else setup.frozen
        frozen = frozen if mesh or not setup.freezes else jax.device_put(frozen, here)
        return run, run.trains.undress(join(params, frozen))
    raise UserError(f"{folder} has no checkpoint yet: train it first")


def _config(path: Path) -> tuple[Path, RunConfig]:
    """The folder of the run that `path` is, or is a checkpoint of, and its config."""
    one = path.parent.name == "checkpoints" and path.name.isdecimal()
    folder = path.parent.parent if one else path
    if not (folder / CONFIG).is_file():
        raise UserError(f"{path} is neither a run nor a checkpoint of one, nor another model: it has no config.json")
    run = configs.load(folder / CONFIG)
    if not isinstance(run, RunConfig):
        raise UserError(f"{folder / CONFIG} is not the config of a run, and names no model_type")
    return folder, run
