"""The verb `families`: the models of other libraries that are opened here."""

from jaxlm.cli.verb import Args, Parser, Verb


def _arguments(parser: Parser) -> None:
    parser.add_argument("word", nargs="?", default="", help="only families in whose line it stands, such as Mamba")
    parser.add_argument("--markdown", action="store_true", help="as the table of the README")


def families(args: Args) -> None:
    print(text(args.word, args.markdown))


def text(word: str = "", markdown: bool = False) -> str:
    """A line for each family: what it is, its model types, and the class by which transformers opens each."""
    from jaxlm.convert.families import table

    lines = []
    for said, kinds, wrappers in table():
        if markdown:
            lines.append(f"| {said} | {', '.join(f'`{kind}`' for kind in (*kinds, *wrappers))} |")
        else:
            opened = [f"{kind} ({by or 'jaxlm only'})" for kind, by in kinds.items()]
            opened += [f"{kind} (its text model)" for kind in wrappers]
            lines.append(f"{', '.join(opened)}\n    {said}")
    found = [line for line in lines if word.lower() in line.lower()]
    if markdown:
        return "\n".join(["| family | `model_type` |", "|---|---|", *found])
    return "\n".join(found) or f"no family's line has {word[:80]!r} in it"


VERBS = {
    "families": Verb(
        "which models of other libraries are opened here, and what each is",
        "jaxlm families Mamba",
        _arguments,
        families,
    )
}
