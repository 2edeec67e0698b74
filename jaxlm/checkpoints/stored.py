"""One step of a run on disk: described, compared with what is wanted, loaded, verified; quietly where it fails."""

import errno
import functools
import json
import logging
import os
import re
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from orbax.checkpoint import v1 as ocp

from jaxlm.checkpoints.digest import digest, names
from jaxlm.errors import UserError
from jaxlm.machine import processes

GONE = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR)  # what a damaged step may give: parts of it are not there
NOT_NOW = "!"  # before what is no damage, among processes
DESCRIPTION = "_CHECKPOINT_METADATA"  # the file of orbax that every committed step has


class Unusable(Exception):
    """A step that cannot be restored; the message says why in one line."""


class OtherArrays(Unusable):
    """A step whose arrays are not the ones asked for."""


class Foreign(Unusable):
    """A folder with a number for a name that lacks a step's description, or has another program's."""


def describe(path: Path) -> Any:
    """orbax's metadata of a step: `.metadata` is the tree of shapes and dtypes, `.custom_metadata` what we added.

    Raises Unusable for what is not a step, is damaged, or was written by another program; UserError where the system
    does not let us read it, which says nothing about the step.
    """
    hush()
    try:
        found = ocp.metadata(str(path))
    except Exception as e:  # damage shows as ValueError, KeyError, JSONDecodeError, InvalidLayoutError, ...
        if reason := refused(path, e):
            raise _not_now(path, reason) from None
        kind = Unusable if _ours(path) else Foreign
        raise kind(f"its description cannot be read ({line(e)})") from None
    if not isinstance(found.custom_metadata, dict) or not {"note", "digest"} <= found.custom_metadata.keys():
        if reason := refused(path, Exception()):
            raise _not_now(path, reason)
        kind = Unusable if _ours(path) else Foreign
        raise kind("its description is damaged, or another program wrote it")
    return found


def load(path: Path, like: Any, partial: bool = False) -> tuple[Any, dict]:
    """The state saved at `path`, laid out as `like`, and its note. With `partial`, only the entries of `like` are read.

    Raises Unusable for damage of any kind, OtherArrays when `like` names other arrays.
    """
    found = describe(path)
    like = jax.tree.map(_abstract, like)
    _compare(found.metadata, like, partial)  # first, because orbax fails noisily and casts silently
    context = ocp.Context()
    context.pytree.loading.partial_load = partial
    # Each process reads by itself: where one fails, the others must not wait for it inside of orbax.
    me = jax.process_index()
    context.multiprocessing.primary_host, context.multiprocessing.active_processes = me, {me}
    state, trouble = None, ""
    try:
        with context:
            state = ocp.load(str(path), like)
    except (MemoryError, jax.errors.JaxRuntimeError):
        raise  # too large for this machine: no fault of the checkpoint
    except Exception as e:  # as above, and a bare Exception for array data that is missing or cut
        reason = refused(path, e)
        trouble = f"{NOT_NOW}{reason}" if reason else f"it cannot be read ({_absent(path) or line(e)})"
    troubles = [*filter(None, processes.gather(trouble))]  # one process may have read what is damaged, another not
    for said in troubles:
        if said.startswith(NOT_NOW):
            raise _not_now(path, said.removeprefix(NOT_NOW))
    if troubles:
        raise Unusable(troubles[0])
    # A key comes back laid out as its data (one axis more); the step would be compiled again for that.
    state = jax.tree.map(
        lambda x, want: x if x.sharding == want.sharding else jax.device_put(x, want.sharding), state, like
    )
    written, read = found.custom_metadata["digest"], digest(state)
    changed = [name for name, value in read.items() if written.get(name) != value]
    if changed:
        raise Unusable(f"{changed[0]} has changed since it was written ({len(changed)} of {len(read)} arrays have)")
    return state, found.custom_metadata["note"]


