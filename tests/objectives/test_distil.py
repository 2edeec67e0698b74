"""Distillation: the losses against plain numpy, a teacher that is frozen, and students that come nearer to it."""

import dataclasses

import jax
import numpy as np
import pytest
from scipy.special import log_softmax

from jaxlm.errors import UserError
from jaxlm.models import abstract
from jaxlm.nn import AttentionConfig, BlockConfig, LayersConfig, MLPConfig
from jaxlm.objectives import Distil, distil
from jaxlm.sharding import MeshConfig, make_mesh
from jaxlm.train.setup import Setup
from jaxlm.trains import join
from jaxlm.tune import Taught, on_policy, taught
from tests import tiny
from tests.weights import weights

TEACHER = tiny.model()
STUDENT = dataclasses.replace(
    TEACHER, D=16, layers=(LayersConfig((BlockConfig(AttentionConfig(H=2, K=8), MLPConfig(F=32)),)),)
)
BATCH = tiny.batch(4)
T_PARAMS = weights(TEACHER.build(), BATCH["tokens"], seed=1)
S_PARAMS = weights(STUDENT.build(), BATCH["tokens"])


def parts(model, params):
    return np.asarray(model.build().apply({"params": params}, *(BATCH[n] for n in ("tokens", "positions", "segments"))))


@pytest.mark.parametrize(
    "how",
    [{"temperature": 2.0}, {"divergence": "reverse"}, {"divergence": "js", "temperature": 3.0}, {"top_k": 5}],
)
def test_the_divergence_is_that_of_numpy(how):
    c = Distil(teacher=TEACHER, hard=0.25, **how)
    sums, _ = jax.jit(lambda s, t: c.loss(STUDENT, {**s, "teacher": t}, BATCH))(S_PARAMS, T_PARAMS)
    of, own = (parts(*x).astype(np.float64) / c.temperature for x in ((TEACHER, T_PARAMS), (STUDENT, S_PARAMS)))
    if c.top_k:
        of = np.where(of >= np.sort(of, -1)[..., [-c.top_k]], of, -1e30)
    p, q = log_softmax(of, -1), log_softmax(own, -1)
    mean = np.log((np.exp(p) + np.exp(q)) / 2)
    kl = lambda p, q: (np.exp(p) * np.where(p < -1e20, 0, p - q)).sum(-1)
    expected = {"forward": kl(p, q), "reverse": kl(q, p), "js": (kl(p, mean) + kl(q, mean)) / 2}[c.divergence]
    total = (expected * BATCH["weights"]).sum()
    np.testing.assert_allclose(sums.shown["kl"], total, rtol=1e-4)
    nll = -np.take_along_axis(log_softmax(own * c.temperature, -1), BATCH["labels"][..., None], -1)[..., 0]
    nll = (nll * BATCH["weights"]).sum()
    np.testing.assert_allclose(sums.total, 0.75 * c.temperature**2 * total + 0.25 * nll, rtol=1e-4)


def test_pieces_are_the_whole(monkeypatch):
    c = Distil(teacher=TEACHER, hard=0.0)
    f = lambda s: c.loss(STUDENT, {**s, "teacher": T_PARAMS}, BATCH)[0].total
    whole = jax.value_and_grad(f)(S_PARAMS)
    monkeypatch.setattr(distil, "chunk_tokens", lambda *args: 16)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-4), jax.value_and_grad(f)(S_PARAMS), whole)


def students(objective, trains, steps):
    run = tiny.run(model=STUDENT, objective=objective, trains=trains)
    setup = Setup(run, make_mesh(MeshConfig(data=1), jax.devices()[:1]))
    with jax.set_mesh(setup.mesh):
        state, frozen = setup.create()
        step, seen, batch = jax.jit(setup.train_step), [], tiny.place(BATCH, setup.mesh, 1)
        for _ in range(steps):
            state, metrics = step(state, batch, frozen)
            seen.append({name: float(x) for name, x in metrics.items()})
    return seen, state, frozen, setup


@pytest.fixture
def teacher(monkeypatch):
    monkeypatch.setattr(taught, "read_teacher", lambda path, config: T_PARAMS)
    return Taught("somewhere", TEACHER)


def test_a_student_comes_nearer_and_the_teacher_stays(teacher):
    both = dataclasses.replace(teacher, quantize="int8", widths=(16, 32))
    seen, state, frozen, setup = students(Distil(teacher=TEACHER, hard=0.1, features=0.1), both, 8)
    for name in ("sum/kl", "sum/features"):
        assert seen[-1][name] < 0.95 * seen[0][name], name
    assert "teacher" not in {str(k) for k in state.params} or not jax.tree.leaves(state.params["teacher"])
    assert not any(x is not None for x in jax.tree.leaves(frozen.get("projection")))
    assert len(jax.tree.leaves(state.opt_state)) < 4 * len(jax.tree.leaves(state.params))
    own = setup.run.trains.undress(join(state.params, frozen))
    assert jax.tree.map(np.shape, own) == jax.tree.map(lambda x: x.shape, abstract(STUDENT)[0])


def test_what_it_writes_is_learned_from(teacher):
    run = tiny.run(model=STUDENT, objective=Distil(teacher=TEACHER, hard=0.0), trains=teacher, steps=4)
    prompts_BT = BATCH["tokens"][:, :8]
    found = on_policy(run, S_PARAMS, prompts_BT, 2, mesh=make_mesh(MeshConfig(data=1), jax.devices()[:1]))
    f = lambda s: run.objective.loss(STUDENT, {**s, "teacher": T_PARAMS}, BATCH)[0].shown["kl"]
    assert jax.tree.structure(found) == jax.tree.structure(S_PARAMS)
    assert float(f(found)) < float(f(S_PARAMS))
    with pytest.raises(UserError, match="4 prompts are fewer than a batch of 8"):
        on_policy(dataclasses.replace(run, batch=8), S_PARAMS, prompts_BT, 1)
    with pytest.raises(UserError, match=r"prompts of 40 tokens leave no room in rows of 32"):
        on_policy(run, S_PARAMS, np.zeros((4, 40), np.int32), 1)


def test_what_cannot_be(tmp_path):
    run = lambda **how: tiny.run(model=STUDENT, objective=Distil(**how))
    for how, match in (
        ({}, "it needs the config of a teacher"),
        ({"teacher": dataclasses.replace(TEACHER, V=300)}, "its teacher has 300 tokens, it has 264"),
        ({"teacher": TEACHER, "hard": 0.6, "features": 0.6}, "are shares of 1 together"),
        ({"teacher": TEACHER, "top_k": 3, "divergence": "js"}, "goes with divergence=forward, not js"),
    ):
        with pytest.raises(UserError, match=match):
            run(**how)
    with pytest.raises(UserError, match=r"train with trains=Taught"):
        Distil(teacher=TEACHER).loss(STUDENT, S_PARAMS, BATCH)
    with pytest.raises(UserError, match="neither a run nor a checkpoint"):
        taught.read_teacher(str(tmp_path), TEACHER)
