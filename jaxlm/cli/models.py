"""The verbs of models: train, generate, plan, configs, convert."""

from pathlib import Path
from typing import Any

import jaxlm
from jaxlm import config_call
from jaxlm.cli.verb import Args, Parser, Verb, natural, read_text
from jaxlm.errors import UserError, unknown
from jaxlm.paths import expand

# train, configs ------------------------------------------------------------------------------------------------


def config_arguments(parser: Parser) -> None:
    parser.add_argument(
        "config",
        help="a name of `jaxlm configs` or FILE.py:FUNCTION, also with arguments ('gpt(depth=24)'), a saved config, or "
        "a run folder",
    )
    parser.add_argument(
        "overrides", nargs="*", default=[], metavar="key=value", help="such as steps=100 or optimizer.clip=none"
    )


def _train_arguments(parser: Parser) -> None:
    config_arguments(parser)
    parser.add_argument(
        "--run", metavar="FOLDER", help="where the run is kept (default: runs/NAME); resumes what is there"
    )
    many = parser.add_argument_group(
        "many processes",
        "found under SLURM, Open MPI, GKE and Kubernetes with jax[k8s]; elsewhere say (scripts/launch)",
    )
    many.add_argument("--coordinator", metavar="HOST:PORT", help="where process 0 listens for the others")
    many.add_argument("--num-processes", type=natural, metavar="N", help="of all machines; 1: alone, whatever is found")
    many.add_argument("--process-id", type=natural, metavar="I", help="of this one, from 0")
    many.add_argument("--distributed", action="store_true", help="look for the others even so (Cloud TPU machines)")
    many.add_argument(
        "--timeout", type=natural, default=300, metavar="S", help="seconds until all must have come; default: 300"
    )


def train(args: Args) -> None:
    from jaxlm.config import resolve

    run = resolve(args.config, args.overrides)
    folder = expand(args.run) if args.run else _run_folder(args.config)
    from jaxlm.machine import processes

    place = processes.Place(args.coordinator, args.num_processes, args.process_id, args.distributed, args.timeout)
    with processes.joined(place):
        from jaxlm.align.rollout import feed_of
        from jaxlm.train import loop

        try:
            loop.train(run, folder, feed_of(run))
        except UserError as error:
            raise _with_data(error, run, args.overrides) from error


def _with_data(error: UserError, run: Any, overrides: list[str]) -> UserError:
    """The error; where it says that the config's own text is not there, with how to name another."""
    paths = [source.path for source in getattr(run.data, "sources", ())]
    if any(word.startswith("data.sources") for word in overrides) or not any(
        str(error).startswith(f"{p}: ") for p in paths
    ):
        return error
    return UserError(f"{error}; name your own text (embedded is Python's library)", "data.sources.0.path=FILE.txt")


def _run_folder(config: str) -> Path:
    """A run folder or its config names itself; any other config is run in runs/NAME."""
    path = expand(config)
    if path.is_dir():
        return path
    if path.suffix == ".json":
        return path.parent if path.name == "config.json" else Path("runs") / path.stem
    return Path("runs") / config_call.file_name(config)


def configs(args: Args) -> None:
    from jaxlm.config import list_configs

    rows = [(f"{name}({arguments})" if arguments else name, summary) for name, arguments, summary in list_configs()]
    width = max((len(name) for name, _ in rows), default=0)
    for name, summary in rows:
        print(f"{name:{width}}  {summary}".rstrip())


# generate ------------------------------------------------------------------------------------------------------------


def _generate_arguments(parser: Parser) -> None:
    parser.add_argument("path", help="a run, a checkpoint, or a folder in Hugging Face's layout")
    _adapter_argument(parser)
    _verify_argument(parser)
    parser.add_argument("--prompt", required=True, help="the text to continue, or the source of an encoder-decoder")
    parser.add_argument("--max-new-tokens", type=natural, default=64, metavar="N", help="default: 64")
    parser.add_argument("--greedy", action="store_true", help="always the likeliest token, instead of sampling")
    parser.add_argument("--temperature", type=float, metavar="X", help="default: 1.0; 0 is --greedy")
    parser.add_argument("--top-k", type=int, metavar="N", help="sample from the N likeliest tokens")
    parser.add_argument("--top-p", type=float, metavar="P", help="... from the likeliest that together have P")
    parser.add_argument(
        "--min-p", type=float, metavar="P", help="... from those at least P times as likely as the first"
    )
    parser.add_argument("--beams", type=natural, metavar="N", help="beam search with N beams, instead of sampling")
    parser.add_argument("--seed", type=natural, default=0, metavar="N", help="default: 0")
    parser.add_argument("--stop", action="append", metavar="TEXT", help="end before this text; may be repeated")
    parser.add_argument("--json-schema", metavar="FILE", help="write JSON that satisfies this schema")
    parser.add_argument("--regex", metavar="PATTERN", help="write what matches this regular expression as a whole")
    parser.add_argument("--choice", action="append", metavar="TEXT", help="write one of these; to be repeated")


def _adapter_argument(parser: Parser) -> None:
    parser.add_argument("--adapter", metavar="FOLDER", help="of peft's, put on the model (LoRA, DoRA, IA3)")


