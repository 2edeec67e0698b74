import errno
import inspect
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from jaxlm.checkpoints.checkpoint import Checkpoints, load_params, steps
from jaxlm.errors import UserError
from jaxlm.sharding import MeshConfig, make_mesh

TX = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3))


@flax.struct.dataclass
class State:
    step: jax.Array
    params: dict
    opt_state: tuple
    key: jax.Array
    ema: dict | None = None


def make_state(seed: int, width: int = 64, ema: bool = False) -> State:
    """Random numbers in every array, so that none is compressed away or mistaken for another."""
    rng = np.random.default_rng(seed)
    params = {"blocks": [{"w": (8, width)}, {"w": (8, width)}], "norm": (16,), "table": (16, 512)}

    def fill(x):
        return jnp.asarray(rng.normal(size=x.shape) * 100, x.dtype)

    params = jax.tree.map(
        lambda s: jax.ShapeDtypeStruct(s, jnp.bfloat16 if s == (16,) else jnp.float32),
        params,
        is_leaf=lambda x: isinstance(x, tuple),
    )
    opt_state = jax.tree.map(fill, jax.eval_shape(TX.init, params))
    params = jax.tree.map(fill, params)
    average = jax.tree.map(lambda x: x + 1, params) if ema else None
    return State(jnp.int32(seed), params, opt_state, jax.random.key(seed), average)


def on(mesh, state):
    def where(x):
        return NamedSharding(mesh, P(*["fsdp", "tensor"][: x.ndim]) if x.ndim == 2 else P())

    return jax.device_put(state, jax.tree.map(where, state))


def abstract(state):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)


def assert_same_bits(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b)):
        assert x.dtype == y.dtype
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes()


def save(folder, *numbers, **options) -> None:
    with Checkpoints(folder, **options) as checkpoints:
        for i in numbers:
            checkpoints.save(i, make_state(i), {"data": {"next_index": i}})


def restore(folder, like=None, **options):
    lines = []
    with Checkpoints(folder, **options) as checkpoints:
        found = checkpoints.restore(make_state(0) if like is None else like, lines.append)
    return found, lines


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    """Steps 1, 2 and 3."""
    folder = tmp_path_factory.mktemp("saved") / "checkpoints"
    save(folder, 1, 2, 3, keep_last=3)
    return folder


@pytest.fixture
def run(saved, tmp_path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "checkpoints"))


@pytest.mark.parametrize("explicit", [True, False])
def test_same_bits_on_other_meshes(tmp_path, explicit):
    meshes = [
        make_mesh(MeshConfig(data=1, fsdp=8, explicit=explicit)),
        make_mesh(MeshConfig(data=1, fsdp=2, tensor=4, explicit=explicit)),
        make_mesh(MeshConfig(), jax.devices()[:1]),
    ]
    state = make_state(5, ema=True)
    with Checkpoints(tmp_path / "c") as checkpoints:
        checkpoints.save(5, on(meshes[0], state), {"data": {"next_index": 5}, "text": "é"})
    for mesh in meshes:
        like = abstract(on(mesh, state))
        (step, found, note), lines = restore(tmp_path / "c", like)
        assert step == 5 and note == {"data": {"next_index": 5}, "text": "é"} and lines == []
        assert_same_bits(found, state)
        assert jax.tree.map(lambda x: x.sharding, found) == jax.tree.map(lambda x: x.sharding, like)


def test_a_new_run_has_nothing_to_restore(tmp_path):
    assert restore(tmp_path / "new") == (None, [])
    assert steps(tmp_path / "absent") == []


def test_the_arrays_may_be_donated_after_save(tmp_path):
    state = {"params": {"w": jnp.arange(300_000.0)}}
    before = np.asarray(state["params"]["w"]).copy()
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state, {})
        state = jax.jit(lambda s: jax.tree.map(lambda x: x * 0, s), donate_argnums=0)(state)
        jax.block_until_ready(state)
    assert np.array_equal(load_params(tmp_path / "1", state["params"])["w"], before)


def test_keeps_the_newest_and_the_best_across_restarts(tmp_path):
    state = {"params": {"w": jnp.ones(3)}}
    losses = [float("nan"), 1.0, 4.0, 5.0, 3.0, 2.0, 6.0]
    for some in (range(0, 4), range(4, 6), range(6, 7)):
        with Checkpoints(tmp_path, keep_last=2) as checkpoints:
            for i in some:
                checkpoints.save(i, state, {}, {"loss": losses[i]})
    assert steps(tmp_path) == [1, 5, 6]
    with Checkpoints(tmp_path, keep_last=1, keep_best=False) as checkpoints:
        checkpoints.save(7, state, {})
    assert steps(tmp_path) == [7]


