"""Quantised folders as they are published: packed here slowly, number by number, and read as plain weights."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

import jaxlm
from jaxlm.convert.files import opened
from jaxlm.convert.quantised import E2M1, Plain
from jaxlm.errors import UserError
from jaxlm.ops import codes
from tests.convert.checkpoints import LLAMA, llama

SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1}
RNG = np.random.default_rng(0)


def pack(columns, bits, order=None):
    """(n, m) numbers as int32 (n, m bits / 32), the lowest bits first."""
    each = 32 // bits
    packed = np.zeros((len(columns), columns.shape[1] // each), np.uint32)
    for row, numbers in enumerate(columns):
        for at, number in enumerate(numbers):
            place = at % each if order is None else order.index(at % each)
            packed[row, at // each] |= np.uint32(number) << np.uint32(place * bits)
    return packed.view(np.int32)


def gptq(shape, bits=4, version=1, act_order=False):
    """The tensors of a matrix (outputs, inputs), and the matrix."""
    outputs, inputs = shape
    groups = inputs // 16
    q = RNG.integers(0, 2**bits, (inputs, outputs))
    zeros = RNG.integers(1, 2**bits, (groups, outputs))
    scales = RNG.uniform(0.01, 0.02, (groups, outputs)).astype(np.float16)
    group = RNG.permutation(np.arange(inputs) // 16) if act_order else np.arange(inputs) // 16
    w = np.array([[(q[i, o] - zeros[group[i], o]) * np.float32(scales[group[i], o]) for i in range(inputs)]
                  for o in range(outputs)], np.float32)  # fmt: skip
    parts = {"qweight": pack(q.T, bits).T, "qzeros": pack(zeros - (version == 1), bits), "scales": scales}
    return parts | {"g_idx": group.astype(np.int32)}, w


def awq(shape):
    outputs, inputs = shape
    groups = inputs // 16
    q, zeros = RNG.integers(0, 16, (inputs, outputs)), RNG.integers(0, 16, (groups, outputs))
    scales = RNG.uniform(0.01, 0.02, (groups, outputs)).astype(np.float16)
    order = [0, 2, 4, 6, 1, 3, 5, 7]
    w = (q - zeros.repeat(16, 0)) * scales.astype(np.float32).repeat(16, 0)
    return {"qweight": pack(q, 4, order), "qzeros": pack(zeros, 4, order), "scales": scales}, w.T


def fp8(shape):
    q = RNG.normal(size=shape).astype(np.float32).astype(jnp.float8_e4m3fn)
    scale = RNG.uniform(0.01, 0.02, [-(-n // 24) for n in shape]).astype(np.float32)
    w = [[np.float32(q[o, i]) * scale[o // 24, i // 24] for i in range(shape[1])] for o in range(shape[0])]
    return {"weight": q, "weight_scale_inv": scale}, np.array(w, np.float32)


def nf4(shape, double=True):
    w = RNG.normal(size=shape).astype(np.float32)
    packed, scale = codes.quantize(jnp.asarray(w).reshape(-1, 64), "nf4", 64)
    state = {"quant_type": "nf4", "blocksize": 64, "dtype": "float32", "shape": shape}
    parts = {"weight": np.asarray(packed).reshape(-1, 1), "weight.quant_map": codes.NF4}
    scale = np.asarray(scale).ravel()
    if double:
        code, largest, mean = codes.quantize_scales(jnp.asarray(scale)[None])
        state |= {"nested_blocksize": 256, "nested_offset": float(mean[0]), "nested_dtype": "float32"}
        parts |= {"weight.nested_absmax": np.asarray(largest)[0], "weight.nested_quant_map": codes.dynamic_levels()}
        parts["weight.absmax"] = np.asarray(code)[0]
        scale = np.asarray(codes.scales(code, largest, mean))[0]
    else:
        parts["weight.absmax"] = scale
    said = np.frombuffer(json.dumps(state).encode(), np.uint8)
    plain = np.asarray(codes.unpack(packed, "nf4")) * scale[:, None]
    return parts | {"weight.quant_state.bitsandbytes__nf4": said}, plain.reshape(shape)


KINDS = {
    "gptq": (gptq, {"quant_method": "gptq", "bits": 4, "group_size": 16}),
    "gptq_8_v2_act": (
        lambda shape: gptq(shape, 8, 2, True),
        {"quant_method": "gptq", "bits": 8, "group_size": 16, "desc_act": True, "checkpoint_format": "gptq_v2"},
    ),
    "awq": (awq, {"quant_method": "awq", "bits": 4, "group_size": 16}),
    "fp8": (fp8, {"quant_method": "fp8", "weight_block_size": [24, 24]}),
    "nf4": (nf4, {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}),
    "nf4_single": (
        lambda shape: nf4(shape, False),
        {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
    ),
}


@pytest.fixture(params=KINDS)
def folders(request, tmp_path):
    """A quantised folder and one of its plain weights."""
    make, settings = KINDS[request.param]
    stored, plain = {}, {}
    for name, w in llama(**SIZES).items():
        if "_proj" not in name:
            stored[name] = plain[name] = w
            continue
        parts, plain[name] = make(w.shape)
        base = name.removesuffix("weight")
        stored |= {base + part: np.ascontiguousarray(x) for part, x in parts.items()}
        plain[name] = np.ascontiguousarray(plain[name], np.float32)
    for folder, tensors, more in (("q", stored, {"quantization_config": settings}), ("p", plain, {})):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "config.json").write_text(json.dumps(LLAMA | SIZES | more))
        save_file(tensors, tmp_path / folder / "model.safetensors")
    return tmp_path / "q", tmp_path / "p"


def test_it_is_its_plain_weights(folders, tmp_path):
    lines = []
    found, wanted = jaxlm.load(folders[0], say=lines.append), jaxlm.load(folders[1])
    assert any("they are made plain" in line for line in lines)
    for name, w in wanted.to_hf().items():
        np.testing.assert_allclose(found.to_hf()[name], w, rtol=1e-6, err_msg=name)
    found.save(tmp_path / "again")
    assert "quantization_config" not in json.loads((tmp_path / "again" / "config.json").read_text())


def test_mxfp4_experts(tmp_path):
    """(experts, outputs, groups, 16 bytes) with a power of two each, as (experts, inputs, outputs)."""
    packed = RNG.integers(0, 256, (2, 6, 3, 16)).astype(np.uint8)
    scales = RNG.integers(120, 130, (2, 6, 3)).astype(np.uint8)
    save_file({"x_blocks": packed, "x_scales": scales, "y": scales}, tmp_path / "model.safetensors")
    with opened(tmp_path) as checkpoint:
        plain = Plain(checkpoint, {"quant_method": "mxfp4"}, "float32")
        assert plain.stored.keys() == {"x", "y"} and plain.stored["x"].shape == (2, 96, 6)
        found = plain.read("x")
    for e, o, g, i in np.ndindex(2, 6, 3, 32):
        code = packed[e, o, g, i // 2] >> (4 * (i % 2)) & 15
        level = E2M1[code & 7] * (-1 if code & 8 else 1)
        assert found[e, g * 32 + i, o] == level * 2.0 ** (int(scales[e, o, g]) - 127)


@pytest.mark.parametrize(
    ("spoil", "line"),
    [
        (lambda t: t.pop("x.scales"), "x.qweight has no scales beside it"),
        (lambda t: t.pop("x.qzeros"), "x.weight cannot be made of its quantised parts: 'x.qzeros'"),
        (lambda t: t.update({"x.g_idx": t["x.g_idx"] + 9}), "x.weight cannot be made of its quantised parts"),
        (lambda t: t.update({"x.g_idx": t["x.g_idx"][:-1]}), "x.weight cannot be made of its quantised parts"),
    ],
)
def test_bad_input(tmp_path, spoil, line):
    tensors = {f"x.{name}": np.ascontiguousarray(x) for name, x in gptq((16, 32))[0].items()}
    spoil(tensors)
    save_file(tensors, tmp_path / "model.safetensors")
    with opened(tmp_path) as checkpoint, pytest.raises(UserError, match=line):
        Plain(checkpoint, {"quant_method": "gptq", "bits": 4}, "float32").read("x.weight")
    with opened(tmp_path) as checkpoint, pytest.raises(UserError, match=r"3 bits|no scales"):
        Plain(checkpoint, {"quant_method": "gptq", "bits": 3}, "float32")
