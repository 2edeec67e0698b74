"""Checkpoints into device memory, one tensor at a time.

The arrays of the model are made first, on their devices and empty; then each tensor is read, cut into our weights
and written into its layer's place. The host never holds more than about one tensor.
"""

import dataclasses
import functools
import itertools
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import NamedSharding, SingleDeviceSharding

from jaxlm import compat, sharding
from jaxlm.axes import Array, Params
from jaxlm.convert import ours, quantised
from jaxlm.convert.digests import Digests
from jaxlm.convert.families import Family, Source, as_stored, find, lm_config, spelling_of
from jaxlm.convert.files import CONFIG, DTYPES, Checkpoint, Stored, opened, quantisation, read_json
from jaxlm.convert.names import Tensor, Weight
from jaxlm.errors import UserError
from jaxlm.models import EncoderConfig, LMConfig, ModelConfig, Seq2SeqConfig, ViTConfig, abstract

Say = Callable[[str], None]
FEW = 3  # culprits that a message names
PIECE = 2**20  # bytes; smaller ones are not worth a call
BEYOND = 1000  # absent tensors that are counted


def load(
    folder: Path, dtype: str | None = None, say: Say = lambda line: None, verify: bool = True
) -> tuple[Any, Params, Source]:
    """The model in `folder`: its config, its parameters in the dtypes they are stored in, and where it came from.

    `dtype` is that of the computation: unless given, float32 on CPU and elsewhere what config.json says (of a model of
    no family always that). Parameters lie on the current mesh, or on the first device where none is set. `say` gets a
    line a file. `verify` compares every tensor with its digest, where `save` wrote them. Raises UserError for whatever
    is not as it should be, and warns of values that are not finite and of keys that may be misspelt.
    """
    where = str(folder / CONFIG)
    whole = read_json(folder / CONFIG)
    family, fields = find(whole, where)
    settings: Any = fields.get("quantization_config")
    if (how := quantisation(folder, fields)) and not quantised.is_readable(settings):
        raise UserError(f"{where}: the weights are quantised ({how}), of which {', '.join(quantised.METHODS)} are read")
    config = lm_config(fields, where)
    if dtype is not None or family is not ours:
        config = dataclasses.replace(config, dtype=dtype or computed_in(fields))
    digests = Digests(folder, verify)
    with opened(folder) as checkpoint:
        if how:
            say(f"the weights are quantised ({how}): they are made plain")
            said = str(fields.get("dtype") or fields.get("torch_dtype")).removeprefix("torch.")
            checkpoint = quantised.Plain(checkpoint, settings, said if said in DTYPES.values() else "float32")
            fields = {key: value for key, value in fields.items() if key != "quantization_config"}
        stored = checkpoint.stored
        if config.depth > len(stored):
            raise UserError(f"{where} says {config.depth} layers, but the weights are only {len(stored)} tensors")
        spelling, known = spelling_of(family, config, stored)
        source = Source(family, fields, spelling, folder)
        renamed: Mapping[str, str] = {}
        if isinstance(config, LMConfig | Seq2SeqConfig):
            config, renamed = _tied_as_stored(config, source, stored)
        elif isinstance(config, EncoderConfig) and family is not ours:
            config = as_stored(config, source, stored)
        elif isinstance(config, ViTConfig) and not any(name.endswith("pooler.dense.weight") for name in stored):
            config = dataclasses.replace(config, pooler=None)  # a bare model may be saved without
        wanted = list(itertools.islice(source.tensors(config), len(stored) + BEYOND))
        wanted = [dataclasses.replace(tensor, name=renamed.get(tensor.name, tensor.name)) for tensor in wanted]
        check_tensors(wanted, stored, family, config.depth, folder)
        for usual, found in [] if known else spelling.items():
            say(f"names of tensors begin with {found!r} where {usual!r} is usual")
        dtypes = dtypes_of(wanted, stored)
        params = read_params(config, wanted, dtypes, checkpoint, digests, say)
        if fields is not whole or not known:  # a part of a larger model, or wrapped: saved as one of its own
            source = dataclasses.replace(source, spelling={})
        for tensor, saved in zip(wanted, source.tensors(config)):
            own = DTYPES[stored[tensor.name].dtype]
            if own != dtypes[tensor.weights[0].key]:
                source.narrow[saved.name] = own
        return config, params, source


