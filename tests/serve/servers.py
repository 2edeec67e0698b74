"""A server of a tiny random model over bytes, for tests."""

import functools

import jax

from jaxlm.api.model import LanguageModel
from jaxlm.models import abstract
from jaxlm.models.model import init_boxed
from jaxlm.serve import server_of
from jaxlm.sharding import unbox
from jaxlm.text import ByteTokenizer
from tests import tiny

SLOTS = 256


@functools.cache
def lm():
    config = tiny.model()
    assert abstract(config)
    params = unbox(jax.jit(lambda: init_boxed(config, jax.random.key(0)))())
    return LanguageModel(config, jax.tree.map(lambda x: 2 * x, params), ByteTokenizer())


def server(**how):
    return server_of(lm(), "tiny", **({"rows": 4, "slots": SLOTS, "chunks": (1, 16), "prefix_memory": 2**20} | how))
