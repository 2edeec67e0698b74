"""Checkpoints of a run: saved in the background, verified when read, the newest whole one found again.

    with Checkpoints(run / "checkpoints") as checkpoints:
        found = checkpoints.restore(like)              # (step, state, note), or None in a new run
        ...
        checkpoints.save(step, state, note={"data": batches.get_state()}, metrics={"loss": loss})

orbax writes `<folder>/<step>/` in the background, under a temporary name until it is complete: a killed process leaves
whole steps and at most one temporary folder, which the next process removes. What orbax lacks is added here: a digest
of every array (see `digest`), because it keeps no checksum over array data, and a restore that walks back over damaged
steps, because deleting an old step is not atomic and any folder with a number for a name counts as one.

A state is a tree of arrays: dictionaries, tuples, dataclasses; typed keys are arrays, None is nothing. Two things
cannot be stored and are refused: arrays of size zero, and keys with a dot (orbax has one file for "a.b" and a/b).
A step takes the bytes of its arrays, less what zstd saves (7 % for random float32); room is needed for `keep_last` of
them, the best one and the one being written. `commit_success.txt` in every step holds the absolute path of the run:
remove these files from what is published.
"""

import contextlib
import dataclasses
import math
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import jax
from orbax.checkpoint import v1 as ocp

from jaxlm.axes import Params
from jaxlm.checkpoints.digest import digest, names
from jaxlm.checkpoints.stored import DESCRIPTION, Foreign, OtherArrays, Unusable, describe, hush, line, load
from jaxlm.errors import UserError
from jaxlm.machine import processes
from jaxlm.paths import expand

NUMBER = r"0|[1-9][0-9]{0,17}"  # what the folder of a step is called


class Checkpoints:
    """The checkpoints of one run, for the one program that writes them; open it in a `with` statement.

    Keeps the newest `keep_last` steps and, with `keep_best`, the one of smallest `metrics["loss"]`, also across
    restarts. Leaving the `with` block, also by an exception or Ctrl-C, waits for the save in flight.
    """

    def __init__(self, folder: str | Path, keep_last: int = 2, keep_best: bool = True):
        if keep_last < 1:
            raise UserError(f"at least the newest checkpoint must be kept, not {keep_last}")
        self.folder = expand(folder).absolute()  # orbax takes no relative path
        self._retention = _Retention(keep_last, keep_best)
        self._held: set[int] = set()  # steps saved or restored by this object

    def __enter__(self) -> Self:
        hush()
        for step in steps(self.folder):
            with contextlib.suppress(Unusable):
                self._retention.rate(step, describe(self.folder / str(step)).custom_metadata.get("metrics"))
        with self._explained():
            self.folder.mkdir(parents=True, exist_ok=True)
            self._orbax = ocp.training.Checkpointer(
                str(self.folder), preservation_policy=self._retention, cleanup_tmp_directories=True
            )
        return self

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        try:
            with self._explained():
                self._orbax.close()
        except UserError as failure:
            if error is None:
                raise
            error.add_note(str(failure))

    def save(self, step: int, state: Any, note: dict, metrics: dict[str, float] | None = None) -> None:
        """Starts saving `state` and returns. `note` is any JSON. Does nothing if this object already holds `step`.

        Blocks for the digest, which waits until `state` is computed, for the copy to the host, and, should the former
        save still be writing, for that. The arrays may be donated or changed afterwards.

        Raises UserError when the disk is full or fails (a failure in the background surfaces at the next call) and
        when the folder has this step from elsewhere; ValueError for a state that cannot be stored.
        """
        if step in self._held:
            return
        for name, x in zip(names(state), jax.tree.leaves(state)):
            if not hasattr(x, "shape") or x.size == 0 or "." in name:
                raise ValueError(
                    f"cannot store {name} ({type(x).__name__}): want non-empty arrays and keys without dots"
                )
        metrics = {name: float(value) for name, value in (metrics or {}).items()}
        self._retention.rate(step, metrics)
        added: Any = {"note": note, "metrics": metrics, "digest": digest(state)}
        with self._explained():
            self._orbax.save_async(step, state, force=True, custom_metadata=added)
        self._held.add(step)

    def wait(self) -> None:
        """Until the save in flight is on disk. Raises UserError when it failed."""
        with self._explained():
            self._orbax.wait()

    def restore(self, like: Any, report: Callable[[str], object] = print) -> tuple[int, Any, dict] | None:
        """The newest whole step as (step, state, note), laid out as `like`; None when there is no step at all.

        `like` is a tree of jax.ShapeDtypeStruct with shardings, or of arrays; the mesh may differ from the one that
        saved. Steps that are damaged, foreign or of another model are passed over, one line each to `report`. Once an
        older one proved whole the damaged ones are deleted and the others renamed. Raises UserError, touching nothing,
        when none is whole, and when the system does not let us read one.
        """
        refused: dict[int, Unusable] = {}
        for step in sorted(_numbered(self.folder), reverse=True):
            try:
                state, note = load(self.folder / str(step), like)
            except Unusable as reason:
                report(f"checkpoint {step} is passed over: {reason}")
                refused[step] = reason
                continue
            for bad, reason in refused.items():
                with self._explained():
                    done = self._out_of_the_way(bad, reason)
                report(f"checkpoint {bad} is {done}: the run goes on from step {step}")
            self._held.add(step)
            return step, state, note
        for reason in refused.values():
            if isinstance(reason, OtherArrays):
                raise UserError(f"the run in {self.folder} was made with another model or optimizer config: {reason}")
        if refused:
            raise UserError(
                f"no checkpoint in {self.folder} is whole ({len(refused)} tried); nothing was deleted: "
                f"bring one back from a backup, or move the folder away to begin again"
            )
        return None

    def _out_of_the_way(self, step: int, reason: Unusable) -> str:
        """Deletes what is proven damaged (or empty), renames what may be somebody's; says which."""
        path = self.folder / str(step)
        keep = isinstance(reason, OtherArrays | Foreign) and any(path.iterdir())
        processes.gather("")  # all have looked
        if jax.process_index() == 0:
            if keep:
                path.rename(path.with_name(f"{step}.aside.{time.time_ns()}"))
            else:
                shutil.rmtree(path)
        processes.gather("")  # it is out of the way
        self._orbax.reload()
        return "renamed" if keep else "deleted"

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except ocp.training.errors.StepAlreadyExistsError as e:
            raise UserError(f"{self.folder} has a checkpoint that this run neither saved nor restored: {e}") from None
        except (UserError, MemoryError, jax.errors.JaxRuntimeError):
            raise
        except Exception as e:  # orbax and tensorstore raise many kinds, also for what the disk does
            code = re.search(r"os_error_code='(\d+)'", str(e))
            reason = os.strerror(int(code[1])) if code else getattr(e, "strerror", None) or line(e)
            if not self.folder.is_dir() and not isinstance(e, FileExistsError):
                reason = "the folder was removed or replaced meanwhile"
            self._held &= set(steps(self.folder))
            kept = ", ".join(map(str, steps(self.folder))) or "none"
            raise UserError(
                f"a checkpoint could not be written to {self.folder}: {reason}. Mend that and start again: "
                f"the run goes on from the newest step on disk (there: {kept})"
            ) from None


