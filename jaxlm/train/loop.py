"""Training: `train` is the whole story, top to bottom."""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from jaxlm import sharding
from jaxlm.checkpoints.checkpoint import Checkpoints
from jaxlm.machine import processes
from jaxlm.models import flops
from jaxlm.progress import show_preparation
from jaxlm.run import RunConfig
from jaxlm.train import start
from jaxlm.train.batch import place, rows_here
from jaxlm.train.evaluate import make_evaluator, prompts_of, sample
from jaxlm.train.folder import check_tokenizer, claim, open_run
from jaxlm.train.memory import compile_step, memory_explained
from jaxlm.train.profile import Profiler
from jaxlm.train.reference import with_reference
from jaxlm.train.report import Report
from jaxlm.train.setup import Setup
from jaxlm.train.signals import stop_on_signals
from jaxlm.train.state import finite
from jaxlm.trains import join


def train(run: RunConfig, folder: str | Path, feed: Callable[[Setup, Any, Path], Any] | None = None) -> None:
    """Trains `run` in `folder`, or goes on with what is there: a run that was stopped or killed ends as if it had not.

    Leaves `config.json`, `tokenizer/`, `metrics.jsonl`, TensorBoard events, `loss.png`, `samples.txt` and
    `checkpoints/<step>/` there. SIGTERM and Ctrl-C save and return. Raises UserError for a folder of another run, a
    mesh that does not fit, missing data, too little memory, and losses that are not finite too many times in a row.

    `feed` makes, of setup, dataset and folder, what batches come from that depend on the weights, as
    `align.rollout.Rollouts` does: `next(state, frozen)`, `evaluate(params, frozen)`, and what `TrainBatches` has.

    In each of many processes (see `jaxlm.machine.processes`) it is called alike, and the first one writes the logs.
    """
    processes.agree_on_run(run)
    mesh = sharding.make_mesh(run.mesh)
    setup = Setup(run, mesh)
    setup.check()
    start.check(run)
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(open_run(run, folder))
        with processes.first_before_others("prepares the data"), show_preparation() as progress:
            dataset = run.data.prepare(progress)
        processes.agree("the data", dataset.fingerprint, "give all of them the same files")
        check_tokenizer(run, dataset.tokenizer)
        if run.epochs:
            run = run.planned(getattr(dataset, "epoch", None))
            setup = Setup(run, mesh)
        dataset = with_reference(setup, dataset)
        print(dataset.summary(run.steps * run.batch), flush=True)
        if run.epochs:
            print(f"epochs={run.epochs:g}: {run.steps:,} steps of {run.batch} rows", flush=True)
        count, trained = flops.parameters(run.model), sum(x.size for x in jax.tree.leaves(setup.state.params))
        part = f" ({trained:,} trained)" if setup.freezes else ""
        device = f"{mesh.size} x {mesh.devices.flat[0].device_kind}"
        print(f"{count:,} parameters{part} on {device}: compiling the training step", flush=True)
        train_step = compile_step(setup)  # refuses what does not fit before anything is there

        stopping = stack.enter_context(stop_on_signals())
        checkpoints = stack.enter_context(Checkpoints(folder / "checkpoints", run.max_to_keep))
        stack.enter_context(jax.set_mesh(mesh))
        here = rows_here(mesh, run.batch, run.accumulate)
        batches = stack.enter_context(feed(setup, dataset, folder) if feed else dataset.train_batches(run.batch, here))
        stack.enter_context(memory_explained(run))
        stack.enter_context(processes.leaving_when_lost())
        found = checkpoints.restore(setup.state)
        processes.agree("the step to go on from", str(found and found[0]), "the run's folder must be one for all")
        first, state, note, frozen = start.begin(setup, found)
        del found
        if first:
            batches.set_state(note["data"])
            left = "" if first < run.steps else ": nothing is left to do; raise steps to train on"
            print(f"{folder}: at step {first} of {run.steps}{left}")
        own = lambda params: batches.evaluate(params, frozen)
        evaluate = own if feed else make_evaluator(run, dataset, mesh, frozen)
        if warning := run.seldom_rated:
            print(warning)
        report = Report(run, folder, batches, dataset.measures, first, note["skipped"], checkpoints.wait)
        stack.enter_context(report)
        profiler = stack.enter_context(Profiler(folder / "profile", run.profile_at, run.profile_steps))
        claim(run, folder, dataset.tokenizer)
        scores: dict[str, float] = {}
        spec = run.objective.spec(run.data)

        for step in range(first + 1, run.steps + 1):
            with profiler.step(step):
                batch = batches.next(state, frozen) if feed else next(batches)
                state, metrics = train_step(state, place(batch, spec, mesh, run.accumulate), frozen)
            report.step(step, metrics)  # logs the step before this one, so that nothing waits for the device
            due = lambda every, step=step: step == run.steps or (every and step % every == 0)
            if due(run.eval_every):
                with report.pause():
                    scores = evaluate(state.eval_params)
                    report.scores(step, scores)
            if due(run.sample_every) and run.samples and dataset.tokenizer:
                with report.pause():
                    params, asked = join(state.eval_params, frozen), prompts_of(run, dataset)
                    report.samples(step, sample(run, params, dataset.tokenizer, step, asked))
            stop = stopping.agreed(mesh)
            if due(run.save_every) or stop:
                report.flush()  # what a checkpoint covers is in the log before it
                rated = scores if due(run.eval_every) else None
                if not report.sound(step, rated) or not finite(state):
                    report.not_saved(step)
                    continue  # also when it is to stop: after the next step that can be saved
                if not (folder / "config.json").exists():  # removed meanwhile: without it the checkpoints are nobody's
                    claim(run, folder, dataset.tokenizer)
                with report.pause():
                    # A dictionary of its own: it is written in the background.
                    note = note | {"data": batches.get_state(), "skipped": report.skipped}
                    checkpoints.save(step, state, note, rated)
                if stop:
                    checkpoints.wait()
                    report.print(f"{stop}: saved step {step} and stopped; run it again to go on")
                    return
        scores = scores or evaluate(state.eval_params)
    print(dataset.table(scores, run.eval_tokens))
