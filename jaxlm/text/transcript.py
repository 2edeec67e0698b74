"""What was said, with times: as plain text, subtitles (SubRip, WebVTT) and JSON."""

import dataclasses
import json
from typing import NamedTuple


class Word(NamedTuple):
    """A word with the space before it and the punctuation behind it, and when it was said, in seconds."""

    start: float
    end: float
    text: str


@dataclasses.dataclass(frozen=True)
class Segment:
    """A few words that belong together, and when they were said, in seconds."""

    start: float
    end: float
    text: str
    tokens: tuple[int, ...]
    temperature: float  # at which they were drawn; 0: the likeliest
    logprob: float  # mean of the tokens of its window
    words: tuple[Word, ...] = ()  # where they were asked for


@dataclasses.dataclass(frozen=True)
class Transcript:
    """The text of a recording. `str()` of it is its text."""

    text: str
    language: str | None
    segments: tuple[Segment, ...]

    def __str__(self) -> str:
        return self.text

    def written(self, form: str) -> str:
        """As a file of the form "txt" (a line a segment), "srt", "vtt" or "json"."""
        return {"txt": self._txt, "srt": self._srt, "vtt": self._vtt, "json": self._json}[form]()

    def _txt(self) -> str:
        return "".join(f"{segment.text.strip()}\n" for segment in self.segments)

    def _srt(self) -> str:
        return "".join(f"{i}\n{_cue(s, ',')}" for i, s in enumerate(self.segments, 1))

    def _vtt(self) -> str:
        return "WEBVTT\n\n" + "".join(_cue(segment, ".") for segment in self.segments)

    def _json(self) -> str:
        return json.dumps(dataclasses.asdict(self), ensure_ascii=False, indent=1) + "\n"


FORMS = ("txt", "srt", "vtt", "json")


def _cue(segment: Segment, point: str) -> str:
    """Two times and a text; an arrow in the text would end the cue."""
    text = segment.text.strip().replace("-->", "->")
    return f"{clock(segment.start, point)} --> {clock(segment.end, point)}\n{text}\n\n"


def clock(seconds: float, point: str = ".") -> str:
    """hh:mm:ss.mmm"""
    milliseconds = round(seconds * 1000)
    minutes, rest = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02}:{minutes % 60:02}:{rest // 1000:02}{point}{rest % 1000:03}"
