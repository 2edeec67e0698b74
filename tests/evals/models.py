"""A model that knows what it is told, for tests of what is made of its answers."""

from jaxlm.evals.model import Scored


class Told:
    """Likes continuations in `liked`, writes `answers[prompt's last words]`, gives each byte 1 nat."""

    name = "told"

    def __init__(self, liked=(), answers=None):
        self.liked, self.answers, self.prompts = liked, answers or {}, []

    def logprobs(self, pairs):
        self.prompts += [context for context, _ in pairs]
        good = [text.strip() in self.liked or context in self.liked for context, text in pairs]
        return [Scored(-len(text) / (9 if g else 1), g, len(text.split())) for g, (_, text) in zip(good, pairs)]

    def rolling(self, texts, stride=None):
        return [Scored(-float(len(text.encode())), False, len(text.split())) for text in texts]

    def generate(self, prompts, max_new_tokens=256, stop=(), temperature=0.0, seed=0):
        self.prompts += prompts
        found = [next((a for key, a in self.answers.items() if key in prompt[-400:]), "") for prompt in prompts]
        return [one(seed) if callable(one) else one for one in found]
