"""Maximal-update parametrisation: the learning rate tuned on a small model is the best one for a wide and deep one too.

    base = model(D=256, ...)                                    # its learning rate, weight decay, ... were tuned
    RunConfig(model=mup.scaled(model(D=4096, ...), base), mup_base=base, ...)

Every part of the model is then moved by a step as far as in the base, whatever the width (Yang et al. 2022,
arXiv:2203.03466, here in the form of its table 3) and the depth N (CompleteP: Dey et al. 2025, arXiv:2505.01618, their
alpha = 1). Against a standard model, with m and o the number of a weight's inputs and outputs over that in the base:

    weight                        learning rate    initial deviation
    hidden matrix (o = m)         1 / m            as ever: inputs^-1/2
    few outputs (o < m)           1 / m            times sqrt(o / m): the head, a router, keys of as many heads
    table, norm scale, bias       1                as ever
    last matrix of a branch       1 / m            times sqrt(N / N_base): the branch's scale has the depth in it

    scale of a branch             N_base / N times the base's
    scale of scores q.k           K_base / K times the base's, since q and k grow alike: nothing where K stays
    scale of logits, tied head    D_base / D times the base's, since the table is no matrix to learn at 1 / m

m and o are read from the shapes and `Axes` of both models, so experts, latents and grouped keys need no rules of their
own. Scales are fields of the model's config, so a trained model is used and converted like any other. The product of
learning rate and weight decay is the same for all weights: decay is not divided by m (CompleteP's lambda m at a rate
1 / m). Gradients fall as 1 / m, so Adam's eps should be far below them: options=(("eps", 1e-12),) (Everett et al. 2024,
arXiv:2407.05872).
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax

from jaxlm.axes import Params
from jaxlm.errors import UserError
from jaxlm.models import LMConfig, ModelConfig, abstract
from jaxlm.nn import BranchConfig, BranchesConfig, MixerConfig
from jaxlm.optim import columns
from jaxlm.sharding import Axes


def scaled(model: ModelConfig, base: ModelConfig) -> LMConfig:
    """`model` with the scales that it has when its run takes over the hyperparameters of `base`.

    Raises UserError where the two are not of one architecture, or have no scale where one must change.
    """
    if not isinstance(model, LMConfig) or not isinstance(base, LMConfig):
        raise UserError("mup_base is for decoder-only language models (LMConfig): leave it out")
    if len(model.layers) != len(base.layers):
        raise _stranger(f"{len(model.layers)} groups of layers, not {len(base.layers)}")
    groups = []
    for group, other in zip(model.layers, base.layers):
        if len(group.blocks) != len(other.blocks):
            raise _stranger(f"{len(group.blocks)} blocks in a group, not {len(other.blocks)}")
        blocks = tuple(_block(*pair, base.depth / model.depth) for pair in zip(group.blocks, other.blocks))
        groups.append(dataclasses.replace(group, blocks=blocks))
    width = (base.embed_width or base.D) / (model.embed_width or model.D) if model.tied else 1.0
    return dataclasses.replace(
        model, layers=tuple(groups), embed_scale=base.embed_scale, logit_scale=base.logit_scale * width
    )


def rates(model: ModelConfig, base: ModelConfig) -> Params:
    """For every weight, what its learning rate is multiplied by."""
    return _over(model, base, lambda axes, m, o: 1 / m)


def deviations(model: ModelConfig, base: ModelConfig) -> Params:
    """For every weight, what its initial value is multiplied by."""
    depth = math.sqrt(model.depth / base.depth)
    lesser = min if model.D >= base.D else max  # a narrower model undoes what a wider one does

    def one(axes: Axes, m: float, o: float) -> float:
        if not axes.inputs:
            return 1.0
        ends_branch = axes.names[-1] == "embed" and "vocab" not in axes.names
        return math.sqrt(lesser(1.0, o / m)) * (depth if ends_branch else 1.0)

    return _over(model, base, one)


def _over(model: ModelConfig, base: ModelConfig, f: Callable[[Axes, float, float], float]) -> Params:
    """f(axes, m, o) for every weight of `model`."""
    (shapes, axes), (others, _) = abstract(model), abstract(base)
    if jax.tree.structure(shapes) != jax.tree.structure(others):
        raise _stranger("other weights")

    def one(axes: Axes, x: Any, other: Any) -> float:
        growth = lambda dimensions: math.prod(x.shape[i] / other.shape[i] for i in dimensions)
        return f(axes, growth(axes.inputs), growth(columns(axes)))

    return jax.tree.map(one, axes, shapes, others, is_leaf=lambda x: isinstance(x, Axes))


def _block(block: Any, base: Any, depth: float) -> Any:
    kinds, others = ([type(mixer).__name__ for mixer in c.mixers] for c in (block, base))
    if type(block) is not type(base) or kinds != others or list(block.parts) != list(base.parts):
        raise _stranger(f"{', '.join(kinds)} in {type(block).__name__} where it has another")
    if isinstance(block, BranchesConfig):
        pairs = zip(block.branches, base.branches)
        return BranchesConfig(tuple(_branch(branch, other, depth) for branch, other in pairs))
    block = dataclasses.replace(block, mixer=_mixer(block.mixer, base.mixer))
    if hasattr(block, "scale"):
        return dataclasses.replace(block, scale=base.scale * depth)
    if depth != 1:
        raise UserError(f"{type(block).__name__} has no scale for another depth than mup_base's: give both the same")
    return block


def _branch(branch: BranchConfig, base: BranchConfig, depth: float) -> BranchConfig:
    of = _mixer(branch.of, base.of) if isinstance(branch.of, MixerConfig) else branch.of
    return dataclasses.replace(branch, of=of, scale=base.scale * depth)


def _mixer(mixer: Any, base: Any) -> Any:
    """`mixer` with the scale of its scores."""
    width, other = (getattr(c, "K", 0) + getattr(c, "R", 0) for c in (mixer, base))
    if hasattr(mixer, "scale"):
        wanted = base.scale if width == other else (other**-0.5 if base.scale is None else base.scale) * other / width
        return dataclasses.replace(mixer, scale=wanted)
    if width != other:
        raise UserError(
            f"{type(mixer).__name__} has no scale for another K than mup_base's: let the heads grow in number"
        )
    return mixer


def _stranger(what: str) -> UserError:
    return UserError(f"mup_base must be of the model's architecture, only narrower or shallower: the model has {what}")
