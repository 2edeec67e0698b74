"""What the families of rows share: the options, the exchange folder, and the ceilings measured so far."""

import argparse
import dataclasses
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchsuite import piece
from benchsuite.row import Row

CACHE = "JAX_COMPILATION_CACHE_DIR"  # a tiny run, which is a test, may use what is there

Rows = Iterator[Row]


@dataclasses.dataclass(frozen=True)
class Family:
    """Rows that are measured together. `run` yields a row for each of `ids`."""

    ids: tuple[str, ...]
    run: Callable[["Bench"], Rows]


class Bench:
    """One run of a suite.

    Attributes:
        peer: the Python of the environment with torch and transformers, or None.
        folder: for what pieces exchange: weights, ids, caches.
        ceilings: measurements by name, each of which `ceilings.measure` appends to.
        before: rows of an earlier run, by id, as their JSON says.
    """

    def __init__(self, options: argparse.Namespace, folder: Path, platform: str | None, cores: int | None):
        self.peer: str | None = options.peer
        self.text: str | None = options.text
        self.folder = folder
        self.ceilings: dict[str, list[dict[str, Any]]] = {}
        self.before: dict[str, dict[str, Any]] = {}
        self._cores = cores
        self._env = {
            CACHE: (options.tiny and os.environ.get(CACHE)) or str(folder / "compiled"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
            "XLA_PYTHON_CLIENT_PREALLOCATE": "false",  # processes take turns on an accelerator, torch's too
            "JAXLM_CACHE": str(folder / "data"),
            "TOKENIZERS_PARALLELISM": "false",
            "HF_HUB_OFFLINE": "1",
        }
        if platform:
            self._env["JAX_PLATFORMS"] = platform

    def run(
        self,
        function: str,
        args: dict[str, Any],
        *,
        peer: bool = False,
        cores: int | None = None,
        cache: Path | None = None,
    ) -> dict[str, Any]:
        """The result of a piece; with `peer` by the peer's Python; compiled programs are kept in `cache`."""
        env = self._env | ({CACHE: str(cache)} if cache else {})
        python = {"python": self.peer} if peer and self.peer else {}
        return piece.run(function, args, cores=cores or self._cores, env=env, **python)
