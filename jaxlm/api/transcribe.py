"""Sound of any length, window by window, through a Whisper."""

import dataclasses
import zlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from jaxlm import arguments
from jaxlm.api.words import SPACELESS, word_times, words_of
from jaxlm.data.audio import stream_audio
from jaxlm.decode import Greedy, Sampler, Temperature, Timestamps, longest
from jaxlm.errors import UserError
from jaxlm.text.transcript import Segment, Transcript, Word, clock

if TYPE_CHECKING:
    from jaxlm.api.whisper import Whisper

RATE, STAMP = 16_000, 0.02  # samples a second; seconds between two timestamps
MOST_DEFLATED, LEAST_LOGPROB, NO_SPEECH = 2.4, -1.0, 0.6  # the paper's thresholds
FORGET = 0.5  # a window drawn at a higher temperature is not what the next one goes on from


@dataclasses.dataclass(frozen=True)
class Plan:
    """How to transcribe, see `Whisper.transcribe`."""

    language: str | None
    task: str
    timestamps: bool
    prompt: str
    temperatures: tuple[float, ...]
    carry: bool
    words: bool = False

    def __post_init__(self):
        if not self.temperatures:
            raise UserError("temperatures must be at least one, such as (0.0,)")
        for t in self.temperatures:
            if not arguments.number(t, "a temperature") >= 0:
                raise UserError(f"a temperature must be at least 0, got {t:g}")


@dataclasses.dataclass(frozen=True)
class Heard:
    """What was written of one window."""

    tokens: tuple[int, ...]
    logprob: float
    temperature: float


def transcribe(m: "Whisper", audio: Any, plan: Plan, say: Callable[[str], None]) -> Transcript:
    window, special, language = round(m.seconds * RATE), m.special, plan.language
    if language is not None or not special.languages:
        m.begin(language, plan.task, True)  # a mistake shows before anything is computed
    sound = _Sound(stream_audio(audio, RATE))
    long = len(sound.first(window + 1)) > window
    stamped = plan.timestamps or long
    given = m.encode_prompt(plan.prompt) if plan.prompt else []
    history: list[int] = []
    segments: list[Segment] = []
    while len(samples := sound.first(window)):
        features = m.features_of(samples)
        if language is None and special.languages:
            language = max((found := m.languages_of(features)), key=lambda name: found[name])
            say(f"language: {language} ({found[language]:.0%})")
        begin = m.begin(language, plan.task, stamped)
        heard = _hear(m, features, begin, [*given, *history], stamped, plan.temperatures)
        length = len(samples) / RATE
        new, step = [], length
        if heard is not None:
            new, step = split(heard, special.first_stamp if stamped else None, sound.at, length, m.say_ids)
            history = [*history, *heard.tokens] if plan.carry and heard.temperature <= FORGET else []
        new = [segment for segment in new if segment.text.strip()]
        if plan.words and new:
            apart = (language or "en") in SPACELESS
            new = _worded(m, features, m.begin(language, plan.task, False), new, sound.at, length, apart)
        segments += new
        say(f"{clock(sound.at)} to {clock(sound.at + step)}:{''.join(s.text for s in new) or ' no speech'}")
        sound.skip(max(round(step * RATE), 1))
    text = "".join(segment.text for segment in segments).strip()
    return Transcript(text, language, tuple(segments))


def _worded(
    m: "Whisper", features: np.ndarray, begin: list[int], segments: list[Segment], at: float, length: float, apart: bool
) -> list[Segment]:
    """The segments of a window with their words."""
    words = word_times(m, features, begin, [i for s in segments for i in s.tokens], length, apart)
    found, taken = [], 0
    for segment in segments:
        n = len(words_of(segment.tokens, m.say_ids, apart))
        mine = (Word(round(at + w.start, 2), round(at + w.end, 2), w.text) for w in words[taken : taken + n])
        found.append(dataclasses.replace(segment, words=tuple(mine)))
        taken += n
    return found