def steps(folder: str | Path) -> list[int]:
    """The steps that have a complete checkpoint in `folder`, ascending. Safe while a run writes there."""
    folder = Path(folder)
    try:
        return sorted(step for step in _numbered(folder) if (folder / str(step) / DESCRIPTION).is_file())
    except OSError as e:
        raise UserError(f"cannot look for checkpoints in {folder}: {e.strerror}") from None


def folders(folder: str | Path) -> list[int]:
    """The steps that have a folder there, newest first, whether or not it is complete. As `steps` otherwise."""
    return sorted(_numbered(Path(folder)), reverse=True)


def load_params(step_folder: str | Path, like: Params, entry: str = "params") -> Params:
    """One entry of a saved state, verified: the parameters, or with `entry` another, such as their moving average.

    `like` is that entry's tree, as for `Checkpoints.restore`. Reads only its arrays. Safe while a run writes beside it.
    Raises UserError when the folder is no checkpoint, is damaged, or has other arrays.
    """
    with _about(step_folder):
        return load(Path(step_folder).absolute(), {entry: like}, partial=True)[0][entry]


@dataclasses.dataclass
class _Retention:
    """An orbax preservation policy. For orbax's own BestN, opening fails where metrics are damaged."""

    last: int
    best: bool
    losses: dict[int, float] = dataclasses.field(default_factory=dict)

    def rate(self, step: int, metrics: dict[str, float] | None) -> None:
        loss = (metrics or {}).get("loss", math.nan)
        if math.isfinite(loss):
            self.losses[step] = loss

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        present = sorted(c.step for c in checkpoints)
        kept = set(present[-self.last :])
        if self.best and (rated := [step for step in present if step in self.losses]):
            kept.add(min(rated, key=lambda step: (self.losses[step], -step)))
        return [c.step in kept for c in checkpoints]


def _numbered(folder: Path) -> list[int]:
    """Every folder that orbax would take for a step, whatever is in it."""
    try:
        if not folder.is_dir():
            return []
        return [int(p.name) for p in folder.iterdir() if re.fullmatch(NUMBER, p.name) and p.is_dir()]
    except OSError as e:
        raise UserError(f"cannot look for checkpoints in {folder}: {e.strerror}") from None


@contextlib.contextmanager
def _about(step_folder: str | Path) -> Iterator[None]:
    try:
        yield
    except Unusable as reason:
        raise UserError(f"cannot use the checkpoint {step_folder}: {reason}") from None
