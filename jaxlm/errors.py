"""The one exception for a user's mistake, the nearest name that its message offers, and the troubles of machines."""

import difflib
import errno
import os
import traceback
from collections.abc import Iterable, Iterator


class UserError(Exception):
    """Bad input from outside: one clear line that names the culprit and what to do.

    The command line prints it and exits with 2; a library caller sees an ordinary exception.
    """


class OutOfRange(UserError):
    """A number of a config is wrong; the message begins with the name of its field."""


def nearest(word: str, words: Iterable[str]) -> str:
    """The one of `words` most like `word`, upper and lower case alike; "" when there are none."""

    def likeness(other: str) -> float:
        return difflib.SequenceMatcher(None, word.lower(), other.lower()).ratio()

    return max(words, key=likeness, default="")


def unknown(kind: str, word: str, words: Iterable[str]) -> UserError:
    """The error for a name that is not one of `words`: says the nearest, and all of them."""
    words = list(words)
    offer = f"did you mean {nearest(word, words)!r}? ({', '.join(words)})" if words else "there are none"
    return UserError(f"unknown {kind} {word!r}: {offer}")


def machine_trouble(error: BaseException) -> str | None:
    """One line for what is no bug: memory or disk used up, a file that cannot be used, an absent accelerator.

    The causes of `error` are searched too, since libraries wrap what the system told them; None when it is none of it.
    """
    return next(filter(None, map(_trouble, _causes(error))), None)


def _trouble(error: BaseException) -> str | None:
    text = str(error)
    first = text.partition("\n")[0][:200]
    if getattr(error, "errno", None) == errno.ENOSPC or "No space left on device" in text:
        name = getattr(error, "filename", None)
        return f"the disk is full{f' ({name})' if name else ''}: free some space, or use another folder"
    if isinstance(error, MemoryError):
        return "out of memory: use a smaller batch, a shorter sequence or a smaller model"
    # By name, because naming jaxlib's class would import it.
    if type(error).__name__ in ("JaxRuntimeError", "XlaRuntimeError") and "RESOURCE_EXHAUSTED" in text:
        return f"out of device memory: use a smaller batch, or divide the model over more devices ({first})"
    if isinstance(error, RuntimeError) and text.startswith(("Unable to initialize backend", "Unknown backend")):
        return f"{first}: check JAX_PLATFORMS and the driver"
    if isinstance(error, AssertionError) and _raised_in(error) == "xla_bridge.py":  # jax's, without a word
        wanted = os.environ.get("JAX_PLATFORMS", "")
        return f"jax finds no device for JAX_PLATFORMS={wanted}: install jax's plugin for it, or set JAX_PLATFORMS=cpu"
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return None


def _raised_in(error: BaseException) -> str:
    """The name of the file whose line raised it."""
    frames = traceback.extract_tb(error.__traceback__)
    return os.path.basename(frames[-1].filename) if frames else ""


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
