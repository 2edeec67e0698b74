"""Wall clock around many steps, never around one unless it is long."""

import time
from collections.abc import Callable
from typing import Any


def seconds_per_step(step: Callable[[], Any], wait: Callable[[Any], Any], repeats: int, steps: int) -> list[float]:
    """`repeats` times: `steps` calls, then one `wait` for the last result."""
    found = []
    for _ in range(repeats):
        start = time.perf_counter()
        for _ in range(steps):
            result = step()
        wait(result)
        found.append((time.perf_counter() - start) / steps)
    return found


def best(step: Callable[[], Any], wait: Callable[[Any], Any], seconds: float, least: int = 5) -> float:
    """The shortest of the calls that fit into `seconds`: for what the machine can do."""
    wait(step())
    found, end = [], time.perf_counter() + seconds
    while len(found) < least or time.perf_counter() < end:
        found += seconds_per_step(step, wait, 1, 1)
    return min(found)
