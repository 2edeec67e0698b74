"""A model out of one GGUF file: its blocks stay as they lie, each layer's dense only while it computes."""

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlm.axes import Params
from jaxlm.convert.digests import Digests
from jaxlm.convert.families import Source, find, lm_config
from jaxlm.convert.files import Checkpoint, Stored
from jaxlm.convert.gguf.file import GGUF
from jaxlm.convert.gguf.names import FREQUENCIES, Architecture, architecture, fields, hugging_face
from jaxlm.convert.load import BEYOND, check_tensors, computed_in, dtypes_of, read_params
from jaxlm.convert.names import Rows, Tensor
from jaxlm.ops.blocks import KINDS, dequantize
from jaxlm.ops.leaves import Blocks

DTYPES = {"F32": "F32", "F16": "F16", "BF16": "BF16"}  # of safetensors; blocks are read as F32


def load(file: GGUF, dtype: str | None = None, say: Callable[[str], None] = lambda line: None, dense: bool = False):
    """The model in a GGUF file as `convert.load` gives it: config, parameters, source.

    Matrices of blocks become `ops.leaves.Blocks` with the file's own bytes; with `dense`, float32 arrays. Raises
    UserError for an architecture or kind of blocks that is not known and for a file that does not hold its model.
    """
    path = file.path
    known = architecture(file.metadata, str(path))
    divisors = np.asarray(file.read(FREQUENCIES)) if FREQUENCIES in file.tensors else None
    said = fields(file.metadata, file.tensors, divisors)
    family, _ = find(said, str(path))
    config = lm_config(said, str(path))
    config = dataclasses.replace(config, dtype=dtype or computed_in(said))
    source = Source(family, said)
    checkpoint = Opened(file, known, said)
    wanted = list(itertools.islice(source.tensors(config), len(checkpoint.stored) + BEYOND))
    check_tensors(wanted, checkpoint.stored, family, config.depth, path)
    stored = {} if dense else checkpoint.blocks(wanted)
    rest = [tensor for tensor in wanted if tensor.weights[0].key not in stored]
    dtypes = dtypes_of(rest, checkpoint.stored)
    params = read_params(config, rest, dtypes, checkpoint, Digests(path.parent, False), say)
    for key, leaf in stored.items():
        _put(params, key, leaf)
    return config, params, source


def _put(tree: Params, key: tuple[str, ...], value: Any) -> None:
    for name in key[:-1]:
        tree = tree.setdefault(name, {})
    tree[key[-1]] = value


class Opened(Checkpoint):
    """The tensors of a file under Hugging Face's names, laid as that has them."""

    def __init__(self, file: GGUF, known: Architecture, said: dict[str, Any]):
        self.file, self.known = file, known
        self.heads = {
            "q": said["num_attention_heads"],
            "k": said.get("num_key_value_heads", said["num_attention_heads"]),
        }
        self.stored, self._own = {}, {}
        for name, entry in file.tensors.items():
            names = hugging_face(name, known, said.get("num_experts", 0))
            shape = entry.shape[1:] if len(names) > 1 else entry.shape
            for e, theirs in enumerate(names):
                self.stored[theirs] = Stored(file.path, DTYPES.get(entry.kind, "F32"), shape)
                self._own[theirs] = (name, e if len(names) > 1 else None)

    def kind(self, name: str) -> str:
        return self.file.tensors[self._own[name][0]].kind

    def rows(self, name: str) -> np.ndarray:
        """The tensor's rows, of numbers or of blocks."""
        own, expert = self._own[name]
        x = self.file.read(own) if expert is None else self.file.read(own)[expert]
        if self.known.turned and ".attn_" in own and (head := own.split(".attn_")[1][:2]) in ("q.", "k."):
            halves = x.reshape(self.heads[head[0]], -1, 2, *x.shape[1:])  # a pair's two rows are neighbours here
            return halves.swapaxes(1, 2).reshape(x.shape)
        return x - 1 if self.known.centred and "norm" in own else x

    def read(self, name: str) -> np.ndarray:
        x = self.rows(name)
        return dequantize(x, self.kind(name)) if self.kind(name) in KINDS else np.array(x)

    def blocks(self, wanted: list[Tensor]) -> dict[tuple[str, ...], Blocks]:
        """The weights whose every tensor is a matrix of blocks, by their keys."""
        of: dict[tuple[str, ...], list[Tensor]] = {}
        for tensor in wanted:
            for weight in tensor.weights:
                of.setdefault(weight.key, []).append(tensor)
        fits = lambda tensor: isinstance(tensor.rule, Rows) and not tensor.rule.bias and len(tensor.weights) == 1
        return {
            key: self._leaf(tensors)
            for key, tensors in of.items()
            if all(fits(tensor) and self.kind(tensor.name) in KINDS for tensor in tensors)
        }

    def _leaf(self, tensors: list[Tensor]) -> Blocks:
        weight = tensors[0].weights[0]
        ins = weight.axes.inputs
        lead = tuple(max(tensor.index[i] for tensor in tensors) + 1 for i in range(len(tensors[0].index)))
        outs = tuple(n for i, n in enumerate(weight.shape) if i not in ins)
        sizes = {self.kind(tensor.name): self.rows(tensor.name).shape[-1] for tensor in tensors}
        raw, which = np.zeros((*lead, *outs, max(sizes.values())), np.uint8), np.zeros(lead[:1], np.int8)
        for tensor in tensors:
            rows, kind = self.rows(tensor.name), self.kind(tensor.name)
            raw[tensor.index][..., : rows.shape[-1]] = rows.reshape(*outs, -1)
            which[tensor.index[:1]] = list(sizes).index(kind)
        inputs = tuple(weight.shape[i] for i in ins)
        where = tuple(i - len(weight.shape) for i in ins)
        return Blocks(jax.device_put(raw), jnp.asarray(which), tuple(sizes.items()), inputs, where)
