"""The sandbox holds what it should: programs that want to hurt the machine, and ones that only want to work."""

import gzip
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jaxlm.errors import UserError
from jaxlm.evals import confine, sandbox
from jaxlm.evals.sandbox import Limits, run

pytestmark = pytest.mark.skipif(bool(sandbox.walls()), reason=f"no namespaces on this machine: {sandbox.walls()}")
SHORT = Limits(seconds=0.6, memory=1 << 28, output=4096)
SECRET = Path(__file__).resolve()

# name: (program, what is said of it: a status, or a text that it prints when it was held)
HOSTILE = {
    "fork bomb": ("import os\nwhile True:\n    os.fork()", {"timeout", "error"}),
    "fork bomb, patient": (
        "import os\nn = 0\nfor _ in range(100):\n    try:\n        if os.fork() == 0:\n            import time\n"
        "            time.sleep(9)\n        n += 1\n    except OSError:\n        pass\n"
        "os.write(1, b'held' if n < 10 else b'many')\nos._exit(0)",
        "held",
    ),
    "threads": (
        "import threading, time, os\nn = 0\ntry:\n    for n in range(500):\n"
        "        threading.Thread(target=time.sleep, args=(9,), daemon=True).start()\nexcept RuntimeError:\n    pass\n"
        "os.write(1, b'held' if n < 10 else b'many')\nos._exit(0)",
        "held",
    ),
    "memory": ("x = bytearray(1 << 32)", {"error"}),
    "memory, slowly": ("x = []\nwhile True:\n    x.append(bytearray(1 << 24))", {"error", "timeout"}),
    "a number of all memory": ("x = 9 ** 9 ** 9", {"error", "timeout"}),
    "endless loop": ("while True: pass", {"timeout"}),
    "endless loop that takes no signal": (
        "import signal\nfor s in range(1, 60):\n    try: signal.signal(s, signal.SIG_IGN)\n"
        "    except (OSError, ValueError): pass\nwhile True: pass",
        {"timeout"},
    ),
    "sleep": ("import time; time.sleep(99)", {"timeout"}),
    "reads standard input for ever": ("import sys\nwhile True: sys.stdin.read()", {"timeout"}),
    "a child that outlives it": (
        "import os, time\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n        time.sleep(77)\n"
        "    os._exit(0)\n"
        "print('held')",
        "held",
    ),
    "floods standard output": ("while True: print('x' * 1000)", {"output"}),
    "floods standard error": ("import sys\nwhile True: sys.stderr.write('x' * 1000)", {"output"}),
    "the user's files": (f"print(open({str(SECRET)!r}).read())", {"error"}),
    "writes into the system": (
        "import os\nfor p in ('/usr/x', '/etc/x', '/lib/x', '/x'):\n    try: open(p, 'w'); print('wrote', p)\n"
        "    except OSError: pass\nprint('held')",
        "held",
    ),
    "a huge file": ("f = open('x', 'wb')\nfor _ in range(1000): f.write(bytes(1 << 20)); f.flush()", {"error"}),
    "many files": (
        "n = 0\ntry:\n    for n in range(1000): open(f'{n}', 'wb').write(bytes(1 << 20))\nexcept OSError: pass\n"
        "print('held' if n < 65 else n)",
        "held",
    ),
    "the network": (
        "import socket\ntry: socket.create_connection(('127.0.0.1', 22), 1); print('out')\n"
        "except OSError as e: print('held')",
        "held",
    ),
    "kills everybody": ("import os, signal, time\nos.kill(-1, 9)\nprint('still here')", None),
    "kills its group": ("import os\nos.killpg(os.getpgrp(), 9)\ntry: os.kill(1, 9)\nexcept OSError: pass", None),
    "another user": (
        "import os\ntry: os.setuid(0); print('root')\nexcept OSError: print('held')",
        "held",
    ),
    "mounts and namespaces": (
        "import ctypes, os\nc = ctypes.CDLL(None, use_errno=True)\n"
        "n = [c.unshare(0x10000000), c.mount(b'x', b'/tmp', b'tmpfs', 0, None), c.ptrace(0, 0, 0, 0)]\n"
        "n += [c.chroot(b'/tmp')]\n"
        "print('held' if n == [-1] * 4 else n)",
        "held",
    ),
    "other processes": (
        "import os\nfound = [int(p) for p in os.listdir('/proc') if p.isdigit()]\n"
        "print('held' if max(found) < 9 else 0)",
        "held",
    ),
    "the environment": ("import os\nprint('held' if 'EVIL' not in os.environ else 'seen')", "held"),
    "crashes": ("import ctypes\nctypes.string_at(1)", {"error"}),
    "deep recursion": ("import sys\nsys.setrecursionlimit(10**9)\ndef f(): f()\nf()", {"error", "timeout"}),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_programs_are_held(name, monkeypatch):
    monkeypatch.setenv("EVIL", "1")
    program, wanted = HOSTILE[name]
    began = time.monotonic()
    ran = run(program, limits=SHORT)
    assert time.monotonic() - began < 10
    assert len(ran.out) <= SHORT.output and len(ran.err) <= SHORT.output
    if isinstance(wanted, str):
        assert ran.out == wanted or ran.out.strip() == wanted, ran
    elif wanted:
        assert ran.status in wanted, ran
    assert "sleep(77)" not in subprocess.run(["ps", "axo", "args"], capture_output=True, text=True).stdout


def test_a_program_that_only_works():
    ran = run(
        "import sys\nsys.stdout.write(sys.stdin.read().upper() + open('in/a.txt').read())\nopen('b', 'w').write('x')",
        stdin="hola " * 20_000,
        files={"in/a.txt": "ñ".encode()},
        limits=Limits(output=1 << 20),
    )
    assert (ran.status, ran.err) == ("ok", "") and ran.out == "HOLA " * 20_000 + "ñ"
    assert run("raise SystemExit(3)").code == 3
    assert [r.out for r in sandbox.run_all(["print(1)", "print(2)"])] == ["1\n", "2\n"]


def test_only_tests_that_ran_to_their_end_count():
    program = "def f(x):\n    return x + 1\n"
    assert sandbox.passes(program, "assert f(1) == 2")
    assert not sandbox.passes(program, "assert f(1) == 3")
    assert not sandbox.passes(program + "raise SystemExit(0)", "assert f(1) == 3")
    assert not sandbox.passes(program + "import os; os._exit(0)", "assert f(1) == 3")


def test_without_walls_only_limits(monkeypatch):
    monkeypatch.setattr(sandbox, "walls", lambda: "no such thing")
    with pytest.raises(UserError, match=r'no sandbox on this machine .no such thing.*isolation="limits"'):
        run("print(1)")
    ran = run("print(open('main.py').read())", isolation="limits")
    assert ran.status == "ok" and "open(" in ran.out
    assert run("x = bytearray(1 << 32)", limits=SHORT, isolation="limits").status == "error"
    assert run("while True: pass", limits=SHORT, isolation="limits").status == "timeout"
    with pytest.raises(UserError, match="isolation must be"):
        run("", isolation="none")


def test_bad_input():
    for name in ("../x", "/etc/x"):
        with pytest.raises(UserError, match="must lie within it"):
            run("", files={name: b""})
    with pytest.raises(UserError, match="seconds must be a positive number"):
        Limits(seconds=0)
    with pytest.raises(UserError, match="memory must be at least 1"):
        Limits(memory=0)


@pytest.mark.skipif(os.geteuid() != 0, reason="root alone can become another user")
def test_a_user_without_rights_has_the_same_walls(tmp_path):
    """The walls through a user namespace, by a child that is nobody."""
    path = Path(confine.__file__)
    (tmp_path / "confine.py").write_bytes(path.read_bytes())
    code = f"""
import json, os, tempfile
os.setgid(65534)
os.setuid(65534)
root, files = tempfile.mkdtemp(), tempfile.mkdtemp()
with open(files + "/main.py", "w") as file:
    file.write("import os; print(os.listdir('/'), os.getpid(), flush=True)\\nwhile True: os.fork()")
said = dict(seconds=1, memory=1 << 28, processes=4, file=1 << 20, disk=1 << 22, walls=True, files=files, root=root)
said |= dict(python="/usr/bin/python3", prefixes=[])
os.execv("/usr/bin/python3", ["python3", "-I", "-S", {str(tmp_path / "confine.py")!r}, json.dumps(said)])
"""
    if not Path("/usr/bin/python3").exists():
        pytest.skip("no /usr/bin/python3")
    for folder in (tmp_path, *tmp_path.parents[:-2]):
        folder.chmod(0o755)
    child = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=9, start_new_session=True
    )
    if child.returncode == confine.REFUSED and "unshare" in child.stderr:
        pytest.skip(f"no user namespaces: {child.stderr}")
    assert child.stdout.startswith("[") and "home" not in child.stdout and child.stdout.splitlines()[0].endswith("2"), (
        child
    )
    assert "BlockingIOError" in child.stderr


def test_some_of_humaneval_pass():
    path = Path(__file__).resolve().parents[3] / "shared/data/reasoning/HumanEval.jsonl.gz"
    if not path.exists():
        pytest.skip(f"{path} is not here")
    rows = [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()[::40]]
    for row in rows:
        tests = f"{row['test']}\ncheck({row['entry_point']})"
        assert sandbox.passes(row["prompt"] + row["canonical_solution"], tests), row["task_id"]
        assert not sandbox.passes(row["prompt"] + "    return None", tests)
