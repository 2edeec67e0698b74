"""A run small enough for tests, with something of everything in it."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from jaxlm.data import DataConfig, Source
from jaxlm.models import LMConfig
from jaxlm.nn import AttentionConfig, BlockConfig, LayersConfig, MLPConfig
from jaxlm.objectives.objective import tokens
from jaxlm.optim import OptimizerConfig
from jaxlm.run import RunConfig
from jaxlm.sharding import MeshConfig
from jaxlm.train import batch as batches


def model(**changes: Any) -> LMConfig:
    """Two layers of grouped-query attention and a gated MLP over bytes (and some rows to spare)."""
    block = BlockConfig(AttentionConfig(H=4, K=8, G=2), MLPConfig(F=64))
    return dataclasses.replace(LMConfig(V=264, D=32, layers=(LayersConfig((block,), 2),)), **changes)


def run(text: str | Path = "embedded", **changes: Any) -> RunConfig:
    """Four rows of 32 bytes a step on one device."""
    config = RunConfig(
        model=model(),
        data=DataConfig(sources=(Source(str(text)),), T=32, holdout=0.2),
        optimizer=OptimizerConfig(learning_rate=1e-2, warmup=2),
        mesh=MeshConfig(data=1),
        steps=6,
        batch=4,
        log_every=1,
        eval_every=3,
        save_every=2,
        sample_every=3,
        sample_tokens=8,
        writers=("jsonl",),
    )
    return dataclasses.replace(config, **changes)


def write_text(folder: Path, documents: int = 40) -> Path:
    """A folder of small, learnable documents."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(documents):
        (folder / f"{i:02}.txt").write_text(f"document {i}: " + "to be, or not to be; " * (4 + i % 5))
    return folder


def batch(rows: int, T: int = 32, seed: int = 0) -> dict[str, np.ndarray]:
    """Random packed rows: two documents each, the last tokens padding."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, 256, (rows, T + 1)).astype(np.int32)
    segments = np.broadcast_to(np.where(np.arange(T) < T // 3, 1, 2), (rows, T)).astype(np.int32).copy()
    segments[:, -3:] = 0
    positions = np.concatenate([np.arange(T // 3), np.arange(T - T // 3)])
    return {
        "tokens": tokens[:, :-1],
        "labels": tokens[:, 1:],
        "segments": segments,
        "positions": np.broadcast_to(positions, (rows, T)).astype(np.int32).copy(),
        "weights": (segments > 0).astype(np.float32),
    }


def place(batch: dict[str, np.ndarray], mesh: Mesh, parts: int | None = None) -> dict[str, jax.Array]:
    """Packed rows on a mesh, as a run of next tokens has them."""
    return batches.place(batch, tokens(batch["tokens"].shape[1]), mesh, parts)
