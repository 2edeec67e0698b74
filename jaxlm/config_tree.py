"""Frozen dataclasses as plain data and back: the ground under saved configs, overrides and differences.

The plain form of a dataclass is the dict `{"type": its class, field: value, ...}`, of a tuple a list, of a number,
string, bool or None itself. `plain` makes it and refuses what a config cannot hold; `build` makes the dataclasses
again, checks every field against its annotation and runs their own validation. `to_dict` and `from_dict` are the
same with the classes spelled as names, ready for JSON.
"""

import collections.abc
import dataclasses
import functools
import importlib
import inspect
import math
import types
import typing
from typing import Any

from jaxlm.errors import OutOfRange, UserError, nearest, unknown

# Config classes that stand elsewhere than where saved configs name them: {old full name: present one}. No line is ever
# taken out: every run ever saved opens.
MOVED: dict[str, str] = {
    "jaxlm.train.run.RunConfig": "jaxlm.run.RunConfig",
    "jaxlm.nn.latent.LatentConfig": "jaxlm.nn.mla.MLAConfig",
    "jaxlm.nn.stack.SegmentConfig": "jaxlm.nn.stack.LayersConfig",
}

# Fields that have another name or place than in saved configs: {class: {old name: present path}}, likewise for ever;
# those of a class are its subclasses' too.
RENAMED: dict[str, dict[str, str]] = {
    "jaxlm.models.encoder.EncoderConfig": {"segments": "layers"},
    "jaxlm.models.lm.LMConfig": {"segments": "layers"},
    "jaxlm.nn.attention.AttentionConfig": {
        "by_depth": "scale_by_layer",
        "clip": "clip_qkv",
        "temperature": "attn_temperature",
    },
    "jaxlm.nn.block.BlockConfig": {"around_norm": "residual_from_norm"},
    "jaxlm.nn.moe.MoEConfig": {
        "k": "top_k",
        "normalize": "norm_topk_prob",
        "groups_kept": "topk_group",
        "balance": "score_correction_bias",
        "capacity": "capacity_factor",
    },
    "jaxlm.nn.norm.RMSNormConfig": {"around_one": "zero_centered"},
    "jaxlm.run.RunConfig": {
        "label_smoothing": "objective.label_smoothing",
        "z_loss": "objective.z_loss",
        "balance_loss": "aux_loss_coef",
        "balance_rate": "bias_update_rate",
        "skips": "max_nonfinite_steps",
        "keep": "max_to_keep",
    },
}

_trusted: set[str] = set()


def join(path: str, part: str | int) -> str:
    return f"{path}.{part}" if path else str(part)


def is_config(value: Any) -> bool:
    """Whether `value` is an instance of a frozen dataclass."""
    return is_config_class(type(value))


def is_config_class(cls: Any) -> bool:
    return isinstance(cls, type) and dataclasses.is_dataclass(cls) and cls.__dataclass_params__.frozen  # type: ignore


def concrete(cls: Any) -> list[type]:
    """The config classes that `cls` stands for: itself, or of an abstract one those that `find_class` knows."""
    if not is_config_class(cls) or not _is_known(cls.__module__):
        return []
    return [cls] if not inspect.isabstract(cls) else [one for sub in cls.__subclasses__() for one in concrete(sub)]


def plain(value: Any, path: str = "") -> Any:
    """The plain form of `value`. Raises UserError naming the path of what a config cannot hold."""
    if is_config(value):
        fields = [field.name for field in dataclasses.fields(value) if field.init]
        if "type" in fields:
            raise UserError(f"{join(path, 'type')}: a config field cannot be called 'type'; rename it")
        return {"type": type(value), **{name: plain(getattr(value, name), join(path, name)) for name in fields}}
    if type(value) is tuple:
        return [plain(item, join(path, i)) for i, item in enumerate(value)]
    if type(value) is dict and all(isinstance(key, str) and key != "type" for key in value):
        return {key: plain(item, join(path, key)) for key, item in value.items()}
    if value is None or type(value) in (bool, int, str) or (type(value) is float and math.isfinite(value)):
        return value
    what = repr(value) if isinstance(value, float) else f"a {type(value).__name__}"
    raise UserError(
        f"{path or 'the config'} is {what}: a config holds None, bool, int, finite float, str, tuples, dicts and "
        "frozen dataclasses"
    )


