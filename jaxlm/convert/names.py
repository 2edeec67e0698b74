"""How the tensors of an outside checkpoint lie in our parameters: the words in which a family's table is written.

    NAMES = {
        "model.embed_tokens.weight": same("embed.table"),
        "model.layers.{}.self_attn.q_proj.weight": linear("mixer.q"),
        "model.layers.{}.self_attn.q_proj.bias": flat("mixer.q_bias"),
        "model.layers.{}.mlp.gate_up_proj.weight": linear("ffn.gate", "ffn.up"),
        "model.layers.{}.mlp.experts.{e}.up_proj.weight": linear("ffn.up"),
    }

On the left stands a tensor's name; {} is the layer's number, {e} an expert's. On the right stand our weights, by
their paths in the parameters of the model, or of one block where the name has {} (a model of several stacks has that
path in front, as in "encoder.mixer.q", and numbers each one's layers from 0); of several rules for a name the first
that finds its weights counts. A line holds for a layer that has all these weights (of two lines for one weight, the
first), so dense and expert layers, biased and unbiased models share one table. `tensors` says which tensors one model
has; the same lines serve loading, saving and gradients.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import numpy as np

from jaxlm import models
from jaxlm.axes import Params
from jaxlm.sharding import Axes

By = Literal["weights", "heads", "units"]


@dataclasses.dataclass(frozen=True)
class Weight:
    """One weight of ours as one layer (or one expert) has it."""

    key: tuple[str, ...]  # where it stands in the tree of parameters
    shape: tuple[int, ...]
    axes: Axes

    @property
    def of_experts(self) -> bool:
        return bool(self.shape) and self.axes.names[0] == "experts"

    def one(self) -> "Weight":
        """This weight of one of the periods, or of one expert."""
        return Weight(self.key, self.shape[1:], Axes(self.axes.names[1:], tuple(i - 1 for i in self.axes.inputs)))


@dataclasses.dataclass(frozen=True)
class Rule:
    """A tensor made of the weights at `paths`. `same`, `linear` and `flat` make rules."""

    paths: tuple[str, ...]
    beside: str = dataclasses.field(default="", kw_only=True)  # a weight that a layer must have for the line to hold

    def holds(self, weights: tuple[Weight, ...]) -> bool:
        """Whether these can be the weights meant."""
        return True

    def shape(self, weights: tuple[Weight, ...]) -> tuple[int, ...]:
        """The tensor's shape."""
        return weights[0].shape

    def read(self, tensor: np.ndarray, weights: tuple[Weight, ...]) -> list[np.ndarray]:
        """Our weights from the tensor, views of it."""
        return [tensor]

    def write(self, ours: list[np.ndarray], weights: tuple[Weight, ...]) -> np.ndarray:
        """The tensor from our weights."""
        return ours[0]


