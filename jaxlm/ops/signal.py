"""Sound as frames: short-time Fourier transform, mel filters, log-mel spectrograms. `xp` is jax.numpy or numpy; both
give the same numbers."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxlm.axes import Array


def mel(hertz: Any) -> np.ndarray:
    """Slaney's mel scale: linear to 1,000 Hz (15 mel), then 27 mel to each factor of 6.4."""
    hertz = np.asarray(hertz, float)
    return np.where(hertz < 1000, hertz * 3 / 200, 15 + 27 * np.log(np.maximum(hertz, 1000) / 1000) / np.log(6.4))


def hertz(mel: Any) -> np.ndarray:
    """The inverse of `mel`."""
    mel = np.asarray(mel, float)
    return np.where(mel < 15, mel * 200 / 3, 1000 * np.exp((np.maximum(mel, 15) - 15) * np.log(6.4) / 27))


def mel_filters(bands: int, n_fft: int, rate: int) -> np.ndarray:
    """Triangles of equal area over the bins of a spectrum, at equal distances in mel: float32 (bins, bands)."""
    edges = hertz(np.linspace(mel(0), mel(rate / 2), bands + 2))[None]
    bins = np.fft.rfftfreq(n_fft, 1 / rate)[:, None]
    low, mid, high = edges[:, :-2], edges[:, 1:-1], edges[:, 2:]
    rising, falling = (bins - low) / (mid - low), (high - bins) / (high - mid)
    return (np.maximum(0, np.minimum(rising, falling)) * 2 / (high - low)).astype(np.float32)


def power(samples_BS: Array, n_fft: int, hop: int, xp: Any = jnp) -> Array:
    """Power spectra |STFT|^2 of frames that are centred at multiples of `hop`, under a periodic Hann window, the signal
    mirrored at both ends: float32 (B, 1 + S / hop, n_fft / 2 + 1)."""
    samples_BS = xp.pad(samples_BS, ((0, 0), (n_fft // 2, n_fft // 2)), mode="reflect")
    count = 1 + (samples_BS.shape[1] - n_fft) // hop
    frames = samples_BS[:, np.arange(count)[:, None] * hop + np.arange(n_fft)[None]]
    window = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n_fft) / n_fft)).astype(np.float32)
    return xp.square(xp.abs(xp.fft.rfft(frames * window[None, None]))).astype(np.float32)


def log_mel(
    samples_BS: Array, bands: int, rate: int = 16_000, n_fft: int = 400, hop: int = 160, xp: Any = jnp
) -> Array:
    """Whisper's log-mel spectrogram (Radford et al. 2022, arXiv:2212.04356), float32 (B, S / hop, bands).

    m = log10 max(|STFT|^2 filters, 1e-10), from below cut 8 under each row's largest, (m + 4) / 4. The frame centred
    at the end is dropped.
    """
    filters = mel_filters(bands, n_fft, rate)
    m = xp.log10(xp.maximum(power(samples_BS, n_fft, hop, xp)[:, :-1] @ filters, 1e-10))
    return (xp.maximum(m, xp.max(m, axis=(1, 2), keepdims=True) - 8) + 4) / 4
