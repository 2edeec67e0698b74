"""What the compiler says of memory, read."""

from jaxlm.plan import memory
from jaxlm.plan.hlo import Module

DUMP = """BufferAssignment:
allocation 0: size 4000, page 0, parameter 1, shape |f32[1000]| at ShapeIndex {}, maybe-live-out:
 value: <1 param.1 @0> (size=4000,offset=0): f32[1000]{0}
allocation 1: size 900, page 0, preallocated-temp:
 value: <7 buffer @0> (size=400,offset=0): f32[100]{0:T(8)}
 value: <8 sum.1{0} @0> (size=400,offset=0): f32[100]{0:T(8)}
 value: <9 small @0> (size=8,offset=0): f32[2]{0}
 value: <10 within @0> (size=40,offset=100): f32[10]{0}
 value: <11 other (phi) @0> (size=500,offset=400): bf16[5,50]{1,0}
allocation 2: size 96, color 2, page 0, preallocated-temp:
 value: <12 flag @2> (size=96,offset=0): u32[]{:S(2)}

Total bytes used: 5000
"""


def test_the_largest_arrays_that_do_not_share_a_place(tmp_path):
    (tmp_path / "module.after_optimizations-buffer-assignment.txt").write_text(DUMP)
    program = 'ENTRY %main () -> f32[] {\n  %sum.1 = f32[100]{0} add(%a, %b), metadata={op_name="jit(step)/add"}\n}\n'
    found = memory.largest(tmp_path, Module(program))
    assert [(b.nbytes, b.shape, b.op) for b in found] == [
        (500, "bf16[5,50]", ""),
        (400, "f32[100]", "jit(step)/add"),
    ]


def test_what_is_needed_and_there():
    said = (
        "RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: Ran out of memory on HBM, the total memory required for HLO\n"
        "temporaries (1.50T) exceeds available HBM (15.75G). HLO module: jit_step."
    )
    assert memory.needed(RuntimeError(said)) == (1.5 * 2**40, 15.75 * 2**30)
    assert memory.needed(RuntimeError("RESOURCE_EXHAUSTED: E1001: CompileTimeScopedVmemOom")) is None
