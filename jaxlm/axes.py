"""The legend of axis letters, one meaning each, in array names (`x_BTD`), einsums (lower case) and config fields.

    B  batch rows                       G  key/value heads             L  low-rank width
    T  positions being computed         R  queries per key/value head  Z  recurrent state width
    S  positions attended to            K  head width                  M  memory rows
    D  model width                      F  feed-forward width          W  window or kernel width
    H  query heads                      V  vocabulary                  A  alternatives (beams, samples)
    N  layers                           E  experts                     Y X C  image height, width, channels
    Q  slots per expert

So `q_BTHK` is (batch, positions, query heads, head width) and H = G * R. Scalars and trees carry no suffix.
"""

from typing import Any

import jax

Array = jax.Array
Params = Any  # a nested dict of arrays, as flax.linen makes it
