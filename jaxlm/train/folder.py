"""The folder of a run: one run owns it, and one process at a time."""

import contextlib
import fcntl
import itertools
import math
import os
import re
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import jax

from jaxlm import config
from jaxlm.checkpoints.checkpoint import steps
from jaxlm.errors import UserError
from jaxlm.machine import processes
from jaxlm.paths import expand
from jaxlm.run import RunConfig
from jaxlm.text import Tokenizer

# What may differ when a run goes on: where and how it is computed, how long, how fast it learns, what it reports; and
# where its files lie, since checkpoints know the data by content.
MAY_CHANGE = (
    "mesh",
    "start",
    "model.remat",
    "model.layers.remat",
    "optimizer.offload",
    "model.unroll",
    "model.pipeline",
    "model.dtype",
    "model.layers.blocks.mixer.implementation",
    "model.layers.blocks.branches.of.implementation",
    "accumulate",
    "data.sources.path",
    "data.tokenizer.path",
    "data.cache",
    "optimizer.learning_rate",
    "optimizer.warmup",
    "optimizer.clip",
    "optimizer.decay",
    "optimizer.final",
    "optimizer.weight_decay",
    "steps",
    "epochs",
    "max_nonfinite_steps",
    "max_to_keep",
    "writers",
    "prompts",
    "log_every",
    "eval_every",
    "eval_tokens",
    "eval_batches",
    "save_every",
    "sample_every",
    "sample_tokens",
    "profile_at",
    "profile_steps",
)


VISIBLE = 10  # seconds until all machines see what one has written, on a network file system


@contextlib.contextmanager
def open_run(run: RunConfig, folder: str | Path) -> Iterator[Path]:
    """The folder, made if absent, while no other process trains there; removed again by an exception before anything
    is in it.

    Raises UserError when another one does, and when the checkpoints there are those of a run that this one cannot be.
    """
    folder = expand(folder)
    saved = folder / "config.json"
    if steps(folder / "checkpoints"):
        if not saved.exists():
            raise UserError(f"{folder} has checkpoints but no config.json: choose another folder with --run")
        changed = [line for line in config.diff(config.load(saved), run) if not _may_change(line)]
        if changed:
            more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
            raise UserError(
                f"{folder} holds a run of another config ({changed[0]}{more}): choose another folder with --run",
                right=f"--run={_free(folder)}",
            )
    if jax.process_index():
        _check_shared(folder, "")
        yield folder
        return
    with contextlib.ExitStack() as stack:
        try:
            made = [path for path in (folder, *folder.parents) if not path.exists()]
            folder.mkdir(parents=True, exist_ok=True)
            lock = stack.enter_context(open(folder / ".lock", "w"))  # released by the system, however the process ends
        except OSError as e:
            raise UserError(f"cannot use the run folder {folder}: {e.strerror}: choose another with --run") from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"another process trains in {folder}: wait for it, or choose another with --run") from None
        except OSError:  # a file system without locks
            pass
        try:
            mark = uuid.uuid4().hex
            lock.write(mark)
            lock.flush()
            os.fsync(lock.fileno())
            _check_shared(folder, mark)
            yield folder
        except BaseException:
            if made:
                _remove_empty(folder, made)
            raise


def _remove_empty(folder: Path, made: list[Path]) -> None:
    """Removes a folder that has nothing but its lock and an empty `checkpoints/`, then the folders above it that were
    `made` with it."""
    with contextlib.suppress(OSError):
        inside = {path.name for path in folder.iterdir()}
        if inside <= {".lock", "checkpoints"}:
            if "checkpoints" in inside:
                (folder / "checkpoints").rmdir()
            (folder / ".lock").unlink()
            for path in made:
                path.rmdir()


def _check_shared(folder: Path, mark: str) -> None:
    """Raises UserError, on every process, unless all see what process 0 wrote into its lock."""
    mark, path, seen = processes.gather(mark)[0], folder / ".lock", False
    for _ in range(2 * VISIBLE):
        seen = path.exists() and path.read_text() == mark
        if seen:
            break
        time.sleep(0.5)
    blind = [i for i, text in enumerate(processes.gather(str(seen))) if text != "True"]
    if blind:
        raise UserError(
            f"process {blind[0]} does not see the folder {folder} of process 0: choose one with --run on a file system "
            "that all processes share"
        )


def claim(run: RunConfig, folder: Path, tokenizer: Tokenizer | None) -> None:
    """Writes `config.json` and `tokenizer/`: from here on the folder is this run's."""
    if jax.process_index() == 0:
        if tokenizer is not None:
            tokenizer.save(folder / "tokenizer")
        config.save(run, folder / "config.json")


def check_tokenizer(run: RunConfig, tokenizer: Tokenizer | None) -> None:
    """Raises UserError when the model has no row for some token, or too few positions for the samples."""
    if tokenizer is None:
        return
    if tokenizer.V > run.model.V:
        raise UserError(f"the tokenizer has {tokenizer.V} tokens, the model only V={run.model.V}: raise model.V")
    if not run.samples:
        return
    longest = max((len(tokenizer.encode(prompt, special=True)) for prompt in run.prompts), default=0)
    length = getattr(getattr(run.model, "positions", None), "length", math.inf)
    if longest + run.sample_tokens > length:
        raise UserError(
            f"a prompt of {longest} tokens and sample_tokens={run.sample_tokens} exceed the {length} positions of the "
            "model: lower sample_tokens, or shorten prompts"
        )


def _free(folder: Path) -> Path:
    """A folder beside this one that is not there yet."""
    return next(path for n in itertools.count(2) if not (path := folder.with_name(f"{folder.name}-{n}")).exists())


def _may_change(line: str) -> bool:
    path = re.sub(r"\.\d+(?=\.|$)", "", line.partition(":")[0])  # without the places in tuples
    return any(path == name or path.startswith(f"{name}.") for name in MAY_CHANGE)
