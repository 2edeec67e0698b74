"""What is asked of the machine."""

import jax
import numpy as np

from jaxlm.machine import hardware, host
from jaxlm.sharding import make_mesh


def test_matmul_rate_is_measured_also_under_a_mesh():
    assert 1e6 < hardware.matmul_flops("float32", 64) < 1e15
    with jax.set_mesh(make_mesh()):
        assert hardware.matmul_flops("bfloat16", 64) > 1e5


def test_a_cpu_has_no_datasheet():
    assert hardware.datasheet_flops() is None


def test_names_of_accelerators(monkeypatch):
    class Device:
        def __init__(self, name):
            self.device_kind = name

    for name, peak in [("NVIDIA H100 80GB HBM3", 989e12), ("TPU v5 lite", 197e12), ("TPU v5p", 459e12), ("?", None)]:
        monkeypatch.setattr(jax, "devices", lambda name=name: [Device(name)])
        assert hardware.datasheet_flops() == peak


def test_memory_used_is_the_peak_of_the_process():
    before = hardware.memory_used()
    held = np.ones(2**27, np.uint8)  # 128 MiB, touched
    used = hardware.memory_used()
    del held
    assert 2**27 < used < 2**40 and used >= before
    assert hardware.memory_used() >= used


def test_devices_of_a_cpu_share_its_memory(monkeypatch):
    monkeypatch.setattr(host, "_container", list)
    whole = hardware.memory_limit() * len(jax.local_devices())
    assert 2**28 < whole < 2**50
    monkeypatch.setattr(host, "_container", lambda: [8 * 2**20])
    assert hardware.memory_limit() == 8 * 2**20 // len(jax.local_devices())


def test_limits_of_containers(tmp_path):
    assert host._container(tmp_path) == []
    (tmp_path / "memory.max").write_text("max\n")
    assert host._container(tmp_path) == []
    (tmp_path / "memory.max").write_text("1073741824\n")
    assert host._container(tmp_path) == [2**30]
    (tmp_path / "memory").mkdir()
    (tmp_path / "memory" / "memory.limit_in_bytes").write_text("9223372036854771712\n")
    assert host._container(tmp_path)[1] > 2**60