def build(tree: Any, path: str = "") -> Any:
    """The value whose plain form is `tree`. Raises UserError for unknown, missing and wrongly typed fields."""
    if isinstance(tree, list):
        return tuple(build(item, join(path, i)) for i, item in enumerate(tree))
    if isinstance(tree, float) and not math.isfinite(tree):
        raise UserError(f"{path or 'the config'} is {tree}: a config holds finite numbers only")
    if not isinstance(tree, dict):
        return tree
    if "type" not in tree:
        return {key: build(item, join(path, key)) for key, item in tree.items()}
    cls = tree["type"]
    annotations = hints(cls)
    for name in tree:
        if name not in annotations and name != "type":
            raise unknown_key(path, name, annotations)
    values = {name: build(item, join(path, name)) for name, item in tree.items() if name != "type"}
    for name, value in values.items():
        if not fits(value, annotations[name]):
            raise UserError(f"{join(path, name)} must be {spell(annotations[name])}, not {shorten(repr(value))}")
    for field in dataclasses.fields(cls):
        needed = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if field.init and needed and field.name not in values:
            raise UserError(f"{join(path, field.name)} is missing: {cls.__name__} needs it")
    try:
        return cls(**values)
    except OutOfRange as error:
        raise OutOfRange(join(path, str(error))) from None
    except (TypeError, ValueError) as error:  # a dataclass's own validation
        raise UserError(f"{path or cls.__name__}: {error}") from error


def to_dict(config: Any) -> dict[str, Any]:
    """`config` as JSON data: every dataclass is a dict whose "type" is its full name, every tuple a list."""
    return _rename(plain(config), "", lambda cls, path: f"{cls.__module__}.{cls.__qualname__}")


def from_dict(data: Any) -> Any:
    """The config that `to_dict` described. Raises UserError for anything but frozen dataclasses of jaxlm, and of the
    modules given to `trust`.

    Nothing else is imported, so a config from a stranger can run no other code.
    """
    if not isinstance(data, dict) or "type" not in data:
        raise UserError('not a jaxlm config: it must be a JSON object with a "type"')
    return build(_present(_rename(data, "", find_class)))


def _present(tree: Any) -> Any:
    """A plain tree with the fields of `RENAMED` where they are now."""
    if isinstance(tree, list):
        return [_present(item) for item in tree]
    if not isinstance(tree, dict):
        return tree
    found = {key: _present(item) for key, item in tree.items()}
    cls = found.get("type")
    for old, path in renamed(cls).items() if cls else ():
        if old in found:
            value, place = found.pop(old), found
            *parents, name = path.split(".")
            for parent in parents:
                default = next(field.default for field in dataclasses.fields(place["type"]) if field.name == parent)
                place = place.setdefault(parent, plain(default))
            place[name] = value
    return found


def renamed(cls: type) -> dict[str, str]:
    """The present paths of the fields of `cls` that had other names: what `RENAMED` says of it and of its bases."""
    said = [RENAMED.get(f"{base.__module__}.{base.__qualname__}", {}) for base in reversed(cls.__mro__)]
    return {old: path for names in said for old, path in names.items()}


def _rename(tree: Any, path: str, rename: collections.abc.Callable[[Any, str], Any]) -> Any:
    if isinstance(tree, list):
        return [_rename(item, join(path, i), rename) for i, item in enumerate(tree)]
    if isinstance(tree, dict):
        return {
            key: rename(item, path) if key == "type" else _rename(item, join(path, key), rename)
            for key, item in tree.items()
        }
    return tree


def trust(module: str) -> None:
    """Lets saved configs name the config classes of this module, which is imported when one does."""
    _trusted.add(module)


def _is_known(module: str) -> bool:
    return module.startswith("jaxlm.") or module in _trusted


