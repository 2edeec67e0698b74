"""From the sums of an objective to the numbers that people know."""

import math
from collections.abc import Mapping

LARGEST = 700.0  # whose exponential is a float


def text_measures(sums: Mapping[str, float], bytes_per_token: float) -> dict[str, float]:
    """Of text: "loss", what is minimised or plain where that is shown, by weight; whatever else is shown, by weight.

    Where every token's negative log-likelihood "nll" (nats) is among it, "loss" is that, and there are "perplexity" =
    exp(loss) and "bits_per_byte" = loss / ln 2 / (bytes per token), which compares models of any vocabulary.
    """
    weight = sums["weight"] or math.nan
    shown = {name: x / weight for name, x in sums.items() if name not in ("total", "weight", "nll")}
    if "nll" not in sums:
        return {"loss": sums["total"] / weight} | shown
    loss = sums["nll"] / weight
    perplexity = math.exp(min(loss, LARGEST)) if math.isfinite(loss) else loss
    # A sample of a few tokens may be of nothing but separators.
    bits = loss / math.log(2) / (bytes_per_token or math.nan)
    return {"loss": loss, "perplexity": perplexity, "bits_per_byte": bits} | shown
