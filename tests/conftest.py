"""One CPU pretending to be eight devices, quick compilation with a shared cache, and strict rank promotion, for every
test. XLA_FLAGS=--xla_backend_optimization_level=3 tests the programs as users compile them, in twice the time."""

import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

# Compiling is most of what tests do. Memory and layouts of a program stay what they are, to some bytes.
QUICK = "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"
CACHE_LIMIT = 2 * 1024**3  # bytes; every edit of the code leaves entries that are never read again


def _cache_folder() -> Path | None:
    """A cache folder of this user on this host (XLA's CPU programs do not travel), None if somebody else owns it."""
    user = os.getuid() if hasattr(os, "getuid") else os.environ.get("USERNAME", "user")
    folder = Path(tempfile.gettempdir()) / f"jaxlm-tests-{user}-{platform.node() or 'host'}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if hasattr(os, "getuid") and (folder.is_symlink() or folder.stat().st_uid != os.getuid()):
        return None
    first = "PYTEST_XDIST_WORKER" not in os.environ
    if first and sum(entry.stat().st_size for entry in os.scandir(folder)) > CACHE_LIMIT:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def _understood(flags: str) -> bool:
    """Whether this version of XLA knows the flags: one it does not know would end the process."""
    program = [sys.executable, "-c", "import jax; jax.devices()"]
    return not subprocess.run(program, env=os.environ | {"XLA_FLAGS": flags}, stderr=subprocess.DEVNULL).returncode


def _set_environment() -> None:
    """jax reads these when it is imported; as environment variables they reach the tests' subprocesses too."""
    os.environ["JAX_PLATFORMS"] = os.environ.get("JAXLM_TEST_PLATFORM", "cpu")
    os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"
    # A device that waits for another holds a thread. On a small machine there are only eight, one a device: programs
    # with collectives that do not depend on each other, as pipelines have, then wait for ever.
    os.environ.setdefault("PJRT_NPROC", "64")
    flags = os.environ.get("XLA_FLAGS", "")
    if "xla_force_host_platform_device_count" not in flags:
        flags += " --xla_force_host_platform_device_count=8"
    quick = os.environ["JAX_PLATFORMS"] == "cpu" and "xla_backend_optimization_level" not in flags
    if quick and _understood(f"{flags} {QUICK}"):
        flags += f" {QUICK}"
    os.environ["XLA_FLAGS"] = flags.strip()
    folder = _cache_folder()
    if folder is not None:
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(folder))
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")


_set_environment()

SLOW = Path(__file__).with_name("slow.txt")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks what scripts/slow_tests.py measured to be slow, which the everyday tests leave out."""
    slow = set(SLOW.read_text().splitlines())
    for item in items:
        if item.nodeid in slow or item.nodeid.partition("[")[0] in slow:
            item.add_marker("slow")


@pytest.fixture(autouse=True, scope="module")
def _programs_are_freed() -> Iterator[None]:
    """A process may hold only so many memory maps (65,530 on Linux), and every compiled program takes some: kept all,
    those of two thousand tests end it."""
    yield
    if "jax" in sys.modules:
        sys.modules["jax"].clear_caches()


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference outputs beside the repository; the test is skipped where there is none."""
    folder = Path(__file__).resolve().parents[2] / "shared"
    if not folder.is_dir():
        pytest.skip(f"needs the reference outputs in {folder}, which is not there")
    return folder


@pytest.fixture
def heard() -> Iterator[None]:
    """Ctrl-C raises KeyboardInterrupt, also where the tests are a job of the background, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
