"""Continuous batching: texts come and go while others decode.

Texts wait in a queue; the first is read in the lane, some chunks between two steps of the others, and takes a row.
Shapes are few, all compiled at the start. Where a text grows beyond the slots, all rows get more; where those would not
fit into memory, the youngest texts leave and are read again later.

A text's tokens do not depend on its neighbours, but for rounding: programs for other numbers of rows and other chunks
add in another order, which shows where two tokens are equally likely to 1e-5 or so.
"""

import collections
import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from jaxlm import arguments, compat, sharding
from jaxlm.axes import Params
from jaxlm.decode import cache
from jaxlm.decode import rows as compiled
from jaxlm.decode.checks import longest
from jaxlm.decode.forced import LogitBias
from jaxlm.decode.penalties import CountPenalty, RepetitionPenalty
from jaxlm.decode.per_row import PerRow, in_order
from jaxlm.decode.prefix import BLOCK, PrefixCache
from jaxlm.decode.request import Finish, Job, Token
from jaxlm.decode.sampling import MinP, Temperature, TopK, TopP, VocabularyMask
from jaxlm.decode.shapes import Shapes
from jaxlm.decode.state import BUCKET, How
from jaxlm.decode.table import Table, programs
from jaxlm.errors import UserError
from jaxlm.machine import host
from jaxlm.models.lm import LMConfig
from jaxlm.nn.stack import is_stacked

CHUNKS = (1, 4, 16, 64, 256)  # tokens that are read at once
READ = 512  # tokens that are read between two steps
LUMP = 0.03  # seconds between two looks at what was chosen, where a step takes less
TEMPLATE = in_order(
    LogitBias(()), RepetitionPenalty(1), CountPenalty(), Temperature(1), TopK(2**30), TopP(1), MinP(0)
)  # what a text's sampler may be made of, and Greedy


class Full(UserError):
    """The queue is."""


