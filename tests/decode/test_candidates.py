import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.decode import Beam, TopP, candidates
from jaxlm.errors import UserError
from tests.decode.constrained.test_constraint import lm


def test_a_table_of_the_likeliest_tokens():
    p = np.array([0.1, 0.4, 0.2, 0.3])
    drawn = jnp.log(jnp.array([0.0, 4 / 7, 0.0, 3 / 7]))
    assert candidates(jnp.log(jnp.asarray(p)), drawn, 3, "abcd".__getitem__).splitlines() == [
        "rank      p    sum  drawn  token",
        "   1  0.400  0.400  0.571  'b'",
        "   2  0.300  0.700  0.429  'd'",
        "   3  0.200  0.900  0.000  'c'",
    ]


def test_of_a_model_with_a_sampler():
    lines = lm().explain("def ", 300, TopP(0.5)).splitlines()
    assert len(lines) == 1 + 257  # those that the tokenizer has
    totals = [float(line.split()[2]) for line in lines[1:]]
    drawn = [float(line.split()[3]) for line in lines[1:]]
    assert totals == sorted(totals) and totals[-1] == 1.0 and abs(sum(drawn) - 1) < 0.2
    assert drawn[0] > float(lines[1].split()[1]) and drawn[-1] == 0
    with pytest.raises(UserError, match="beam search chooses by whole texts"):
        lm().explain("def ", sampler=Beam(2))
    with pytest.raises(UserError, match="k must be at least 1"):
        lm().explain("def ", 0)
