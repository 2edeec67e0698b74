"""Layers of every kind of recurrence by name, of one width, for configs that compare them."""

from jaxlm.errors import UserError, unknown
from jaxlm.nn import (
    AttentionConfig,
    BlockConfig,
    ChannelMixConfig,
    DeltaNetConfig,
    GLAConfig,
    GRUConfig,
    H3Config,
    HGRN2Config,
    HGRNConfig,
    HyenaConfig,
    LayerConfig,
    LayersConfig,
    LSTMConfig,
    Mamba2Config,
    MambaConfig,
    MLPConfig,
    RetNetConfig,
    RGLRUConfig,
    S4Config,
    TimeMix5Config,
    TimeMix6Config,
    TimeMix7Config,
    group_layers,
    matrix_rwkv_layer,
    rwkv_layer,
)

KINDS = ("llama", "mamba", "mamba2", "rwkv4", "lstm", "lstm_block", "gru", "rg_lru")
KINDS += ("retnet", "gla", "hgrn", "hgrn2", "rwkv5", "rwkv6", "rwkv7")
KINDS += ("s4", "s4d", "h3", "hyena")
KINDS += ("deltanet", "deltanet_negative", "gated_deltanet", "kda")


def layer(kind: str, D: int, H: int, first: bool = False) -> LayerConfig:
    """A layer of width D with H heads; of RWKV-7 the first hands on its values."""
    if kind not in KINDS:
        raise unknown("model", kind, KINDS)
    if D % (2 * H):
        raise UserError(f"H={H} heads do not divide D={D} into even widths")
    K, low = D // H, max(8, D // 4)
    block = lambda mixer: BlockConfig(mixer, MLPConfig(F=-(-D * 8 // 3 // 16) * 16))
    rwkv = lambda time, gated=True: matrix_rwkv_layer(time, ChannelMixConfig(D, 4 * D, gated))
    ranks = {"L_decay": low, "L_rate": low, "L_value": low, "L_gate": low}
    made = {
        "llama": lambda: block(AttentionConfig(H=H, K=K)),
        "mamba": lambda: BlockConfig(MambaConfig(F=2 * D), None),
        "mamba2": lambda: BlockConfig(Mamba2Config(H=H, K=2 * K, Z=32), None),
        "rwkv4": lambda: rwkv_layer(D, D, 4 * D),
        "lstm": lambda: block(LSTMConfig(D)),
        "lstm_block": lambda: block(LSTMConfig(D, H)),
        "gru": lambda: block(GRUConfig(D)),
        "rg_lru": lambda: block(RGLRUConfig(D, H)),
        "s4": lambda: block(S4Config(D)),
        "s4d": lambda: block(S4Config(D, kind="lin")),
        "h3": lambda: block(H3Config(D, W=16)),
        "hyena": lambda: block(HyenaConfig(D, length=256)),
        "retnet": lambda: block(RetNetConfig(H, K, 2 * K)),
        "gla": lambda: block(GLAConfig(H, K // 2, K)),
        "hgrn": lambda: block(HGRNConfig(H, K)),
        "hgrn2": lambda: block(HGRN2Config(H, K)),
        "rwkv5": lambda: rwkv(TimeMix5Config(H, K, D=D)),
        "rwkv6": lambda: rwkv(TimeMix6Config(H, K, D=D, L=low, L_decay=low)),
        "rwkv7": lambda: rwkv(TimeMix7Config(H, K, D=D, first=first, **ranks), gated=False),
        "deltanet": lambda: block(DeltaNetConfig(H, K)),
        "deltanet_negative": lambda: block(DeltaNetConfig(H, K, negative=True)),
        "gated_deltanet": lambda: block(DeltaNetConfig(H, K, decay="head")),
        "kda": lambda: block(DeltaNetConfig(H, K, decay="channel")),
    }
    return made[kind]()


def layers(kinds: list[str], D: int, H: int) -> tuple[LayersConfig, ...]:
    """Layers of these kinds, in order."""
    return group_layers([layer(kind, D, H, kind not in kinds[:i]) for i, kind in enumerate(kinds)])
