"""What every loaded model has and can do, whatever it computes: parameters, config, tokenizer; saving."""

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

import jax
import numpy as np

from jaxlm import arguments, convert
from jaxlm.axes import Params
from jaxlm.convert import peft
from jaxlm.errors import UserError
from jaxlm.models import ModelConfig
from jaxlm.ops import leaves
from jaxlm.paths import expand
from jaxlm.text import Tokenizer
from jaxlm.tune.calibrate import table
from jaxlm.tune.methods import METHODS, calibrated
from jaxlm.tune.quantize import check, quantize
from jaxlm.tune.texts import batches


class Loaded:
    """The base of `LanguageModel` and its like: a Flax module, its parameters, its config and its tokenizer (or None).

    `source` tells how to write a model that came in Hugging Face's layout as it was.
    """

    def __init__(
        self,
        config: ModelConfig,
        params: Params,
        tokenizer: Tokenizer | None,
        source: convert.Source | None = None,
    ):
        self.config, self.params, self.tokenizer, self.source = config, params, tokenizer, source
        self.model: Any = config.build()

    def to_hf(self, tree: Params | None = None) -> dict[str, np.ndarray]:
        """The parameters, or any tree like them (gradients), by Hugging Face's names and in its layout."""
        config, tree = peft.alone(self.config, self.params if tree is None else self._alike(tree, "the tree"))
        return dict(convert.to_hf(leaves.dense(tree), config, self._source()))

    def save(
        self,
        folder: str | Path,
        max_shard_size: int | str = "5GB",
        dtype: str | None = None,
        say: Callable[[str], None] = lambda line: None,
        packed: bool = False,
    ) -> None:
        """Write the model in Hugging Face's layout, which `load` and other libraries open; see `convert.save`. int4 and
        int8 matrices are made dense, or with `packed` written as they are, in GPTQ's layout. Virtual tokens, which that
        layout has not, are written by `save_adapter`."""
        folder, source = expand(folder), self._source()
        config, params = peft.alone(self.config, self.params)
        convert.save(folder, config, params, source, self.tokenizer, max_shard_size, dtype, say, packed)

    def merge(self) -> Self:
        """The same model with every adapter multiplied out, in the base's dtypes; a quantised base is made dense first.

        w + (alpha / rank) a b

        Raises UserError where several stand side by side.
        """

        def one(x: Any) -> Any:
            if leaves.several(x):
                raise UserError("adapters that stand side by side are not merged: load the base with one of them")
            if not isinstance(x, leaves.LowRank | leaves.Scaled):
                return x
            return x.dense() if leaves.is_leaf(x.w) else x.dense().astype(x.w.dtype)

        return self._with(jax.jit(lambda params: jax.tree.map(one, params, is_leaf=leaves.is_leaf))(self.params))

    def quantize(
        self,
        kind: str = "int8",
        group: int | None = None,
        double: bool = False,
        calibration: Any = None,
        say: Callable[[str], None] = lambda line: None,
    ) -> Self:
        """The same model with the matrices of its layers in fewer bits: rounded to the nearest, see `tune.quantize`, or
        by a method that reads texts, "gptq4", "gptq8", "awq4" or "smoothquant", see `tune.calibrated`.

        Such `calibration` is the path of a text file, texts, tokens (rows, positions), or batches of a dataset; `say`
        gets the errors by layer, beside those of rounding. Raises UserError as they do, for calibration that a kind
        does not read, and for none where it does.
        """
        if kind not in METHODS:
            check(kind)
            if calibration is not None:
                raise UserError(f"{kind} rounds to the nearest and reads no calibration: {', '.join(METHODS)} do")
            make = lambda params: quantize(self.config, params, kind, group, double)
            return self._with(jax.jit(make)(self.params))
        if calibration is None or double:
            raise UserError(
                f"{kind} " + ("has plain scales: leave double out" if double else "needs calibration texts")
            )
        texts = batches(calibration, self.tokenizer, self.config.V)
        params, rows = calibrated(self.config, self.params, kind, texts, group, say)
        say(table(rows))
        return self._with(params)

    def save_adapter(self, folder: str | Path) -> None:
        """Write the adapter alone in peft's layout, see `convert.peft`. Raises UserError where the model has none."""
        peft.save(expand(folder), self.config, self.params, self._source())

    def _with(self, params: Params, config: ModelConfig | None = None) -> Self:
        other = copy.copy(self)
        other.params = params
        if config is not None and config != self.config:
            other.config, other.model = config, config.build()
        return other

    def _source(self) -> convert.Source:
        return self.source or convert.describe(self.config, self.tokenizer and self.tokenizer.eot)

    def _needed_tokenizer(self) -> Tokenizer:
        if self.tokenizer is None:
            raise UserError("this model has no tokenizer: give tokens, not text")
        return self.tokenizer

    def _alike(self, tree: Any, name: str) -> Params:
        """The tree. Raises UserError where it is not like the parameters."""
        shapes = lambda tree: jax.tree.map(np.shape, tree)
        try:
            alike = isinstance(tree, Mapping) and shapes(tree) == shapes(self.params)
        except ValueError:  # leaves that are ragged lists
            alike = False
        if not alike:
            raise UserError(f"{name} must be a tree of arrays like lm.params, got {arguments.kind(tree)}")
        return tree