def computed_in(fields: Mapping[str, Any]) -> str:
    """The dtype of the computation where nobody says one."""
    if jax.default_backend() == "cpu":  # where products with 16-bit matrices are slow
        return "float32"
    said = str(fields.get("dtype") or fields.get("torch_dtype")).removeprefix("torch.")
    return said if said in DTYPES.values() else "float32"


def _tied_as_stored(config: Any, source: Source, stored: Mapping[str, Stored]) -> tuple[Any, dict[str, str]]:
    """A head in the file is used, whatever config.json says: so does transformers. Where a tied model has only that, it
    is the embedding too, under another name than the usual one: the second result is {usual: stored}. A bias of the
    logits that the file has not, as one without the head, is none."""
    untied = dataclasses.replace(config, tied=False)
    top = itertools.takewhile(lambda tensor: not tensor.index, source.tensors(untied))
    names = {path: tensor.name for tensor in top for path in tensor.rule.paths}
    head, table = names["head"], names["embed.table"]
    if isinstance(config, Seq2SeqConfig) and names.get("logit_bias", "") not in stored:
        config, untied = (dataclasses.replace(one, logit_bias=False) for one in (config, untied))
    if head not in stored:
        return config, {}
    return (config, {table: head}) if config.tied and table not in stored else (untied, {})


# What is wrong with the tensors --------------------------------------------------------------------------------------


def check_tensors(
    wanted: list[Tensor], stored: Mapping[str, Stored], family: Family, layers: int, folder: Path
) -> None:
    """Raises UserError unless the stored tensors are those of the model."""
    names = {tensor.name for tensor in wanted}
    missing = [tensor.name for tensor in wanted if tensor.name not in stored]
    surplus = [name for name in stored if name not in names and not _ignored(name, family, layers)]
    found = [(tensor, stored[tensor.name]) for tensor in wanted if tensor.name in stored]
    shapes = [f"{t.name} {s.shape} instead of {t.shape}" for t, s in found if s.shape != t.shape]
    dtypes = [f"{t.name} ({s.dtype})" for t, s in found if s.dtype not in DTYPES]
    faults = [
        _few(missing, "missing"),
        _few(surplus, "unknown to this model"),
        _few(shapes, "of another shape than config.json says"),
        _few(dtypes, f"quantised or otherwise not of {', '.join(DTYPES)}"),
    ]
    if any(faults):
        raise UserError(f"{folder}: {'; '.join(filter(None, faults))}")


def _few(culprits: list[str], what: str) -> str:
    if not culprits:
        return ""
    more = ", ..." if len(culprits) > FEW else ""
    count = f"{len(culprits)} tensors are" if len(culprits) > 1 else "one tensor is"
    return f"{count} {what}: {', '.join(culprits[:FEW])}{more}"


def _ignored(name: str, family: Family, layers: int) -> bool:
    for pattern in getattr(family, "IGNORED", ()):
        match = re.fullmatch(re.escape(pattern).replace(r"\*", ".*").replace(r"\{\}", r"(\d+)"), name)
        if match and all(int(number) >= layers for number in match.groups()):
            return True
    return False


# Reading -------------------------------------------------------------------------------------------------------------


Dtypes = Mapping[tuple[str, ...], Any]


def dtypes_of(wanted: list[Tensor], stored: Mapping[str, Stored]) -> Dtypes:
    """For every weight the widest dtype that a tensor of it is stored in."""
    widest: dict[tuple[str, ...], Any] = {}
    for tensor in wanted:
        dtype = jnp.dtype(DTYPES[stored[tensor.name].dtype])
        for weight in tensor.weights:
            widest[weight.key] = jnp.promote_types(widest.get(weight.key, dtype), dtype)
    return widest


def read_params(
    config: ModelConfig, wanted: list[Tensor], dtypes: Dtypes, checkpoint: Checkpoint, digests: Digests, say: Say
) -> Params:
    """The parameters: made empty, then filled tensor by tensor."""
    arrays = _empty(config, dtypes)
    counts, said = {}, set()
    with ThreadPoolExecutor(1) as pool:  # hashing and writing take about as long, and neither holds the interpreter
        for tensor in wanted:
            file = checkpoint.stored[tensor.name].file
            if file not in said:
                say(f"reading {file}")
                said.add(file)
            counts[tensor.name] = _checked_fill(arrays, tensor, checkpoint, digests, pool)
    _warn(jax.device_get(counts), next(iter(checkpoint.stored.values())).file.parent)
    return _tree(arrays)


