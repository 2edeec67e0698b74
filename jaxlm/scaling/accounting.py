"""Where the parameters and the FLOPs of a model are, part by part and matrix by matrix.

Counts are those of `jaxlm.models.flops`, divided up: the parts of `parts` sum to its totals. FLOPs are per token of
texts of T tokens; training is three times a forward pass.
"""

import dataclasses
import itertools
import math
from collections import Counter
from typing import Any

from jaxlm.models import ModelConfig, flops, home, layers
from jaxlm.nn import AttentionConfig, MixerConfig
from jaxlm.run import RunConfig

PARTS = ("embedding", "attention", "attention scores", "feed-forward", "norms", "head")
ORDER = {"embed": 0, "positions": 0, "embed_in": 0, "embed_out": 2, "head": 2}  # layers are 1
PF_DAY = 1e15 * 24 * 3600  # FLOPs


@dataclasses.dataclass(frozen=True)
class Part:
    """What one part of a model has, in all layers."""

    parameters: int = 0
    active: int = 0  # that one token meets
    forward_flops: float = 0.0  # per token

    @property
    def train_flops(self) -> float:
        return 3 * self.forward_flops

    def __add__(self, other: "Part") -> "Part":
        pairs = zip(dataclasses.astuple(self), dataclasses.astuple(other))
        return Part(*(a + b for a, b in pairs))


def parts(model: Any, T: int) -> dict[str, Part]:
    """Every part of `PARTS`. A tied head has FLOPs and no parameters; attention scores have no parameters either."""
    found = {name: Part() for name in PARTS}
    for w in flops.weights(model):
        active = round(w.size * w.axes.active)
        found[_part(model, w)] += Part(w.size, active, 2.0 * active if w.axes.inputs else 0.0)
    scores = sum(layer.config.score_flops(T) for layer in layers(model))
    found["attention scores"] += Part(forward_flops=scores)
    if model.tied:
        found["head"] += Part(forward_flops=2.0 * model.V * (model.embed_width or model.D))
    return found


def _part(model: ModelConfig, w: flops.Weight) -> str:
    """By its names: what a mixer or a feed-forward owns is theirs, norms within them too."""
    if layer := home(model, w.path):
        part = layer.config.parts.get(w.path[len(layer.path())])
        return "norms" if part is None else "attention" if isinstance(part, MixerConfig) else "feed-forward"
    if w.path[0] in ("head", "embed_out"):
        return "head"
    return "norms" if any("norm" in name for name in w.path) else "embedding"


@dataclasses.dataclass(frozen=True)
class Matrix:
    """Weights of one name and shape: `count` of them, one a layer (or one a layer and expert)."""

    name: str
    shape: tuple[int, ...]
    count: int

    @property
    def parameters(self) -> int:
        return math.prod(self.shape) * self.count


def matrices(model: ModelConfig) -> list[Matrix]:
    """Tables and matrices from the first to the last, then biases, scales and other vectors as one.

    With heads as dimensions of their own: q is D x H x K, so of GPT-3 it is 96 matrices of 12288 x 128 a layer.
    """
    found: Counter[tuple[str, tuple[int, ...]]] = Counter()
    vectors = 0
    for w in flops.weights(model):
        if not (w.axes.inputs or "table" in w.path):
            vectors += w.size
            continue
        copies = sum(1 for _ in itertools.takewhile(lambda axis: axis in ("layers", "experts"), w.axes.names))
        layer = home(model, w.path)
        name = ".".join(w.path[len(layer.path()) if layer else 0 :])
        found[name, w.shape[copies:]] += math.prod(w.shape[:copies])
    ordered = sorted(found.items(), key=lambda item: ORDER.get(item[0][0].partition(".")[0], 1))
    return [Matrix(name, shape, count) for (name, shape), count in ordered] + [Matrix("vectors", (vectors,), 1)]


def summary(run: RunConfig) -> dict[str, Any]:
    """One row of the table of several models: the size, the run that its config plans, and the usual rules beside it.

    6 N D is Kaplan et al.'s estimate (2020, arXiv:2001.08361) with all active parameters as N, as in table D.1 of
    Brown et al. (2020, arXiv:2005.14165); 12 L D^2 their count of parameters without embeddings, for F = 4 D.
    """
    model, tokens = run.model, run.steps * run.tokens_per_step
    active, per_token = flops.active_parameters(model), flops.train_flops(model, run.data.T)
    return {
        "layers": model.depth,
        "width": model.D,
        "parameters": flops.parameters(model),
        "active": active,
        "12 L D^2": 12 * model.depth * model.D**2,
        "tokens": tokens,
        "6 N D": 6.0 * active * tokens,
        "PF-days": 6 * active * tokens / PF_DAY,
        "FLOPs": per_token * tokens,
        "of 6 N D": per_token / (6 * active),
    }


def chinchilla_flops(model: Any, T: int) -> float | None:
    """Training FLOPs per token as Hoffmann et al. count them (2022, arXiv:2203.15556, appendix F).

    Beside what `flops.train_flops` counts, the embedding as a product (2 V D), scores between all pairs of positions
    instead of those visible, and 3 FLOPs for each score's softmax. None for models of other than plain attention.
    """
    mixers = [m for m in flops.mixers(model) if type(m) is AttentionConfig and not m.window and not m.chunk]
    if len(mixers) < model.depth:
        return None
    scores = sum(4 * T * m.H * m.K + 3 * T * m.H for m in mixers)
    embedding = 2 * model.V * (model.embed_width or model.D)
    return 3 * (2 * flops.matmul_parameters(model) + embedding + scores)
