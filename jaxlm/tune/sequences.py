"""Distillation by whole texts: those that the teacher writes, or the student."""

import contextlib
import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from jaxlm import sharding
from jaxlm.axes import Params
from jaxlm.decode import Sampler, Temperature, generate, prepare
from jaxlm.errors import UserError
from jaxlm.paths import expand
from jaxlm.run import RunConfig
from jaxlm.tune.fit import fit


def teach_texts(teacher: Any, prompts: Sequence[str], path: str | Path, **how: Any) -> list[str]:
    """What a language model (`jaxlm.load`) writes to these prompts, as a file of {"text": ...} lines for a student's
    data: sequence-level distillation (Kim & Rush 2016, arXiv:1606.07947). `how` are arguments of `generate`."""
    written = teacher.generate(list(prompts), **how).texts
    if written is None:
        raise UserError("a teacher of texts needs a tokenizer")
    texts = [prompt + text for prompt, text in zip(prompts, written, strict=True)]
    path = expand(path)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text("".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts))
    temporary.replace(path)
    return texts


def on_policy(
    run: RunConfig,
    params: Params,
    prompts_BT: np.ndarray,
    rounds: int,
    sampler: Sampler = Temperature(1.0),
    stop: tuple[int, ...] = (),
    mesh: Mesh | None = None,
) -> Params:
    """A student's parameters after so many rounds in which it continues prompts itself and learns, for `run.steps`
    steps, what its teacher expects there (GKD, Agarwal et al. 2023, arXiv:2306.13649). The run's objective is a
    `Distil` with hard=0, its data has rows of run.data.T tokens; the optimizer begins anew each round.

    Raises UserError where prompts leave no room in a row, or fewer prompts than a batch are given.
    """
    T, model = run.data.T, run.model
    if prompts_BT.shape[1] > T:
        raise UserError(f"prompts of {prompts_BT.shape[1]} tokens leave no room in rows of {T}: shorten them")
    if len(prompts_BT) < run.batch:
        raise UserError(f"{len(prompts_BT)} prompts are fewer than a batch of {run.batch}")
    mesh = mesh or sharding.make_mesh(run.mesh)
    for i in range(rounds):
        key = jax.random.fold_in(jax.random.key(run.seed), i)
        how = {"max_new_tokens": T + 1 - prompts_BT.shape[1], "sampler": sampler, "stop": stop, "key": key}
        with jax.set_mesh(mesh):
            new_BT = np.asarray(generate(*prepare(model, params), prompts_BT, **how)[0])
        params = fit(run, params, _Written(prompts_BT, new_BT, T), mesh=mesh)
    return params


@dataclasses.dataclass
class _Written:
    """Prompts and what was written to them, as rows; only what was written counts."""

    prompts_BT: np.ndarray
    new_BT: np.ndarray
    T: int

    @contextlib.contextmanager
    def train_batches(self, batch: int, rows: Any) -> Iterator[Any]:
        yield self._batches(batch)

    def _batches(self, batch: int) -> Iterator[dict[str, np.ndarray]]:
        whole_BT = np.concatenate([self.prompts_BT, self.new_BT], 1)
        whole_BT = np.pad(whole_BT, ((0, 0), (0, max(0, self.T + 1 - whole_BT.shape[1]))), constant_values=-1)
        real_BT = whole_BT >= 0
        whole_BT = np.where(real_BT, whole_BT, 0).astype(np.int32)
        asked = np.arange(1, self.T + 1)[None] >= self.prompts_BT.shape[1]
        rows = {
            "tokens": whole_BT[:, :-1],
            "labels": whole_BT[:, 1:],
            "positions": np.broadcast_to(np.arange(self.T, dtype=np.int32), (len(whole_BT), self.T)),
            "segments": real_BT[:, :-1].astype(np.int32),
            "weights": (real_BT[:, 1:] & asked).astype(np.float32),
        }
        for i in range(10**9):
            at = (np.arange(batch) + i * batch) % len(whole_BT)
            yield {name: x[at] for name, x in rows.items()}
