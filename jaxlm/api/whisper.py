"""A trained Whisper with its tokenizer: features of sound, the language that is spoken, and the tokens of its task."""

import dataclasses
import functools
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from jaxlm.api.seq2seq import Seq2Seq
from jaxlm.api.transcribe import RATE, Plan, transcribe
from jaxlm.axes import Array
from jaxlm.data.audio import read_audio
from jaxlm.decode import Sampler
from jaxlm.errors import UserError, unknown
from jaxlm.ops.signal import log_mel
from jaxlm.text.transcript import Transcript

HOP = 160  # samples a frame
MULTILINGUAL = 51_865  # the least vocabulary of a model of many languages


@dataclasses.dataclass(frozen=True)
class Tokens:
    """The special tokens of a Whisper, as its files name them; None and empty where they do not."""

    start: int
    end: int
    languages: dict[str, int]  # of code, such as "es"
    tasks: dict[str, int]
    no_timestamps: int | None
    previous: int | None  # stands before the text of the window before
    no_speech: int | None

    @property
    def first_stamp(self) -> int:
        """The timestamp of 0.00 s, from which on all are timestamps."""
        if self.no_timestamps is None:
            raise UserError("the model's files name no <|notimestamps|> token, behind which timestamps stand")
        return self.no_timestamps + 1


