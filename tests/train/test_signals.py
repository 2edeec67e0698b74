import os
import signal
import threading

import pytest

from jaxlm.train.signals import stop_on_signals


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_signal_only_asks(name):
    before = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)]
    with stop_on_signals() as stopping:
        assert stopping.requested is None
        signal.raise_signal(getattr(signal, name))
        assert stopping.requested == name
        signal.raise_signal(signal.SIGTERM)  # asking again changes no more than the name
        assert stopping.requested == "SIGTERM"
    assert [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)] == before


def test_a_second_ctrl_c_interrupts():
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), stop_on_signals() as stopping:
        signal.raise_signal(signal.SIGINT)
        assert stopping.requested == "SIGINT"
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_third_ctrl_c_breaks_off_no_closing_and_a_fourth_leaves(monkeypatch):
    left = []
    monkeypatch.setattr(os, "_exit", left.append)
    closed = False
    with pytest.raises(KeyboardInterrupt), stop_on_signals():
        signal.raise_signal(signal.SIGINT)
        try:
            signal.raise_signal(signal.SIGINT)
        finally:
            signal.raise_signal(signal.SIGINT)
            closed = True
            assert left == []
            signal.raise_signal(signal.SIGINT)
    assert closed and left == [130]


def test_ctrl_c_after_sigterm_asks_first():
    with stop_on_signals() as stopping:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)
        assert stopping.requested == "SIGINT"
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_other_threads_are_left_alone():
    found = []

    def work():
        with stop_on_signals() as stopping:
            found.append((stopping.requested, signal.getsignal(signal.SIGTERM)))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [(None, before)]
