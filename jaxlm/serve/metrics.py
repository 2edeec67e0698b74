"""Prometheus' text format: what was asked, what was written, and how long it took."""

import threading
from collections import Counter
from typing import Any

BUCKETS = 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0  # seconds


class Metrics:
    def __init__(self, server: Any):
        self.server, self._lock = server, threading.Lock()
        self._answers: Counter[tuple[str, int]] = Counter()
        self._times = {"time_to_first_token": [0.0, 0], "request_duration": [0.0, 0]}
        self._buckets = {name: Counter() for name in self._times}

    def answered(self, path: str, status: int) -> None:
        known = path if path.startswith("/v1/") and path.count("/") <= 3 else "other"
        with self._lock:
            if len(self._answers) < 256:
                self._answers[known, status] += 1

    def wrote(self, writings: list) -> None:
        import time

        with self._lock:
            for one in writings:
                if one.first is not None:
                    self._add("time_to_first_token", one.first - one.began)
                self._add("request_duration", time.monotonic() - one.began)

    def _add(self, name: str, seconds: float) -> None:
        self._times[name][0] += seconds
        self._times[name][1] += 1
        for bound in BUCKETS:
            self._buckets[name][bound] += seconds <= bound

    def text(self) -> str:
        lines = []

        def tell(name: str, kind: str, *values: tuple[str, float]) -> None:
            lines.append(f"# TYPE jaxlm_{name} {kind}")
            lines.extend(f"jaxlm_{name}{labels} {value:g}" for labels, value in values)

        with self._lock:
            answers = [(f'{{path="{path}",status="{status}"}}', n) for (path, status), n in self._answers.items()]
            tell("http_responses_total", "counter", *answers)
            for name, (total, count) in self._times.items():
                tell(f"{name}_seconds", "histogram")
                prefix = f"jaxlm_{name}_seconds"
                lines += [f'{prefix}_bucket{{le="{b:g}"}} {self._buckets[name][b]:g}' for b in BUCKETS]
                lines += [
                    f'{prefix}_bucket{{le="+Inf"}} {count:g}',
                    f"{prefix}_sum {total:g}",
                    f"{prefix}_count {count:g}",
                ]
        engine = self.server.engine
        if engine is not None:
            counts = engine.counts
            for name in ("requests", "prompt_tokens", "cached_tokens", "new_tokens", "steps", "preemptions"):
                tell(f"{name}_total", "counter", ("", counts[name]))
            ends = [(f'{{reason="{reason}"}}', counts[reason]) for reason in ("stop", "length", "cancelled", "failed")]
            tell("texts_ended_total", "counter", *ends)
            tell("texts_running", "gauge", ("", engine.running))
            tell("texts_waiting", "gauge", ("", engine.waiting))
            tell("prefix_bytes", "gauge", ("", engine.prefixes.nbytes))
        return "\n".join(lines) + "\n"
