"""Stopping a run politely: SIGTERM and the first Ctrl-C only ask, and the loop saves and returns after its step.

Of many processes one may be asked and all must stop after the same step: every step dispatches the question to the
devices, and the answer is read one step later, so that nothing waits for it.
"""

import contextlib
import dataclasses
import os
import signal
import threading
from collections.abc import Iterator

import jax
import numpy as np
from jax.sharding import Mesh

from jaxlm import sharding
from jaxlm.axes import Array

LAST = 3  # Ctrl-C's that leave the process time to close its files


@dataclasses.dataclass
class Stopping:
    """Whether somebody asked: `requested` is the name of the signal, "SIGTERM" or "SIGINT", or None."""

    requested: str | None = None
    _asked: Array | None = None  # the largest signal of any process after the step before

    def agreed(self, mesh: Mesh) -> str | None:
        """To be called by all processes of the mesh once after every step: the signal to stop for, the same for all.

        One process alone hears of its own at once.
        """
        if jax.process_count() == 1:
            return self.requested
        mine = np.full(jax.local_device_count(), signal.Signals[self.requested] if self.requested else 0, np.int32)
        before, where = self._asked, sharding.each_device(mesh)
        self._asked = _largest(jax.make_array_from_process_local_data(where, mine))
        return signal.Signals(int(before)).name if before is not None and int(before) else None


@jax.jit
def _largest(x: Array) -> Array:
    return x.max()


@contextlib.contextmanager
def stop_on_signals() -> Iterator[Stopping]:
    """Within the `with` statement SIGTERM and Ctrl-C set `requested`; a second Ctrl-C raises KeyboardInterrupt.

    A third one is not heard, so that what is being closed and saved then is not broken off; a fourth ends the process.

    Handlers are put back at the end. Outside the main thread, where Python takes no handlers, nothing is changed.
    """
    stopping = Stopping()
    if threading.current_thread() is not threading.main_thread():
        yield stopping
        return

    def ask(number: int, frame: object) -> None:
        nonlocal interrupts
        interrupts += number == signal.SIGINT
        if number == signal.SIGINT and interrupts == 2:
            raise KeyboardInterrupt
        if interrupts > LAST:
            os._exit(128 + signal.SIGINT)
        stopping.requested = signal.Signals(number).name

    interrupts = 0
    before = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stopping
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