def test_saving_what_is_held_does_nothing(run):
    with Checkpoints(run, keep_last=3) as checkpoints:
        assert checkpoints.restore(make_state(0))
        checkpoints.save(3, make_state(9), {})
        checkpoints.save(4, make_state(4), {})
        checkpoints.save(4, make_state(9), {})
    (step, state, _), _ = restore(run)
    assert step == 4
    assert_same_bits(state, make_state(4))
    with Checkpoints(run) as checkpoints, pytest.raises(UserError, match="neither saved nor restored"):
        checkpoints.save(3, make_state(3), {})


def biggest(step: Path) -> Path:
    return max((p for p in (step / "state" / "ocdbt.process_0" / "d").iterdir()), key=lambda p: p.stat().st_size)


def flip_a_bit(step):
    path = biggest(step)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


def cut_in_half(step):
    path = biggest(step)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def half_delete(step):
    shutil.rmtree(step / "state" / "ocdbt.process_0")
    (step / "state" / "_METADATA").unlink()


def without_a_process(step):
    shutil.rmtree(step / "state" / "ocdbt.process_0")


def cut_description(step):
    path = step / "_CHECKPOINT_METADATA"
    path.write_bytes(path.read_bytes()[:100])


def without_description(step):
    (step / "_CHECKPOINT_METADATA").unlink()


def empty(step):
    shutil.rmtree(step)
    step.mkdir()


def replace_by_another_model(step):
    shutil.rmtree(step)
    with Checkpoints(step.parent, keep_last=9) as checkpoints:
        checkpoints.save(int(step.name), make_state(0, width=32), {})


def replace_by_another_program(step):
    from orbax.checkpoint import v1 as ocp

    shutil.rmtree(step)
    ocp.save(str(step), {"x": jnp.ones(3)})


DAMAGES = [
    (flip_a_bit, "has changed since it was written"),
    (cut_in_half, "cannot be read"),
    (lambda step: biggest(step).unlink(), "cannot be read"),
    (lambda step: biggest(step).write_bytes(b""), "cannot be read"),
    (half_delete, "cannot be read"),
    (without_a_process, "cannot be read (the files that process_0 of 1 wrote are not here)"),
    (cut_description, "description is damaged"),
    (empty, "cannot be read"),
    (without_description, "another program wrote it"),
    (replace_by_another_model, "is float32[8, 64] in this model and float32[8, 32] in the checkpoint"),
    (replace_by_another_program, "another program wrote it"),
]


NOBODYS = (replace_by_another_model, replace_by_another_program, without_description)  # may be somebody's: not deleted


@pytest.mark.parametrize("damage, says", DAMAGES, ids=[getattr(d, "__name__", "") for d, _ in DAMAGES])
def test_walks_back_over_damage(run, damage, says, capfd):
    damage(run / "3")
    (run / "99").mkdir()  # a foreign folder that orbax takes for the newest step
    (step, state, note), lines = restore(run, keep_last=3)
    assert step == 2 and note == {"data": {"next_index": 2}}
    assert_same_bits(state, make_state(2))
    assert [line.split(":")[0] for line in lines] == [
        "checkpoint 99 is passed over",
        "checkpoint 3 is passed over",
        "checkpoint 99 is deleted",
        f"checkpoint 3 is {'renamed' if damage in NOBODYS else 'deleted'}",
    ]
    assert says in lines[1] and all("\n" not in line and len(line) < 400 for line in lines)
    left = sorted(p.name for p in run.iterdir())
    assert left[:2] == ["1", "2"] and [name[:8] for name in left[2:]] == ["3.aside."] * (damage in NOBODYS)
    assert capfd.readouterr().err == ""
    save(run, 3)  # the way is free
    assert restore(run)[0][0] == 3


