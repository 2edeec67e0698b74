"""Runs that others have published, from the shared folder (see the fixture of that name)."""

import json
import zipfile
from pathlib import Path

import numpy as np

from jaxlm.scaling import Runs, read


def chinchilla(shared: Path) -> Runs:
    """245 runs read off figure 4 of Hoffmann et al. by Besiroglu et al. (2024, arXiv:2404.10102)."""
    return read([shared / "data/scaling/chinchilla_svg_extracted_data.csv"])


def overtrained(shared: Path, data: str, evaluation: str) -> Runs:
    """Those of Gadre et al. (2024, arXiv:2403.08540) on one training set, with the loss on one evaluation set."""
    rows = []
    with zipfile.ZipFile(shared / "data/scaling/overtraining_models.zip") as archive:
        for name in archive.namelist():
            entry = json.loads(archive.read(name))
            if entry["dataset_name"] == data:
                told = entry["hyperparameters"]
                losses = [r["loss"] for r in entry["results"] if f"/{evaluation}/" in r["val_data"][0]]
                rows.append((told["params"], told["tokens"], *losses))
    return Runs(*np.array(rows).T)
