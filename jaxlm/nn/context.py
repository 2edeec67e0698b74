"""What every layer of one forward pass shares: where the tokens stand, and what a cache behind them holds."""

from typing import Any

from flax import struct

from jaxlm import sharding
from jaxlm.axes import Array


@struct.dataclass
class Context:
    """Positions and segments of the tokens being computed.

    `positions_BT` may have one row, for all. `segments_BT` None means that every row is one unpadded text.
    Where a layer is given a past, `end` tokens stand in it, one number or one for each row (B,), and row b's text
    begins at its token `start_B[b]`.
    `memory_BSD` is what cross attention reads, such as an encoder's output, and may be of another width than the tokens
    being computed; `memory_mask_BS` is False on its padding. Where rows have several texts, `memory_segments_BS` tells
    which of the memory each of `segments_BT` sees. Decoding needs neither: the past has the memory.
    `global_BA` are the places, in their row, of A tokens that see all and are seen by all where other attention is
    local (Longformer); -1 is none.
    `bias_1HA` is the table of a position bias that all layers share, see `nn.bias.SharedBucketsConfig`.
    `handed` is what an earlier layer hands on (`nn.state.Recurrent`): RWKV-7's first values.
    `prefix_N2GnK` are keys and values of n virtual tokens before every text, for each layer (`nn.virtual`); positions
    count them.
    `layer` is the number of the layer that reads it, from 0: few need it, and it may be traced.
    """

    positions_BT: Array
    segments_BT: Array | None = None
    end: Array | None = None
    start_B: Array | None = None
    layer: Any = 0
    memory_BSD: Array | None = None
    memory_mask_BS: Array | None = None
    memory_segments_BS: Array | None = None
    bias_1HA: Array | None = None
    global_BA: Array | None = None
    handed: Any = None
    prefix_N2GnK: Array | None = None

    @property
    def whole_segments_BT(self) -> Array | None:
        """Segments of whole rows, whichever devices divide positions: what a recurrence along a row reads."""
        return None if self.segments_BT is None else sharding.replicated(self.segments_BT, 1)