@pytest.mark.parametrize("code", [errno.EACCES, errno.EIO, errno.EMFILE, errno.ENOSPC], ids=errno.errorcode.get)
@pytest.mark.parametrize("function", ["metadata", "load"])
def test_what_cannot_be_read_now_is_no_damage(run, code, function, monkeypatch):
    """Neither passed over nor deleted: one line, and the next start finds it."""
    from orbax.checkpoint import v1 as ocp

    def fail(path, *args):
        raise ValueError("...") from OSError(code, os.strerror(code), str(path))

    before = sorted(p for p in run.rglob("*"))
    with monkeypatch.context() as patch:
        patch.setattr(ocp, function, fail)
        with pytest.raises(UserError, match=rf"cannot be read now .*{os.strerror(code)}.*nothing was deleted"):
            restore(run, keep_last=3)
        with pytest.raises(UserError, match=os.strerror(code)):
            load_params(run / "3", make_state(0).params)
    assert sorted(p for p in run.rglob("*")) == before
    assert restore(run, keep_last=3)[0][0] == 3


@pytest.mark.parametrize("which", [biggest, lambda step: step / "_CHECKPOINT_METADATA"], ids=["data", "description"])
def test_a_file_that_the_system_refuses_is_no_damage(run, which):
    path = which(run / "3")
    path.unlink()
    path.symlink_to(path.name)  # which even root cannot open
    with pytest.raises(UserError, match=r"checkpoints/3 cannot be read now .*symbolic links"):
        restore(run, keep_last=3)
    assert (run / "3").is_dir()


def test_a_folder_that_is_gone_is_said_in_one_line(tmp_path):
    folder = tmp_path / "c"
    with (
        pytest.raises(UserError, match=r"could not be written to .*(removed or replaced|exists)"),
        Checkpoints(folder) as checkpoints,
    ):
        shutil.rmtree(folder)
        folder.write_text("a file")
        checkpoints.save(1, make_state(1), {})
        checkpoints.wait()


def test_damage_at_large_is_quiet(tmp_path, capfd):
    """Many arrays missing at once: orbax's reading tasks fail in threads of its own, after the first exception."""
    state = {"params": {f"w{i}": jnp.full((64, 1024), i, jnp.float32) + jnp.arange(1024.0)[None] for i in range(100)}}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state, {})
    for path in (tmp_path / "1/state/ocdbt.process_0/d").iterdir():
        path.unlink()
    with pytest.raises(UserError, match="cannot be read"):
        load_params(tmp_path / "1", state["params"])
    with pytest.raises(UserError, match="whole"):
        restore(tmp_path, state)
    assert capfd.readouterr().err == ""


def test_nothing_is_deleted_when_none_is_whole(run):
    for step in (1, 2, 3):
        cut_in_half(run / str(step))
    lines = []
    with Checkpoints(run) as checkpoints, pytest.raises(UserError, match=r"no checkpoint in .* is whole \(3 tried\)"):
        checkpoints.restore(make_state(0), lines.append)
    assert len(lines) == 3 and steps(run) == [1, 2, 3]


@pytest.mark.parametrize(
    "like, says",
    [
        (
            lambda s: make_state(0, width=32),
            r"params/blocks/0/w is float32\[8, 32\].* float32\[8, 64\] in the checkpoint",
        ),
        (lambda s: s.replace(ema=s.params), "ema/blocks/0/w is float32.* absent from the checkpoint"),
        (lambda s: s.replace(params={"norm": s.params["norm"]}), "params/blocks/0/w is in the checkpoint and absent"),
        (
            lambda s: s.replace(step=jnp.float32(0)),
            r"step is float32\[\] in this model and int32\[\] in the checkpoint",
        ),
    ],
)
def test_another_model_is_named(run, like, says):
    flip_a_bit(run / "3")
    with pytest.raises(UserError, match="made with another model or optimizer config: " + says):
        restore(run, like(make_state(0)))
    assert steps(run) == [1, 2, 3]


def test_readers_leave_the_writer_alone(run):
    (run / "4.orbax-checkpoint-tmp").mkdir()
    (run / "7").mkdir()
    (run / "notes").mkdir()
    assert steps(run) == [1, 2, 3]
    state = make_state(2)
    assert_same_bits(load_params(run / "2", state.params), state.params)
    assert_same_bits(load_params(run / "2", state.opt_state, entry="opt_state"), state.opt_state)
    assert (run / "4.orbax-checkpoint-tmp").exists() and (run / "7").exists()
    save(run, 8)
    assert not (run / "4.orbax-checkpoint-tmp").exists()


