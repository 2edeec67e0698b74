"""What is compared with the numbers of another implementation, all through the public face."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlm.api import LanguageModel


def close(found: Any, wanted: np.ndarray, mask_BT: Any = None) -> None:
    """Logits: within 1e-4 of the largest one, where the mask is one."""
    found = np.asarray(found) if mask_BT is None else np.asarray(found) * mask_BT[..., None]
    np.testing.assert_allclose(found, wanted, atol=1e-4 * np.abs(wanted).max(), rtol=0)


def ended(new_BT: np.ndarray, stops: tuple[int, ...]) -> np.ndarray:
    """Tokens that were computed without an end, as `generate` gives them: -1 behind the first that is a stop."""
    stop_BT = np.isin(new_BT, stops)
    return np.where(np.cumsum(stop_BT, 1) - stop_BT > 0, -1, new_BT)


def learn(lm: LanguageModel, tokens_BT: np.ndarray) -> tuple[float, np.ndarray, dict[str, np.ndarray]]:
    """The mean loss of all next tokens, the logits, and the loss's gradients by the names of tensors."""
    labels_BT1 = jnp.asarray(tokens_BT, jnp.int32)[:, 1:, None]

    def loss(params: Any) -> tuple[Any, Any]:
        logits_BTV = lm.logits(tokens_BT, params=params)
        chances = jax.nn.log_softmax(logits_BTV[:, :-1])
        return -jnp.take_along_axis(chances, labels_BT1, -1).mean(), logits_BTV

    (value, logits_BTV), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(lm.params)
    return float(value), np.asarray(logits_BTV), lm.to_hf(gradients)


def learn_pairs(
    model: Any, source_BS: Any, mask_BS: Any, target_BT: np.ndarray, labels_BT: np.ndarray
) -> tuple[float, np.ndarray, dict[str, np.ndarray]]:
    """The mean loss of all labels of an encoder-decoder, the logits, and gradients by the names of tensors."""
    labels_BT1 = jnp.asarray(labels_BT, jnp.int32)[..., None]

    def loss(params: Any) -> tuple[Any, Any]:
        logits_BTV = model.logits(source_BS, target_BT, mask_BS, params=params)
        return -jnp.take_along_axis(jax.nn.log_softmax(logits_BTV), labels_BT1, -1).mean(), logits_BTV

    (value, logits_BTV), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(model.params)
    return float(value), np.asarray(logits_BTV), model.to_hf(gradients)
