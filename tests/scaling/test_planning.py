import dataclasses
import math

import numpy as np
import pytest

from jaxlm.errors import UserError
from jaxlm.models import flops
from jaxlm.nn import AttentionConfig, BlockConfig, LayersConfig, MLPConfig
from jaxlm.scaling import BESIROGLU, budget, fit, optimum, serve, sweep
from tests import tiny
from tests.scaling import synthetic


def family(n: int):
    """A run of a model of n layers and width 16 n."""
    block = BlockConfig(AttentionConfig(H=n, K=16), MLPConfig(F=64 * n))
    return tiny.run(model=tiny.model(D=16 * n, layers=(LayersConfig((block,), n),)))


FAMILY = {f"depth {n}": family(n) for n in range(2, 9)}


def test_a_budget_of_chips():
    assert budget(64, "h100", 24, 0.4) == pytest.approx(64 * 989e12 * 24 * 3600 * 0.4)
    assert budget(1, "V5P", 1, 1) == pytest.approx(459e12 * 3600)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((64, "h1000", 24, 0.4), "unknown accelerator 'h1000': did you mean 'h100'"),
        ((0, "h100", 24, 0.4), "needs chips >= 1, hours > 0 and 0 < mfu <= 1, got 0, 24 and 0.4"),
        ((1, "h100", 24, 40), "0 < mfu <= 1"),
        ((1, "h100", float("nan"), 0.4), "hours > 0"),
    ],
)
def test_a_budget_that_cannot_be(arguments, message):
    with pytest.raises(UserError, match=message):
        budget(*arguments)


def test_the_best_of_a_budget_with_and_without_intervals():
    facts = optimum(BESIROGLU, 5.76e23, 2**20)
    best = BESIROGLU.optimum(5.76e23)
    assert facts["parameters"].value == best.parameters and math.isnan(facts["parameters"].low)
    assert facts["steps"] == round(best.tokens / 2**20)
    assert facts["tokens_per_parameter"] == pytest.approx(best.tokens / best.parameters)
    found = fit(synthetic.runs(noise=0.01, budgets=3, sizes=5), resamples=30)
    facts = optimum(found, 1e22, 2**19)
    for name in ("parameters", "tokens", "loss"):
        assert facts[name].low < facts[name].value < facts[name].high


def test_a_sweep_spends_the_budget_on_each():
    C = 1e13
    sizes = sweep(BESIROGLU, C, FAMILY)
    assert [size.name for size in sizes] == list(FAMILY)
    for size, run in zip(sizes, FAMILY.values()):
        assert size.parameters == flops.active_parameters(run.model)
        assert size.tokens == size.run.steps * run.tokens_per_step
        assert size.tokens * flops.train_flops(run.model, run.data.T) == pytest.approx(C, rel=0.01)
        assert dataclasses.replace(size.run, steps=run.steps) == run
        assert size.loss.value == BESIROGLU.loss(size.parameters, size.tokens)


def test_a_sweep_of_so_many_lies_round_the_best():
    sizes = {name: flops.active_parameters(run.model) for name, run in FAMILY.items()}
    best = sizes["depth 5"]
    C = best ** (1 / BESIROGLU.exponent) / BESIROGLU.optimum(1.0).parameters ** (1 / BESIROGLU.exponent)
    assert BESIROGLU.optimum(C).parameters == pytest.approx(best)
    picked = sweep(BESIROGLU, C, FAMILY, count=3)
    near = [n for n in sizes.values() if best / 4 <= n <= best * 4]
    assert [size.parameters for size in picked] == [min(near), best, max(near)]
    with pytest.raises(UserError, match=r"no config lies within a factor 4 of the best size, .* the nearest has"):
        sweep(BESIROGLU, 1e21, FAMILY, count=3)


def test_serving_wants_a_smaller_model_for_longer():
    C = 1e21
    best = BESIROGLU.optimum(C)
    nothing, little, much = (serve(BESIROGLU, C, served) for served in (1.0, 1e11, 1e13))
    assert nothing["parameters"] == pytest.approx(best.parameters, rel=0.02)
    assert nothing["train_flops"] == pytest.approx(C, rel=1e-3) and nothing["saved"] == pytest.approx(0, abs=1e-6)
    assert best.parameters > little["parameters"] > much["parameters"]
    for facts in (nothing, little, much):
        assert BESIROGLU.loss(facts["parameters"], facts["tokens"]) == pytest.approx(best.loss, rel=1e-9)
        sizes = facts["parameters"] * np.array([1, 0.95, 1.05])
        total, *around = 6 * sizes * BESIROGLU.tokens(sizes, best.loss) + 2 * sizes * facts["served"]
        assert facts["total_flops"] == pytest.approx(total) and min(around) > total  # it is the least


@pytest.mark.parametrize(
    "odd", [None, "x", 0, -1, float("nan"), float("inf"), 10**400, [1], np.ones(2)], ids=lambda x: repr(x)[:9]
)
def test_odd_budgets_are_refused(odd):
    for call in (
        lambda: optimum(BESIROGLU, odd, 1),
        lambda: optimum(BESIROGLU, 1e20, odd),
        lambda: serve(BESIROGLU, 1e20, odd),
        lambda: serve(odd, 1e20, 1e9),
        lambda: budget(odd, "h100", 1.0, 0.4),
        lambda: budget(1, odd, 1.0, 0.4),
        lambda: budget(1, "h100", 1.0, odd),
    ):
        with pytest.raises(UserError):
            call()
