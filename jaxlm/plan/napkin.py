"""The estimate by arithmetic alone: what divides what, counted in a millisecond to choose among thousands.

Every weight tells by its `Axes` how often it is divided, what it multiplies and how much of it a token meets; the rest
is the textbook (Austin et al. 2025, "How To Scale Your Model"): a weight that fsdp divides is gathered for the forward
and for the backward pass, and its gradient is summed and scattered; tensor parallelism gathers and scatters the stream
twice a layer and pass. A walk through the real program (`plan.walk`) and the compiler (`plan.program`) know better.
"""

import collections
import dataclasses
import functools
import math
from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp

from jaxlm import sharding
from jaxlm.models import ModelConfig, flops
from jaxlm.models import layers as layers_of
from jaxlm.nn import MoEConfig, PipelineConfig
from jaxlm.ops.pipeline import ticks
from jaxlm.plan.facts import Collective, Memory, Pass, Program, Work
from jaxlm.plan.topology import Topology
from jaxlm.run import RunConfig

# By policy of rematerialisation: the share of a layer's products that is kept, and of a forward pass that is repeated.
KEPT = {"offload": 0.1, "full": 0.0, "attention": 0.15, "qkv": 0.35, "dots_except_mlp": 0.45, "mlp": 0.9, "dots": 1.0}
REPEATED = {"none": 0.0, "dots": 0.1, "mlp": 0.15, "dots_except_mlp": 0.6, "qkv": 0.75, "attention": 0.85}
WIDTHS = ("embed", "expert_embed")  # what fsdp divides: gathered for use


@dataclasses.dataclass(frozen=True)
class Weight:
    """A weight, or its stack of layers, on one device of a mesh; numbers, not bytes."""

    layers: int  # of its stack; 0 outside
    owned: float  # of all layers
    gathered: float  # of one layer, once it is gathered for use
    over: tuple[str, ...]  # mesh axes over which it is gathered
    read: float  # of what one token brings to it, if it is a matrix
    made: float  # of what one token gets of it


@functools.lru_cache(maxsize=4096)
def weights(config: ModelConfig, sizes: tuple[tuple[str, int], ...]) -> tuple[Weight, ...]:
    """All weights of the model, on a mesh whose axes have these sizes."""
    size = dict(sizes)
    found = []
    for w in flops.weights(config):
        names, inputs = w.axes.names, w.axes.inputs
        layers = w.shape[0] if "layers" in names else 0
        own = {name: sharding.parts(name, size) for name in names}
        if layers < own.get("layers", 1):
            own["layers"] = 1  # too few to divide
        whole = math.prod(n for name, n in own.items() if name not in (*WIDTHS, "layers"))
        experts = w.shape[names.index("experts")] * w.axes.active if "experts" in names else 1  # that a token meets
        used = [n if name in WIDTHS else n / own[name] for n, name in zip(w.shape, names, strict=True)]
        outputs = [i for i, name in enumerate(names) if i not in inputs and name not in ("layers", "experts")]
        found.append(
            Weight(
                layers=layers,
                owned=w.size / math.prod(own.values()),
                gathered=w.size / max(layers, 1) / whole,
                over=tuple(axis for name in WIDTHS if name in own for axis in sharding.RULES[name] if size[axis] > 1),
                read=experts * math.prod(used[i] for i in inputs) if inputs else 0,
                made=experts * math.prod(used[i] for i in outputs) if inputs else 0,
            )
        )
    return tuple(found)


def napkin(run: RunConfig, sizes: dict[str, int], topology: Topology) -> Program:
    """What a training step of `run` takes, does and sends on each device of a mesh whose axes have these sizes."""
    config: Any = run.model
    plain = dataclasses.replace(config, remat="none")  # which changes no weight: traced once
    found = weights(plain, tuple(sizes.items()))
    tokens = run.batch * run.data.T / sharding.parts("places", sizes) / run.accumulate  # of a device, at a time
    itemsize = jnp.dtype(config.dtype).itemsize
    model_flops = flops.train_flops(plain, run.data.T) * run.batch * run.data.T / math.prod(sizes.values())
    passes = 3 + REPEATED.get(config.remat, 1.0)  # the forward, the two products of the backward, and what is repeated
    share = _layers(config, sizes) / config.depth  # of the layers, on one device
    moved = sum(
        passes * max(w.layers * share, 1) * run.accumulate * (w.gathered + (w.read + w.made) * tokens) * itemsize
        for w in found
        if w.read
    )
    state = sum(w.owned for w in found) * 4
    return Program(
        _memory(run, found, tokens, itemsize, sizes),
        Work(model_flops, (Pass(model_flops * passes / 3, moved), Pass(0, 8 * state))),
        tuple(one for one in _sent(run, found, tokens, itemsize, sizes, topology) if one.size > 1 and one.nbytes),
        limit=topology.chip.usable if topology.chip else None,
    )


