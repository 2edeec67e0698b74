"""How good the model is: held-out loss, perplexity, bits per byte; and what it writes."""

import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from jaxlm.axes import Params
from jaxlm.data import Dataset, baselines
from jaxlm.decode import Temperature, TopP, generate, prepare
from jaxlm.text import Tokenizer
from jaxlm.train.batch import place, rows_here
from jaxlm.train.run import RunConfig
from jaxlm.train.step import make_eval_step

SAMPLER = Temperature(0.8) | TopP(0.95)
BASELINE_BYTES, BASELINE_TOKENS = 50_000_000, 1_000_000_000  # held-out and training text: more would take long


def make_evaluator(
    run: RunConfig, dataset: Dataset, mesh: Mesh, frozen: Params = None
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


def sample(run: RunConfig, params: Params, tokenizer: Tokenizer, step: int) -> list[str]:
    """What the model makes of each of the run's prompts; the same for the same weights and step."""
    model: Any = run.model
    config, layers = prepare(model, params)
    ids = [tokenizer.encode(prompt, special=True) for prompt in run.prompts]
    width = max(map(len, ids))
    tokens_BT = np.array([[0] * (width - len(row)) + row for row in ids], np.int32)
    mask_BT = np.array([[0] * (width - len(row)) + [1] * len(row) for row in ids], np.int32)
    new_BT, _ = generate(
        config,
        layers,
        tokens_BT,
        mask_BT=mask_BT,
        max_new_tokens=run.sample_tokens,
        sampler=SAMPLER,
        key=jax.random.fold_in(jax.random.key(run.seed), step),
        stop=tokenizer.stops,
    )
    # The model may have more rows than the tokenizer has tokens.
    texts = (tokenizer.decode([int(i) for i in row if 0 <= i < tokenizer.V], skip_special=True) for row in new_BT)
    return [prompt + text for prompt, text in zip(run.prompts, texts, strict=True)]


def score_table(dataset: Dataset, scores: dict[str, float], tokens: int = 0) -> str:
    """Held-out bits per byte of the model beside what needs no learning; of large texts only what costs nothing.

    `tokens` is the size of the sample that the model was scored on, 0 for all; the others are of the whole text.
    """
    if "bits_per_byte" not in scores:
        return "held out: " + spell(scores)
    small = dataset.heldout_bytes < BASELINE_BYTES and dataset.train_tokens < BASELINE_TOKENS
    rows = baselines(dataset) if small else {"uniform": 8.0}
    rows["this model"] = scores["bits_per_byte"]
    lines = (f"  {name:<12}{value:8.3f}" for name, value in rows.items())
    whole, heldout = f"{dataset.heldout_bytes:,} bytes of text", dataset.heldout_rows(tokens)
    if heldout.share < 1:
        whole += f"; this model on a sample of {heldout.labels:,} tokens, {heldout.share:.0%} of it"
    return "\n".join([f"held-out bits per byte ({whole}):", *lines])


def spell(scores: dict[str, float]) -> str:
    """Scores in one line."""
    ways = {"loss": "loss {:.4f}", "perplexity": "perplexity {:.2f}", "bits_per_byte": "{:.4f} bits per byte"}
    return ", ".join(ways.get(name, name + " {:.4f}").format(value) for name, value in scores.items())
