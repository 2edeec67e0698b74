"""The public harness (lm-evaluation-harness) with a model of ours: all its tasks run, by `lm_eval.simple_evaluate`.

    import lm_eval
    from jaxlm.evals.harness import adapter
    lm_eval.simple_evaluate(adapter(Local(jaxlm.load(path))), tasks=["hellaswag", "gsm8k"])

pip install jaxlm[lm-eval]; the harness fetches the tasks' data by itself.
"""

from typing import Any

from jaxlm.errors import UserError
from jaxlm.evals.model import Row, TokenModel


def adapter(model: TokenModel) -> Any:
    """An `lm_eval` model. Raises UserError without the harness, and for a server whose tokenizer is not known."""
    try:
        from lm_eval.api.model import TemplateLM  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise UserError("the public harness is not installed: pip install jaxlm[lm-eval]") from None
    if model.tokenizer is None:
        raise UserError("the harness needs the model's tokenizer: give Server(..., tokenizer=...)")
    tokenizer = model.tokenizer

    class Adapter(TemplateLM):
        backend = "causal"
        tokenizer_name = model.name
        max_length = model.length

        @property
        def eot_token_id(self) -> int:
            return tokenizer.eos if tokenizer.eos is not None else tokenizer.eot

        @property
        def prefix_token_id(self) -> int:
            return tokenizer.eot

        def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
            return tokenizer.encode(string) if add_special_tokens is False else tokenizer.encode_prompt(string)

        def _loglikelihood_tokens(self, requests: Any, disable_tqdm: bool = False, **kwargs: Any) -> Any:
            rows = [Row((before + new)[-(model.length + 1) :], len(new)) for _, before, new in requests]
            found = [(one.logprob, one.greedy) for one in model.score(rows)]
            for (key, _, _), answer in zip(requests, found):
                if key is not None:
                    self.cache_hook.add_partial("loglikelihood", key, answer)
            return found

        def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = False) -> list[float]:
            texts = [one.args[0] for one in requests]
            found = [one.logprob for one in model.rolling(texts)]
            for text, total in zip(texts, found):
                self.cache_hook.add_partial("loglikelihood_rolling", (text,), total)
            return found

        def generate_until(self, requests: Any, disable_tqdm: bool = False) -> list[str]:
            found, kinds = [""] * len(requests), {}
            for i, one in enumerate(requests):
                how = one.args[1]
                stop = how.get("until") or []
                stop = tuple([stop] if isinstance(stop, str) else stop)
                warm = float(how.get("temperature") or 0.0) if how.get("do_sample") else 0.0
                kinds.setdefault((stop, int(how.get("max_gen_toks", 256)), warm), []).append(i)
            for (stop, new, warm), at in kinds.items():
                for i, text in zip(at, model.generate([requests[i].args[0] for i in at], new, stop, warm)):
                    found[i] = text
                    self.cache_hook.add_partial("generate_until", requests[i].args, text)
            return found

        def apply_chat_template(self, chat_history: Any, add_generation_prompt: bool = True) -> str:
            from jaxlm.text import chat_text

            return chat_text(tokenizer, chat_history, add_generation_prompt=add_generation_prompt)

    return Adapter()
