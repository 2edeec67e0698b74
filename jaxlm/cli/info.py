"""The verb `info`: what a path or a name is, told from names, headers and JSON. No weights are read."""

from __future__ import annotations

import json
import math
import os
import shlex
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxlm.cli.verb import Args, Parser, Verb
from jaxlm.errors import UserError, one_line
from jaxlm.paths import expand

if TYPE_CHECKING:
    from jaxlm.models import ModelConfig
    from jaxlm.run import RunConfig

LINES, WIDTH = 10, 160
TAIL = 2**16  # bytes of a log that are looked at
TOKENIZERS = ("tokenizer.json", "vocab.json", "encoder.json", "vocab.txt", ".model", ".tiktoken")

Facts = Iterator[tuple[str, str]]  # the first one is what it is, with its path


def _arguments(parser: Parser) -> None:
    parser.add_argument(
        "path",
        help="a run, a checkpoint, a folder in Hugging Face's layout, a tokenizer, text, or a config",
    )


def info(args: Args) -> None:
    os.environ.setdefault("JAX_PLATFORMS", "cpu")  # nothing is run: accelerators are left alone
    print("\n".join(describe(args.path)))


def describe(path: str) -> list[str]:
    """At most ten lines on what is at `path`, or on the config of that name. Raises UserError where nothing is."""
    try:
        facts = [(name, one_line(text)) for name, text in _facts(path)]
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    width = max(len(name) for name, _ in facts[1:]) if facts[1:] else 0
    lines = [f"{facts[0][0]}: {facts[0][1]}", *(f"  {name:{width}}  {text}" for name, text in facts[1:])]
    return [line if len(line) <= WIDTH else line[: WIDTH - 3] + "..." for line in lines[:LINES]]


def _facts(name: str) -> Facts:
    path = expand(name)
    if path.is_file() and path.suffix != ".py":
        return _file(path)
    if path.is_dir():
        return _folder(path)
    if path.exists() and path.suffix != ".py":
        raise UserError(f"{name} is neither a file nor a folder")
    return _config(name)


# Configs -------------------------------------------------------------------------------------------------------------


def _config(name: str) -> Facts:
    from jaxlm.config import resolve
    from jaxlm.run import RunConfig

    try:
        run = resolve(name)
    except UserError as error:
        if "no config is called" in str(error) or "unknown config file" in str(error):
            raise UserError(f"{name}: no such file or folder, and {error}") from None
        raise
    if not isinstance(run, RunConfig):
        yield name, f"a config, a {type(run).__name__}"
        return
    yield name, "a config"
    yield from _run_facts(run)
    yield "next", f"jaxlm train {shlex.quote(name)}, or jaxlm plan {shlex.quote(name)}"


def _run_facts(run: RunConfig) -> Facts:
    from jaxlm.data import DataConfig

    yield from _model_facts(run.model, run.model.dtype)
    if isinstance(data := run.data, DataConfig):
        yield "data", f"{', '.join(source.path for source in data.sources)}; rows of {data.T} tokens"
        yield "tokenizer", data.tokenizer.path or f"{data.tokenizer.kind}, {data.tokenizer.V:,} tokens"
    optimizer, tokens = run.optimizer, run.steps * run.tokens_per_step
    yield (
        "training",
        f"{run.steps:,} steps of {run.batch:,} rows, {tokens:,} tokens; {optimizer.name}, "
        f"learning rate {optimizer.learning_rate:g}",
    )


def _model_facts(model: ModelConfig, dtype: str) -> Facts:
    from jaxlm.models import flops

    count, active = flops.parameters(model), flops.active_parameters(model)
    sizes = f"{model.depth} layers, width {model.D:,}, vocabulary {model.V:,}"
    yield "model", f"{count:,} parameters{f' ({active:,} active)' if active != count else ''}, {sizes}, {dtype}"


# Folders -------------------------------------------------------------------------------------------------------------


def _folder(path: Path) -> Facts:
    if path.parent.name == "checkpoints" and path.name.isdecimal():
        return _checkpoint(path)
    if (path / "config.json").is_file():
        return _config_file(path, _json(path / "config.json"))
    runs = sorted(p.parent.name for p in path.glob("*/config.json"))
    if runs:
        return iter(((str(path), f"a folder of {len(runs)} models or runs"), ("folders", ", ".join(runs))))
    from jaxlm.text.load import has_tokenizer

    if has_tokenizer(path):
        return _tokenizer(path, "a tokenizer")
    return _data(path)


def _config_file(path: Path, content: dict[str, Any]) -> Facts:
    """A config.json, or the folder that has it."""
    file = path / "config.json" if path.is_dir() else path
    if "model_type" in content or "architectures" in content:
        return _hugging_face(path, file, content)
    if "type" not in content:
        raise UserError(f"{file}: the config of neither a run (it has no type) nor a model (it has no model_type)")
    return _run(path, file)


