"""A trained vision Transformer with its parameters: hidden states of patches, classes of images."""

import dataclasses
import functools
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from jaxlm import convert, models
from jaxlm.api.base import Loaded
from jaxlm.api.encoder import Classified
from jaxlm.axes import Array, Params
from jaxlm.data.images import Preparation, preparation
from jaxlm.errors import UserError
from jaxlm.models import ViTConfig

BATCH = 32  # images at a time


class Vision(Loaded):
    """A Flax module, its parameters, its config, and how images are prepared for it. Made by `load`.

    Calls take pixels (B, Y, X, C) as the model was trained on them, or in `classify` images of any size; they are
    differentiable in `params`, any tree like `self.params`, and in pixels. Images of another size than that of training
    are taken where patches fill them: learned positions are interpolated.

    They raise UserError for pixels of another shape or not finite, and a head that the model has not.
    """

    def __init__(
        self,
        config: ViTConfig,
        params: Params,
        source: convert.Source | None = None,
        prepare: Preparation | None = None,
    ):
        super().__init__(config, params, None, source)
        self.config: ViTConfig = config
        self.prepare = prepare or preparation({}, config.Y, config.X, config.C)

    def hidden(self, pixels_BYXC: Any, params: Params | None = None) -> Array:
        """(B, T, D) after the last norm: of the class token and its like, then of patches row by row."""
        return _forward(self.model, *self._inputs(pixels_BYXC, params)).encoded.last_BTD

    def pooled(self, pixels_BYXC: Any, params: Params | None = None) -> Array:
        """(B, D) of each image, by the pooler that the model was trained with."""
        if self.config.pooler is None:
            raise UserError("this model has no pooler: take hidden(...)[:, 0]")
        return _forward(self.model, *self._inputs(pixels_BYXC, params)).encoded.pooled_BD

    def logits(self, pixels_BYXC: Any, params: Params | None = None) -> Array:
        """float32 (B, classes)."""
        if not self.config.labels:
            raise UserError("this model has no classes, so no logits: it gives hidden states")
        return _logits(self.model, *self._inputs(pixels_BYXC, params))[:, 0]

    def classify(self, images: Any) -> Classified:
        """The class of each image: paths, PIL images or arrays, one or several."""
        pixels_BYXC = self.prepare(images)
        each = [
            np.asarray(jax.nn.softmax(self.logits(pixels_BYXC[i : i + BATCH])))
            for i in range(0, len(pixels_BYXC), BATCH)
        ]
        found = np.concatenate(each)
        return Classified([self.config.labels[i] for i in found.argmax(-1)], found)

    def _inputs(self, pixels_BYXC: Any, params: Params | None) -> tuple[Any, ...]:
        params = self.params if params is None else self._alike(params, "params")
        c = self.config
        if not isinstance(pixels_BYXC, jax.core.Tracer):
            try:
                pixels_BYXC = np.asarray(pixels_BYXC, np.float32)
            except (TypeError, ValueError):
                raise UserError("pixels must be an array of numbers") from None
            if not np.isfinite(pixels_BYXC).all():
                raise UserError("pixels must be finite")
        if pixels_BYXC.ndim != 4 or pixels_BYXC.shape[-1] != c.C or not pixels_BYXC.shape[0]:
            raise UserError(f"pixels must be (B, height, width, {c.C}), not of the shape {pixels_BYXC.shape}")
        c.grid(*pixels_BYXC.shape[1:3])
        return params, jnp.asarray(pixels_BYXC)


@functools.partial(jax.jit, static_argnums=0)
def _forward(model, params, pixels_BYXC):
    return dataclasses.replace(models.forward(model, params, pixels_BYXC), states=None, statistics={})


@functools.partial(jax.jit, static_argnums=0)
def _logits(model, params, pixels_BYXC):
    return model.apply({"params": params}, pixels_BYXC)