def refused(path: Path, error: BaseException) -> str | None:
    """Which file of a step the system does not let us read, and why: no permission, a failing disk, too many open
    files. None where all that is there can be read: then `error` comes of what it holds."""
    cause: BaseException | None = error
    while cause is not None:
        codes = [int(code) for code in re.findall(r"os_error_code='(\d+)'", str(cause))]
        codes += [cause.errno] if isinstance(cause, OSError) and cause.errno else []
        for code in codes:
            if code not in GONE:
                return f"{getattr(cause, 'filename', None) or path}: {os.strerror(code)}"
        cause = cause.__cause__ or cause.__context__

    def stop(e: OSError) -> None:
        raise e

    try:
        for folder, _, names in os.walk(path, onerror=stop):
            for name in names:
                with open(os.path.join(folder, name), "rb") as file:
                    while file.read(2**24):
                        pass
    except OSError as e:
        return None if e.errno in GONE else f"{e.filename or path}: {e.strerror}"
    return None


def _not_now(path: Path, reason: str) -> UserError:
    return UserError(f"the checkpoint {path} cannot be read now ({reason}): nothing was deleted; mend that first")


def line(e: Exception) -> str:
    """An exception in one line."""
    first = (str(e).strip().splitlines() or [""])[0].partition(" See full TensorStore details")[0]
    return f"{type(e).__name__}: {first[:200]}" if first else type(e).__name__


def _ours(path: Path) -> bool:
    """Whether a step that is refused has a description of ours, or one that is cut short: then it is damaged."""
    try:
        text = (path / DESCRIPTION).read_bytes()
        return b'"digest"' in text or json.loads(text) is None
    except OSError:
        return False
    except ValueError:
        return True


def _absent(path: Path) -> str:
    """Whose part of a step is not here, as where processes wrote to folders of their own."""
    wrote = sorted(p.name for p in (path / "state" / "array_metadatas").glob("process_*"))
    gone = [name for name in wrote if not (path / "state" / f"ocdbt.{name}").is_dir()]
    return f"the files that {', '.join(gone)} of {len(wrote)} wrote are not here" if gone else ""


@functools.cache
def hush() -> None:
    """Keeps orbax from printing tracebacks of failures that are handled here. Works once, for the whole process.

    They come from threads of its own and from tasks that are collected long after the failure, so the end of a `with`
    statement would be too early to stop listening. Nothing is hidden but orbax's own.
    """

    def not_orbax(record: logging.LogRecord) -> bool:
        return "orbax" not in record.pathname and "orbax" not in record.getMessage()

    def unraisable(event: Any) -> None:  # a read that ends after its loop, or is collected before its end
        code = getattr(event.object, "cr_code", None)
        if str(event.exc_value) != "Event loop is closed" and (code is None or "orbax" not in code.co_filename):
            before(event)

    before = sys.unraisablehook
    sys.unraisablehook = unraisable
    logging.getLogger("absl").addFilter(not_orbax)
    logging.getLogger("asyncio").addFilter(not_orbax)


def _abstract(x: Any) -> jax.ShapeDtypeStruct:
    sharding = getattr(x, "sharding", None) or jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)


def _compare(stored: Any, like: Any, partial: bool) -> None:
    """Raises OtherArrays naming the first array that differs in name, shape or dtype."""
    there = dict(zip(names(stored), jax.tree.leaves(stored)))
    here = dict(zip(names(like), jax.tree.leaves(like)))
    for name, x in here.items():
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            x = jax.eval_shape(jax.random.key_data, x)
        now = f"{x.dtype}{list(x.shape)}"
        if name not in there:
            raise OtherArrays(f"{name} is {now} in this model and absent from the checkpoint")
        y = there[name]
        if (y.shape, y.dtype) != (x.shape, x.dtype):
            raise OtherArrays(f"{name} is {now} in this model and {y.dtype}{list(y.shape)} in the checkpoint")
    if not partial and there.keys() != here.keys():
        raise OtherArrays(f"{min(there.keys() - here.keys())} is in the checkpoint and absent from this model")