class Engine:
    """One model, `rows` texts at a time of up to `slots` tokens each, `queue` more that wait.

    `memory` bytes are for the caches of rows, by default half of the devices', and `prefix_memory` for beginnings that
    are kept. `tokens` are those of the tokenizer, where the model has more. Everything is done by `step`, in one
    thread; `run` calls it until `close`; all else may be called from any. Raises UserError for rows that the mesh does
    not divide, and slots that the memory cannot hold.
    """

    def __init__(
        self,
        config: LMConfig,
        params: Params,
        *,
        rows: int = 16,
        slots: int = 2048,
        memory: int | None = None,
        prefix_memory: int = 256 * 2**20,
        queue: int = 1024,
        tokens: int | None = None,
        chunks: Sequence[int] = CHUNKS,
    ):
        if sharding.explicit() and not compat.draws_rows_apart():
            raise UserError("the engine needs jax 0.10 on an explicit mesh: set mesh.explicit=false")
        template = TEMPLATE if tokens in (None, config.V) else VocabularyMask(tokens) | TEMPLATE
        self.how = How(config, PerRow(template), (), BUCKET, is_stacked(params))
        self.mesh, self.queue = compat.concrete_mesh(), queue
        self.slots = most_slots(self.how, arguments.integer(slots, "slots", 2))
        over = sharding.mesh_size("batch")
        rows = arguments.integer(rows, "rows", 1)
        if rows % over:
            raise UserError(f"the mesh divides rows over {over} devices: rows={rows} must be a multiple of that")
        room = host.memory_limit() * over // 2 if memory is None else memory
        size = {S: cache.nbytes(config, S, config.dtype) for S in Shapes.of(1, 1, self.slots, lambda R, S: True).slots}
        self.shapes = Shapes.of(over, rows, self.slots, lambda R, S: R * size[S] <= room)
        if not self.shapes.most(self.slots):
            need = over * size[self.slots] / 2**30
            raise UserError(
                f"texts of {self.slots} tokens need {need:.2g} GiB, memory is {room / 2**30:.2g}: fewer slots"
            )
        self.prefixes = PrefixCache(prefix_memory)
        self.counts: collections.Counter[str] = collections.Counter()
        self._changed = threading.Condition()
        self._waiting: collections.deque[Job] = collections.deque()  # by arrival
        self._reading: tuple[Job, Iterator[int]] | None = None
        self._closed = self._draining = False
        self._step_seconds = LUMP
        with self._placed():
            self._table = Table(self.how, params, self.shapes, self.slots, chunks)

    # From any thread -------------------------------------------------------------------------------------------------

    def submit(self, job: Job) -> Job:
        """Queue a text. Raises UserError for one that has no token, or too many, and Full for one too many."""
        length, V = len(job.prompt), self.how.config.V
        if not length:
            raise UserError("a prompt needs at least one token")
        if min(job.prompt) < 0 or max(job.prompt) >= V:
            raise UserError(f"token ids must lie in 0..{V - 1}, got {min(job.prompt)}..{max(job.prompt)}")
        if length + job.max_new_tokens > self.slots:
            raise UserError(f"a prompt of {length} tokens and {job.max_new_tokens} new ones exceed {self.slots} tokens")
        with self._changed:
            if self._closed or self._draining:
                raise Full("the engine is closing")
            if len(self._waiting) >= self.queue:
                raise Full(f"{self.queue} texts are waiting already: try again later")
            self.counts["requests"] += 1
            job.arrival = self.counts["requests"]
            self._waiting.append(job)
            self._changed.notify_all()
        return job

    def cancel(self, job: Job) -> None:
        """Ends a text at the next step, wherever it is."""
        job.cancelled = True
        with self._changed:
            self._changed.notify_all()

    def run(self) -> None:
        """Steps, while there is something to do, until the engine is closed. An error ends the texts of that moment."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._draining or self.busy)
                if self._closed or (self._draining and not self.busy):
                    break
            try:
                self.step()
            except Exception as error:
                self._fail(f"{type(error).__name__}: {error}")
        self._fail("the engine was closed")

    def close(self, wait: float = 0) -> None:
        """No more texts are taken; those that are here have `wait` seconds to end."""
        with self._changed:
            self._draining = True
            self._changed.notify_all()
        until = time.monotonic() + wait
        while self.busy and time.monotonic() < until:
            time.sleep(0.01)
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    @property
    def busy(self) -> bool:
        return bool(self._waiting or self._reading or any(self._table.jobs))

    @property
    def running(self) -> int:
        """Texts that decode."""
        return self._table.running

    @property
    def programs(self) -> int:
        """Programs that this process has compiled for engines."""
        return programs()

    @property
    def waiting(self) -> int:
        """Texts that do not yet."""
        return len(self._waiting) + (self._reading is not None)

    # One thread ------------------------------------------------------------------------------------------------------

    def warm(self, told: Callable[[int, int], None] = lambda done, total: None) -> None:
        """Compile everything; `told` hears how far it is."""
        with self._placed():
            self._table.warm(told)

    def step(self) -> None:
        """Read a little, and choose a few tokens of every row."""
        with self._placed():
            self._end_cancelled()
            self._read_some()
            self._decode()

    def _end_cancelled(self) -> None:
        with self._changed:
            gone = [job for job in self._waiting if job.cancelled]
            self._waiting = collections.deque(job for job in self._waiting if not job.cancelled)
        if self._reading and self._reading[0].cancelled:
            gone.append(self._reading[0])
            self._reading = None
        rows = [row for row, job in enumerate(self._table.jobs) if job is not None and job.cancelled]
        gone += [job for row in rows if (job := self._table.jobs[row])]
        self._table.release(rows)
        for job in gone:
            self._ended(job, Finish.CANCELLED)

    # Reading ---------------------------------------------------------------------------------------------------------

    def _read_some(self) -> None:
        spent = 0
        while spent < READ:
            if self._reading is None and (job := self._next()) is not None:
                self._reading = job, self._read(job)
            if self._reading is None:
                return
            count = next(self._reading[1], None)
            if count is None:
                self._reading = None
            spent += count or 1

    def _next(self) -> Job | None:
        """The first that waits, if there is room for it beside those that decode."""
        with self._changed:
            if not self._waiting:
                return None
            need = max([self._length(job) for job in [*filter(None, self._table.jobs), self._waiting[0]]])
            if self._table.running >= self.shapes.most(need):
                return None
            return self._waiting.popleft()

    def _read(self, job: Job) -> Iterator[int]:
        """Reads all but the newest token, a chunk at a time, whose sizes it gives; then the text has a row."""
        text = [*job.prompt, *job.ids]
        keys = self.prefixes.keys(text[:-1], job.adapter)
        tells = job.prompt_logprobs and not job.tokens
        self._table.begin()
        pieces = [] if tells else self.prefixes.find(keys)
        self._table.paste(pieces)
        end = len(pieces) * BLOCK
        job.cached = max(job.cached, end if not job.tokens else 0)
        self.counts["prompt_tokens"] += len(text) - 1 - end
        self.counts["cached_tokens"] += end
        while end < len(text) - 1:
            count = max(c for c in self._table.chunks if c <= len(text) - 1 - end)
            told = self._table.read(text, end, count, tells, job.adapter)
            if tells:
                job.read += _listed(told, text[end + 1 : end + 1 + count], job.top)
            for i in range(end // BLOCK, (end + count) // BLOCK):
                self.prefixes.add(keys[: i + 1], lambda i=i: self._table.cut(i))
            end += count
            yield count
        if job.max_new_tokens == 0:
            return self._ended(job, Finish.LENGTH)
        need = max(self._length(other) for other in [*filter(None, self._table.jobs), job])
        if self._table.running >= self.shapes.most(need):  # others have grown meanwhile
            return self._wait_again(job)
        self._table.reshape(self._table.running + 1, need)
        self._table.insert(job, self._table.jobs.index(None))

    # Rows ------------------------------------------------------------------------------------------------------------

    def _decode(self) -> None:
        if not self._table.running:
            return
        n, longest_text = self._lump(), lambda: max(self._length(job) for job in self._table.jobs if job)
        while self._table.running > self.shapes.most(longest_text() + n - 1):
            self._preempt()
        self._table.reshape(self._table.running, longest_text() + n - 1)
        began, jobs = time.perf_counter(), list(self._table.jobs)
        told = jax.device_get(self._table.steps(n, self._allowed()))
        self._step_seconds += 0.2 * ((time.perf_counter() - began) / n - self._step_seconds)
        self.counts["steps"] += n
        found = [(row, job, self._deliver(job, _row(told, row, n))) for row, job in enumerate(jobs) if job]
        self._table.release([row for row, _, finish in found if finish])
        for _, job, finish in found:
            if finish:
                self._ended(job, finish)

    def _lump(self) -> int:
        """How many steps until what was chosen is looked at."""
        jobs = [job for job in self._table.jobs if job]
        if any(job.constraint for job in jobs) or self._reading:
            return 1
        # Where some wait all rows are taken, and the first that ends gives its row to them.
        left = (min if self._waiting else max)(job.max_new_tokens - len(job.tokens) for job in jobs)
        room = self.slots - max(self._length(job) for job in jobs) + 1
        return max(1, min(compiled.STEPS, left, room, int(LUMP / max(self._step_seconds, 1e-4))))

    def _allowed(self) -> np.ndarray | None:
        if not any(job and job.constraint for job in self._table.jobs):
            return None
        allowed_BV = np.ones((len(self._table.jobs), self.how.config.V), bool)
        for row, job in enumerate(self._table.jobs):
            if job and job.constraint:
                found_V = job.constraint.allowed(job.max_new_tokens - len(job.tokens))
                allowed_BV[row] = np.pad(found_V, (0, allowed_BV.shape[1] - len(found_V)))
        return allowed_BV

    def _deliver(self, job: Job, new: list[tuple]) -> Finish | None:
        """The job gets its new tokens. Why it is over, if it is."""
        first, finish = len(job.tokens), None
        for token, logprob, top, top_logprobs in new:
            job.tokens.append(_token(token, logprob, top, top_logprobs, job.top))
            if job.constraint:
                job.constraint.advance(int(token))
            if int(token) in job.stop:
                finish = Finish.STOP
            elif len(job.tokens) >= job.max_new_tokens:
                finish = Finish.LENGTH
            if finish:
                break
        self.counts["new_tokens"] += len(job.tokens) - first
        try:
            return Finish.STOP if job.watch(job, job.tokens[first:]) else finish
        except Exception as error:
            job.error = f"{type(error).__name__}: {error}"
            return Finish.FAILED

    def _preempt(self) -> None:
        """The youngest text waits again, with what the sampler remembered of it."""
        row, job = max(((row, job) for row, job in enumerate(self._table.jobs) if job), key=lambda one: one[1].arrival)
        job.remembered, job.preempted = self._table.remembered(row), job.preempted + 1
        self.counts["preemptions"] += 1
        self._table.release([row])
        self._wait_again(job)

    def _wait_again(self, job: Job) -> None:
        with self._changed:
            self._waiting = collections.deque(sorted([job, *self._waiting], key=lambda job: job.arrival))

    def _fail(self, error: str) -> None:
        """Ends all texts, and begins anew."""
        with self._changed:
            jobs = [*self._waiting, *filter(None, self._table.jobs), *([self._reading[0]] if self._reading else [])]
            self._waiting.clear()
        self._reading = None
        with self._placed():
            self._table.clear(next(iter(self.shapes)))
        for job in jobs:
            job.error = error
            self._ended(job, Finish.FAILED)

    def _ended(self, job: Job, finish: Finish) -> None:
        self.counts[finish.value] += 1
        job.end(finish)

    def _length(self, job: Job) -> int:
        return len(job.prompt) + len(job.tokens)

    def _placed(self) -> contextlib.AbstractContextManager:
        return contextlib.nullcontext() if self.mesh.empty else sharding.use(self.mesh)


def most_slots(how: How, slots: int) -> int:
    """As many as the model has positions, and as rotations stay what they are."""
    slots = int(min(slots, longest(how.config)))
    turns = (n - 1 for n in range(2, slots + 1) if any(scaling.turns(n) for scaling in how.turning))
    return next(turns, slots)


def _listed(told: compiled.Told, labels: Sequence[int], top: int) -> list[Token]:
    told = jax.device_get(told)
    return [_token(*one, top) for one in zip(labels, told.logprobs, told.top, told.top_logprobs)]


def _row(told: compiled.Told, row: int, n: int) -> list[tuple]:
    return list(zip(told.tokens[row, :n], told.logprobs[row], told.top[row], told.top_logprobs[row]))


def _token(token: Any, logprob: Any, top: np.ndarray, top_logprobs: np.ndarray, count: int) -> Token:
    tops = tuple((int(i), float(p)) for i, p in zip(top[:count], top_logprobs[:count]))
    return Token(int(token), float(logprob), tops)
