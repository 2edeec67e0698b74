import dataclasses
import threading

import jax
import numpy as np
import pytest

from jaxlm import compat, sharding
from jaxlm.decode import (
    CountPenalty,
    Greedy,
    MinP,
    RepetitionPenalty,
    Temperature,
    TopK,
    TopP,
    generate,
    prepare,
    shapes,
)
from jaxlm.decode.engine import Engine, Full
from jaxlm.decode.request import Finish, Job
from jaxlm.errors import UserError
from jaxlm.models import abstract
from jaxlm.sharding import MeshConfig
from tests.decode.models import DYNAMIC, MODELS, V, full_logits, params
from tests.meshes import name, on

GREEDY = Greedy()
WARM = RepetitionPenalty(1.1) | CountPenalty(0.1, 0.1) | Temperature(1.3) | TopK(12) | TopP(0.9) | MinP(0.01)


def engine(model="rope", **changes):
    config, tree = prepare(MODELS[model], params(model))
    return Engine(config, tree, **({"rows": 2, "slots": 160, "chunks": (1, 8)} | changes))


def job(length, new=6, seed=0, **asks):
    prompt = np.random.default_rng(seed).integers(0, V, length).tolist()
    return Job(prompt, new, **({"sampler": GREEDY, "seed": seed} | asks))


def finish(engine, *jobs):
    for one in jobs:
        engine.submit(one)
    while engine.busy:
        engine.step()
    assert all(one.done.is_set() for one in jobs)
    return jobs


def lone(model, one):
    config, tree = prepare(MODELS[model], params(model))
    return generate(config, tree, np.array([one.prompt]), max_new_tokens=one.max_new_tokens)


@pytest.mark.parametrize("model", ["rope", "windows", "linear"])
def test_a_text_is_what_it_is_alone(model):
    """Texts of all lengths through two rows; the drawn ones each with its own seed and settings."""
    lengths = (20, 1, 9, 73, 3)
    served = engine(model)
    jobs = finish(served, *(job(n, 5 + n % 3, seed=n) for n in lengths), job(9, seed=1, sampler=WARM))
    for one in jobs[:-1]:
        (new_T,), (logprobs_T,) = lone(model, one)
        assert one.ids == new_T.tolist() and one.finish is Finish.LENGTH
        np.testing.assert_allclose([token.logprob for token in one.tokens], logprobs_T, atol=1e-4)
    (again,) = finish(engine(model), dataclasses.replace(jobs[-1], tokens=[], finish=None, done=threading.Event()))
    assert again.ids == jobs[-1].ids
    other = finish(served, job(9, seed=1, sampler=WARM), job(9, seed=1, sampler=WARM), job(20))
    assert other[0].ids == other[1].ids == again.ids
    assert other[2].ids == jobs[0].ids or other[2].prompt != jobs[0].prompt


def test_draws_differ_and_follow_the_settings():
    jobs = [dataclasses.replace(job(4, 30, sampler=TopK(2), top=2), seed=s, done=threading.Event()) for s in (1, 2)]
    jobs[1].tokens = []
    finish(engine(), *jobs)
    assert jobs[0].ids != jobs[1].ids
    for token in jobs[0].tokens + jobs[1].tokens:
        assert (token.id, token.logprob) in token.top  # the same number, so that a client may compare


@pytest.mark.parametrize("model", ["rope", "windows"])
def test_beginnings_that_are_known_are_not_read_again(model):
    served, one = engine(model), job(150, seed=3)
    finish(served, one)
    text = [*one.prompt[:140], 1, 2, 3]
    other = Job(text, 6, GREEDY)
    read = served.counts["prompt_tokens"]
    finish(served, other)
    assert other.cached == 128 and served.counts["prompt_tokens"] - read == 142 - 128
    assert other.ids == lone(model, other)[0][0].tolist()
    assert len(served.prefixes) == 2


def test_texts_grow_and_the_youngest_waits_where_memory_is_short(monkeypatch):
    """Three rows of 40 slots fit, or one of 160."""
    monkeypatch.setattr(shapes, "FIRST", 40)
    monkeypatch.setattr(shapes, "GROWTH", 2)
    bytes_per_token = 2 * 2 * 2 * 8 * 4
    served = engine("rope", rows=4, memory=160 * bytes_per_token, prefix_memory=0)
    assert set(served.shapes) == {(1, 40), (2, 40), (4, 40), (1, 80), (2, 80), (1, 160)}
    long, drawn = job(20, 100, seed=1), job(10, 66, seed=2, sampler=WARM)
    jobs = finish(served, long, drawn, job(12, 20, seed=3))
    assert served.counts["preemptions"] > 0 and long.preempted == 0
    for one in (jobs[0], jobs[2]):
        assert one.ids == lone("rope", one)[0][0].tolist()
    assert drawn.preempted and drawn.ids == finish(engine(), job(10, 66, seed=2, sampler=WARM))[0].ids


