"""Code that a model writes, run against its tests in the sandbox: HumanEval's and MBPP's form."""

from collections.abc import Sequence

from jaxlm.evals import sandbox
from jaxlm.evals.answers import code_block
from jaxlm.evals.items import Scores
from jaxlm.evals.sandbox import Limits

HUMANEVAL_STOPS = ("\nclass", "\ndef", "\n#", "\nif", "\nprint")
MBPP_STOPS = ("[DONE]", "\nclass", "\nassert", '\n"""', "\nprint")
LIMITS = Limits(seconds=3.0)


def humaneval(prompt: str, tests: str, entry_point: str, isolation: str = "walls"):
    """completion -> {"pass": 0 or 1}; a completion that is a whole program in a fence stands alone."""

    def judge(text: str) -> Scores:
        whole = code_block(text) if "```" in text and f"def {entry_point}" in text else prompt + text
        return {"pass": float(sandbox.passes(whole, f"{tests}\ncheck({entry_point})", LIMITS, isolation))}

    return judge


def mbpp(tests: Sequence[str], setup: str = "", isolation: str = "walls"):
    """program -> {"pass": 0 or 1}."""

    def judge(text: str) -> Scores:
        return {"pass": float(sandbox.passes(f"{setup}\n{code_block(text)}", "\n".join(tests), LIMITS, isolation))}

    return judge
