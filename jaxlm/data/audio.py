"""Sound from files and arrays: float32 samples of one channel at the rate that a model wants, whole or as a stream.

Files are read by soundfile (wav, flac, ogg, mp3) and resampled by soxr, both in the extra `audio`.
"""

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from jaxlm import arguments
from jaxlm.errors import UserError
from jaxlm.paths import expand

BLOCK = 10  # seconds of a file that are read at once


def read_audio(audio: Any, rate: int = 16_000) -> np.ndarray:
    """All samples, float32 (S,); see `stream_audio`."""
    return np.concatenate(list(stream_audio(audio, rate)))


def stream_audio(audio: Any, rate: int = 16_000) -> Iterator[np.ndarray]:
    """Blocks of samples at `rate`, in memory one at a time, channels averaged: of a file, of samples at that rate (S,),
    or of samples at another one, as (samples, rate).

    Raises UserError for what is no sound: an empty or broken file, samples that are not finite, a rate below 1.
    """
    if isinstance(audio, str | Path):
        yield from _stream_file(expand(audio), rate)
        return
    samples, own = audio if isinstance(audio, tuple) and len(audio) == 2 else (audio, rate)
    own = arguments.integer(own, "the rate of the samples", 1)
    samples = np.asarray(samples)
    if samples.dtype.kind not in "fi" or samples.ndim not in (1, 2):
        raise UserError(f"samples must be numbers (S,), or (S, channels), got {arguments.kind(audio)}")
    if samples.dtype.kind == "i":
        samples = samples / -np.iinfo(samples.dtype).min
    samples = samples.astype(np.float32)
    yield from _resampled(iter([samples[:, None] if samples.ndim == 1 else samples]), own, rate, "the samples")


def _stream_file(path: Path, rate: int) -> Iterator[np.ndarray]:
    soundfile = _library("soundfile")
    if not path.is_file():
        raise UserError(f"cannot read {path}: there is no such file")
    try:
        with soundfile.SoundFile(path) as file:
            blocks = file.blocks(BLOCK * file.samplerate, dtype="float32", always_2d=True)
            yield from _resampled(blocks, file.samplerate, rate, str(path))
    except soundfile.SoundFileError as error:
        raise UserError(f"{path} is no sound that can be read: {error}") from None


def _resampled(blocks: Iterator[np.ndarray], own: int, rate: int, name: str) -> Iterator[np.ndarray]:
    """One channel at the wanted rate."""
    stream = _library("soxr").ResampleStream(own, rate, 1, dtype="float32") if own != rate else None
    count = 0
    for block in blocks:
        if not np.isfinite(block).all():
            raise UserError(f"{name}: a sample is not finite, near second {count / own:.2f}")
        count += len(block)
        mono = block.mean(1)
        yield mono if stream is None else stream.resample_chunk(mono)
    if not count:
        raise UserError(f"{name} has no samples")
    if stream is not None:
        yield stream.resample_chunk(np.zeros(0, np.float32), last=True)


def _library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise UserError(f"reading sound needs {name}: pip install 'jaxlm[audio]'") from None
