"""`jaxlm.load`: opens a run, a checkpoint of one, or a folder in Hugging Face's layout."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jaxlm import convert
from jaxlm.api.encoder import Encoder
from jaxlm.api.model import LanguageModel
from jaxlm.api.sentence import read_sentence, transformer_folder
from jaxlm.api.seq2seq import Seq2Seq, Writing, read_writing
from jaxlm.api.vision import Vision
from jaxlm.api.whisper import Whisper
from jaxlm.convert import gguf, peft
from jaxlm.convert.files import WEIGHTS, check_dtype, is_model, read_json
from jaxlm.data.images import Preparation, preparation
from jaxlm.data.pairs import END, START
from jaxlm.errors import UserError
from jaxlm.models import EncoderConfig, Seq2SeqConfig, ViTConfig
from jaxlm.paths import expand
from jaxlm.text import Tokenizer, load_tokenizer
from jaxlm.text.formats.gguf import gguf_tokenizer
from jaxlm.text.load import has_tokenizer
from jaxlm.text.settings import read_stops
from jaxlm.train import start
from jaxlm.tune.quantize import check as check_kind


def load(
    path: str | Path,
    dtype: str | None = None,
    say: Callable[[str], None] = lambda line: None,
    verify: bool = True,
    adapter: str | Path | None = None,
    quantize: str | None = None,
) -> Any:
    """The model in a run folder (its newest whole checkpoint), in one checkpoint of it, `run/checkpoints/<step>`, or
    in a folder in Hugging Face's layout (config.json, safetensors): a `LanguageModel`, an `Encoder`, a
    `Seq2Seq` or a `Vision`; or a language model in a GGUF file, its matrices kept in the file's blocks
    (`ops.leaves.Blocks`).

    `dtype` is that of the computation, by default the run's own, or for other folders see `convert.load`; parameters
    keep the dtypes they are stored in. Of a run the weights are the moving average where it keeps one. `say` gets a
    line for each file of weights. `verify` compares tensors with the digests that `save` wrote beside them (those of a
    run's checkpoints are always compared). `adapter` is a folder of peft's that is put on the model (LoRA, rsLoRA,
    DoRA, IA3, apart until `merge`; prompt, P- and prefix tuning). `quantize` is a kind of `tune.quantize`, such as
    "int8", in which the matrices are then kept. Raises UserError when there is nothing whole to load.
    """
    path = expand(path)
    if dtype is not None:
        check_dtype(dtype)
    try:
        if quantize is not None:
            check_kind(quantize)
        m = _open(path, dtype, say, verify)
        if quantize is not None:
            m = m.quantize(quantize)
        if adapter is not None:
            m = m._with(*peft.load(expand(adapter), m.config, m.params, m._source())[::-1])
        return m
    except OSError as error:
        raise UserError(f"cannot read {error.filename or path}: {error.strerror}") from error


def _open(path: Path, dtype: str | None, say: Callable[[str], None], verify: bool) -> Any:
    if path.suffix == ".gguf":
        file = gguf.GGUF(path)
        config, params, source = gguf.load(file, dtype, say)
        tokenizer = gguf_tokenizer(file.metadata, str(path))
        return LanguageModel(config, params, tokenizer, source, tokenizer.stops if tokenizer else ())
    if path.is_file():
        raise UserError(f"{path} is a file: give a .gguf, a run's folder, or one with config.json and {WEIGHTS}")
    if is_model(folder := transformer_folder(path)):
        config, params, source = convert.load(folder, dtype, say, verify)
        if isinstance(config, EncoderConfig):
            return Encoder(config, params, _tokenizer(folder), source, read_sentence(path))
        if isinstance(config, Seq2SeqConfig):
            kind = Seq2Seq if config.source is None else Whisper
            return kind(config, params, _tokenizer(folder), source, read_stops(folder), read_writing(folder))
        if isinstance(config, ViTConfig):
            return Vision(config, params, source, _preparation(folder, config))
        return LanguageModel(config, params, _tokenizer(folder), source, read_stops(folder))
    return _load_run(path, dtype)


def _tokenizer(folder: Path) -> Tokenizer | None:
    """The folder's tokenizer, None where it has none of a kind known here."""
    return load_tokenizer(folder) if has_tokenizer(folder) else None


def _preparation(folder: Path, config: ViTConfig) -> Preparation | None:
    """How the folder says that images are prepared; None where it says nothing."""
    if not (file := folder / "preprocessor_config.json").exists():
        return None
    return preparation(read_json(file), config.Y, config.X, config.C, str(file))


def _load_run(path: Path, dtype: str | None) -> Any:
    model, params = start.read_model(path)
    config: Any = dataclasses.replace(model, dtype=dtype or model.dtype)
    folder = path.parent.parent if path.name.isdecimal() else path
    if isinstance(config, Seq2SeqConfig):
        tokenizer = _tokenizer(folder / "tokenizer") if (folder / "tokenizer").is_dir() else None
        first, stops = (START, (END,)) if tokenizer is None else (tokenizer.eot, tokenizer.stops)
        return Seq2Seq(config, params, tokenizer, None, stops, Writing(first))
    tokenizer = load_tokenizer(folder)
    if isinstance(config, EncoderConfig):
        return Encoder(config, params, tokenizer)
    return LanguageModel(config, params, tokenizer)