@dataclasses.dataclass(frozen=True)
class Rows(Rule):
    """The tensor is a matrix (outputs, inputs), or a vector (outputs) where the weights are biases.

    Ours are taken apart into `groups` of outputs, and the tensor has the first group of each, the second of each, ...
    """

    by: By = "weights"
    transposed: bool = False  # the tensor is (inputs, outputs)
    experts: bool = False  # the tensor has the experts of the layer as its first dimension
    bias: bool = False

    def holds(self, weights: tuple[Weight, ...]) -> bool:
        return all(weight.of_experts == self.experts for weight in weights)

    def shape(self, weights: tuple[Weight, ...]) -> tuple[int, ...]:
        lead, inputs = self._lead(weights[0]), self._inputs(weights[0])
        out = sum(math.prod(self._outputs(weight)) for weight in weights)
        matrix = (out,) if self.bias else (math.prod(inputs), out) if self.transposed else (out, math.prod(inputs))
        return (*lead, *matrix)

    def read(self, tensor: np.ndarray, weights: tuple[Weight, ...]) -> list[np.ndarray]:
        if self.bias:
            tensor = tensor[..., None]
        elif self.transposed:
            tensor = tensor.swapaxes(-1, -2)
        lead, groups = self._lead(weights[0]), self._groups(weights)
        widths = [math.prod(self._outputs(weight)) // groups for weight in weights]
        tensor = tensor.reshape(*lead, groups, sum(widths), -1)
        parts = np.split(tensor, list(itertools.accumulate(widths))[:-1], axis=-2)
        shaped = [part.reshape(*lead, *self._outputs(w), *self._inputs(w)) for part, w in zip(parts, weights)]
        return [part.transpose(np.argsort(self._order(weight))) for part, weight in zip(shaped, weights)]

    def write(self, ours: list[np.ndarray], weights: tuple[Weight, ...]) -> np.ndarray:
        lead, groups = self._lead(weights[0]), self._groups(weights)
        inputs = math.prod(self._inputs(weights[0]))
        ordered = [part.transpose(self._order(weight)) for part, weight in zip(ours, weights)]
        parts = [part.reshape(*lead, groups, -1, inputs) for part in ordered]
        tensor = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=-2)
        tensor = tensor.reshape(*lead, -1, inputs)
        if self.bias:
            return tensor[..., 0]
        return tensor.swapaxes(-1, -2) if self.transposed else tensor

    def _groups(self, weights: tuple[Weight, ...]) -> int:
        """Query heads that share a key head are one group."""
        if self.by == "weights":
            return 1
        each = [self._outputs(weight) for weight in weights]
        return min(outputs[0] if self.by == "heads" else math.prod(outputs) for outputs in each)

    def _lead(self, weight: Weight) -> tuple[int, ...]:
        return weight.shape[: self.experts]

    def _inputs(self, weight: Weight) -> tuple[int, ...]:
        return tuple(weight.shape[i] for i in weight.axes.inputs)

    def _outputs(self, weight: Weight) -> tuple[int, ...]:
        others = range(int(self.experts), len(weight.shape))
        return tuple(weight.shape[i] for i in others if i not in weight.axes.inputs)

    def _order(self, weight: Weight) -> list[int]:
        """Our dimensions in the tensor's order: experts, outputs, inputs."""
        inputs = weight.axes.inputs
        return [i for i in range(len(weight.shape)) if i not in inputs] + list(inputs)


def same(path: str) -> Rule:
    """The tensor is our weight as it is: embeddings, norms."""
    return Rule((path,))


def linear(*paths: str, by: By = "weights", transposed: bool = False, experts: bool = False) -> Rule:
    """A matrix (outputs, inputs), or (inputs, outputs) if `transposed`, of one weight or of several joined.

    Joined weights stand side by side along the outputs. With by="heads" the first head of each comes first, then the
    second of each, ... (query heads that share a key head stand together); with by="units" the first output of each,
    then the second, ... With `experts` the tensor has all the experts, (E, outputs, inputs); the line then holds for
    weights whose first axis is "experts", as a line with {e} does, and any other line for weights without it.
    """
    return Rows(paths, by, transposed, experts)


def flat(*paths: str, by: By = "weights", experts: bool = False) -> Rule:
    """The bias (outputs) of a `linear`, joined as its matrices are."""
    return Rows(paths, by, experts=experts, bias=True)


@dataclasses.dataclass(frozen=True)
class Turned(Rule):
    """The tensor is the transpose of our matrix."""

    def shape(self, weights: tuple[Weight, ...]) -> tuple[int, ...]:
        return weights[0].shape[::-1]

    def read(self, tensor: np.ndarray, weights: tuple[Weight, ...]) -> list[np.ndarray]:
        return [tensor.T]

    def write(self, ours: list[np.ndarray], weights: tuple[Weight, ...]) -> np.ndarray:
        return ours[0].T


@dataclasses.dataclass(frozen=True)
class Row(Rule):
    """The tensor is our weight with an axis of one in front: a vector as a matrix of one row."""

    def shape(self, weights: tuple[Weight, ...]) -> tuple[int, ...]:
        return (1, *weights[0].shape)

    def read(self, tensor: np.ndarray, weights: tuple[Weight, ...]) -> list[np.ndarray]:
        return [tensor[0]]

    def write(self, ours: list[np.ndarray], weights: tuple[Weight, ...]) -> np.ndarray:
        return ours[0][None]


