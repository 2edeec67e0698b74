"""The inside of the sandbox: a program of its own, which shuts itself in and then becomes the one that is not trusted.

`evals/sandbox.py` runs this file by its path with one argument, a JSON object; it imports nothing of the package. The
order matters: new namespaces (processes, mounts, network, IPC, host name), a root of its own in memory with the
machine's libraries read-only, a fork whose child is process 1 of the new namespace, another that loses every privilege
(another user, no new privileges), takes its limits and a filter of system calls, and starts the program. When process 1
ends, the kernel kills whatever is left inside.
"""

import contextlib
import ctypes
import json
import os
import platform
import resource
import shutil
import signal
import struct
import sys
import types

NEW = {"user": 0x10000000, "mount": 0x20000, "pid": 0x20000000, "net": 0x40000000, "ipc": 0x8000000, "uts": 0x4000000}
READ_ONLY, NO_SUID, NO_DEV, REMOUNT, BIND, RECURSIVE, PRIVATE = 1, 2, 4, 32, 4096, 16384, 1 << 18
SYSTEM = ("/usr", "/lib", "/lib64", "/bin", "/etc/ld.so.cache", "/etc/alternatives")
DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom", "/dev/random")
WORK = "/box"  # where the program and its files are
PROGRAM = "main.py"
REFUSED = 71  # exit code: the walls could not be put up
# Refused system calls: (x86_64, aarch64).
CALLS = {
    "socket": (41, 198),
    "ptrace": (101, 117),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "unshare": (272, 97),
    "setns": (308, 268),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "kexec_load": (246, 104),
    "reboot": (169, 142),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "open_by_handle_at": (304, 265),
    "personality": (135, 92),
    "shmget": (29, 194),
}
CLONE, CLONE3 = (56, 220), 435
MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}


libc = ctypes.CDLL(None, use_errno=True)


def _check(code: int, what: str) -> None:
    if code != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def namespaces() -> int:
    """Enters new namespaces; the user that the program will be there. As root the user namespace stays and the user is
    one that nobody else is, since the limit of processes counts by user."""
    root = os.geteuid() == 0
    flags = sum(NEW.values()) - (NEW["user"] if root else 0)
    uid, gid = os.getuid(), os.getgid()
    _check(libc.unshare(flags), "unshare")
    if root:
        return 1_000_000 + int.from_bytes(os.urandom(3), "little")
    for name, line in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(line)
    return uid


def _mount(source: str, target: str, kind: str | None, flags: int, data: str = "") -> None:
    text = lambda s: None if s is None else s.encode()
    _check(libc.mount(text(source), text(target), text(kind), ctypes.c_ulong(flags), text(data)), f"mount {target}")


