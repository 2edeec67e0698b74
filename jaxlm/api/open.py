"""`jaxlm.load`: opens a run, a checkpoint of one, or a folder in Hugging Face's layout."""

import dataclasses
import warnings
from collections.abc import Callable
from pathlib import Path

import jax

from jaxlm import config as configs
from jaxlm import convert
from jaxlm.api.model import LanguageModel
from jaxlm.convert.files import WEIGHTS, check_dtype, read_json
from jaxlm.errors import UserError
from jaxlm.models import lm as models
from jaxlm.paths import expand
from jaxlm.text import Tokenizer, load_tokenizer
from jaxlm.text.load import has_tokenizer
from jaxlm.text.settings import read_stops
from jaxlm.train.checkpoint import folders, load_params
from jaxlm.train.run import RunConfig


def load(
    path: str | Path, dtype: str | None = None, say: Callable[[str], None] = lambda line: None, verify: bool = True
) -> LanguageModel:
    """The model in a run folder (its newest whole checkpoint), in one checkpoint of it, `run/checkpoints/<step>`, or
    in a folder in Hugging Face's layout (config.json, safetensors).

    `dtype` is that of the computation, by default the run's own, or for other folders see `convert.load`; parameters
    keep the dtypes they are stored in. Of a run the weights are the moving average where it keeps one. `say` gets a
    line for each file of weights. `verify` compares tensors with the digests that `save` wrote beside them (those of a
    run's checkpoints are always compared). Raises UserError when there is nothing whole to load.
    """
    path = expand(path)
    if dtype is not None:
        check_dtype(dtype)
    try:
        if path.is_file():
            raise UserError(f"{path} is a file: give the folder of a run, or one with config.json and {WEIGHTS}")
        if (path / "config.json").is_file() and "model_type" in read_json(path / "config.json"):
            config, params, source = convert.load(path, dtype, say, verify)
            return LanguageModel(config, params, _tokenizer(path), source, read_stops(path))
        return _load_run(path, dtype)
    except OSError as error:
        raise UserError(f"cannot read {error.filename or path}: {error.strerror}") from error


def _tokenizer(folder: Path) -> Tokenizer | None:
    """The folder's tokenizer, None where it has none of a kind known here."""
    return load_tokenizer(folder) if has_tokenizer(folder) else None


def _load_run(path: Path, dtype: str | None) -> LanguageModel:
    one = path.parent.name == "checkpoints" and path.name.isdecimal()
    folder = path.parent.parent if one else path
    if not (folder / "config.json").is_file():
        raise UserError(f"{path} is neither a run nor a checkpoint of one, nor another model: it has no config.json")
    run = configs.load(folder / "config.json")
    if not isinstance(run, RunConfig):
        raise UserError(f"{folder / 'config.json'} is not the config of a run, and names no model_type")
    entry = "ema" if run.ema else "params"
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    shapes = models.abstract(run.model)[0]
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), shapes)
    candidates = [path] if one else [folder / "checkpoints" / str(s) for s in folders(folder / "checkpoints")]
    for i, candidate in enumerate(candidates):
        try:
            params = load_params(candidate, like, entry)
        except UserError as e:
            if i == len(candidates) - 1:
                raise
            warnings.warn(f"{e}; trying the one before", stacklevel=3)
            continue
        config = dataclasses.replace(run.model, dtype=dtype or run.model.dtype)
        return LanguageModel(config, params, load_tokenizer(folder))
    raise UserError(f"{folder} has no checkpoint yet: train it first")
