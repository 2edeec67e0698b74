"""The profiler's window."""

import contextlib
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from jaxlm.train.profile import Profiler


def traces(folder: Path) -> list[Path]:
    return list(folder.rglob("*.xplane.pb"))


def test_a_window_of_steps_leaves_a_trace(tmp_path):
    with Profiler(tmp_path, at=2, steps=2) as profiler:
        for step in range(1, 6):
            with profiler.step(step):
                jnp.arange(8).sum().block_until_ready()
            assert profiler.running == (step in (2, 3))
        assert len(traces(tmp_path)) == 1
    assert len(traces(tmp_path)) == 1 and traces(tmp_path)[0].stat().st_size > 0
    content = traces(tmp_path)[0].read_bytes()
    assert b"train" in content


def test_a_run_that_ends_within_the_window_leaves_one_too(tmp_path):
    with contextlib.suppress(KeyError), Profiler(tmp_path, at=1, steps=100) as profiler, profiler.step(1):
        raise KeyError
    assert len(traces(tmp_path)) == 1
    with pytest.raises(RuntimeError):  # nothing is recorded any more
        jax.profiler.stop_trace()


def test_none_where_none_was_asked_for(tmp_path):
    with Profiler(tmp_path, at=0, steps=3) as profiler:
        for step in range(4):
            with profiler.step(step):
                pass
    assert traces(tmp_path) == []
