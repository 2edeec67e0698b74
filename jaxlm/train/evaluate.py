"""How good the model is: held-out loss, perplexity, bits per byte; and what it writes."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from jaxlm.axes import Params
from jaxlm.data import Prepared
from jaxlm.decode import Temperature, TopP, generate, left_pad, prepare, within
from jaxlm.models import Seq2SeqConfig
from jaxlm.run import RunConfig
from jaxlm.text import Tokenizer
from jaxlm.train.batch import place, rows_here
from jaxlm.train.step import make_eval_step

Prompts = Sequence[tuple[str, Sequence[int]]]  # text and ids
NO_PROMPTS = ("",)  # of a run that asks for nothing of its own
SAMPLER = Temperature(0.8) | TopP(0.95)


def make_evaluator(
    run: RunConfig, dataset: Prepared, mesh: Mesh, frozen: Params = None
) -> Callable[[Params], dict[str, float]]:
    """trained params -> what the dataset measures on held-out rows: of text the loss in nats per token, perplexity, and
    bits per byte, which are the same whatever the batch (see `Dataset.heldout_rows`)."""
    eval_step = jax.jit(make_eval_step(run))
    rows, spec = run.batch // run.accumulate, run.objective.spec(run.data)
    here, heldout = rows_here(mesh, rows), dataset.heldout_rows(run.eval_tokens)

    def evaluate(params: Params) -> dict[str, float]:
        sums = []
        for batch in heldout.batches(rows, here):
            sums.append(eval_step(params, frozen, place(batch, spec, mesh)))
            jax.block_until_ready(sums[-2:-1])  # so that two batches are under way, not all of them
        sums = jax.device_get(sums)
        return heldout.measures({name: math.fsum(float(one[name]) for one in sums) for name in sums[0]})

    return evaluate


def prompts_of(run: RunConfig, dataset: Any) -> Prompts:
    """What samples begin with, where the data has a say: the run's own prompts as the data asks them, or, where the run
    has none of its own, the data's."""
    if run.prompts == NO_PROMPTS:
        return getattr(dataset, "prompts", ())
    ask = getattr(dataset, "ask", None)
    return [ask(prompt) for prompt in run.prompts] if ask else ()


def sample(run: RunConfig, params: Params, tokenizer: Tokenizer, step: int, prompts: Prompts = ()) -> list[str]:
    """What the model makes of each of the run's prompts, or of the data's own `prompts`; the same for the same weights
    and step."""
    model: Any = run.model
    config, layers = prepare(model, params)
    prompts = prompts or [(prompt, tokenizer.encode(prompt, special=True)) for prompt in run.prompts]
    tokens_BT, mask_BT = left_pad([ids for _, ids in prompts])
    inputs = {}
    if isinstance(model, Seq2SeqConfig):  # prompts are sources
        inputs = {"source_BS": tokens_BT, "source_segments_BS": mask_BT}
        tokens_BT, mask_BT = np.full((len(tokens_BT), 1), tokenizer.eot, np.int32), None
    new_BT, _ = generate(
        config,
        layers,
        tokens_BT,
        mask_BT=mask_BT,
        max_new_tokens=run.sample_tokens,
        sampler=within(SAMPLER, tokenizer.V, run.model.V),
        key=jax.random.fold_in(jax.random.key(run.seed), step),
        stop=tokenizer.stops,
        inputs=inputs,
    )
    texts = (tokenizer.decode([int(i) for i in row if i >= 0], skip_special=True) for row in new_BT)
    return [prompt + " -> " * bool(inputs) + text for (prompt, _), text in zip(prompts, texts, strict=True)]