class _Sound:
    """A stream of samples of which only a window is kept."""

    def __init__(self, blocks: Iterator[np.ndarray]):
        self._blocks, self._kept, self._gone = blocks, np.zeros(0, np.float32), 0

    @property
    def at(self) -> float:
        """Seconds that were skipped."""
        return self._gone / RATE

    def first(self, n: int) -> np.ndarray:
        """The next n samples, fewer at the end."""
        while len(self._kept) < n and (block := next(self._blocks, None)) is not None:
            self._kept = np.concatenate([self._kept, block])
        return self._kept[:n]

    def skip(self, n: int) -> None:
        self._kept, self._gone = self._kept[n:], self._gone + n


def _hear(
    m: "Whisper", features: np.ndarray, begin: list[int], before: list[int], stamped: bool, temperatures: tuple
) -> Heard | None:
    """What one window says, at the first temperature whose text neither repeats itself nor is unlikely (the last
    one's, if none is); None if it is unlikely and probably no speech."""
    special, positions, heard, silence = m.special, int(longest(m.config)), None, None
    new = positions // 2
    if before and special.previous is not None:
        begin = [special.previous, *before[-(positions // 2 - 1) :], *begin]
        new = positions - len(begin)
    rules: Sampler = Timestamps(special.first_stamp, special.end) if stamped else Sampler()
    for i, t in enumerate(temperatures):
        sampler = rules | (Temperature(t) if t else Greedy())
        out = m.generate(features, new, sampler, jax.random.key(i), start=begin, stop=special.end)
        kept = out.tokens[0] >= 0
        tokens = tuple(x for x in out.tokens[0][kept].tolist() if x != special.end)
        heard = Heard(tokens, float(out.logprobs[0][kept].mean()), t)
        text = m.say_ids(tokens).strip()
        unlikely = heard.logprob < LEAST_LOGPROB
        if unlikely:
            silence = m.no_speech(features) if silence is None else silence
            if silence > NO_SPEECH:
                return None
        if not unlikely and deflated(text) <= MOST_DEFLATED:
            break
    return heard


def deflated(text: str) -> float:
    """By what factor a text deflates: above 2.4 it repeats itself."""
    raw = text.encode()
    return len(raw) / len(zlib.compress(raw))


def split(
    heard: Heard, first: int | None, at: float, length: float, say_ids: Callable[[Any], str]
) -> tuple[list[Segment], float]:
    """The segments of a window that begins at second `at`, and where in it the next one begins.

    Between two timestamps in a row a segment ends and another begins; behind the last such pair the text is not whole,
    and the next window begins there. With no pair the window is one segment.
    """
    tokens = list(heard.tokens)
    stamps = [i for i, token in enumerate(tokens) if first is not None and token >= first]
    second = lambda i: min((tokens[i] - (first or 0)) * STAMP, length)
    make = lambda start, stop, part: Segment(
        round(at + start, 2), round(at + stop, 2), say_ids(part), tuple(part), heard.temperature, heard.logprob
    )
    cuts = [i for i in stamps if i + 1 in stamps]
    closed = len(stamps) > 1 and stamps[-1] == len(tokens) - 1 and stamps[-1] - 1 not in stamps
    if not cuts:
        timed = [i for i in stamps if tokens[i] > (first or 0)]
        start = second(stamps[0]) if len(stamps) > 1 else 0.0
        stop = second(timed[-1]) if timed else length
        return [make(start, stop, [t for i, t in enumerate(tokens) if i not in stamps])], length
    ends = [*cuts, len(tokens) - 1] if closed else cuts
    found, begin = [], 0
    for cut in ends:
        part = tokens[begin : cut + 1]
        found.append(make(second(begin), second(cut), [t for t in part if first is None or t < first]))
        begin = cut + 1
    return found, length if closed else second(ends[-1])