class Whisper(Seq2Seq):
    """A `Seq2Seq` whose source is sound: log-mel features (B, bands, S), S frames of 0.01 s, as transformers has them
    (or (B, S, bands)), at most twice as many as the encoder has positions. Made by `load`."""

    def features(self, audio: Any) -> np.ndarray:
        """Log-mel features float32 (1, bands, S) of the first 30 s (all that the encoder takes), padded with silence.

        `audio` is a path, samples at 16 kHz (S,), or (samples, rate). Raises UserError for what is no sound.
        """
        return self.features_of(read_audio(audio, RATE))

    def detect_language(self, audio: Any) -> dict[str, float]:
        """The probability of each language, the likeliest first, by the first 30 s. Raises UserError where the model
        knows one language only."""
        found = self.languages_of(self.features(audio))
        return dict(sorted(found.items(), key=lambda one: -one[1]))

    def transcribe(
        self,
        audio: Any,
        language: str | None = None,
        task: str = "transcribe",
        timestamps: bool = False,
        prompt: str = "",
        temperatures: tuple[float, ...] = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0),
        carry: bool = True,
        words: bool = False,
        say: Callable[[str], None] = lambda line: None,
    ) -> Transcript:
        """What is said, as text and segments (Radford et al. 2022, arXiv:2212.04356, 4.5).

        Sound of any length is read in windows of 30 s, of which each begins where the last whole segment of the one
        before ended; only a window is in memory. `language` is a code ("es") or None: that of the first window. `task`
        is "transcribe" or "translate" (into English). `timestamps` gives segments their times also within one window.
        `prompt` is text that came before; with `carry` each window sees that of the one before. A window that repeats
        itself (it deflates by more than 2.4) or is unlikely (mean log probability below -1) is sampled again at the
        next of `temperatures`; one that is unlikely and probably no speech is left out. `words` gives segments the
        times of their words, by cross attention (see `api.words`). `say` gets a line a window.
        Raises UserError for what is no sound, and for a language or task that the model does not know.
        """
        plan = Plan(language, task, timestamps, prompt, temperatures, carry, words)
        return transcribe(self, audio, plan, say)

    @functools.cached_property
    def special(self) -> Tokens:
        """The model's special tokens, by its generation_config.json or its tokenizer."""
        said = self._said
        spelled = {} if self.tokenizer is None else {text: i for i, text in self.tokenizer.specials.items()}

        def one(key: str, *spellings: str) -> int | None:
            return said.get(key, next((spelled[s] for s in spellings if s in spelled), None))

        def inner(ids: dict[str, int], pattern: str = r"<\|([a-z]{2,3})\|>") -> dict[str, int]:
            return {m[1]: i for text, i in ids.items() if (m := re.fullmatch(pattern, text))}

        many = said.get("is_multilingual", self.config.V >= MULTILINGUAL)
        languages = inner(said.get("lang_to_id", spelled)) if many else {}
        end = one("eos_token_id", "<|endoftext|>")
        start = one("decoder_start_token_id", "<|startoftranscript|>")
        if start is None or end is None:
            raise UserError("the model's files name no <|startoftranscript|> and no end token")
        tasks = {name: spelled[f"<|{name}|>"] for name in ("transcribe", "translate") if f"<|{name}|>" in spelled}
        return Tokens(
            start,
            end,
            languages,
            said.get("task_to_id", tasks) if languages else {},
            one("no_timestamps_token_id", "<|notimestamps|>"),
            one("prev_sot_token_id", "<|startofprev|>"),
            one("no_speech_token_id", "<|nospeech|>", "<|nocaptions|>"),
        )

    @functools.cached_property
    def alignment_heads(self) -> tuple[tuple[int, int], ...]:
        """(layer, head) of the cross attentions that follow time, as generation_config.json says; else none."""
        return tuple((int(layer), int(head)) for layer, head in self._said.get("alignment_heads") or ())

    def begin(self, language: str | None, task: str, timestamps: bool) -> list[int]:
        """The tokens that a text begins with: start, language, task, and that there are no timestamps."""
        special = self.special
        found = [special.start]
        if special.languages:
            for name, value, known in (("language", language, special.languages), ("task", task, special.tasks)):
                if value not in known:
                    raise unknown(name, str(value), known)
                found.append(known[value])
        elif task != "transcribe" or language not in (None, "en"):
            raise UserError(f"this model writes English from English only, not {language or 'en'} by {task}")
        return found if timestamps or special.no_timestamps is None else [*found, special.no_timestamps]

    @functools.cached_property
    def _said(self) -> dict[str, Any]:
        """generation_config.json."""
        folder = None if self.source is None else self.source.folder
        path = folder and Path(folder) / "generation_config.json"
        return json.loads(path.read_bytes()) if path and path.is_file() else {}

    @property
    def seconds(self) -> float:
        """The length of a window."""
        return 2 * self._frames.length * HOP / RATE

    @property
    def _frames(self) -> Any:
        return self.config.source

    def features_of(self, samples: np.ndarray) -> np.ndarray:
        """Features of one window of samples at 16 kHz."""
        whole = 2 * self._frames.length * HOP
        samples = np.pad(samples[:whole], (0, max(0, whole - len(samples))))
        return np.asarray(_log_mel(jnp.asarray(samples)[None], self._frames.bands)).swapaxes(1, 2)

    def languages_of(self, features: np.ndarray) -> dict[str, float]:
        """The probability of each language."""
        if not self.special.languages:
            raise UserError("this model knows one language only: it detects none")
        logits_V = self._opening(features)[list(self.special.languages.values())]
        return dict(zip(self.special.languages, np.asarray(jax.nn.softmax(logits_V)).tolist(), strict=True))

    def no_speech(self, features: np.ndarray) -> float:
        """The probability that nobody speaks, 0 where the model has no token for it."""
        token = self.special.no_speech
        return 0.0 if token is None else float(jax.nn.softmax(self._opening(features))[token])

    def say_ids(self, ids: Any) -> str:
        """The text of tokens, without those that are none."""
        return self._text(list(ids))

    def encode_prompt(self, text: str) -> list[int]:
        return self._needed_tokenizer().encode(f" {text.strip()}", special=False)

    def _opening(self, features: np.ndarray) -> np.ndarray:
        """Logits (V,) of the token behind the start token."""
        return np.asarray(self.logits(features, np.array([[self.special.start]])))[0, 0]

    def _source_of(self, source: Any, mask: Any) -> tuple[Array, Array | None]:
        """Frames last dimension bands."""
        if mask is not None:
            raise UserError("sound has no mask: pad it with silence, as `features` does")
        if not isinstance(source, jax.core.Tracer):
            source = np.asarray(source)
        bands = self._frames.bands
        if source.ndim != 3 or bands not in source.shape[1:] or not jnp.issubdtype(source.dtype, jnp.floating):
            raise UserError(f"features must be numbers (B, {bands}, S), got {source.dtype} {source.shape}")
        turned = source.swapaxes(1, 2) if source.shape[1] == bands else source
        if turned.shape[1] > 2 * self._frames.length:
            raise UserError(f"{turned.shape[1]} frames exceed the {2 * self._frames.length} of the model: cut them")
        return jnp.asarray(turned, jnp.float32), None

    def _rounded(self, ids_BS: Any, mask_BS: Any) -> tuple[np.ndarray, np.ndarray | None]:
        return np.asarray(ids_BS), None

    def _known(self, sampler: Sampler) -> Sampler:
        return sampler  # many a tokenizer has no timestamps

    def _text(self, ids: list[int]) -> str:
        return super()._text([i for i in ids if i < self.special.end])


_log_mel = jax.jit(log_mel, static_argnums=1)
