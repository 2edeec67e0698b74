"""The verbs of tokenizers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import jaxlm
from jaxlm.cli.verb import Args, Parser, Verb, natural, read_text
from jaxlm.errors import UserError

if TYPE_CHECKING:
    from jaxlm.text import Tokenizer
    from jaxlm.text.inspect import Measured


KINDS = {
    "bpe": "BPETokenizer",
    "unigram": "UnigramTokenizer",
    "wordpiece": "WordPieceTokenizer",
    "words": "WordTokenizer",
    "characters": "CharacterTokenizer",
}
QUICK = ("words", "characters")  # nothing is learned after counting
FORMATS = ("tokenizer.json", "tokenizer.model")


def _train_arguments(parser: Parser) -> None:
    parser.add_argument(
        "files", nargs="+", metavar="FILE", help="text to learn from: files, folders, globs; - is stdin"
    )
    parser.add_argument("--out", required=True, metavar="FOLDER", help="where to write the tokenizer")
    parser.add_argument("--vocab-size", type=natural, default=4096, metavar="N", help="default: 4096")
    parser.add_argument("--kind", choices=KINDS, default="bpe", help="default: bpe, over bytes")
    parser.add_argument(
        "--format",
        choices=FORMATS,
        default=FORMATS[0],
        help="tokenizer.model: SentencePiece's bpe from the first 20 MB, or unigram from 5; default: tokenizer.json",
    )
    parser.add_argument("--field", default="text", help="the key or column of .jsonl and .parquet; default: text")
    parser.add_argument("--story", metavar="PNG", help="draw how it was learned")


def train(args: Args) -> None:
    from itertools import chain

    from jaxlm import text as room
    from jaxlm.data.sources import passages
    from jaxlm.progress import show_preparation

    if args.format == "tokenizer.model" and args.kind not in ("bpe", "unigram"):
        raise UserError("--format tokenizer.model is for --kind bpe or unigram")
    if args.story and args.format == "tokenizer.model":
        raise UserError("--story draws what jaxlm learned: leave out --format tokenizer.model")
    with show_preparation(f"training {args.kind}") as progress:
        texts = chain.from_iterable(passages(path, args.field, progress) for path in args.files)
        if args.format == "tokenizer.model":
            tokenizer: Any = room.train_sentencepiece(texts, args.vocab_size, args.kind)
        else:
            told = {} if args.kind in QUICK else {"progress": progress}
            tokenizer = getattr(room, KINDS[args.kind]).train(texts, args.vocab_size, **told)
    tokenizer.save(args.out)
    if args.story:
        tokenizer.story.draw(args.story)
    print(f"{args.out}: {args.kind}, {tokenizer.V} tokens")


def _encode_arguments(parser: Parser) -> None:
    parser.add_argument("path", help="a tokenizer, a run, or a folder in Hugging Face's layout")
    parser.add_argument("text", nargs="?", help="default: standard input")
    parser.add_argument("--special", action="store_true", help="add what the tokenizer's own post-processing adds")
    parser.add_argument("--literal", action="store_true", help="special tokens in the text are plain text")
    parser.add_argument("--explain", action="store_true", help="tell step by step how the ids come about")
    parser.add_argument("--draw", metavar="PNG", help="... and draw it")


def encode(args: Args) -> None:
    text = read_text("-") if args.text is None else args.text
    if not (args.explain or args.draw):
        return print(*jaxlm.load_tokenizer(args.path).encode(text, args.special, args.literal))
    from jaxlm.text import load_readable

    explanation = load_readable(args.path).explain(text)
    if args.draw:
        explanation.draw(args.draw)
    print(explanation)


def _decode_arguments(parser: Parser) -> None:
    parser.add_argument("path", help="a tokenizer, a run, or a folder in Hugging Face's layout")
    parser.add_argument("ids", nargs="*", metavar="ID", help="default: standard input")
    parser.add_argument("--skip-special", action="store_true", help="leave special tokens out")


def decode(args: Args) -> None:
    tokenizer = jaxlm.load_tokenizer(args.path)
    words = args.ids or read_text("-").split()
    for word in words:
        if not word.isdecimal():
            raise UserError(f"{word!r} is not a token id")
    print(tokenizer.decode([int(word) for word in words], skip_special=args.skip_special))


def _inspect_arguments(parser: Parser) -> None:
    parser.add_argument(
        "paths", nargs="+", metavar="PATH", help="tokenizers, runs, or folders in Hugging Face's layout"
    )
    parser.add_argument(
        "--text",
        nargs="+",
        default=[],
        metavar="FILE",
        help="measure them on these: files, folders or globs, one a row",
    )
    parser.add_argument("--field", default="text", help="the key or column of .jsonl and .parquet; default: text")
    parser.add_argument("--plot", metavar="PNG", help="draw tokens per word and bytes per token")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def inspect(args: Args) -> None:
    if args.plot and not args.text:
        raise UserError("--plot draws how tokenizers do on texts: give --text FILE ...")
    tokenizers = {_name(path, args.paths): jaxlm.load_tokenizer(path) for path in args.paths}
    from jaxlm.text import inspect as room

    measured = {name: _measured(name, tokenizer, args) for name, tokenizer in tokenizers.items()}
    facts = {name: room.facts(tokenizer, measured[name]) for name, tokenizer in tokenizers.items()}
    if args.json:
        import json

        print(json.dumps(facts, ensure_ascii=False))
    else:
        print("\n\n".join(room.table(name, fact) for name, fact in facts.items()))
    if args.plot:
        room.plot(measured, args.plot)


def _measured(name: str, tokenizer: Tokenizer, args: Args) -> dict[str, Measured]:
    from jaxlm.data.sources import passages
    from jaxlm.progress import show_preparation
    from jaxlm.text.inspect import measure

    if args.json:
        return {_name(path, args.text): measure(tokenizer, passages(path, args.field)) for path in args.text}
    found = {}
    for path in args.text:
        text = _name(path, args.text)
        with show_preparation(f"measuring {name} on {text}") as progress:
            found[text] = measure(tokenizer, passages(path, args.field, progress))
    return found


def _name(path: str, others: list[str]) -> str:
    """The last part of a path where that tells it from the others, else all of it."""
    last = Path(path).name
    return last if last and [Path(other).name for other in others].count(last) == 1 else path


VERBS = {
    "tokenizer train": Verb(
        "learn a vocabulary from text files",
        "jaxlm tokenizer train corpus.txt --out tokenizer --vocab-size 4096",
        _train_arguments,
        train,
    ),
    "tokenizer encode": Verb(
        "text to token ids",
        'jaxlm tokenizer encode runs/quickstart "Hello"',
        _encode_arguments,
        encode,
    ),
    "tokenizer decode": Verb(
        "token ids to text",
        "jaxlm tokenizer decode runs/quickstart 72 101",
        _decode_arguments,
        decode,
    ),
    "tokenizer inspect": Verb(
        "what vocabularies are like, and how they do on texts",
        "jaxlm tokenizer inspect gpt2 qwen3 --text en.txt es.txt --plot both.png",
        _inspect_arguments,
        inspect,
    ),
}
