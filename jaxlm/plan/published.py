"""A model published in Hugging Face's layout, as a run that can be planned: its config.json is enough."""

import dataclasses
import math
from pathlib import Path

from jaxlm import convert
from jaxlm.convert.files import CONFIG, DTYPES, quantisation, read_json
from jaxlm.data.config import DataConfig
from jaxlm.errors import UserError
from jaxlm.run import RunConfig


def published(path: Path) -> tuple[RunConfig, str] | None:
    """A run of the model in this folder (or config.json), and how its weights are quantised, "" if they are plain; None
    where the file is no model's. Raises UserError for models that are not known."""
    file = path if path.is_file() else path / CONFIG
    if file.suffix != ".json" or not file.is_file() or "model_type" not in (fields := read_json(file)):
        return None
    model = convert.lm_config(fields, str(file))
    said = str(fields.get("dtype") or fields.get("torch_dtype")).removeprefix("torch.")
    if said in DTYPES.values():
        model = dataclasses.replace(model, dtype=said)
    data = DataConfig()
    length = min(data.T, getattr(model.positions, "length", math.inf))
    try:
        run = RunConfig(model, dataclasses.replace(data, T=length))
    except UserError as error:
        raise UserError(f"{file}: {error}") from None
    return run, quantisation(file.parent, fields)
