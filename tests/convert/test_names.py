"""Each rule against the same thing written out in numpy, both ways."""

import numpy as np
import pytest

from jaxlm.convert.names import Weight, flat, linear, same, tensors
from jaxlm.models import LMConfig
from jaxlm.nn import AttentionConfig, BlockConfig, LayersConfig, MLPConfig
from jaxlm.sharding import Axes

D, H, G, K, J, F, E, L = 6, 4, 2, 3, 5, 7, 2, 8

SHAPES = {  # dimensions and which of them are summed over
    "table": ("VD", ()),
    "q": ("DHK", (0,)),
    "k": ("DGK", (0,)),
    "v": ("DGK", (0,)),
    "o": ("HKD", (0, 1)),
    "head": ("VD", (1,)),
    "q_bias": ("HK", ()),
    "k_bias": ("GK", ()),
    "v_bias": ("GK", ()),
    "kv_down": ("DL", (0,)),
    "k_rope": ("DK", (0,)),
    "k_up": ("LHK", (0,)),
    "v_up": ("LHJ", (0,)),
    "gate": ("DF", (0,)),
    "up": ("DF", (0,)),
    "gates": ("EDF", (1,)),
    "ups": ("EDF", (1,)),
    "downs": ("EFD", (1,)),
    "gate_biases": ("EF", ()),
    "up_biases": ("EF", ()),
}


def weight(name: str) -> Weight:
    letters, inputs = SHAPES[name]
    names = tuple("experts" if letter == "E" else None for letter in letters)
    sizes = {"D": D, "H": H, "G": G, "K": K, "J": J, "F": F, "E": E, "L": L, "V": 9}
    return Weight((name,), tuple(sizes[letter] for letter in letters), Axes(names, inputs))


def rows(w):
    """(D, heads, width) or (D, width) as (outputs, D)."""
    return w.reshape(w.shape[0], -1).T


def heads(*ws):
    """Head after head, the rows of each weight."""
    return np.concatenate([w[:, h].T for h in range(H) for w in ws])


def groups(q, k, v):
    """Key head after key head: its query heads, itself and its values (Falcon, InternLM)."""
    R = H // G
    return np.concatenate([rows(w) for g in range(G) for w in (q[:, g * R : (g + 1) * R], k[:, g], v[:, g])])


def alternating(gate, up):
    out = np.empty((*gate.shape[:-1], 2 * gate.shape[-1]), gate.dtype)
    out[..., ::2], out[..., 1::2] = gate, up
    return out


@pytest.mark.parametrize(
    "rule, written",
    [
        (same("table"), lambda w: w),
        (linear("q"), lambda w: w.reshape(D, H * K).T),
        (linear("o"), lambda w: w.reshape(H * K, D).T),
        (linear("head"), lambda w: w),
        (linear("o", transposed=True), lambda w: w.reshape(H * K, D)),
        (flat("q_bias"), lambda w: w.reshape(H * K)),
        (linear("q", "k", "v"), lambda *w: np.concatenate(list(map(rows, w)))),
        (linear("q", "k", "v", transposed=True), lambda *w: np.concatenate([x.reshape(D, -1) for x in w], 1)),
        (flat("q_bias", "k_bias", "v_bias"), lambda *w: np.concatenate([x.reshape(-1) for x in w])),
        (linear("gate", "up"), lambda g, u: np.concatenate([g.T, u.T])),
        (linear("kv_down", "k_rope"), lambda *w: np.concatenate([x.T for x in w])),
        (linear("k_up", "v_up", by="heads"), heads),
        (linear("q", "q", "q", by="heads"), heads),
        (linear("q", "k", "v", by="heads"), groups),
        (flat("q_bias", "q_bias", by="heads"), lambda a, b: np.concatenate([a, b], 1).reshape(-1)),
        (linear("gates", experts=True), lambda w: w.transpose(0, 2, 1)),
        (linear("downs", experts=True, transposed=True), lambda w: w),
        (linear("gates", "ups", experts=True, transposed=True), lambda *w: np.concatenate(w, 2)),
        (linear("gates", "ups", by="units", experts=True, transposed=True), alternating),
        (flat("gate_biases", "up_biases", by="units", experts=True), alternating),
    ],
    ids=lambda x: f"{'+'.join(x.paths)}" if hasattr(x, "paths") else "",
)
def test_rules(rule, written):
    rng = np.random.default_rng(0)
    weights = tuple(map(weight, rule.paths))
    ours = [rng.normal(size=w.shape).astype(np.float32) for w in weights]
    tensor = rule.write(ours, weights)
    assert tensor.shape == rule.shape(weights)
    np.testing.assert_array_equal(tensor, written(*ours))
    for back, w in zip(rule.read(np.array(tensor), weights), ours, strict=True):
        np.testing.assert_array_equal(back, w)


# The tensors of a model ----------------------------------------------------------------------------------------------

NAMES = {
    "embed": same("embed.table"),
    "head": linear("head"),
    "norm": same("norm.scale"),
    "layers.{}.norm1": same("norm1.scale"),
    "layers.{}.norm2": same("norm2.scale"),
    **{f"layers.{{}}.{n}": linear(f"mixer.{n}") for n in "qkvo"},
    **{f"layers.{{}}.{n}_bias": flat(f"mixer.{n}_bias") for n in "qkv"},
    "layers.{}.gate_up": linear("ffn.gate", "ffn.up"),
    "layers.{}.up": linear("ffn.up"),
    "layers.{}.down": linear("ffn.down"),
}