def _checked_fill(
    arrays: dict[tuple[str, ...], Array], tensor: Tensor, checkpoint: Checkpoint, digests: Digests, pool: Executor
) -> list[Array]:
    """Read one tensor into its place, while its digest is compared. Nothing of it stays behind."""
    read = checkpoint.read(tensor.name)
    check = pool.submit(digests.check, tensor.name, read)
    counts = _fill(arrays, tensor, read)
    check.result()
    return counts


def _fill(arrays: dict[tuple[str, ...], Array], tensor: Tensor, read: np.ndarray) -> list[Array]:
    """Write one tensor into its place; returns counts of its values that are not finite."""
    counts = []
    for weight, part in zip(tensor.weights, tensor.read(read)):
        for first, piece in _pieces(part):
            array, piece = arrays[weight.key], _put(piece, _place(weight))
            counts.append(_not_finite(piece))
            array = _write(array, piece, (*tensor.index, first), array.sharding)
            arrays[weight.key] = jax.block_until_ready(array)  # else copies pile up on the host
    return counts


def _empty(config: ModelConfig, dtypes: Dtypes) -> dict[tuple[str, ...], Array]:
    shapes, axes = abstract(config)
    mesh = compat.concrete_mesh()
    where = None if mesh.empty else sharding.shardings(axes, shapes, mesh)

    def one(key: tuple[str, ...]) -> Array:
        at = lambda tree: functools.reduce(lambda branch, name: branch[name], key, tree)
        place = _place() if where is None else at(where)
        return jax.jit(jnp.zeros, static_argnums=(0, 1), out_shardings=place)(at(shapes).shape, dtypes[key])

    return {key: one(key) for key in dtypes}


def _place(weight: Weight | None = None) -> Any:
    """Where a weight, or a part of it, lies: as its axes say on the current mesh, else on the first device."""
    mesh = compat.concrete_mesh()
    if mesh.empty or weight is None:
        return SingleDeviceSharding(jax.local_devices()[0])
    return NamedSharding(mesh, sharding.spec(*weight.axes.names, mesh=mesh))


def _pieces(part: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """(first row, rows) of all rows: one part in 64 at a time, since each piece is copied. On a mesh, where every
    device is given its own part only, and pieces would have to be divisible, it is all at once."""
    least = 1 if compat.concrete_mesh().empty else len(part)
    rows = max(len(part) // 64, PIECE // part[:1].nbytes, least)
    yield from ((first, part[first : first + rows]) for first in range(0, len(part), rows))


def _put(part: np.ndarray, where: Any) -> Array:
    """The array on its devices; each gets only what it keeps. Strided views are copied by jax, which is quick at it."""
    return jax.make_array_from_callback(part.shape, where, lambda index: part[index])


@functools.partial(jax.jit, donate_argnums=0, static_argnums=3)
def _write(array: Array, part: Array, index: tuple[Any, ...], where: Any) -> Array:
    """`array` with `part` in place: at `index` of its leading dimensions, the last of them the part's own first."""

    def write(array: Array, part: Array, index: tuple[Any, ...]) -> Array:
        part = part.reshape((1,) * (len(index) - 1) + part.shape).astype(array.dtype)
        return lax.dynamic_update_slice(array, part, (*index, *(0,) * (array.ndim - len(index))))

    if jax.sharding.get_abstract_mesh().empty:
        return write(array, part, index)
    # Automatic, since the explicit rules do not write into a divided dimension, such as that of experts.
    return jax.sharding.auto_axes(write, out_sharding=where)(array, part, index)  # pyright: ignore[reportCallIssue]


@jax.jit
def _not_finite(part: Array) -> Array:
    return jnp.sum(~jnp.isfinite(part))


def _warn(counts: Mapping[str, list[Any]], folder: Path) -> None:
    bad = {name: sum(map(int, each)) for name, each in counts.items() if any(each)}
    if bad:
        few = ", ".join(f"{name} ({count})" for name, count in list(bad.items())[:FEW])
        more = f", ... ({len(bad)} tensors)" if len(bad) > FEW else ""
        warnings.warn(f"{folder}: {sum(bad.values())} NaN or infinite values: {few}{more}", stacklevel=5)


def _tree(arrays: Mapping[tuple[str, ...], Array]) -> Params:
    tree: dict[str, Any] = {}
    for key, array in arrays.items():
        branch = functools.reduce(lambda branch, name: branch.setdefault(name, {}), key[:-1], tree)
        branch[key[-1]] = array
    return tree
