"""`scripts/bench tpu`: what is read of a program, and that a decoding step copies no cache and reads weights once."""

import importlib
import importlib.util
import json
from pathlib import Path

import pytest

from jaxlm.plan.hlo import Module

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"
NO_COMPILER = not importlib.util.find_spec("libtpu")


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    monkeypatch.setenv("XLA_FLAGS", "")
    monkeypatch.delenv("JAX_NUMPY_RANK_PROMOTION")
    return lambda name: importlib.import_module(f"benchsuite.{name}")


PRODUCTS = """
%fused (a: f32[4,8], b: f32[8,16]) -> f32[4,16] {
  %a = f32[4,8]{1,0} parameter(0)
  %b = f32[8,16]{1,0} parameter(1)
  ROOT %c = f32[4,16]{1,0} convolution(%a, %b), dim_labels=bf_io->bf
}

ENTRY %main (x: f32[4,8], y: f32[8,16], q: f32[3,5,7], k: f32[3,11,7]) -> f32[4,16] {
  %x = f32[4,8]{1,0} parameter(0)
  %y = f32[8,16]{1,0} parameter(1)
  %q = f32[3,5,7]{2,1,0} parameter(2)
  %k = f32[3,11,7]{2,1,0} parameter(3)
  %s = f32[3,5,11]{2,1,0} convolution(%q, %k), window={size=3 stride=2 pad=0_0 lhs_dilate=3}, dim_labels=0bf_0oi->0bf
  %d = f32[4,16]{1,0} dot(%x, %y), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  ROOT %f = f32[4,16]{1,0} fusion(%x, %y), kind=kOutput, calls=%fused
}
"""


def test_flops_of_products_and_of_batches_that_are_windows(bench):
    batch = 2 * 5 * 11 * 7 * 3  # three products of (5, 7) and (7, 11)
    assert bench("products").flops(Module(PRODUCTS)) == 2 * (2 * 4 * 8 * 16) + batch


TOKEN = """
%start (p: bf16[64,1024]) -> bf16[32,1024] {
  %p = bf16[64,1024]{1,0} parameter(0)
  ROOT %half = bf16[32,1024]{1,0:S(1)} slice(%p), slice={[0:32], [0:1024]}
}

%table (w: bf16[64,1024], i: s32[]) -> bf16[1,1024] {
  %w = bf16[64,1024]{1,0} parameter(0)
  %i = s32[] parameter(1)
  ROOT %row = bf16[1,1024]{1,0} dynamic-slice(%w, %i, %i), dynamic_slice_sizes={1,1024}
}

%place (old: bf16[128,24], new: bf16[1,24], at: s32[]) -> bf16[128,24] {
  %old = bf16[128,24]{1,0} parameter(0)
  %new = bf16[1,24]{1,0} parameter(1)
  %at = s32[] parameter(2)
  ROOT %put = bf16[128,24]{1,0} dynamic-update-slice(%old, %new, %at, %at)
}

%body (s: (s32[], bf16[128,24], bf16[64,1024])) -> (s32[], bf16[128,24], bf16[64,1024]) {
  %s = (s32[], bf16[128,24]{1,0}, bf16[64,1024]{1,0}) parameter(0)
  %n = s32[] get-tuple-element(%s), index=0
  %cache = bf16[128,24]{1,0} get-tuple-element(%s), index=1
  %weight = bf16[64,1024]{1,0} get-tuple-element(%s), index=2
  %first = ((bf16[64,1024]{1,0}), bf16[32,1024]{1,0:S(1)}, s32[]) async-start(%weight), calls=%start
  %one = bf16[32,1024]{1,0:S(1)} async-done(%first)
  %second = ((bf16[64,1024]{1,0}), bf16[32,1024]{1,0:S(1)}, s32[]) async-start(%weight), calls=%start
  %two = bf16[32,1024]{1,0:S(1)} async-done(%second)
  %looked = bf16[1,1024]{1,0} fusion(%weight, %n), kind=kLoop, calls=%table
  %ahead = (bf16[128,24]{1,0:S(1)}, bf16[128,24]{1,0}, u32[]) copy-start(%cache)
  %near = bf16[128,24]{1,0:S(1)} copy-done(%ahead)
  %v = bf16[1,24]{1,0} custom-call(%near, %one, %two, %looked), custom_call_target="x"
  %next = s32[] add(%n, %n)
  %written = bf16[128,24]{1,0} fusion(%cache, %v, %n), kind=kLoop, calls=%place
  ROOT %out = (s32[], bf16[128,24]{1,0}, bf16[64,1024]{1,0}) tuple(%next, %written, %weight)
}

%test (s: (s32[], bf16[128,24], bf16[64,1024])) -> pred[] {
  %s = (s32[], bf16[128,24]{1,0}, bf16[64,1024]{1,0}) parameter(0)
  ROOT %more = pred[] constant(true)
}

ENTRY %main (s: (s32[], bf16[128,24], bf16[64,1024])) -> (s32[], bf16[128,24], bf16[64,1024]) {
  %s = (s32[], bf16[128,24]{1,0}, bf16[64,1024]{1,0}) parameter(0)
  ROOT %loop = (s32[], bf16[128,24]{1,0}, bf16[64,1024]{1,0}) while(%s), condition=%test, body=%body
}
"""
READ = 1 + 1 / 64  # the matrix in two halves, and a row of it