def model(**changes):
    block = lambda K, **more: BlockConfig(AttentionConfig(H=2, K=K, **more), MLPConfig(F=6, gated=K == 4))
    layers = (LayersConfig((block(2, bias=True), block(4)), 2), LayersConfig((block(6),), 3))
    return LMConfig(V=9, D=4, layers=layers, **changes)


def test_layers_are_numbered_through_segments_periods_and_blocks():
    found = {tensor.name: tensor for tensor in tensors(NAMES, model())}
    places = {
        0: ("segment_0", "block_0", 0),
        1: ("segment_0", "block_1", 0),
        2: ("segment_0", "block_0", 1),
        3: ("segment_0", "block_1", 1),
        **{4 + i: ("segment_1", "block_0", i) for i in range(3)},
    }
    for layer, (group, block, period) in places.items():
        tensor = found[f"layers.{layer}.q"]
        assert tensor.weights[0].key == (group, "periods", block, "mixer", "q")
        assert tensor.index == (period,)
        assert tensor.shape == ({0: 2, 1: 4, 2: 2, 3: 4}.get(layer, 6) * 2, 4)
    assert found["embed"].index == () and found["embed"].shape == (9, 4)
    assert "layers.7.q" not in found


def test_a_line_holds_for_the_layers_that_have_its_weights():
    found = {tensor.name for tensor in tensors(NAMES, model())}
    assert {"layers.0.q_bias", "layers.2.q_bias"} <= found and "layers.1.q_bias" not in found
    assert {"layers.0.up", "layers.1.gate_up"} <= found
    assert not {"layers.0.gate_up", "layers.1.up", "head"} & found
    assert "head" in {tensor.name for tensor in tensors(NAMES, model(tied=False))}


MOE = {
    "layers.{}.norm": same("norm1.scale"),
    "layers.{}.up": linear("ffn.up"),
    "layers.{}.router": linear("ffn.router"),
    "layers.{}.router_bias": same("ffn.router_bias"),
    "layers.{}.shared.up": linear("ffn.shared.up"),
    "layers.{}.experts.{e}.up": linear("ffn.up"),
    "layers.{}.experts.{e}.up_bias": flat("ffn.up_bias"),
}
STACKED = {
    **{name: rule for name, rule in MOE.items() if "{e}" not in name},
    "layers.{}.experts.up": linear("ffn.up", experts=True),
    "layers.{}.experts.up_bias": same("ffn.up_bias"),
}


def test_experts_each_in_a_tensor_or_all_in_one(monkeypatch):
    """Two dense layers, then three of two experts."""

    def of(group, path, letters, inputs=()):
        key = (group, "periods", "block_0", *path.split("."))
        names = ("layers", *("experts" if letter == "E" else None for letter in letters))
        sizes = (2 if group == "segment_0" else 3, *({"D": D, "F": F, "E": E}[letter] for letter in letters))
        return Weight(key, sizes, Axes(names, tuple(i + 1 for i in inputs)))

    weights = [of(group, "norm1.scale", "D") for group in ("segment_0", "segment_1")]
    weights += [of("segment_0", "ffn.up", "DF", (0,)), of("segment_1", "ffn.up", "EDF", (1,))]
    weights += [of("segment_1", "ffn.router", "DE", (0,)), of("segment_1", "ffn.router_bias", "E")]
    weights += [of("segment_1", "ffn.shared.up", "DF", (0,)), of("segment_1", "ffn.up_bias", "EF")]
    monkeypatch.setattr("jaxlm.convert.names.weights_of", lambda config: weights)
    block = BlockConfig(AttentionConfig(H=2, K=2), MLPConfig(F=2))
    config = LMConfig(V=9, D=4, layers=(LayersConfig((block,), 2), LayersConfig((block,), 3)))

    found = {tensor.name: tensor for tensor in tensors(MOE, config)}
    assert {name for name in found if "layers.1." in name} == {"layers.1.norm", "layers.1.up"}
    assert found["layers.1.up"].shape == (F, D) and found["layers.1.up"].index == (1,)
    below = {f"experts.{e}.{name}" for e in range(E) for name in ("up", "up_bias")}
    below |= {"norm", "router", "router_bias", "shared.up"}
    assert {name for name in found if "layers.4." in name} == {f"layers.4.{name}" for name in below}
    assert found["layers.4.experts.1.up"].shape == (F, D) and found["layers.4.experts.1.up"].index == (2, 1)
    assert found["layers.4.experts.1.up_bias"].shape == (F,) and found["layers.4.router"].shape == (E, D)

    found = {tensor.name: tensor for tensor in tensors(STACKED, config)}
    assert found["layers.0.up"].shape == (F, D) and "layers.0.experts.up" not in found
    assert found["layers.3.experts.up"].shape == (E, F, D) and found["layers.3.experts.up"].index == (1,)
    assert found["layers.3.experts.up_bias"].shape == (E, F) and "layers.3.up" not in found


def test_a_table_must_name_every_weight():
    with pytest.raises(AssertionError, match=r"no line for mixer\.q$"):
        list(tensors({name: rule for name, rule in NAMES.items() if name != "layers.{}.q"}, model()))