def _verify_argument(parser: Parser) -> None:
    parser.add_argument(
        "--no-verify", dest="verify", action="store_false", help="do not compare weights with the digests beside them"
    )


def generate(args: Args) -> None:
    sampler, constraint = _sampler(args), _constraint(args)
    import jax

    lm, key = jaxlm.load(args.path, verify=args.verify, adapter=args.adapter), jax.random.key(args.seed)
    whole = isinstance(lm, jaxlm.Seq2Seq)
    if not whole and not hasattr(lm, "stream"):
        raise UserError(f"{args.path} is no language model, so it writes no text: use jaxlm.load in Python")
    if whole and constraint is not None:
        raise UserError(f"{args.path} is an encoder-decoder, which follows no constraint")
    kept = {} if constraint is None else {"constraint": constraint}
    if whole or args.beams is not None or kept:
        out = lm.generate([args.prompt], args.max_new_tokens, sampler, key, args.stop, **kept)
        if out.texts is None:
            raise UserError(f"{args.path} has no tokenizer: use jaxlm.load and give tokens")
        print("" if whole else args.prompt, out.texts[0], sep="")
        return
    pieces = lm.stream(args.prompt, args.max_new_tokens, sampler, key, args.stop)
    first = next(pieces, "")  # a mistake shows here, before anything is printed
    print(args.prompt, first, sep="", end="", flush=True)
    for piece in pieces:
        print(piece, end="", flush=True)
    print()


def _constraint(args: Args) -> Any:
    """What --json-schema, --regex or --choice say that may be written."""
    kinds = {
        "json_schema": lambda path: jaxlm.JsonSchema(read_text(path)),
        "regex": jaxlm.Regex,
        "choice": jaxlm.Choices,
    }
    given = [name for name in kinds if getattr(args, name) is not None]
    if len(given) > 1:
        raise UserError("--json-schema, --regex and --choice exclude each other: give one")
    return kinds[given[0]](getattr(args, given[0])) if given else None


def _sampler(args: Args) -> Any:
    """Temperature first, then every filter that was asked for."""
    picked = [name for name in ("temperature", "top_k", "top_p", "min_p") if getattr(args, name) is not None]
    if args.beams is not None:
        if args.greedy or picked:
            raise UserError("--beams searches, and neither samples nor is greedy: leave out the others")
        return jaxlm.Beam(args.beams)
    if args.greedy and picked:
        raise UserError(f"--greedy does not sample: leave out --{picked[0].replace('_', '-')}")
    if args.greedy or args.temperature == 0:
        return jaxlm.Greedy()
    sampler = jaxlm.Temperature(1.0 if args.temperature is None else args.temperature)
    if args.top_k is not None:
        sampler |= jaxlm.TopK(args.top_k)
    if args.top_p is not None:
        sampler |= jaxlm.TopP(args.top_p)
    if args.min_p is not None:
        sampler |= jaxlm.MinP(args.min_p)
    return sampler


# convert -------------------------------------------------------------------------------------------------------------


PACKED = ("int4", "int8", "gptq4", "gptq8")


def _convert_arguments(parser: Parser) -> None:
    parser.add_argument("source", metavar="SRC", help="a run, a checkpoint, a folder in Hugging Face's layout, a .gguf")
    parser.add_argument("target", metavar="DST", help="the folder to write, in Hugging Face's layout, or a .gguf")
    parser.add_argument(
        "--quantize",
        metavar="KIND",
        help="of a .gguf: F32, F16 (the default), Q8_0, Q4_0; of a folder, in GPTQ's layout: int4, int8, gptq4, gptq8",
    )
    parser.add_argument("--calibration", metavar="FILE", help="the text that gptq4 and gptq8 read")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), help="default: as they are stored")
    parser.add_argument("--max-shard-size", default="5GB", metavar="SIZE", help="of one file of weights; default: 5GB")
    _adapter_argument(parser)
    _verify_argument(parser)


def convert(args: Args) -> None:
    gguf, kind = args.target.endswith(".gguf"), args.quantize
    reads = kind in ("gptq4", "gptq8") and not gguf
    if kind and not gguf and kind not in PACKED:
        raise unknown("--quantize of a folder", kind, PACKED)
    if reads != (args.calibration is not None):
        raise UserError(f"--quantize {kind} needs --calibration FILE" if reads else "--calibration is of gptq4, gptq8")
    lm = jaxlm.load(args.source, say=print, verify=args.verify, adapter=args.adapter)
    if gguf:
        return lm.save_gguf(args.target, (args.quantize or "F16").upper(), say=print)
    if kind:
        lm = lm.quantize(kind, calibration=args.calibration, **({"say": print} if reads else {}))
    lm.save(args.target, args.max_shard_size, args.dtype, say=print, packed=bool(kind))


VERBS = {
    "train": Verb("train a model, or resume a run", "jaxlm train quickstart steps=200", _train_arguments, train),
    "generate": Verb(
        "continue a prompt",
        'jaxlm generate runs/quickstart --prompt "def " --top-p 0.9',
        _generate_arguments,
        generate,
    ),
    "configs": Verb("list the configs", "jaxlm configs", lambda parser: None, configs),
    "convert": Verb(
        "write a model in Hugging Face's layout",
        "jaxlm convert Qwen3-0.6B mine --dtype bfloat16",
        _convert_arguments,
        convert,
    ),
}