def _run(path: Path, file: Path) -> Facts:
    from jaxlm import config
    from jaxlm.run import RunConfig

    run, folder = config.load(file), file.parent
    if not isinstance(run, RunConfig):
        yield str(path), f"a saved config, a {type(run).__name__}"
        return
    steps = _steps(folder)
    if path.is_file() and not (folder / "checkpoints").is_dir():
        yield str(path), "the saved config of a run"
    elif not steps:
        yield str(path), f"a run of {run.steps:,} steps, without a checkpoint yet"
    else:
        left = "finished" if steps[-1] >= run.steps else f"goes on from step {steps[-1]:,}"
        yield str(path), f"a run, at step {steps[-1]:,} of {run.steps:,} ({left})"
    yield from _run_facts(run)
    if steps:
        yield "checkpoints", ", ".join(f"{step:,}" for step in steps)
    yield from _last_numbers(folder / "metrics.jsonl")
    yield "next", _generate(folder) if steps else f"jaxlm train {shlex.quote(str(folder))}"


def _checkpoint(path: Path) -> Facts:
    folder = path.parent.parent
    whole = (path / "_CHECKPOINT_METADATA").is_file()
    size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    state = _bytes(size) if whole else f"{_bytes(size)}, not whole: its description is not there"
    yield str(path), f"checkpoint {int(path.name):,} of a run, {state}"
    if not (folder / "config.json").is_file():
        yield "run", f"{folder} has no config.json: it cannot be opened"
        return
    facts = list(_run(folder, folder / "config.json"))
    yield "run", f"{facts[0][0]}: {facts[0][1]}"
    yield from (fact for fact in facts[1:] if fact[0] not in ("checkpoints", "last", "next"))


def _steps(folder: Path) -> list[int]:
    found = (folder / "checkpoints").glob("*/_CHECKPOINT_METADATA")
    return sorted(int(file.parent.name) for file in found if file.parent.name.isdecimal())


def _last_numbers(log: Path) -> Facts:
    """The newest losses of a run."""
    if not log.is_file():
        return
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - TAIL))
        lines = file.read().decode("utf-8", "replace").splitlines()
    told = {}
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError:  # the first is cut, the last may be
            continue
        if isinstance(record, dict):
            told |= {name: (record.get("step"), value) for name, value in record.items() if isinstance(value, float)}
    shown = (("train/loss", "loss"), ("eval/loss", "held-out loss"), ("eval/bits_per_byte", "held-out bits per byte"))
    parts = [f"{text} {told[name][1]:.4f} at step {told[name][0]}" for name, text in shown if name in told]
    if parts:
        yield "last", ", ".join(parts)


def _hugging_face(path: Path, file: Path, content: dict[str, Any]) -> Facts:
    from jaxlm.convert import families
    from jaxlm.text.load import has_tokenizer

    kind, folder = str(content.get("model_type")), file.parent
    yield str(path), f"a model in Hugging Face's layout, {kind}" if path.is_dir() else f"the config of a {kind} model"
    said = next(filter(None, _said(content, "dtype", "torch_dtype")), None)
    opened = False
    try:
        config = families.lm_config(content, file.name)
        yield from _model_facts(config, f"dtype {str(said).removeprefix('torch.')}" if said else "dtype not said")
        yield "family", f"{families.find(content, file.name)[0].__name__.rpartition('.')[2]}, which jaxlm opens"
        opened = True
    except UserError as error:
        yield "family", f"not opened here: {error}"
    if quantised := _quantised(folder, content):
        yield "quantised", quantised
    if not path.is_dir():
        return
    weights = _told(lambda: _weights(folder), "")
    yield "weights", weights.strip()
    yield "tokenizer", _told(lambda: next(_tokenizer(folder, ""))[1], "none") if has_tokenizer(folder) else "none"
    if opened and not quantised and not weights.startswith(" ("):
        yield "next", _generate(path)


def _quantised(folder: Path, content: dict[str, Any]) -> str:
    found = next(filter(None, _said(content, "quantization_config")), None)
    if found is None and (folder / "hf_quant_config.json").is_file():
        found = _json(folder / "hf_quant_config.json").get("quantization", {})
    if found is None:
        return ""
    found = found if isinstance(found, dict) else {}
    said = (found.get(name) for name in ("quant_method", "quant_algo", "fmt", "bits"))
    return f"{', '.join(str(one) for one in said if one is not None) or 'somehow'}: dequantise it first"


def _said(content: dict[str, Any], *names: str) -> Iterator[Any]:
    """What a config.json says under these names, also of its text model."""
    text = content.get("text_config")
    for part in (content, text if isinstance(text, dict) else {}):
        yield from (part.get(name) for name in names)


