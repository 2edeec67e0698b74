"""The verb of speech: transcribe."""

import sys

import jaxlm
from jaxlm.cli.verb import Args, Parser, Verb
from jaxlm.errors import UserError
from jaxlm.paths import expand


def _arguments(parser: Parser) -> None:
    parser.add_argument("file", metavar="FILE", help="a recording: wav, flac, ogg, mp3")
    parser.add_argument("--model", required=True, metavar="FOLDER", help="a Whisper in Hugging Face's layout")
    parser.add_argument("--language", metavar="CODE", help="such as es; default: the one that is heard first")
    parser.add_argument("--task", default="transcribe", metavar="TASK", help="transcribe, or translate into English")
    parser.add_argument("--timestamps", action="store_true", help="when each segment was said")
    parser.add_argument("--words", action="store_true", help="when each word was said, in json")
    parser.add_argument("--prompt", default="", metavar="TEXT", help="what was said before, or names that may come")
    parser.add_argument("--out", metavar="PATH", help="a file to write, by its ending: txt, srt, vtt, json")


def transcribe(args: Args) -> None:
    from jaxlm.files import write_file
    from jaxlm.text.transcript import FORMS

    form = "txt" if args.out is None else args.out.rpartition(".")[2].lower()
    if form not in FORMS:
        raise UserError(f"--out {args.out} must end with one of: {', '.join(FORMS)}")
    if args.words and form != "json":
        raise UserError("--words are written as json: say --out FILE.json")
    m = jaxlm.load(args.model)
    if not isinstance(m, jaxlm.Whisper):
        raise UserError(f"{args.model} is no Whisper, so it hears nothing")
    say = lambda line: print(line, file=sys.stderr, flush=True)
    say("compiling for the first window")
    timed = args.timestamps or form in ("srt", "vtt")
    out = m.transcribe(args.file, args.language, args.task, timed, args.prompt, words=args.words, say=say)
    if args.out is None:
        print(out.written("srt") if args.timestamps else out.text)
    else:
        write_file(expand(args.out), out.written(form).encode())


VERBS = {
    "transcribe": Verb(
        "write what is said in a recording",
        "jaxlm transcribe talk.mp3 --model whisper-tiny --language es --out talk.srt",
        _arguments,
        transcribe,
    )
}