def _bind(path: str, root: str) -> None:
    """`path` at the same place of the new root, read-only."""
    target = root + path
    if os.path.islink(path):
        os.makedirs(os.path.dirname(target), exist_ok=True)
        os.symlink(os.readlink(path), target)
        return
    if os.path.isdir(path):
        os.makedirs(target, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        open(target, "w").close()
    _mount(path, target, None, BIND | RECURSIVE)
    kept = os.statvfs(target).f_flag & (NO_SUID | NO_DEV | 8 | 1024 | 2048)  # flags that a user must not take off
    with contextlib.suppress(OSError):  # a device may refuse
        _mount("", target, None, BIND | REMOUNT | READ_ONLY | kept)


def new_root(root: str, files: str, uid: int, disk: int, python: list[str]) -> None:
    """A file system in memory of `disk` bytes with the machine's libraries, the program's files, and nothing else."""
    _mount("", "/", None, RECURSIVE | PRIVATE)
    _mount("box", root, "tmpfs", NO_SUID | NO_DEV, f"size={disk},mode=755")
    roots = [path for path in (*SYSTEM, *python) if os.path.lexists(path)]
    for path in roots:
        if not any(path.startswith(other + "/") for other in roots):
            _bind(path, root)
    for path in DEVICES:
        if os.path.exists(path):
            _bind(path, root)
    shutil.copytree(files, root + WORK)
    for name in ("/tmp", "/proc"):
        os.makedirs(root + name, exist_ok=True)
    for folder, _, names in os.walk(root + WORK):
        for path in (folder, *(os.path.join(folder, name) for name in names)):
            os.chown(path, uid if os.geteuid() == 0 else -1, -1)
    os.chmod(root + "/tmp", 0o1777)
    os.chroot(root)
    os.chdir("/")


def call_filter() -> bytes:
    """A program of the kernel's packet filter: what is not of this machine's kind is killed, the calls of `CALLS` and
    new user namespaces fail with EPERM, clone3 (whose flags cannot be read here) with ENOSYS."""
    at, kind = MACHINES[platform.machine()]
    load, equal, bits, at_least, back = 0x20, 0x15, 0x45, 0x35, 0x06
    allow, kill, error = 0x7FFF0000, 0x80000000, 0x00050000
    one = lambda code, yes, no, k: struct.pack("HBBI", code, yes, no, k)
    lines = [one(load, 0, 0, 4), one(equal, 1, 0, kind), one(back, 0, 0, kill), one(load, 0, 0, 0)]
    if at == 0:  # x32's numbers are other names of the same calls
        lines += [one(at_least, 0, 1, 0x40000000), one(back, 0, 0, kill)]
    for number in sorted(numbers[at] for numbers in CALLS.values()):
        lines += [one(equal, 0, 1, number), one(back, 0, 0, error | 1)]
    lines += [one(equal, 0, 1, CLONE3), one(back, 0, 0, error | 38)]
    lines += [one(equal, 0, 3, CLONE[at]), one(load, 0, 0, 16), one(bits, 0, 1, NEW["user"])]
    lines += [one(back, 0, 0, error | 1)]
    return b"".join([*lines, one(back, 0, 0, allow)])


def filter_calls() -> None:
    """From here on the filter holds, for all children too."""
    program = call_filter()
    code = ctypes.create_string_buffer(program, len(program))
    told = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(code))
    _check(libc.prctl(22, 2, ctypes.c_char_p(told), 0, 0), "seccomp")


def give_up(uid: int) -> None:
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    _check(libc.prctl(38, 1, 0, 0, 0), "no_new_privs")


def limit(said: types.SimpleNamespace) -> None:
    """The kernel's limits of one process, and of the user's processes."""
    seconds = 2 * int(said.seconds + 2)  # of all threads; a program that only waits or loops ends by the clock first
    hold = lambda which, value: resource.setrlimit(which, (value, value))
    for name, value in (
        ("AS", said.memory),
        ("CPU", seconds),
        ("FSIZE", said.file),
        ("NOFILE", 64),
        ("CORE", 0),
        ("NPROC", said.processes),
        ("STACK", 16 << 20),
    ):
        if name == "NPROC" and not said.walls:  # it would count the user's other programs
            continue
        with contextlib.suppress(ValueError, OSError, AttributeError):  # one that the system has not, or a lower one
            hold(getattr(resource, f"RLIMIT_{name}"), value)


def start(said: types.SimpleNamespace, uid: int, where: str) -> None:
    """Never returns: becomes the program."""
    os.chdir(where)
    if sys.platform == "linux":
        give_up(uid)
    limit(said)
    if sys.platform == "linux" and platform.machine() in MACHINES:
        filter_calls()
    one = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    env = {"PATH": "/usr/bin:/bin", "HOME": where, "TMPDIR": "/tmp", "LANG": "C.UTF-8", **one}
    os.execve(said.python, [said.python, "-I", "-B", os.path.join(where, PROGRAM)], env)


def status_of(child: int) -> int:
    while True:
        found, status = os.wait()
        if found == child:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code


def main() -> int:
    said = types.SimpleNamespace(**json.loads(sys.argv[1]))
    if not said.walls:
        start(said, os.getuid(), said.files)
    parent = os.getpid()
    try:
        uid = namespaces()
        new_root(said.root, said.files, uid, said.disk, said.prefixes)
    except OSError as error:
        print(error, file=sys.stderr)
        return REFUSED
    first = os.fork()
    if first:
        return status_of(first)
    libc.prctl(1, signal.SIGKILL, 0, 0, 0)  # when whoever started it dies
    if os.getppid() not in (0, parent):
        return REFUSED
    with contextlib.suppress(OSError):
        _mount("proc", "/proc", "proc", NO_SUID | NO_DEV)
    program = os.fork()
    if program:
        os.close(1)
        os.close(2)
        return status_of(program)
    try:
        start(said, uid, WORK)
    except OSError as error:
        print(error, file=sys.stderr)
    return REFUSED


if __name__ == "__main__":
    code = main()
    with contextlib.suppress(OSError):
        sys.stderr.flush()
    os._exit(code)
