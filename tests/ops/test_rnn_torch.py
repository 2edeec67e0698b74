"""LSTM and GRU against PyTorch's own. Needs the `parity` extra."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.ops import gru, lstm

torch = pytest.importorskip("torch")


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_equals_pytorch(kind):
    """Forward, the last state, and the gradients of all weights."""
    B, T, D, Z, run = 2, 9, 5, 7, lstm if kind == "LSTM" else gru
    torch.manual_seed(0)
    theirs, x = getattr(torch.nn, kind)(D, Z, batch_first=True), torch.randn(B, T, D)
    h, last = theirs(x)
    (h * torch.cos(torch.arange(h.numel()).reshape(h.shape))).sum().backward()
    p = {name: w.detach().numpy() for name, w in theirs.named_parameters()}

    def forward(p):
        n = len(p["bias_ih_l0"]) // Z
        x_BTnHK = (x.numpy() @ p["weight_ih_l0"].T + p["bias_ih_l0"][None, None]).reshape(B, T, n, 1, Z)
        w_HKnK = p["weight_hh_l0"].T.reshape(1, Z, n, Z)
        h_BTHK, state = run(x_BTnHK, w_HKnK, p["bias_hh_l0"].reshape(n, 1, Z))
        return jnp.sum(h_BTHK.ravel() * jnp.cos(jnp.arange(h_BTHK.size))), (h_BTHK[:, :, 0], state)

    gradients, (found, state) = jax.jit(jax.grad(forward, has_aux=True))(p)
    np.testing.assert_allclose(found, h.detach().numpy(), atol=1e-5)
    for ours, other in zip(state, last if kind == "LSTM" else (last,), strict=True):
        np.testing.assert_allclose(ours[:, 0], other[0].detach().numpy(), atol=1e-5)
    for name, w in theirs.named_parameters():
        np.testing.assert_allclose(gradients[name], w.grad.numpy(), atol=1e-4)
