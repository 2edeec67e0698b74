"""Stopping a run politely: SIGTERM and the first Ctrl-C only ask, and the loop saves and returns after its step."""

import contextlib
import dataclasses
import signal
import threading
from collections.abc import Iterator


@dataclasses.dataclass
class Stopping:
    """Whether somebody asked: `requested` is the name of the signal, "SIGTERM" or "SIGINT", or None."""

    requested: str | None = None


@contextlib.contextmanager
def stop_on_signals() -> Iterator[Stopping]:
    """Within the `with` statement SIGTERM and Ctrl-C set `requested`; a second Ctrl-C raises KeyboardInterrupt.

    Handlers are put back at the end. Outside the main thread, where Python takes no handlers, nothing is changed.
    """
    stopping = Stopping()
    if threading.current_thread() is not threading.main_thread():
        yield stopping
        return

    def ask(number: int, frame: object) -> None:
        if number == signal.SIGINT and number in seen:
            raise KeyboardInterrupt
        seen.add(number)
        stopping.requested = signal.Signals(number).name

    seen: set[int] = set()
    before = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stopping
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
