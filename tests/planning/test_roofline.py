"""The estimate and the bound of a small program, compared with figures computed by hand."""

import pytest

from codellama_jax.kernels.splash_cycles import Shape
from codellama_jax.planning import attention_kernels, roofline
from codellama_jax.planning.chips import topology
from codellama_jax.planning.collectives import Collectives
from codellama_jax.planning.hlo import Program

SCHEDULE = """HloModule m
%body (s: (s32[], f32[8])) -> (s32[], f32[8]) {
  %s = (s32[], f32[8]{0}) parameter(0)
  %i = s32[] get-tuple-element(%s), index=0
  %one = s32[] constant(1)
  %next = s32[] add(%i, %one)
  %x = f32[8]{0} get-tuple-element(%s), index=1
  %y = f32[8]{0} fusion(%x), kind=kLoop, calls=%work, backend_config={"estimated_cycles":"1750000"}
  ROOT %state = (s32[], f32[8]{0}) tuple(%next, %y)
}
%work (p: f32[8]) -> f32[8] {
  %p = f32[8]{0} parameter(0)
  ROOT %n = f32[8]{0} negate(%p), backend_config={"estimated_cycles":"99"}
}
%condition (s: (s32[], f32[8])) -> pred[] {
  %s.1 = (s32[], f32[8]{0}) parameter(0)
  %i.1 = s32[] get-tuple-element(%s.1), index=0
  %limit = s32[] constant(3)
  ROOT %less = pred[] compare(%i.1, %limit), direction=LT
}
ENTRY %main (a: f32[8], g: bf16[50000000]) -> f32[8] {
  %a = f32[8]{0} parameter(0)
  %g = bf16[50000000]{0} parameter(1)
  %zero = s32[] constant(0)
  %start = (bf16[50000000]{0}, bf16[200000000]{0}) all-gather-start(%g), channel_id=1, replica_groups=[1,4]<=[4]
  %state.1 = (s32[], f32[8]{0}) tuple(%zero, %a)
  %loop = (s32[], f32[8]{0}) while(%state.1), condition=%condition, body=%body
  %done = bf16[200000000]{0} all-gather-done(%start)
  %sum = f32[8]{0} all-reduce(%a), channel_id=2, replica_groups=[1,4]<=[4], to_apply=%add
  ROOT %end = f32[8]{0} get-tuple-element(%loop), index=1
}
"""


def test_estimate_follows_the_schedule():
    """A gather of 300 MB per device takes 1.5 ms over one link; three trips of 1.75 M cycles hide it."""
    placement = roofline.Placement(topology("v5p:2x2x1"), [[0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 1, 1, 0]])

    def parse(text):
        program = Program(text)
        return program, Collectives(program, {"data": 1, "fsdp": 4, "context": 1, "tensor": 1})

    program, collectives = parse(SCHEDULE)
    bandwidth = placement.topology.send_bandwidth(placement.coordinates)
    assert bandwidth == 2 * 100e9
    assert roofline.bytes_sent(collectives) == {"all-gather": {"fsdp": 3e8}, "all-reduce": {"fsdp": 2 * 3 / 4 * 32}}
    estimate = roofline.estimate(program, collectives, placement)
    assert estimate["instructions"] == pytest.approx(3e-3)
    assert estimate["collectives"] == pytest.approx(48 / bandwidth), "the gather is hidden, the all-reduce is not"
    slower = SCHEDULE.replace("50000000", "200000000").replace(
        "[200000000]{0} all-gather-done", "[800000000]{0} all-gather-done"
    )
    assert roofline.estimate(*parse(slower), placement)["collectives"] == pytest.approx(3e-3, rel=1e-4)
    assert roofline.bound(program, collectives, placement)["interconnect"] == pytest.approx(1.5e-3, rel=1e-4)
    assert roofline.estimate(*parse(SCHEDULE.replace("estimated_cycles", "withheld")), placement) is None


COPIES = """HloModule m
ENTRY %main (a: f32[1000000]) -> f32[1000000] {
  %a = f32[1000000]{0} parameter(0)
  %first = (f32[1000000]{0:S(1)}, f32[1000000]{0}, u32[]{:S(2)}) copy-start(%a)
  %second = (f32[1000000]{0:S(1)}, f32[1000000]{0}, u32[]{:S(2)}) copy-start(%a)
  %out = (f32[1000000]{0:S(5)}, f32[1000000]{0}, u32[]{:S(2)}) copy-start(%a)
  %work = f32[8]{0} negate(%a), backend_config={"estimated_cycles":"1750"}
  %x = f32[1000000]{0:S(1)} copy-done(%first)
  %y = f32[1000000]{0:S(1)} copy-done(%second)
  ROOT %z = f32[1000000]{0:S(5)} copy-done(%out)
}
"""


def test_copies_wait_for_one_another_and_cost_what_is_not_hidden():
    """Two copies of 4 MB from memory to the chip, and one to the host, beside a microsecond of work."""
    program = Program(COPIES)
    placement = roofline.Placement(topology("v5p:2x2x1"), [[0, 0, 0, 0]])
    estimate = roofline.estimate(program, Collectives(program, {"fsdp": 1}), placement)
    assert estimate["copies"] == pytest.approx(max(8e6 / 2765e9, 4e6 / 16e9) - 1e-6)
    program = Program(COPIES.replace("S(5)", "S(1)"))
    estimate = roofline.estimate(program, Collectives(program, {"fsdp": 1}), placement)
    assert estimate["copies"] == pytest.approx(12e6 / 2765e9 - 1e-6)


METADATA = r"""frontend_attributes={kernel_metadata={
"xprof_metadata":"{\"block_q\": 2048, \"block_kv\": 512, \"block_q_dkv\": 512, \"block_kv_dkv\": 512}"}}"""


@pytest.mark.parametrize(
    "name, result, phase, products, masked, block",
    [
        ("splash_mha_fwd_residuals.1", "bf16[2,8,4096,128]", "fwd", 2, False, 1024),
        ("splash_mha_fwd_segmented_no_residuals", "bf16[2,8,4096,128]", "fwd", 2, True, 1024),
        ("splash_mha_dkv_no_residuals.3", "bf16[8,2,8,4096,128]", "dkv", 5, False, 512),
        ("splash_mqa_dkv_segmented_no_residuals.3", "bf16[2,2,8192,128]", "dkv", 4, True, 512),
    ],
)
def test_kernels_are_recognised_by_name_result_and_metadata(name, result, phase, products, masked, block):
    text = f"""HloModule m
ENTRY %main (q: bf16[2,8,4096,128], k: bf16[2,2,8192,128], m: s8[1,8,8]) -> f32[8] {{
  %q = bf16[2,8,4096,128] parameter(0)
  %k = bf16[2,2,8192,128] parameter(1)
  %m = s8[1,8,8] parameter(2)
  ROOT %{name} = {result} custom-call(%m, %q, %k), custom_call_target="tpu_custom_call", {METADATA}
}}
"""
    program = Program(text)
    kernel = attention_kernels.kernel(program, "main", program.roots["main"])
    assert kernel == attention_kernels.Kernel(phase, products, block, Shape(masked, 4096, 8192, 16, 4, 128))
    assert attention_kernels.attention_flops(program) == products * 16 * 4096 * 8192 * 128
    slice_ = topology("v5p:2x2x1")
    assert kernel.flops / slice_.flops < attention_kernels.seconds(kernel, slice_) < 3 * kernel.flops / slice_.flops
