"""From the sums of an objective to the numbers that people know."""

import math
from collections.abc import Mapping

LARGEST = 700.0  # whose exponential is a float


def text_measures(sums: Mapping[str, float], bytes_per_token: float | None = None) -> dict[str, float]:
    """Of text: "loss", what is minimised or plain where that is shown, by weight; whatever else is shown, by weight.

    Where every token's negative log-likelihood "nll" (nats) is among it, "loss" is that, and there are "perplexity" =
    exp(loss) and, of text with bytes, "bits_per_byte" = loss / ln 2 / (bytes per token), which compares models of any
    vocabulary.
    """
    weight = sums["weight"] or math.nan
    shown = {name: x / weight for name, x in sums.items() if name not in ("total", "weight", "nll")}
    if "nll" not in sums:
        return {"loss": sums["total"] / weight} | shown
    loss = sums["nll"] / weight
    perplexity = math.exp(min(loss, LARGEST)) if math.isfinite(loss) else loss
    found = {"loss": loss, "perplexity": perplexity}
    if bytes_per_token is not None:  # 0 in a sample of a few tokens that are nothing but separators
        found["bits_per_byte"] = loss / math.log(2) / (bytes_per_token or math.nan)
    return found | shown


def spell(scores: Mapping[str, float]) -> str:
    """Scores in one line."""
    ways = {"loss": "loss {:.4f}", "perplexity": "perplexity {:.2f}", "bits_per_byte": "{:.4f} bits per byte"}
    return ", ".join(ways.get(name, name + " {:.4f}").format(value) for name, value in scores.items())
