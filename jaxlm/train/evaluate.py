"""How good the model is: held-out loss, perplexity, bits per byte; and what it writes."""

import math
from collections.abc import Callable

import jax
from jax.sharding import Mesh

from jaxlm.axes import Params
from jaxlm.data import Dataset, baselines
from jaxlm.decode import Temperature, TopP, generate, left_pad, prepare, within
from jaxlm.text import Tokenizer
from jaxlm.train import step as steps
from jaxlm.train.run import RunConfig

SAMPLER = Temperature(0.8) | TopP(0.95)
BASELINE_BYTES, BASELINE_TOKENS = 50_000_000, 1_000_000_000  # held-out and training text: more would take long


def make_evaluator(run: RunConfig, dataset: Dataset, mesh: Mesh) -> Callable[[Params], dict[str, float]]:
    """params -> held-out loss in nats per token, perplexity, and bits per byte of the text.

    Bits per byte compare models of any vocabulary: nats / ln 2 / bytes of the text that was scored, which is the same
    whatever the batch (see `Dataset.heldout_rows`).
    """
    eval_step = jax.jit(steps.make_eval_step(run.model))
    rows = run.batch // run.accumulate
    here, heldout = steps.rows_here(mesh, rows), dataset.heldout_rows(run.eval_tokens)

    def evaluate(params: Params) -> dict[str, float]:
        sums = []
        for batch in heldout.batches(rows, here):
            sums.append(eval_step(params, steps.place(batch, mesh)))
            jax.block_until_ready(sums[-2:-1])  # so that two batches are under way, not all of them
        loss = math.fsum(float(s.nll) for s in sums) / heldout.labels
        return {
            "loss": loss,
            "perplexity": math.exp(min(loss, 700.0)),
            # A sample of a few tokens may be of nothing but separators.
            "bits_per_byte": loss / math.log(2) * heldout.labels / (heldout.bytes or math.nan),
        }

    return evaluate


def sample(run: RunConfig, params: Params, tokenizer: Tokenizer, step: int) -> list[str]:
    """What the model makes of each of the run's prompts; the same for the same weights and step."""
    config, layers = prepare(run.model, params)
    tokens_BT, mask_BT = left_pad([tokenizer.encode(prompt, special=True) for prompt in run.prompts])
    new_BT, _ = generate(
        config,
        layers,
        tokens_BT,
        mask_BT=mask_BT,
        max_new_tokens=run.sample_tokens,
        sampler=within(SAMPLER, tokenizer.V, run.model.V),
        key=jax.random.fold_in(jax.random.key(run.seed), step),
        stop=tokenizer.stops,
    )
    texts = (tokenizer.decode([int(i) for i in row if i >= 0], skip_special=True) for row in new_BT)
    return [prompt + text for prompt, text in zip(run.prompts, texts, strict=True)]


def score_table(dataset: Dataset, scores: dict[str, float], tokens: int = 0) -> str:
    """Held-out bits per byte of the model beside what needs no learning; of large texts only what costs nothing.

    `tokens` is the size of the sample that the model was scored on, 0 for all; the others are of the whole text.
    """
    small = dataset.heldout_bytes < BASELINE_BYTES and dataset.train_tokens < BASELINE_TOKENS
    rows = baselines(dataset) if small else {"uniform": 8.0}
    rows["this model"] = scores["bits_per_byte"]
    lines = (f"  {name:<12}{value:8.3f}" for name, value in rows.items())
    whole, heldout = f"{dataset.heldout_bytes:,} bytes of text", dataset.heldout_rows(tokens)
    if heldout.share < 1:
        whole += f"; this model on a sample of {heldout.labels:,} tokens, {heldout.share:.0%} of it"
    return "\n".join([f"held-out bits per byte ({whole}):", *lines])
