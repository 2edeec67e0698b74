"""What the `normalizer` of a tokenizer.json does to a text, in plain Python."""

import functools
import unicodedata
from collections.abc import Callable

from jaxlm.errors import UserError
from jaxlm.text.formats.cutting import pattern_of
from jaxlm.text.formats.layout import Json

FORMS = ("NFC", "NFD", "NFKC", "NFKD")


def normalizer(spec: Json | None, name: str) -> Callable[[str], str]:
    """The function that a `normalizer` is; None changes nothing.

    Known are the Unicode forms, Lowercase, Replace, Prepend and Sequence.

    Raises:
        UserError: another kind; `name` is the file's.
    """
    if spec is None:
        return lambda text: text
    kind = spec["type"]
    if kind == "Sequence":
        steps = [normalizer(step, name) for step in spec["normalizers"]]
        return lambda text: functools.reduce(lambda done, step: step(done), steps, text)
    if kind in FORMS:
        return functools.partial(unicodedata.normalize, kind)
    if kind == "Lowercase":
        return lambda text: "".join(map(str.lower, text))  # one by one: a last sigma is a sigma
    if kind == "Replace":
        pattern, content = pattern_of(spec["pattern"], name), spec["content"]
        return lambda text: pattern.sub(lambda _: content, text)
    if kind == "Prepend":
        return lambda text: spec["prepend"] + text if text else text
    raise UserError(f"{name}: the normalizer {kind!r} has no readable form here: open the file with FastTokenizer")
