"""The one exception for a user's mistake, the nearest name that its message offers, and the troubles of machines."""

import difflib
import errno
import os
import re
import traceback
from collections.abc import Iterable, Iterator

WORD, LINE = 160, 600  # the most characters of one word of a message, and of all of it
LISTED = 300  # the most characters of a list of choices


class UserError(Exception):
    """Bad input from outside: one clear line that names the culprit and what to do.

    The command line prints it and exits with 2; a library caller sees an ordinary exception. Whatever the message
    quotes, it stays one line (`one_line`). Where an argument of the command line would mend it, that is `right`, in
    place of the arguments `wrong`: the command line then shows the whole command.
    """

    def __init__(self, message: str = "", right: str = "", wrong: tuple[str, ...] = ()):
        super().__init__(one_line(str(message)))
        self.right, self.wrong = right, wrong


def one_line(text: str) -> str:
    """A text of any origin in one printable line of at most LINE characters; what is too long loses its middle."""
    text = re.sub(r"\s*[^\S ]\s*", " ", text.strip("\n"))  # spaces alone may be what it is about
    text = re.sub(rf"\S{{{WORD},}}", lambda word: _cut(word[0], WORD), text)
    shown = (c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return _cut("".join(shown), LINE)


def _cut(text: str, most: int) -> str:
    if len(text) <= most:
        return text
    end = most // 3
    return f"{text[: most - end - 5]} ... {text[-end:]}"


class OutOfRange(UserError):
    """A number of a config is wrong; the message begins with the name of its field."""


def nearest(word: str, words: Iterable[str]) -> str:
    """The one of `words` most like `word`, upper and lower case alike; "" when there are none."""

    word = str(word)[:WORD]  # likeness takes the square of the length

    def likeness(other: str) -> float:
        return difflib.SequenceMatcher(None, word.lower(), other.lower()).ratio()

    return max(words, key=likeness, default="")


def unknown(kind: str, word: str, words: Iterable[str]) -> UserError:
    """The error for a name that is not one of `words`: says the nearest, and all of them where they are few."""
    return UserError(f"unknown {kind} {word!r}: {did_you_mean(word, words)}")


def did_you_mean(word: str, words: Iterable[str]) -> str:
    """The nearest of `words`, and all of them where they are few; private ones are not for offering."""
    words = [other for other in words if not other.startswith("_")]
    if not words:
        return "there are none"
    listed = ", ".join(words)
    return f"did you mean {nearest(word, words)!r}?" + (f" ({listed})" if len(listed) <= LISTED else "")


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