def _weights(folder: Path) -> str:
    from jaxlm.convert.files import opened

    with opened(folder) as checkpoint:
        dtypes = Counter(stored.dtype for stored in checkpoint.stored.values())
        files = {stored.file for stored in checkpoint.stored.values()}
    size = sum(file.stat().st_size for file in files)
    kinds = ", ".join(f"{count:,} {dtype}" for dtype, count in dtypes.most_common(4))
    return f"{len(files)} file{'s' * (len(files) > 1)}, {_bytes(size)}; {sum(dtypes.values()):,} tensors: {kinds}"


# Files ---------------------------------------------------------------------------------------------------------------


def _file(path: Path) -> Facts:
    from jaxlm.data.files import kind

    name = path.name.lower()
    if name.endswith(TOKENIZERS):
        return _tokenizer(path, "a tokenizer")
    if name.endswith(".safetensors"):
        return iter(((str(path), f"weights: {_tensors(path)}"),))
    if kind(path):
        return _data(path)
    if name.endswith(".json"):
        content = _json(path)
        if isinstance(content.get("model"), dict) and "type" not in content:
            return _tokenizer(path, "a tokenizer")
        return _config_file(path, content)
    with path.open("rb") as file:
        start = file.read(64)
    if start[:1] in (b"\n", b"{") or start.split(b" ")[-1].strip().isdigit():
        return _tokenizer(path, "a tokenizer")
    raise UserError(f"{path}: a file of a kind that jaxlm does not know ({_bytes(path.stat().st_size)})")


def _tensors(path: Path) -> str:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            slices = [file.get_slice(key) for key in file.keys()]  # noqa: SIM118 (it is no dict)
            dtypes = Counter(one.get_dtype() for one in slices)
            count = sum(math.prod(one.get_shape()) for one in slices)
    except SafetensorError as error:
        raise UserError(f"{path} is not a whole safetensors file: {error}") from None
    kinds = ", ".join(f"{n:,} {dtype}" for dtype, n in dtypes.most_common(4))
    return f"{count:,} numbers in {len(slices):,} tensors ({kinds}), {_bytes(path.stat().st_size)}"


def _tokenizer(path: Path, what: str) -> Facts:
    from jaxlm.text import load_tokenizer

    tokenizer = load_tokenizer(path)
    yield str(path), f"{what}, {type(tokenizer).__name__} of {tokenizer.V:,} tokens".lstrip(", ")
    roles = {role: getattr(tokenizer, role) for role in ("bos", "eos", "pad", "unk")}
    yield (
        "roles",
        ", ".join(f"{role} {i} {tokenizer.spell(i)!r}" for role, i in roles.items() if i is not None) or "none",
    )
    specials = [tokenizer.specials[i] for i in sorted(tokenizer.specials)]
    yield "special", f"{len(specials)}{': ' if specials else ''}{', '.join(specials[:8])}"
    yield (
        "around",
        f"{list(tokenizer.prefix)} text {list(tokenizer.suffix)}; generation stops at {list(tokenizer.stops)}",
    )
    yield "chat", "has a chat template" if tokenizer.settings.chat_template else "no chat template"
    sample = "Hello, world! ¿Qué tal?"
    yield "example", f"{sample!r} is {len(tokenizer.encode(sample))} tokens: {tokenizer.encode(sample)[:12]}"


def _data(path: Path) -> Facts:
    from jaxlm.data import files as data_files
    from jaxlm.data.sources import documents

    files = [file for _, file in data_files.find(str(path)).files]
    kinds = Counter(data_files.kind(file) for file in files)
    size = sum(file.stat().st_size for file in files)
    told = ", ".join(f"{count:,} {kind}" for kind, count in kinds.most_common(4))
    yield str(path), f"text to train on, {_bytes(size)}" + ("" if path.is_file() else f" in {told} files")
    yield "begins", _told(lambda: repr(next(documents(str(path), limit=400))[1][:120]), "no text")
    yield "next", f"jaxlm train gpt {shlex.quote(f'data.sources={path}')}"


# Words ---------------------------------------------------------------------------------------------------------------


def _told(say: Callable[[], str], none: str) -> str:
    """What `say` returns, or why it cannot: a part that is damaged does not hide the others."""
    try:
        return say()
    except UserError as error:
        return f"{none} ({error})"
    except StopIteration:
        return none


def _json(path: Path) -> dict[str, Any]:
    from jaxlm.convert.files import read_json

    return read_json(path)


def _generate(path: Path) -> str:
    return f'jaxlm generate {shlex.quote(str(path))} --prompt "..."'


def _bytes(size: int) -> str:
    from jaxlm.progress import scaled

    return f"{scaled(size)}B"


VERBS = {
    "info": Verb(
        "what a run, checkpoint, folder, tokenizer, text or config is",
        "jaxlm info runs/quickstart",
        _arguments,
        info,
    )
}
