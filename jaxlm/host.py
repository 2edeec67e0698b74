"""How the process is started on a CPU: with memory in huge pages.

XLA frees a step's temporary memory and asks for it again in the next step, and the kernel clears it page by page each
time. Pages of 2 MiB in place of 4 KiB make 525,000 page faults of a 124M training step 5,000 (benchmarks/cpu.md). The
C library reads this setting only when a process starts.
"""

import os
import sys
from collections.abc import Mapping

VARIABLE, SETTING = "GLIBC_TUNABLES", "glibc.malloc.hugetlb=1"


def environment(before: Mapping[str, str]) -> dict[str, str]:
    """The environment `before` with the setting, unless it has settings of its own."""
    return {VARIABLE: SETTING, **before}


def restart_with_huge_pages() -> None:
    """Begin this process anew with the setting, where that is possible (Linux) and not yet so."""
    if sys.platform == "linux" and VARIABLE not in os.environ and sys.executable:
        os.execve(sys.executable, sys.orig_argv, environment(os.environ))