def test_readers_verify(run):
    params = make_state(0).params
    with pytest.raises(UserError, match=r"/9: its description cannot be read"):
        load_params(run / "9", params)
    with pytest.raises(UserError, match=r"params/blocks/0/w is float32\[8, 32\]"):
        load_params(run / "3", make_state(0, width=32).params)
    with pytest.raises(UserError, match=r"ema/.* absent from the checkpoint"):
        load_params(run / "3", params, entry="ema")
    path = run / "3" / "_CHECKPOINT_METADATA"
    written = path.read_text()
    path.write_text(written.replace('"params/norm": ', '"params/norm": 1'))
    with pytest.raises(UserError, match=r"params/norm has changed since it was written \(1 of 4"):
        load_params(run / "3", params)


@pytest.mark.parametrize(
    "state", [{"a": jnp.ones((0, 3))}, {"a.b": jnp.ones(3)}, {"a": 3}], ids=["empty", "dot", "number"]
)
def test_what_cannot_be_stored_is_refused(tmp_path, state):
    with Checkpoints(tmp_path) as checkpoints, pytest.raises(ValueError, match="cannot store a"):
        checkpoints.save(1, {"params": jnp.ones(3), **state}, {})
    assert steps(tmp_path) == []


def test_a_full_disk_is_one_clear_error(run, capfd):
    resource = pytest.importorskip("resource", reason="needs file size limits")
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    big = {"params": {"w": jax.random.normal(jax.random.key(0), (1000, 1000))}}
    with Checkpoints(run, keep_last=1) as checkpoints:
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))  # writing beyond it fails as on a full disk
            with pytest.raises(UserError, match=r"could not be written .*: File too large.* \(there: 1, 2, 3\)"):
                checkpoints.save(4, big, {})
                checkpoints.wait()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        assert_same_bits(checkpoints.restore(make_state(0))[1], make_state(3))
        checkpoints.save(4, make_state(4), {})  # there is room again
    assert capfd.readouterr().err == ""
    assert steps(run)[-1] == 4


def test_a_failure_in_the_background_is_told_on_leaving(tmp_path):
    resource = pytest.importorskip("resource", reason="needs file size limits")
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    big = {"params": {"w": jax.random.normal(jax.random.key(0), (1000, 1000))}}

    def fail(error=None):
        with Checkpoints(tmp_path) as checkpoints:
            checkpoints.save(4, big, {})
            if error:
                raise error

    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
        with pytest.raises(UserError, match=r"File too large.* \(there: none\)"):
            fail()
        with pytest.raises(KeyError) as caught:
            fail(KeyError("first"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    assert "File too large" in caught.value.__notes__[0]


def test_a_file_in_the_way(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file: File exists"), Checkpoints(tmp_path / "file"):
        pass


def test_leaving_by_an_exception_finishes_the_save(tmp_path):
    with pytest.raises(KeyboardInterrupt), Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, make_state(1), {})
        raise KeyboardInterrupt
    (step, state, _), _ = restore(tmp_path)
    assert step == 1
    assert_same_bits(state, make_state(1))


def forever(seed: int) -> dict:
    rng = np.random.default_rng(seed)
    return {"params": {str(i): jnp.asarray(rng.normal(size=(50, 500)), jnp.float32) for i in range(8)}}


SCRIPT = f"""
import sys
import jax.numpy as jnp, numpy as np
from jaxlm.checkpoints.checkpoint import Checkpoints
{inspect.getsource(forever)}
with Checkpoints(sys.argv[1]) as checkpoints:
    for step in range(10_000):
        checkpoints.save(step, forever(step), {{"step": step}}, {{"loss": float(step % 5)}})
        print(step, flush=True)
"""


def test_kill_9_at_any_moment(tmp_path):
    """Four processes that do nothing but save are killed: each leaves a whole step, never older than promised."""
    rng = random.Random(0)
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "XLA_FLAGS": ""}
    writers = [
        subprocess.Popen([sys.executable, "-c", SCRIPT, str(tmp_path / str(i))], stdout=subprocess.PIPE, env=env)
        for i in range(4)
    ]
    try:
        for i, writer in enumerate(writers):
            for _ in range(2 + i):
                assert writer.stdout is not None
                started = int(writer.stdout.readline())  # the save of this step has begun, the one before is complete
            time.sleep(rng.uniform(0, 0.1))
            writer.send_signal(signal.SIGKILL)
            writer.wait()
            (step, state, note), _ = restore(tmp_path / str(i), forever(0))
            assert step >= started - 1 and note == {"step": step}
            assert_same_bits(state, forever(step))
    finally:
        for writer in writers:
            writer.kill()
            writer.wait()
            if writer.stdout is not None:
                writer.stdout.close()
