"""The machine under the process: how much memory it has, and how the process is started on a CPU, in huge pages.

XLA frees a step's temporary memory and asks for it again in the next step, and the kernel clears it page by page each
time. Pages of 2 MiB in place of 4 KiB make 525,000 page faults of a 124M training step 5,000 (benchmarks/cpu.md). The
C library reads this setting only when a process starts.
"""

import os
import sys
from collections.abc import Mapping
from pathlib import Path

VARIABLE, SETTING = "GLIBC_TUNABLES", "glibc.malloc.hugetlb=1"
CGROUPS = ("memory.max", "memory/memory.limit_in_bytes")  # what a container may use, in the second and first version


def environment(before: Mapping[str, str]) -> dict[str, str]:
    """The environment `before` with the setting, unless it has settings of its own."""
    return {VARIABLE: SETTING, **before}


def restart_with_huge_pages() -> None:
    """Begin this process anew with the setting, where that is possible (Linux) and not yet so."""
    if sys.platform == "linux" and VARIABLE not in os.environ and sys.executable:
        os.execve(sys.executable, sys.orig_argv, environment(os.environ))


def memory_limit() -> int:
    """Bytes that one device may use; on CPU a device's share of what the machine, or the container, has."""
    import jax

    stats = jax.local_devices()[0].memory_stats() or {}
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return stats.get("bytes_limit") or min([machine, *_container()]) // jax.local_device_count()


def _container(root: Path = Path("/sys/fs/cgroup")) -> list[int]:
    texts = [(root / name).read_text().strip() for name in CGROUPS if (root / name).is_file()]
    return [int(text) for text in texts if text.isdecimal()]  # "max" is no limit