def _layers(config: ModelConfig, sizes: dict[str, int]) -> int:
    """How many of them a device has."""
    return max(config.depth // sharding.parts("layers", sizes), 1)


def _memory(run: RunConfig, found: tuple[Weight, ...], tokens: float, itemsize: int, sizes: dict[str, int]) -> Memory:
    config, optimizer = run.model, run.optimizer
    layers = _layers(config, sizes)
    params = 4 * sum(w.owned for w in found)
    moments = params / 4 * 2 * jnp.dtype(optimizer.state_dtype).itemsize
    stream = tokens * config.D * itemsize / sharding.parts("mlp", sizes)
    inside = [w for w in found if w.layers]
    layer = sum(w.made * w.layers for w in inside) / config.depth * tokens * itemsize  # what the products of one give
    gathered = sum(w.gathered * w.layers for w in inside) / config.depth * itemsize
    kept = 0 if config.remat == "offload" else stream + KEPT.get(config.remat, 2.0) * layer
    # One layer is repeated and gone back through; its weights and the next one's are there; gradients, and their sum.
    activations = layers * kept + 3 * layer + 2 * gathered + params * (1 if run.accumulate == 1 else 2)
    activations *= 1 + (sharding.parts("layers", sizes) > 1)
    return Memory(
        params=int(params),
        optimizer=0 if optimizer.offload else int(moments),
        activations=int(activations),
        ema=int(params) if run.ema else 0,
        host=int(moments if optimizer.offload else 0) + int(layers * stream if config.remat == "offload" else 0),
    )


def _sent(
    run: RunConfig,
    found: tuple[Weight, ...],
    tokens: float,
    itemsize: int,
    sizes: dict[str, int],
    topology: Topology,
) -> Iterator[Collective]:
    config = run.model
    forward = 1 if config.remat == "none" else 2  # times that the forward pass is made
    slow = sharding.across(sizes, topology.slices) if topology.slices > 1 else None

    def one(kind: str, numbers: float, times: float, axes: tuple[str, ...], part: str = "layers") -> Collective:
        size = math.prod(sizes[axis] for axis in axes)
        return Collective(
            kind, round(numbers * itemsize), round(times * run.accumulate), part, axes, size, slow in axes
        )

    layers, tensor = _layers(config, sizes), sharding.parts("mlp", sizes)
    for over, stacked in {(w.over, w.layers > 0): None for w in found if w.over}:
        group = [w for w in found if w.over == over and (w.layers > 0) == stacked]
        times, part = (layers, "layers") if stacked else (1, "loss")
        numbers = sum(w.gathered * (w.layers / config.depth if stacked else 1) for w in group)
        yield one("all-gather", numbers, times * forward, over, part)
        yield one("reduce-scatter", numbers, times, over, part)
    yield one("all-reduce", sum(w.owned for w in found), 1 / run.accumulate, ("data",), "optimizer")
    stream = tokens * config.D
    yield one("all-gather", stream, 2 * layers * (forward + 1), sharding.RULES["mlp"])
    yield one("reduce-scatter", stream, 2 * layers * (forward + 1), sharding.RULES["mlp"])
    ffns = collections.Counter(ffn for layer in layers_of(config) for ffn in layer.config.ffns)
    for ffn, count in ffns.items():
        if isinstance(ffn, MoEConfig):
            chosen = ffn.top_k * (ffn.capacity_factor or 1.0) / tensor
            times = 2 * count / config.depth * layers * (forward + 1)
            yield one("all-to-all", stream * chosen, times, sharding.RULES["experts"])
    mixer = next(iter(flops.mixers(config)), None)
    keys = 2 * getattr(mixer, "groups", 1) * getattr(mixer, "K", config.D) * tokens / tensor
    turns, hops = sharding.parts("positions", sizes) - 1, sharding.parts("layers", sizes) - 1
    yield one("collective-permute", keys, layers * turns * (forward + 2), sharding.RULES["positions"])
    yield one("collective-permute", stream / tensor, 2 * hops, sharding.RULES["layers"])


def bubble(run: RunConfig, topology: Topology) -> float:
    """The share of a step that the devices of a pipeline wait for its first and last microbatch: with M microbatches
    that go R rounds over S stages (S - 1) / (M R + S - 1)."""
    sizes, how = sharding.mesh_shape(run.mesh, topology.devices), getattr(run.model, "pipeline", PipelineConfig())
    rows = run.batch // run.accumulate // sharding.parts("batch", sizes)
    S = sharding.parts("layers", sizes)
    return (S - 1) / ticks(S, how.parts(rows, S), how.rounds)
