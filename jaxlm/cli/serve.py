"""The verbs serve and chat."""

import os
from typing import Any

import jaxlm
from jaxlm.cli.verb import Args, Parser, Verb, natural
from jaxlm.errors import UserError
from jaxlm.paths import expand


def _serve_arguments(parser: Parser) -> None:
    parser.add_argument("path", help="a run, a checkpoint, a folder in Hugging Face's layout, a .gguf")
    parser.add_argument("--host", default="127.0.0.1", help="default: this machine only; others need JAXLM_API_KEY set")
    parser.add_argument("--port", type=natural, default=8000, metavar="N", help="default: 8000")
    parser.add_argument("--name", help="what clients call the model; default: the folder's name")
    parser.add_argument("--rows", type=natural, default=16, metavar="N", help="texts at a time; default: 16")
    parser.add_argument("--slots", type=natural, default=2048, metavar="N", help="tokens of a text; default: 2048")
    parser.add_argument("--queue", type=natural, default=256, metavar="N", help="texts that may wait; default: 256")
    parser.add_argument("--seconds", type=natural, default=600, metavar="N", help="of one request; default: 600")
    parser.add_argument("--template", help="a chat template's file or name: chatml, llama3, mistral, qwen3, ...")
    parser.add_argument(
        "--adapter",
        action="append",
        metavar="NAME=FOLDER",
        help="of peft's, beside the model: requests for the model NAME use it; may be repeated",
    )


def serve(args: Args) -> None:
    _needed("starlette", "uvicorn")
    from jaxlm.progress import Progress
    from jaxlm.serve import Limits, server_of
    from jaxlm.serve import serve as run
    from jaxlm.serve.run import check_host, name_of

    key = os.environ.get("JAXLM_API_KEY") or None
    check_host(args.host, key)
    name, template = args.name or name_of(args.path), _template(args.template)
    lm = jaxlm.load(args.path)
    for one in args.adapter or ():
        adapter, _, folder = one.partition("=")
        if not adapter or not folder or adapter == name or not hasattr(lm, "add_adapter"):
            raise UserError(f"--adapter {one}: NAME=FOLDER is wanted, of a language model, with a name of its own")
        lm.add_adapter(adapter, folder)
    how = {"rows": args.rows, "slots": args.slots, "queue": args.queue}
    with Progress(None, "compiling", "program") as bar:

        def told(done: int, total: int) -> None:
            bar.total = total
            bar.update(done)

        server = server_of(lm, name, key, template, Limits(seconds=args.seconds), told, **how)
    print(f"{name} at http://{args.host}:{args.port}: a page to chat, OpenAI's API under /v1; Ctrl-C stops", flush=True)
    run(server, args.host, args.port)


def _template(name: str | None) -> str | None:
    if name is None:
        return None
    path = expand(name)
    return path.read_text(encoding="utf-8") if path.is_file() else jaxlm.text.builtin_template(name)


def _needed(*modules: str) -> None:
    import importlib.util

    for module in modules:
        if importlib.util.find_spec(module) is None:
            raise UserError(f"serving needs {module}: pip install 'jaxlm[serve]'")


def _chat_arguments(parser: Parser) -> None:
    parser.add_argument("path", help="a run, a checkpoint, a folder in Hugging Face's layout, a .gguf")
    parser.add_argument("--system", help="the system message")
    parser.add_argument("--temperature", type=float, default=0.7, metavar="X", help="default: 0.7; 0 is greedy")
    parser.add_argument("--top-p", type=float, default=0.95, metavar="P", help="default: 0.95")
    parser.add_argument("--max-new-tokens", type=natural, default=256, metavar="N", help="of an answer; default: 256")
    parser.add_argument("--seed", type=natural, default=0, metavar="N", help="default: 0")
    parser.add_argument("--template", help="a chat template's file or name: chatml, llama3, mistral, qwen3, ...")
    parser.add_argument(
        "--think", choices=("yes", "no"), help="whether the model thinks first, where its template has that switch"
    )


def chat(args: Args) -> None:
    """Reads a line, streams an answer, until the end of input. /new forgets, /again answers anew."""
    import jax

    from jaxlm.text.chat.conversation import THINK, parted
    from jaxlm.text.chat.template import PLAIN

    sampler = jaxlm.Greedy() if args.temperature == 0 else jaxlm.Temperature(args.temperature) | jaxlm.TopP(args.top_p)
    lm = jaxlm.load(args.path)
    if not hasattr(lm, "stream") or lm.tokenizer is None:
        raise UserError(f"{args.path} is no language model with a tokenizer, so it cannot chat")
    template = _template(args.template) or lm.tokenizer.settings.chat_template or PLAIN
    if template == PLAIN:
        print("this model has no chat template: it continues what is said")
    system = [{"role": "system", "content": args.system}] if args.system else []
    said: list[dict[str, Any]] = list(system)
    turns, thinking = 0, {} if args.think is None else {"enable_thinking": args.think == "yes"}
    while (line := _line()) is not None:
        if line == "/new":
            said = list(system)
            continue
        if line == "/again":
            if not any(one["role"] == "user" for one in said):
                continue
            said = said[:-1] if said[-1]["role"] == "assistant" else said
        elif line.strip():
            said.append({"role": "user", "content": line})
        else:
            continue
        text = jaxlm.text.chat_text(lm.tokenizer, said, None, True, template, **thinking)
        pieces, turns = [], turns + 1
        key = jax.random.fold_in(jax.random.key(args.seed), turns)
        try:
            for piece in lm.stream(text, args.max_new_tokens, sampler, key):
                print(piece, end="", flush=True)
                pieces.append(piece)
        except KeyboardInterrupt:  # ends the answer, not the chat
            pass
        print()
        thought, answer = parted("".join(pieces), text.rstrip().endswith(THINK))
        said.append({"role": "assistant", "content": answer} | ({"reasoning_content": thought} if thought else {}))


def _line() -> str | None:
    try:
        return input("> ")
    except EOFError:
        return None


VERBS = {
    "serve": Verb(
        "serve a model: OpenAI's API and a page", "jaxlm serve runs/quickstart --port 8000", _serve_arguments, serve
    ),
    "chat": Verb("talk with a model in the terminal", "jaxlm chat Qwen3-0.6B", _chat_arguments, chat),
}
