"""Rollouts: the policy writes on the training mesh, is rewarded, and the batches of the training loop are made."""

import base64
import contextlib
import io
import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, cast

import jax
import jax.numpy as jnp
import numpy as np

from jaxlm import sharding
from jaxlm.align import rewards
from jaxlm.align.reward_model import RewardModel, reward_model
from jaxlm.align.table import Table
from jaxlm.axes import Array, Params
from jaxlm.data.prompts import Prompted, Prompts
from jaxlm.decode import Temperature, generate, left_pad, prepare, within
from jaxlm.errors import UserError, one_line
from jaxlm.machine import processes
from jaxlm.models.with_head import TRUNK
from jaxlm.objectives.policy import STATS, Policy, writer
from jaxlm.ops import policy
from jaxlm.train import start
from jaxlm.train.batch import place, rows_here
from jaxlm.train.setup import Setup
from jaxlm.train.state import State
from jaxlm.trains import join

Batch = dict[str, np.ndarray]
DRAWS, HELDOUT = 77, 78  # purposes of keys
EVALUATED = 256  # held-out prompts, unless eval_tokens says otherwise
MODEL = "model:"


class Rollouts:
    """What feeds `train.loop.train` where its batches are the policy's own: an iterator as `data.loader.TrainBatches`
    with `next(state, frozen)`, whose state is plain JSON, completions that were not trained on yet among it.

    Raises UserError for data of another kind, a reward that fails (the row is named; with objective.on_error="zero" it
    counts 0), and a policy that has collapsed.
    """

    def __init__(self, setup: Setup, dataset: Any, folder: Path) -> None:
        run = self.run = setup.run
        if not isinstance(run.data, Prompts) or not isinstance(run.objective, Policy):
            raise UserError(f"objective Policy reads data Prompts, not {type(run.data).__name__}")
        self.objective: Policy = run.objective
        if not self.objective.rewards:
            raise UserError(f"no reward: name some, as objective.rewards={','.join(list(rewards.REWARDS)[:2])}")
        self.setup, self.dataset, self.folder = setup, dataset, folder
        self.mesh: Any = setup.mesh
        self.tokenizer = dataset.tokenizer
        self.functions = [
            reward_model(name.removeprefix(MODEL)) if name.startswith(MODEL) else rewards.resolve(name)
            for name in self.objective.rewards
        ]
        weights = self.objective.reward_weights or (1.0,) * len(self.functions)
        self.weights = np.array(weights)
        o = self.objective
        if run.batch * o.minibatches % o.G or run.batch % (2 if o.method == "online_dpo" else 1):
            raise UserError(
                f"batch={run.batch} x minibatches={o.minibatches} completions are not groups of G={o.G}: choose a "
                "multiple"
            )
        self.count = run.batch * o.minibatches // o.G  # prompts of a round
        self.batches = dataset.train_batches(self.count)
        self.reference = self._reference()
        self.beta, self.rounds, self.flat, self.first = o.beta, 0, 0, math.nan
        self.held: list[Batch] = []
        self.table = Table(folder / "completions.jsonl")
        self.seconds = {"rollout": 0.0, "reward": 0.0, "score": 0.0}
        whole = lambda x_RT: sharding.constrain(x_RT, None, None)
        self._score = jax.jit(
            lambda params, batch: [whole(x_RT) for x_RT in self.objective.scores(run.model, params, batch)[:2]]
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.batches.close()
        total = sum(self.seconds.values())
        if self.rounds and jax.process_index() == 0:
            shares = ", ".join(f"{name} {1e3 * x / self.rounds:.0f} ms" for name, x in self.seconds.items())
            print(f"{self.count * self.objective.G} completions a round, {1e3 * total / self.rounds:.0f} ms: {shares}")
            self.table.draw(self.folder)

    @property
    def waited(self) -> float:
        return self.batches.waited

    def get_state(self) -> dict[str, Any]:
        said = {"beta": float(self.beta), "rounds": self.rounds, "flat": self.flat, "first": _or_none(self.first)}
        return {"prompts": self.batches.get_state(), "held": [_packed(one) for one in self.held], **said}

    def set_state(self, state: Mapping[str, Any]) -> None:
        self.batches.set_state(state["prompts"])
        self.held = [_unpacked(text) for text in state["held"]]
        self.beta, self.rounds, self.flat = state["beta"], state["rounds"], state["flat"]
        self.first = math.nan if state["first"] is None else state["first"]

    def next(self, state: State, frozen: Params) -> Batch:
        """The rows of the next batch that this process holds: of a new round, or what is left of the last."""
        if not self.held:
            self.held = self._round(int(state.step), join(state.params, frozen))
        batch = self.held.pop(0)
        here = rows_here(self.mesh, self.run.batch, self.run.accumulate)
        return {name: x[here] for name, x in batch.items()}

    def _reference(self) -> Params | None:
        """The parameters that training begins from, where a KL to them is asked for."""
        if not self.objective.beta:
            return None
        state, frozen = self.setup.create(start.load(self.setup))
        return join(state.params, frozen)

    def written(
        self, params: Params, prompts: Sequence[Prompted], key: Array
    ) -> tuple[np.ndarray, np.ndarray, list[str], np.ndarray]:
        """New tokens (R, new), -1 after the end, their log probabilities, their texts, and which ended."""
        trunk = writer(self.run.model)
        own: Any = params[TRUNK] if trunk is not self.run.model else params
        config, layers = prepare(trunk, own)
        tokens_RT, mask_RT = left_pad([one.ids for one in prompts])
        new_RT, logp_RT = generate(
            config,
            layers,
            tokens_RT,
            mask_BT=mask_RT,
            max_new_tokens=self.objective.new_tokens,
            sampler=within(Temperature(self.objective.temperature), self.tokenizer.V, trunk.V),
            key=key,
            stop=self.tokenizer.stops,
        )
        texts = [self.tokenizer.decode([int(i) for i in row if i >= 0], skip_special=True) for row in new_RT]
        return new_RT, logp_RT, texts, np.asarray(np.isin(new_RT, self.tokenizer.stops).any(1))

    def rewarded(self, prompts: Sequence[Prompted], texts: Sequence[str]) -> np.ndarray:
        """The rewards (R, functions), NaN where a text has no answer; the first process's count for all."""
        columns = [self._column(i, prompts, texts) for i in range(len(self.functions))]
        found = list(zip(*columns))
        told = json.loads(processes.gather(json.dumps(found))[0])
        return np.array([[math.nan if x is None else x for x in row] for row in told], np.float64)

    def _column(self, i: int, prompts: Sequence[Prompted], texts: Sequence[str]) -> Sequence[float | None]:
        """What one reward gives to all; a model scores them together."""
        function = self.functions[i]
        if isinstance(function, RewardModel):
            return function.score([one.text for one in prompts], texts).tolist()
        return [self._one(i, prompt, text) for prompt, text in zip(prompts, texts)]

    def _one(self, i: int, prompt: Prompted, text: str) -> float | None:
        try:
            value = self.functions[i](prompt.text, text, prompt.row)
            if value is None:
                return None
            value = float(value)
            why = "" if math.isfinite(value) else f"returned {value}"
        except Exception as error:  # a user's own function, or what it makes of a text
            value, why = 0.0, f"raised {type(error).__name__}: {error}"
        if not why:
            return value
        line = one_line(
            f"reward {self.objective.rewards[i]} {why} for the row {json.dumps(prompt.row, default=str)[:120]}"
        )
        if self.objective.on_error == "stop":
            raise UserError(f"{line}: mend it, or set objective.on_error=zero")
        print(f"{line}: it counts 0", flush=True)
        return 0.0

    def _round(self, step: int, params: Params) -> list[Batch]:
        o, G = self.objective, self.objective.G
        prompts = [self.dataset.train[i] for i in next(self.batches)["index"].tolist() for _ in range(G)]
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(self.run.seed), DRAWS), step)
        with _timed(self.seconds, "rollout"):
            new_RT, drawn_RT, texts, ended_R = self.written(params, prompts, key)
        with _timed(self.seconds, "reward"):
            each_RK = self.rewarded(prompts, texts)
            if not self.rounds:
                self._say_what_never_matches(each_RK)
            reward_R = np.nan_to_num(each_RK) @ self.weights - o.missing_end_penalty * ~ended_R
        with _timed(self.seconds, "score"):
            batch = self._rows(prompts, new_RT, ended_R)
            batch["old"], batch["values"] = self._scores(params, batch)
            worst = _difference(batch, new_RT, drawn_RT) if o.temperature == 1 else 0.0
            if self.reference is not None:
                batch["reference"], _ = self._scores(self.reference, batch)
            kl_R = np.sum((batch["old"] - batch["reference"]) * batch["weights"], 1) if o.beta else np.zeros(len(texts))
            batch |= self._advantages(batch, reward_R)
        std_R = np.repeat(reward_R.reshape(-1, G).std(1, ddof=min(1, G - 1)), G)
        length_R = (new_RT >= 0).sum(1)
        stats = [
            reward_R,
            std_R,
            std_R < 1e-8,
            length_R,
            ended_R,
            kl_R,
            np.full(len(texts), worst),
            *np.nan_to_num(each_RK).T,
        ]
        batch["stats"] = np.stack(stats, 1).astype(np.float32)
        batch["beta"] = np.full((len(texts), 1), self.beta, np.float32)
        if o.target_kl:
            self.beta = float(policy.adapted(self.beta, kl_R.mean(), o.target_kl, len(texts)))
        self._watch(reward_R, std_R)
        if self.run.sample_every and step % self.run.sample_every == 0 and jax.process_index() == 0:
            advantage_R = (batch["advantages"] * batch["weights"]).sum(1) / np.maximum(batch["weights"].sum(1), 1)
            self.table.write(step, [one.text for one in prompts], texts, each_RK, o.rewards, advantage_R)
        self.rounds += 1
        return self._cut(batch, step)

    def _rows(self, prompts: Sequence[Prompted], new_RT: np.ndarray, ended_R: np.ndarray) -> Batch:
        """Prompt and completion one behind the other, padded on the right: names of the objective's batch."""
        R, T = len(prompts), self.objective.length(self.run.data)
        batch: Batch = {name: np.zeros((R, T), np.int32) for name in ("tokens", "labels", "segments")}
        floats = ("weights", "old", "reference", "advantages", "returns", "values")
        batch |= {name: np.zeros((R, T), np.float32) for name in floats}
        for i, (one, row) in enumerate(zip(prompts, new_RT)):
            text = np.array([*one.ids, *row[row >= 0]], np.int32)
            n, p = len(text) - 1, len(one.ids) - 1
            batch["tokens"][i, :n], batch["labels"][i, :n], batch["segments"][i, :n] = text[:-1], text[1:], 1
            batch["weights"][i, p:n] = ended_R[i] or not self.objective.mask_truncated
        return batch

    def _scores(self, params: Params, batch: Batch) -> tuple[np.ndarray, np.ndarray]:
        """Log probabilities and values by the training forward, in parts of a step's rows."""
        rows, spec = self.run.batch // self.run.accumulate, self.objective.spec(self.run.data)
        read = {name: spec[name] for name in ("tokens", "labels", "segments")}
        here, found = rows_here(self.mesh, rows), []
        for first in range(0, len(batch["tokens"]), rows):
            part = place({name: batch[name][first : first + rows][here] for name in read}, read, self.mesh)
            found.append([np.asarray(x_RT) for x_RT in self._score(params, part)])
        logp_RT, values_RT = (np.concatenate(xs) for xs in zip(*found))
        return logp_RT * batch["weights"], values_RT * batch["weights"]

    def _advantages(self, batch: Batch, reward_R: np.ndarray) -> Batch:
        o, mask_RT = self.objective, batch["weights"]
        kl_RT = self.beta * (batch["old"] - batch["reference"]) * mask_RT if o.beta else np.zeros_like(mask_RT)
        if o.method == "ppo":
            last_RT = (np.cumsum(mask_RT[:, ::-1], 1)[:, ::-1] == 1) & (mask_RT > 0)
            r_RT = last_RT * reward_R[:, None].astype(np.float32) - kl_RT
            r_RT = (
                policy.whiten(jnp.asarray(r_RT), jnp.asarray(mask_RT), False) if o.whiten_rewards else jnp.asarray(r_RT)
            )
            a_RT, returns_RT = policy.gae(r_RT, jnp.asarray(batch["values"]), jnp.asarray(mask_RT), o.gamma, o.lam)
            a_RT = policy.whiten(a_RT, jnp.asarray(mask_RT))
            return {"advantages": np.asarray(a_RT), "returns": np.asarray(returns_RT)}
        penal_R = jnp.asarray(reward_R - (kl_RT.sum(1) if o.method in ("rloo", "reinforce") else 0), jnp.float32)
        if o.method == "grpo":
            a_R = policy.group_advantages(penal_R, o.G, o.scale)
        elif o.method == "rloo":
            a_R = policy.leave_one_out(penal_R, o.G)
        elif o.method == "reinforce":
            a_R = penal_R - penal_R.mean()
        else:
            a_R = jnp.repeat((penal_R[::2] != penal_R[1::2]).astype(jnp.float32), 2)
        return {"advantages": np.asarray(a_R)[:, None] * mask_RT}

    def _cut(self, batch: Batch, step: int) -> list[Batch]:
        """The batches of all epochs, in a new order each; only the first of all is of the policy as it is now."""
        o, found = self.objective, []
        if o.method == "online_dpo":  # the better one first
            pair = batch["stats"][:, 0].reshape(-1, 2)
            first = np.arange(len(pair)) * 2 + (pair[:, 1] > pair[:, 0])
            order = np.stack([first, first ^ 1], 1).reshape(-1)
            batch = {name: x[order] for name, x in batch.items()}
        unit = 2 if o.method == "online_dpo" else 1
        for epoch in range(o.epochs):
            rng = np.random.default_rng((self.run.seed, step, epoch))
            count = len(batch["tokens"]) // unit
            units = rng.permutation(count) if o.epochs * o.minibatches > 1 else np.arange(count)
            order = (units[:, None] * unit + np.arange(unit)).reshape(-1)
            for i in range(o.minibatches):
                rows = order[i * self.run.batch : (i + 1) * self.run.batch]
                fresh = np.full((len(rows), 1), epoch == i == 0, np.float32)
                found.append({name: x[rows] for name, x in batch.items()} | {"fresh": fresh})
        return found

    def _say_what_never_matches(self, each_RK: np.ndarray) -> None:
        for i, name in enumerate(self.objective.rewards):
            if np.isnan(each_RK[:, i]).all():
                print(
                    f"reward {name} found no answer in any of the first {len(each_RK)} completions: see "
                    f"{self.table.path}, and whether the prompt asks for that form",
                    flush=True,
                )

    def _watch(self, reward_R: np.ndarray, std_R: np.ndarray) -> None:
        mean = float(reward_R.mean())
        self.first = mean if math.isnan(self.first) else self.first
        self.flat = self.flat + 1 if (std_R < 1e-8).all() and mean <= self.first else 0
        if self.flat >= self.objective.patience:
            raise UserError(
                f"nothing is left to learn from: in {self.flat} rounds in a row all completions of each prompt had the "
                f"same reward, {mean:.3g} on average and {self.first:.3g} in the first round: lower "
                f"optimizer.learning_rate ({self.run.optimizer.learning_rate:g}), raise objective.beta "
                f"({self.objective.beta:g}) or objective.G ({self.objective.G}), or take easier prompts"
            )

    def evaluate(self, params: Params, frozen: Params) -> dict[str, float]:
        """Mean rewards of one completion of each held-out prompt, always drawn alike; "loss" is minus the reward."""
        tokens = self.objective.length(self.run.data)
        most = -(-self.run.eval_tokens // tokens) if self.run.eval_tokens else EVALUATED
        prompts, key = self.dataset.heldout[:most], jax.random.fold_in(jax.random.key(self.run.seed), HELDOUT)
        new_RT, _, texts, ended_R = self.written(join(params, frozen), prompts, key)
        each_RK = np.nan_to_num(self.rewarded(prompts, texts))
        reward = float((each_RK @ self.weights - self.objective.missing_end_penalty * ~ended_R).mean())
        found = {"loss": -reward, STATS[0]: reward, STATS[3]: float((new_RT >= 0).sum(1).mean())}
        names = self.objective.rewards if len(self.functions) > 1 else ()
        return found | {f"rewards/{name}": float(x) for name, x in zip(names, each_RK.mean(0))}


def _difference(batch: Batch, new_RT: np.ndarray, drawn_RT: np.ndarray) -> float:
    """The largest difference between a token's log probability as it was drawn and by the training forward."""
    drawn, here = drawn_RT[new_RT >= 0], batch["weights"] > 0
    return float(np.abs(batch["old"][here] - drawn).max()) if here.sum() == drawn.size else 0.0


def feed_of(run: Any) -> "type[Rollouts] | None":
    """What `train.loop.train` is fed by where a run's objective is a policy's."""
    return Rollouts if isinstance(run.objective, Policy) else None


def _or_none(x: float) -> float | None:
    return None if math.isnan(x) else x


@contextlib.contextmanager
def _timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    began = time.perf_counter()
    yield
    seconds[name] += time.perf_counter() - began


def _packed(batch: Batch) -> str:
    content = io.BytesIO()
    np.savez_compressed(content, **cast(Any, batch))
    return base64.b64encode(content.getvalue()).decode()


def _unpacked(text: str) -> Batch:
    with np.load(io.BytesIO(base64.b64decode(text)), allow_pickle=False) as saved:
        return dict(saved)