def test_a_token_of_a_loop_that_writes_in_place(bench):
    costs = bench("per_token").costs(Module(TOKEN), [128 * 24], 2 * 64 * 1024)
    assert costs == {"cache_copied": 0, "launches": 3, "transfers": 3, "weights_read": READ}


AHEAD = "bf16[128,24]{1,0}, u32[]) copy-start(%cache)"
PLACED = "fusion(%cache, %v, %n), kind=kLoop, calls=%place"


@pytest.mark.parametrize(
    "old, new, copied, read",
    [
        (f":S(1)}}, {AHEAD}", f"}}, {AHEAD}", 1, READ),  # into the same memory
        (PLACED, "copy(%cache)", 1, READ),
        ("custom-call(%near, %one", "custom-call(%near, %weight", 0, READ + 1),
    ],
)
def test_what_is_copied_and_read_again_is_counted(bench, old, new, copied, read):
    text = TOKEN.replace(old, new)
    assert text != TOKEN
    costs = bench("per_token").costs(Module(text), [128 * 24], 2 * 64 * 1024)
    assert costs["cache_copied"] == copied * 2 * 128 * 24 and costs["weights_read"] == read


def test_what_was_compiled_before_is_kept(bench, tmp_path):
    tpu, out = bench("tpu"), tmp_path / "rows.jsonl"
    piece = {"bytes": 2**30, "wire": {"all-gather": 3e9}, "flops": 1e12, "instructions": 10, "processor_seconds": 1.0}
    piece |= {"versions": {}, "device": "", "load": [0, 0], "others": 0}
    case, asked = tpu.TRAINED[0], []

    class Fake:
        peer, before = None, {}

        def run(self, function, args):
            asked.append(args["module"])
            return piece if args["module"] == "lowering" else piece | {"bytes": 2**31}

    fake = Fake()
    (row,) = tpu.row(fake, case)
    out.write_text(row.json("") + "\n" + json.dumps({"id": "x", "value": None}) + "\n")
    fake.before, fake.peer = tpu.kept(out), "python"
    assert list(fake.before) == [case.id]
    (row,) = tpu.row(fake, case)
    assert asked == ["lowering", "maxtext"] and (row.value, row.peer, row.ratio) == (1, 2, 2)
    line = tpu.table([json.loads(row.json(""))]).splitlines()[-1]
    assert "| 1.00 / 2.00 (0.50) | 3.0 / 3.0 (1.00) | all-gather 3.0 |" in line
    fake.before = {case.id: json.loads(row.json(""))}
    list(tpu.row(fake, case))
    assert len(asked) == 2


def test_rows_are_declared_once_and_resolve(bench):
    from jaxlm.config import resolve
    from jaxlm.plan.topology import parse

    tpu = bench("tpu")
    cases = (*tpu.TRAINED, *tpu.DECODED)
    assert len({case.id for case in cases}) == len(cases)
    for case in (*cases, *tpu.TINY):
        asked = case.ours()
        run, where = resolve(asked["config"], asked["overrides"]), parse(case.topology)
        sizes = {"data": run.mesh.data, "fsdp": run.mesh.fsdp, "tensor": run.mesh.tensor, "expert": run.mesh.expert}
        product = 1
        for n in sizes.values():
            product *= n
        assert product == where.devices, case.id


@pytest.mark.slow
@pytest.mark.skipif(NO_COMPILER, reason="needs libtpu, the TPU's compiler")
@pytest.mark.parametrize("stored", ["", "int8"])
def test_a_decoding_step_copies_no_cache_and_reads_weights_once(bench, stored):
    tpu = bench("tpu")
    case = tpu.Case("x", "qwen3_0_6b", "v5e:1x1", (), T=2048, more=("model.layers.0.repeat=2",), rows=64, stored=stored)
    made = bench("program").made("lowering", case.ours())
    assert made["cache_bytes"] == 2 * 2 * 64 * 2048 * 1024 * 2 and made["cache_copied"] == 0
    assert made["weights_read"] == pytest.approx(1, abs=0.02)
    assert made["wire"] == {} and 0 < made["launches"] < 200


@pytest.mark.slow
@pytest.mark.skipif(NO_COMPILER, reason="needs libtpu, the TPU's compiler")
def test_small_caches_are_not_stored_whole(bench):
    tpu = bench("tpu")
    case = next(case for case in tpu.DECODED if case.id == "tpu.decode.llama_3_2_1b.eight.1")
    assert bench("program").made("lowering", case.ours())["cache_copied"] == 0