def beside(path: str, names: dict[str, Rule]) -> dict[str, Rule]:
    """These lines, holding for layers only that have the weight `path` too: of several kinds of mixers, one's."""
    return {name: dataclasses.replace(rule, beside=path) for name, rule in names.items()}


# The tensors of one model --------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Tensor:
    """One tensor of a checkpoint and where it belongs."""

    name: str
    shape: tuple[int, ...]
    rule: Rule
    weights: tuple[Weight, ...]
    index: tuple[int, ...]  # in the stacked weights: none, (period,), or (period, expert)

    def read(self, tensor: np.ndarray) -> list[np.ndarray]:
        return self.rule.read(tensor, self.weights)

    def write(self, ours: list[np.ndarray]) -> np.ndarray:
        return self.rule.write(ours, self.weights)


Names = Mapping[str, Rule | tuple[Rule, ...]]


def tensors(names: Names, config: models.ModelConfig) -> Iterator[Tensor]:
    """Every tensor of the model, in the order of its layers."""
    top = {name: rule for name, rule in names.items() if "{}" not in name}
    layer = {name: rule for name, rule in names.items() if "{}" in name}
    known, stacked = apart(config)
    yield from _of(top, {".".join(w.key): w for w in known}, None, ())
    for one in models.layers(config):
        weights = {".".join(one.stack + w.key[len(one.path()) :]): w.one() for w in stacked[one.path()]}
        yield from _of(layer, weights, one.number, (one.period,))


def _of(names: Names, weights: dict[str, Weight], layer: int | None, index: tuple[int, ...]) -> Iterator[Tensor]:
    """The tensors of the whole model (layer None), or of one layer. Every weight must be in exactly one of them."""
    left = set(weights)
    for name, rules in names.items():
        rules = rules if isinstance(rules, tuple) else (rules,)
        here = (rule for rule in rules if not rule.beside or rule.beside in weights)
        rule = next((rule for rule in here if left.issuperset(rule.paths)), None)
        if rule is None:
            continue
        parts = tuple(weights[path] for path in rule.paths)
        one_each = "{e}" in name
        if not (all(part.of_experts for part in parts) if one_each else rule.holds(parts)):
            continue
        left -= set(rule.paths)
        if not one_each:
            yield Tensor(_name(name, layer), rule.shape(parts), rule, parts, index)
            continue
        ones = tuple(part.one() for part in parts)
        for e in range(parts[0].shape[0]):
            yield Tensor(_name(name, layer, e), rule.shape(ones), rule, ones, (*index, e))
    assert not left, f"the table of names has no line for {', '.join(sorted(left))}"


def _name(name: str, layer: int | None, expert: int = 0) -> str:
    return name if layer is None else name.replace("{}", str(layer)).replace("{e}", str(expert))


@functools.lru_cache(maxsize=4)  # tracing a model takes longer than all that is asked about it here
def weights_of(config: models.ModelConfig) -> tuple[Weight, ...]:
    """Every weight of the model, stacked."""

    def below(shapes: Params, axes: Any, key: tuple[str, ...]) -> Iterator[Weight]:
        if not isinstance(shapes, Mapping):
            yield Weight(key, shapes.shape, axes)
            return
        for name in shapes:
            yield from below(shapes[name], axes[name], (*key, name))

    return tuple(below(*models.abstract(config), ()))


def apart(config: models.ModelConfig) -> tuple[list[Weight], dict[tuple[str, ...], list[Weight]]]:
    """The weights that belong to no layer, and those of each kind of layer, by where they are stacked."""
    blocks: dict[tuple[str, ...], list[Weight]] = {path: [] for path in models.blocks(config)}
    top: list[Weight] = []
    for weight in weights_of(config):
        layer = models.home(config, weight.key)
        (blocks[layer.path()] if layer else top).append(weight)
    return top, blocks
