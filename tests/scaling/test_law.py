import numpy as np
import pytest

from jaxlm.scaling import BESIROGLU, HOFFMANN, Chinchilla, Kaplan

KAPLAN = Kaplan(N_c=6.4e13, D_c=1.8e13, alpha_N=0.076, alpha_D=0.103)  # table 2 of arXiv:2001.08361
LAWS = [BESIROGLU, HOFFMANN, KAPLAN]


def test_the_losses_by_their_equations():
    assert HOFFMANN.loss(70e9, 1.4e12) == pytest.approx(1.69 + 406.4 / 70e9**0.34 + 410.7 / 1.4e12**0.28)
    expected = ((6.4e13 / 1e9) ** (0.076 / 0.103) + 1.8e13 / 1e10) ** 0.103
    assert KAPLAN.loss(1e9, 1e10) == pytest.approx(expected)


@pytest.mark.parametrize("law", LAWS, ids=["besiroglu", "hoffmann", "kaplan"])
def test_the_optimum_is_that_of_a_search(law):
    flops = 3e20
    sizes = np.geomspace(1e7, 1e12, 200_001)
    losses = law.loss(sizes, flops / (6 * sizes))
    best = law.optimum(flops)
    assert best.parameters == pytest.approx(sizes[losses.argmin()], rel=1e-3)
    assert best.loss == pytest.approx(losses.min(), rel=1e-9) and 6 * best.parameters * best.tokens == flops
    growth = np.log(law.optimum(100 * flops).parameters / best.parameters) / np.log(100)
    assert growth == pytest.approx(law.exponent)


@pytest.mark.parametrize("law", LAWS, ids=["besiroglu", "hoffmann", "kaplan"])
def test_tokens_undo_the_loss(law):
    assert law.tokens(2e9, law.loss(2e9, 5e10)) == pytest.approx(5e10)
    assert law.tokens(1e3, 0.9 * law.loss(2e9, 5e10)) == np.inf  # too small at any length


def test_constants_may_be_arrays():
    both = Chinchilla(*np.transpose([[1.8, 480, 2000, 0.35, 0.36], [1.69, 406.4, 410.7, 0.34, 0.28]]))
    assert both.optimum(1e21).parameters[1] == pytest.approx(HOFFMANN.optimum(1e21).parameters)


def test_the_published_laws_say_what_their_papers_do():
    assert BESIROGLU.exponent == pytest.approx(0.513, abs=1e-3)
    assert HOFFMANN.exponent == pytest.approx(0.452, abs=1e-3)  # 0.46 before their constants were rounded
    best = BESIROGLU.optimum(5.76e23)  # Chinchilla's budget: 70B parameters, 1.4T tokens
    assert best.parameters == pytest.approx(70e9, rel=0.05) and best.tokens == pytest.approx(1.4e12, rel=0.06)
