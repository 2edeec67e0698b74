"""The log probabilities of preferences under the model that training begins from: computed once, then cached."""

import dataclasses
import hashlib
import io
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlm import sharding
from jaxlm.checkpoints.digest import digest
from jaxlm.config_tree import to_dict
from jaxlm.data.cache import cache_root
from jaxlm.files import write_file
from jaxlm.machine import processes
from jaxlm.train import start
from jaxlm.train.batch import place, rows_here
from jaxlm.train.setup import Setup
from jaxlm.trains import join


def with_reference(setup: Setup, dataset: Any) -> Any:
    """The dataset, with log probabilities of its rows where the run's objective needs a reference; any other as it
    is."""
    run = setup.run
    if not getattr(run.objective, "needs_reference", False):
        return dataset
    state, frozen = setup.create(start.load(setup))
    params = join(state.params, frozen)
    identity = [digest(params), to_dict(run.model), dataset.fingerprint]
    key = hashlib.blake2b(json.dumps(identity).encode(), digest_size=16).hexdigest()
    file = cache_root() / "reference" / f"{key}.npz"
    found = _read(file)
    if "" in processes.gather("found" if found else ""):  # all of them, or none
        print(
            f"log probabilities of {len(dataset.train) + len(dataset.heldout):,} preferences by the reference",
            flush=True,
        )
        found = tuple(_logprobs(setup, params, dataset.rows(heldout)) for heldout in (False, True))
        if jax.process_index() == 0:
            file.parent.mkdir(parents=True, exist_ok=True)
            content = io.BytesIO()
            np.savez(content, train=found[0], heldout=found[1])
            write_file(file, content.getvalue())
    assert found is not None
    return dataclasses.replace(dataset, reference=found)


def _read(file: Path) -> tuple[np.ndarray, np.ndarray] | None:
    try:
        with np.load(file, allow_pickle=False) as saved:
            return saved["train"], saved["heldout"]
    except (OSError, ValueError, KeyError, EOFError):  # absent or damaged
        return None


def _logprobs(setup: Setup, params: Any, rows: Any) -> np.ndarray:
    run: Any = setup.run
    mesh: Any = setup.mesh
    count, spec = run.batch // run.accumulate, run.objective.spec(run.data)

    def one(params: Any, batch: Any) -> Any:
        return jnp.moveaxis(run.objective.logprobs(run.model, params, batch)[0].answer_2B, 0, 1)

    with sharding.use(mesh):
        score, here = jax.jit(one), rows_here(mesh, count)
        found = [np.asarray(score(params, place(batch, spec, mesh))) for batch in rows.batches(count, here)]
    return np.concatenate(found)[: len(rows)]