def find_class(name: Any, path: str = "") -> type:
    """The frozen dataclass of this full name, such as "jaxlm.nn.attention.AttentionConfig", or of one in `MOVED`."""
    where = f"{join(path, 'type')} is {shorten(repr(name))}"
    parts = MOVED.get(name, name).split(".") if isinstance(name, str) else []
    home = ".".join(parts[:-1])
    if not _is_known(home) or not all(part.isidentifier() and part[:2] != "__" for part in parts):
        own = (
            f"; if {home} is a module of yours, name it: `jaxlm --module {home} ...`"
            if home and not _is_known(home)
            else ""
        )
        raise UserError(
            f"{where}: it must name a config class of jaxlm, such as 'jaxlm.nn.attention.AttentionConfig'{own}"
        )
    try:
        module = importlib.import_module(home)
    except ModuleNotFoundError as error:
        raise UserError(f"{where}: there is no module {error.name}") from error
    classes = {key: cls for key, cls in vars(module).items() if is_config_class(cls) and cls.__module__ == home}
    if parts[-1] not in classes:
        raise unknown("config class", str(name), [f"{home}.{known}" for known in classes])
    return classes[parts[-1]]


def shorten(text: str, length: int = 80) -> str:
    return text if len(text) <= length else text[: length - 3] + "..."


def unknown_key(path: str, part: str, known: collections.abc.Collection[str]) -> UserError:
    """The error for a key that is not one of those `known` below `path`."""
    offer = f"did you mean {join(path, nearest(part, known))!r}? ({', '.join(known)})" if known else "there are none"
    return UserError(f"unknown key {join(path, part)!r}: {offer}")


# Annotations ---------------------------------------------------------------------------------------------------------


@functools.cache
def hints(cls: type) -> dict[str, Any]:
    """The annotations of the fields that the constructor of a dataclass takes, in order."""
    resolved = typing.get_type_hints(cls)
    return {field.name: resolved[field.name] for field in dataclasses.fields(cls) if field.init}  # type: ignore


def members(annotation: Any) -> tuple[Any, ...]:
    """The alternatives of a union, or the annotation alone."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return tuple(member for part in typing.get_args(annotation) for member in members(part))
    return (annotation,)


def item_hint(annotation: Any, index: int) -> Any:
    """The annotation of entry `index` of a tuple annotated so; Any when it says nothing."""
    for member in members(annotation):
        args = typing.get_args(member)
        if args and is_tuple(member):
            if args[-1] is Ellipsis or typing.get_origin(member) is not tuple:
                return args[0]
            return args[index] if index < len(args) else Any
    return Any


def value_hint(annotation: Any) -> Any:
    """The annotation of the values of a dict annotated so; Any when it says nothing."""
    found = [
        typing.get_args(member)[1] for member in members(annotation) if is_dict(member) and typing.get_args(member)
    ]
    return found[0] if found else Any


def is_tuple(annotation: Any) -> bool:
    return annotation is tuple or typing.get_origin(annotation) in (tuple, collections.abc.Sequence)


def is_dict(annotation: Any) -> bool:
    return annotation is dict or typing.get_origin(annotation) in (dict, collections.abc.Mapping)


def fits(value: Any, annotation: Any) -> bool:
    """Whether `value` is of the annotated type; an int fits a float, a bool fits neither."""
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if len(members(annotation)) > 1:
        return any(fits(value, member) for member in members(annotation))
    if origin is typing.Literal:
        return any(type(value) is type(one) and value == one for one in args)
    if is_tuple(annotation):
        if not isinstance(value, tuple):
            return False
        if origin is tuple and args and args[-1] is not Ellipsis and len(args) != len(value):
            return False
        return all(fits(item, item_hint(annotation, i)) for i, item in enumerate(value))
    if is_dict(annotation):
        return isinstance(value, dict) and (not args or all(fits(item, args[1]) for item in value.values()))
    if annotation is None or annotation is type(None):
        return value is None
    if annotation is float:
        return type(value) in (int, float)
    if annotation in (bool, int, str):
        return type(value) is annotation
    try:
        return isinstance(value, origin or annotation)
    except TypeError:  # Any, a plain Protocol, a NewType: nothing that can be checked
        return True


def spell(annotation: Any) -> str:
    """A type as a reader says it: "int or none", "a tuple of float", "LoraConfig"."""
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if len(members(annotation)) > 1:
        return " or ".join(spell(member) for member in members(annotation))
    if origin is typing.Literal:
        return "one of " + ", ".join(map(repr, args))
    if is_tuple(annotation):
        if origin is tuple and args and args[-1] is not Ellipsis:
            return f"a tuple ({', '.join(map(spell, args))})"
        return f"a tuple of {spell(args[0])}" if args else "a tuple"
    if annotation is None or annotation is type(None):
        return "none"
    return getattr(annotation, "__name__", str(annotation))