def test_nothing_is_compiled_after_the_start():
    served, told = engine(prefix_memory=2**20), []
    served.warm(lambda done, total: told.append((done, total)))
    assert told[-1][0] == told[-1][1] == len(told)
    before = served.programs
    finish(served, *(job(n, 3 + n % 11, seed=n, sampler=(GREEDY, WARM)[n % 2], top=n % 3) for n in range(1, 150, 13)))
    assert served.programs == before


def test_prompts_are_told():
    one = Job([3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5], 0, GREEDY, prompt_logprobs=True, top=3)
    finish(engine(), one)
    logits_TV = full_logits("rope", np.array([one.prompt]), np.ones((1, 11), np.int32))[0]
    logprobs_TV = np.asarray(jax.nn.log_softmax(logits_TV))
    assert one.tokens == [] and [token.id for token in one.read] == one.prompt[1:]
    np.testing.assert_allclose([t.logprob for t in one.read], logprobs_TV[range(10), one.prompt[1:]], atol=1e-4)
    for token, logprobs_V in zip(one.read, logprobs_TV):
        assert [i for i, _ in token.top] == np.argsort(-logprobs_V)[:3].tolist()


def test_what_ends_a_text():
    whole = finish(engine(), job(9, 12))[0].ids
    stopped, heard, broken, gone = job(9, 12, stop=(whole[4],)), job(9, 12), job(9, 12), job(9, 12)
    ends = []
    heard.watch = lambda job, new: len(job.tokens) > 2
    broken.watch = lambda job, new: 1 / 0
    heard.ended = ends.append
    served = engine()
    for one in (stopped, heard, broken, gone):
        served.submit(one)
    served.cancel(gone)
    while served.busy:
        served.step()
    assert stopped.ids == whole[: whole.index(whole[4]) + 1] and stopped.finish is Finish.STOP
    assert 2 < len(heard.ids) < 12 and heard.finish is Finish.STOP and ends == [heard]
    assert broken.finish is Finish.FAILED and "ZeroDivisionError" in broken.error
    assert gone.finish is Finish.CANCELLED and gone.ids == []
    assert finish(served, job(9, 12))[0].ids == whole  # unharmed


def test_a_thread_serves_and_closes():
    served = engine()
    thread = threading.Thread(target=served.run)
    thread.start()
    first, endless = served.submit(job(9, 12)), served.submit(job(3, 150))
    assert first.done.wait(60)
    served.cancel(endless)
    assert endless.done.wait(60) and endless.finish is Finish.CANCELLED
    last = served.submit(job(9, 12))
    served.close(wait=60)
    thread.join(60)
    assert not thread.is_alive() and last.ids == first.ids
    with pytest.raises(Full, match="closing"):
        served.submit(job(3))


def test_what_cannot_be_served():
    served = engine(queue=1)
    with pytest.raises(UserError, match="a prompt of 150 tokens and 11 new ones exceed 160"):
        served.submit(job(150, 11))
    with pytest.raises(UserError, match="at least one token"):
        served.submit(Job([]))
    with pytest.raises(UserError, match=r"0\.\.31, got 2\.\.32"):
        served.submit(Job([2, 32]))
    served.submit(job(3))
    with pytest.raises(Full, match="1 texts are waiting"):
        served.submit(job(3))
    with pytest.raises(UserError, match="fewer slots"):
        engine(memory=1000)


def test_slots_end_where_positions_or_rotations_do():
    assert engine("learned").slots == 40
    config, tree = prepare(DYNAMIC["longrope"], params("longrope"))
    assert Engine(config, tree, rows=1, slots=160).slots == 20


@pytest.mark.parametrize("config", [MeshConfig(8), MeshConfig(2, 2, 2, explicit=False)], ids=name)
def test_on_a_mesh(config):
    tree = params("windows")
    if config.explicit and not compat.draws_rows_apart():
        with on(config), pytest.raises(UserError, match=r"the engine needs jax 0\.10 on an explicit mesh"):
            Engine(MODELS["windows"], tree, rows=8)
        return
    with on(config):
        mesh, (shapes_, axes) = compat.concrete_mesh(), abstract(MODELS["windows"])
        tree = jax.device_put(tree, sharding.shardings(axes, shapes_, mesh))
        prepared = prepare(MODELS["windows"], tree)
        served = Engine(*prepared, rows=8, slots=96, chunks=(1, 8), prefix_memory=0)
        jobs = finish(served, *(job(n, 4, seed=n) for n in (1, 12, 80)), job(9, seed=1, sampler=WARM))
        finish(served, *(job(n, 4, seed=n) for n in (3, 11, 80)))  # an auto mesh lays results out anew once
        before = served.programs
        finish(served, *(job(n, 4, seed=n) for n in (2, 13, 80)))
        assert served.programs == before
        with pytest.raises(UserError, match="rows=3"):
            Engine(*prepared, rows=3)
    for one in jobs[:3]:
        assert one.ids == lone("windows", one)[0][0].tolist()
    assert jobs[3].ids == finish(engine("windows"), job(9, seed=1, sampler=WARM))[0].ids
