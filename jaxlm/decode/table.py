"""The rows and the lane on the device, with the texts that are in them; and the compilation of all they need."""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlm import sharding
from jaxlm.axes import Params
from jaxlm.decode import rows as compiled
from jaxlm.decode.penalties import NoRepeatNgram, RepetitionPenalty
from jaxlm.decode.per_row import PerRow
from jaxlm.decode.prefix import BLOCK
from jaxlm.decode.request import Job
from jaxlm.decode.sampling import Greedy, Sampler, links
from jaxlm.decode.shapes import Shape, Shapes
from jaxlm.decode.state import How

KEPT = 256  # samplers whose beginnings are kept
READERS = RepetitionPenalty, NoRepeatNgram  # those that look at the prompt
IDLE = 32  # steps until rows or slots that nobody needs are given up


class Table:
    """`jobs` has the text of each row, None where it is idle; the lane has one that is being read."""

    def __init__(self, how: How, params: Params, shapes: Shapes, slots: int, chunks: Sequence[int]):
        self.how, self.params, self.shapes, self.slots = how, params, shapes, slots
        self._begun: dict[Sampler, Any] = {}
        self._unused = 0
        self.clear(next(iter(shapes)))
        in_place = compiled.in_place(self._lane)
        # What is not in place can be kept behind a chunk only: chunks must end where blocks do.
        self.chunks = tuple(sorted(c for c in chunks if c <= slots and (in_place or c <= BLOCK)))

    @property
    def running(self) -> int:
        """Texts that decode."""
        return sum(job is not None for job in self.jobs)

    def clear(self, shape: Shape) -> None:
        """Idle rows of this shape."""
        self._rows = _new_rows(self.how, *shape)
        self.jobs: list[Job | None] = [None] * shape[0]
        self._shape = shape
        self._lane = _new_rows(self.how, sharding.mesh_size("batch"), self.slots).caches

    # The lane --------------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Another text."""
        self._lane = compiled.cleared(self._lane)

    def read(self, text: list[int], end: int, count: int, tells: bool, adapter: int = 0) -> compiled.Told:
        tokens_T, labels_T = (np.array(text[at : at + count], np.int32) for at in (end, end + 1))
        args = self._lane, np.int32(adapter), tokens_T, labels_T, np.int32(end), np.bool_(tells)
        self._lane, told = compiled.read(self.how, self.params, *args)
        return told

    def paste(self, pieces: Sequence[Any]) -> None:
        for i, piece in enumerate(pieces):
            self._lane = compiled.paste(self._lane, piece, np.int32(i * BLOCK))

    def cut(self, i: int) -> Any:
        """What is remembered of block `i`, the last that was read."""
        return compiled.cut(self._lane, BLOCK, np.int32(i * BLOCK))

    # Rows ------------------------------------------------------------------------------------------------------------

    def insert(self, job: Job, row: int) -> None:
        seed = np.uint32(job.seed % 2**32)
        state = self._begin(job) if job.remembered is None else job.remembered
        text, numbers = [*job.prompt, *job.ids], (len(job.prompt) + len(job.tokens) - 1, len(job.tokens))
        args = np.int32(text[-1]), *map(np.int32, numbers), seed
        self._rows = compiled.insert(self._rows, np.int32(row), self._lane, state, *args)
        self.jobs[row], job.remembered = job, None

    def _begin(self, job: Job) -> Any:
        """What a sampler remembers at first; of the prompt only if it looks at it."""
        if any(isinstance(part, READERS) for part in links(job.sampler)):
            return self._begun_by(job.sampler, job.prompt)
        if job.sampler not in self._begun:
            if len(self._begun) >= KEPT:
                self._begun.clear()
            self._begun[job.sampler] = self._begun_by(job.sampler, [])
        return self._begun[job.sampler]

    def _begun_by(self, sampler: Sampler, prompt: Sequence[int]) -> Any:
        prompt_1T, mask_1T = (np.zeros((1, self.slots), np.int32) for _ in range(2))  # always of one shape
        prompt_1T[:, : len(prompt)], mask_1T[:, : len(prompt)] = prompt, 1
        assert isinstance(self.how.sampler, PerRow)
        with sharding.no_mesh():
            state = self.how.sampler.begin([sampler], jnp.asarray(prompt_1T), jnp.asarray(mask_1T), self.how.config.V)
        return jax.device_get(state)

    def steps(self, n: int, allowed_BV: np.ndarray | None = None) -> compiled.Told:
        jobs = [job for job in self.jobs if job]
        samples, tells = any(job.sampler != Greedy() for job in jobs), any(job.top for job in jobs)
        adapter_B = np.array([job.adapter if job else 0 for job in self.jobs], np.int32)
        args = adapter_B, np.int32(n), np.bool_(samples), np.bool_(tells), allowed_BV
        self._rows, told = compiled.steps(self.how, self.params, self._rows, *args)
        return told

    def remembered(self, row: int) -> Any:
        return jax.tree.map(lambda x: x[:1], jax.device_get(compiled.remembered(self._rows, np.int32(row))))

    def release(self, rows: Sequence[int]) -> None:
        if rows:
            keep_B = np.ones(len(self.jobs), bool)
            keep_B[list(rows)] = False
            self._rows = compiled.release(self._rows, keep_B)
        for row in rows:
            self.jobs[row] = None

    def reshape(self, count: int, slots: int) -> None:
        """Room for so many rows of so many slots; what is more than that is given up after a while."""
        want, here = self.shapes.smallest(count, slots), self._shape
        assert want is not None
        if want[0] <= here[0] and want[1] <= here[1]:
            self._unused = 0 if want == here else self._unused + 1
            if self._unused < IDLE:
                return
        elif self.shapes.fits(*(more := (max(want[0], here[0]), max(want[1], here[1])))):
            want = more
        self._unused = 0
        for R, S in self.shapes.path(here, want):
            rows = list(range(len(self.jobs)))
            if len(rows) > R:  # those in use
                rows = [row for row in rows if self.jobs[row]]
            rows = [*rows, *[-1] * (R - len(rows))]
            self._rows = compiled.regroup(self.how, self._rows, np.array(rows, np.int32), S)
            self.jobs = [self.jobs[row] if row >= 0 else None for row in rows]
            self._shape = R, S

    # Compilation -----------------------------------------------------------------------------------------------------

    def warm(self, told: Callable[[int, int], None]) -> None:
        """Compile everything; `told` hears how far it is."""
        work = [*self._warm_lane(), *self._warm_rows()]
        for done, one in enumerate(work, 1):
            jax.block_until_ready(one())
            told(done, len(work))
        self.clear(next(iter(self.shapes)))

    def _warm_lane(self) -> Iterator[Callable[[], Any]]:
        def read(count: int) -> Any:
            self.begin()
            return self.read(list(range(2)) * count, 0, count, False)

        for count in self.chunks:
            yield lambda count=count: read(count)
        if self.slots > BLOCK:
            yield lambda: self.paste([self.cut(0)])

    def _warm_rows(self) -> Iterator[Callable[[], Any]]:
        def rows(shape: Shape) -> Any:
            self.clear(shape)
            job = Job([0])
            self.insert(job, 0)
            self.remembered(0)
            self.steps(0)
            allowed = np.ones((shape[0], self.how.config.V), bool)
            self.steps(0, allowed)
            self.release([0])
            here = self._rows
            for R, S in self.shapes.neighbours(shape):
                compiled.regroup(self.how, here, np.full(R, -1, np.int32), S)
            return here.token_B

        for shape in self.shapes:
            yield lambda shape=shape: rows(shape)


def programs() -> int:
    """How many this process has compiled."""
    names = "steps", "read", "cleared", "insert", "regroup", "release", "remembered", "cut", "paste"
    return sum(getattr(compiled, name)._cache_size() for name in names)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _new_rows(how: How, B: int, S: int) -> compiled.Rows:
    return compiled.empty(how, B, S)
