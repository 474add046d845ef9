"""FLOPs, memory traffic and collectives of compiled programs, compared with figures computed by hand."""

import math
import re

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from codellama_jax.planning.attention_kernels import attention_flops
from codellama_jax.planning.collectives import Collectives, replica_groups
from codellama_jax.planning.hlo import Program, _instruction
from codellama_jax.planning.memory_traffic import memory_bytes

N, S, D, F = 5, 12, 16, 24


def compiled(function, *shapes, **jit):
    arguments = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return Program(jax.jit(function, **jit).lower(*arguments).compile().as_text())


# ---------------------------------------------------------------- loops and products


def test_scan_body_counts_once_per_trip():
    program = compiled(lambda x, w: jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, w)[0], (S, D), (N, D, D))
    assert program.product_flops == 2 * N * S * D * D
    assert not program.unknown_loops


def test_trip_count_is_evaluated_if_not_annotated():
    text = jax.jit(lambda x, w: jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, w)[0])
    text = text.lower(jnp.zeros((S, D)), jnp.zeros((N, D, D))).compile().as_text()
    assert "known_trip_count" in text, "otherwise test_scan_body_counts_once_per_trip does not use the annotation"
    assert Program(text.replace("known_trip_count", "withheld")).product_flops == 2 * N * S * D * D


def test_flops_are_equal_in_both_notations_of_tuple_elements():
    text = jax.jit(lambda x, w: jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, w)[0])
    text = (
        text.lower(jnp.zeros((S, D)), jnp.zeros((N, D, D))).compile().as_text().replace("known_trip_count", "withheld")
    )
    element = re.compile(r"  %([\w.\-]+) = \S+ get-tuple-element\(%([\w.\-]+)\), index=(\d+).*\n")
    newer = element.sub("", text)
    for name, tuple_name, index in element.findall(text):
        newer = re.sub(rf"%{re.escape(name)}(?=[,)])", f"%{tuple_name}#{index}", newer)
    assert "#0" in newer and newer.count("get-tuple-element(") < text.count("get-tuple-element(")
    assert Program(newer).product_flops == Program(text).product_flops == 2 * N * S * D * D


@pytest.mark.parametrize("start, stop, step, trips", [(0, 7, 1, 7), (2, 7, 1, 5), (0, 7, 3, 3), (9, 7, 1, 0)])
def test_trip_counts_are_evaluated_from_start_stop_and_step(start, stop, step, trips):
    def function(x, w):
        state = (jnp.int32(start), x)
        return jax.lax.while_loop(lambda s: s[0] < stop, lambda s: (s[0] + step, jnp.tanh(s[1] @ w)), state)[1]

    text = jax.jit(function).lower(jnp.zeros((S, D)), jnp.zeros((D, D))).compile().as_text()
    assert Program(text).product_flops == 2 * trips * S * D * D


def test_trip_counts_of_nested_loops_multiply():
    def function(x, w):
        inner = lambda x: jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, w)[0]  # noqa: E731
        return jax.lax.fori_loop(0, 3, lambda _, x: inner(x), x)

    assert compiled(function, (S, D), (N, D, D)).product_flops == 3 * 2 * N * S * D * D


def test_data_dependent_loop_counts_once_and_is_reported():
    def function(x, w):
        return jax.lax.while_loop(lambda x: jnp.sum(x) < 1.0, lambda x: jnp.tanh(x @ w), x)

    program = compiled(function, (S, D), (D, D))
    assert program.product_flops == 2 * S * D * D
    assert len(program.unknown_loops) == 1


@pytest.mark.parametrize("remat, products", [(False, 3), (True, 4)])
def test_flops_include_backward_pass_and_recomputation(remat, products):
    """A block has two layers; the gradient of tanh needs its output."""

    def block(x, w):
        return x + jnp.tanh(jnp.tanh(x @ w[0]) @ w[1].T), None

    def function(x, w):
        body = jax.checkpoint(block, prevent_cse=False) if remat else block
        return jnp.sum(jax.lax.scan(body, x, w)[0] ** 2)

    program = compiled(jax.grad(function, argnums=(0, 1)), (S, D), (N, 2, D, F))
    once = 2 * S * D * F * N
    # forward 2; backward 4; with remat 2 more: both products are recomputed
    assert program.product_flops == once * (6 + 2 * (products - 3))


def test_flops_of_a_contraction_over_several_dims():
    program = compiled(lambda q, k: jnp.einsum("bshk,bthk->bhst", q, k), (2, 8, 3, 16), (2, 10, 3, 16))
    assert program.product_flops == 2 * 2 * 3 * 8 * 10 * 16


# A product of [B, S, D] and [D, H, K] as in TPU programs: a convolution over h, padded so that each tap counts once.
CONVOLUTION = """HloModule m
ENTRY %main (a: bf16[4,64,48,1], b: bf16[48,6,8,1]) -> bf16[4,64,6,8] {
  %a = bf16[4,64,48,1]{1,2,3,0} parameter(0)
  %b = bf16[48,6,8,1]{0,2,1,3} parameter(1)
  ROOT %c = bf16[4,64,6,8]{3,1,2,0} convolution(%a, %b), window={size=1x6 pad=0_0x5_5 rhs_reversal=0x1}, \
dim_labels=0bf1_i1o0->0b1f
}
"""


def test_flops_of_a_product_expressed_as_convolution():
    assert Program(CONVOLUTION).product_flops == 2 * 4 * 64 * 48 * 6 * 8


@pytest.mark.parametrize("stride, padding", [(1, "VALID"), (1, "SAME"), (2, "SAME")])
def test_convolutions_do_not_count_padding(stride, padding):
    def function(x, w):
        return jax.lax.conv_general_dilated(x, w, (stride,), padding, dimension_numbers=("NHC", "HIO", "NHC"))

    outputs = math.ceil(20 / stride) if padding == "SAME" else 18
    before = max((outputs - 1) * stride + 3 - 20, 0) // 2 if padding == "SAME" else 0
    taps = sum(0 <= output * stride + tap - before < 20 for output in range(outputs) for tap in range(3))
    text = jax.jit(function).lower(jnp.zeros((2, 20, 4)), jnp.zeros((3, 4, 5))).compile().as_text()
    assert Program(text).product_flops == 2 * taps * 2 * 4 * 5


KERNELS = """HloModule m
ENTRY %main (q: bf16[2,8,128,32], k: bf16[2,4,512,32]) -> bf16[2,8,128,32] {
  %mask = s8[1,1,4]{2,1,0} constant({...})
  %q = bf16[2,8,128,32]{3,2,1,0} parameter(0)
  %k = bf16[2,4,512,32]{3,2,1,0} parameter(1)
  %splash_mha_fwd_residuals.3 = (bf16[2,8,128,32]{3,2,1,0}, f32[2,8,128,128]{3,2,1,0}) custom-call(%mask, %q, %k, %k), \
custom_call_target="tpu_custom_call", frontend_attributes={kernel_metadata={

}}, metadata={op_name="jit(f)/splash"}
  %o = bf16[2,8,128,32]{3,2,1,0} get-tuple-element(%splash_mha_fwd_residuals.3), index=0
  %splash_mha_dkv_no_residuals.1 = (bf16[2,4,512,32]{3,2,1,0}, bf16[2,4,512,32]{3,2,1,0}) custom-call(%mask, %q, \
%k, %k, %o), custom_call_target="tpu_custom_call"
  ROOT %splash_mha_dq.2 = bf16[2,8,128,32]{3,2,1,0} custom-call(%mask, %q, %k, %k, %o), \
custom_call_target="tpu_custom_call"
}
"""


def test_attention_kernels_count_the_causal_half():
    half_of_one_product = 2 * 2 * 8 * 128 * 512 * 32 / 2
    assert attention_flops(Program(KERNELS)) == (2 + 4 + 3) * half_of_one_product


def test_instructions_rematerialised_by_the_compiler_are_counted():
    assert compiled(jnp.sin, (4,)).recomputed == 0
    twice = CONVOLUTION.replace("%c =", "%c.remat =").replace("%b =", "%b.remat =")
    assert Program(twice).recomputed == 1, "parameters do not count"


# ---------------------------------------------------------------- memory


def test_loop_reads_only_the_slice_it_uses():
    """Each trip reads one layer of the stacked weights and writes one layer of the stacked results."""

    def function(x, w):
        return jax.lax.scan(lambda x, w: (x * w, x), x, w)

    layers, width = 64, 4096
    program = compiled(function, (width,), (layers, width))
    least = 4 * width * layers * 2  # read w, write the stack
    assert least <= memory_bytes(program) < 5 * least < 4 * width * layers * layers


SPACES = """HloModule m
ENTRY %main (a: f32[1024]) -> f32[1024] {
  %a = f32[1024]{0} parameter(0)
  %copy-start = (f32[1024]{0:T(1024)S(1)}, f32[1024]{0:T(1024)}, u32[]{:S(2)}) copy-start(%a)
  %copy-done = f32[1024]{0:T(1024)S(1)} copy-done(%copy-start)
  %b = f32[1024]{0:T(1024)S(1)} add(%copy-done, %copy-done)
  ROOT %c = f32[1024]{0:T(1024)} negate(%b)
}
"""


def test_on_chip_memory_is_not_traffic():
    assert memory_bytes(Program(SPACES)) == 2 * 4096  # read once by the copy, written once at the end


# A fusion that changes the layout of a stack and reads a slice of it, as in programs for newer chips.
LAYOUT_CHANGE = """HloModule m
%layout_change (p: f32[32,1024]) -> f32[32,1024] {
  %p = f32[32,1024]{1,0:T(16,128)} parameter(0)
  ROOT %copy.1 = f32[32,1024]{1,0:T(8,128)} copy(%p)
}
%layer (stack: f32[32,1024], index: s32[]) -> f32[1,1024] {
  %stack = f32[32,1024]{1,0:T(16,128)} parameter(0)
  %copied = f32[32,1024]{1,0:T(8,128)} fusion(%stack), kind=kLoop, calls=%layout_change
  %index = s32[] parameter(1)
  %zero = s32[] constant(0)
  ROOT %slice = f32[1,1024]{1,0} dynamic-slice(%copied, %index, %zero), dynamic_slice_sizes={1,1024}
}
ENTRY %main (stack: f32[32,1024], index: s32[]) -> f32[1,1024] {
  %stack = f32[32,1024]{1,0:T(16,128)} parameter(0)
  %index = s32[] parameter(1)
  ROOT %fused = f32[1,1024]{1,0} fusion(%stack, %index), kind=kLoop, calls=%layer
}
"""


def test_layout_change_within_a_fusion_reads_only_the_slice():
    assert memory_bytes(Program(LAYOUT_CHANGE)) == pytest.approx(2 * 4096, abs=8)  # one layer and the index
    without_slice = LAYOUT_CHANGE.replace("dynamic-slice(%copied, %index, %zero)", "reduce(%copied, %index)")
    assert memory_bytes(Program(without_slice)) > 32 * 4096


# ---------------------------------------------------------------- collectives


def mesh_program(function, shapes, specs, out, **axes):
    mesh = jax.make_mesh(tuple(axes.values()), tuple(axes), axis_types=(AxisType.Auto,) * len(axes))
    sharding = [NamedSharding(mesh, PartitionSpec(*spec)) for spec in specs]
    out = NamedSharding(mesh, PartitionSpec(*out))
    with jax.set_mesh(mesh):
        return Collectives(compiled(function, *shapes, in_shardings=tuple(sharding), out_shardings=out), axes)


def sent(collectives):
    return [(collective.kind, collective.axes, times * collective.bytes) for times, collective in collectives.all]


def test_all_gather_over_one_axis():
    program = mesh_program(lambda x: jnp.sin(x), [(32, 64)], [("data", "fsdp")], ("data", None), data=2, fsdp=4)
    # on a mesh of 2 x 4 each device holds 16 x 16 and sends it to three others
    assert sent(program) == [("all-gather", "fsdp", 3 * 16 * 16 * 4)]


def test_all_reduce_over_both_axes():
    program = mesh_program(jnp.sum, [(32, 64)], [("data", "fsdp")], (), data=2, fsdp=4)
    assert [entry[:2] for entry in sent(program)] in (
        [("all-reduce", "data+fsdp")],
        [("all-reduce", "fsdp"), ("all-reduce", "data")],
    )


def test_permute_does_not_count_devices_that_keep_their_data():
    def function(x):
        move = lambda x: jax.lax.ppermute(x, "fsdp", [(0, 1), (1, 0), (2, 2), (3, 3)])  # noqa: E731
        return jax.shard_map(move, in_specs=PartitionSpec("data", "fsdp"), out_specs=PartitionSpec("data", "fsdp"))(x)

    program = mesh_program(function, [(32, 64)], [("data", "fsdp")], ("data", "fsdp"), data=2, fsdp=4)
    assert sent(program) == [("collective-permute", "fsdp", 16 * 16 * 4 / 2)]


def test_gather_in_a_loop_counts_once_per_trip():
    def function(x, w):
        gathered = lambda w: jax.lax.with_sharding_constraint(w, PartitionSpec())  # noqa: E731
        return jax.lax.scan(lambda x, w: (jnp.tanh(x @ gathered(w)), None), x, w)[0]

    program = mesh_program(function, [(S, D), (N, D, D)], [(), (None, "fsdp")], (), data=2, fsdp=4)
    assert ("all-gather", "fsdp", N * 3 * D * D) in sent(program)


GROUPS = {
    "{{0,2},{1,3},{4,6},{5,7}}": [(0, 2), (1, 3), (4, 6), (5, 7)],
    "[4,2]<=[8]": [(0, 1), (2, 3), (4, 5), (6, 7)],
    "[2,4]<=[4,2]T(1,0)": [(0, 2, 4, 6), (1, 3, 5, 7)],
    "mesh['a'=2,'b'=4] {'b'}": [(0, 1, 2, 3), (4, 5, 6, 7)],
    "mesh['a'=2,'b'=4] {'a'}": [(0, 4), (1, 5), (2, 6), (3, 7)],
    "mesh['a'=2,'b'=4] {'a','b'}": [(0, 1, 2, 3, 4, 5, 6, 7)],
    "mesh['a'=2,'b'=4] {'b':(1)2}": [(0, 2), (1, 3), (4, 6), (5, 7)],
    "mesh['a'=2,'b'=4] {'b':(2)2}": [(0, 1), (2, 3), (4, 5), (6, 7)],
    "mesh['a'=2,'b'=4], device_ids=([4,2]T(1,0)) {'b'}": [(0, 2, 4, 6), (1, 3, 5, 7)],
    "mesh['a'=2,'b'=2], device_ids=(3,2,1,0) {'b'}": [(3, 2), (1, 0)],
}


@pytest.mark.parametrize("notation", GROUPS)
def test_replica_groups_are_parsed_in_all_notations(notation):
    line = f"  %r = f32[8]{{0}} all-reduce(%x), channel_id=1, replica_groups={notation}, use_global_device_ids=true"
    assert replica_groups(_instruction(line)) == GROUPS[notation]


# An asynchronous all-gather appears in the fusion that starts it, in the product that runs concurrently, and in the
# fusion that ends it.
FUSED = """HloModule m
%starting (p: bf16[4]) -> (bf16[4], bf16[16]) {
  %p = bf16[4]{0} parameter(0)
  %all-gather.1 = bf16[16]{0} all-gather(%p), channel_id=7, replica_groups=[2,4]<=[8], dimensions={0}, \
frontend_attributes={chain_id="0"}
  ROOT %custom-call.1 = (bf16[4]{0}, bf16[16]{0}) custom-call(%all-gather.1), custom_call_target="AsyncCollectiveStart"
}
%going (p.1: bf16[4]) -> bf16[16] {
  %p.1 = bf16[4]{0} parameter(0)
  ROOT %all-gather.2 = bf16[16]{0} all-gather(%p.1), channel_id=7, replica_groups=[2,4]<=[8], dimensions={0}, \
frontend_attributes={chain_id="0"}
}
%ending (p.2: bf16[4]) -> bf16[16] {
  %p.2 = bf16[4]{0} parameter(0)
  %all-gather.3 = bf16[16]{0} all-gather(%p.2), channel_id=7, replica_groups=[2,4]<=[8], dimensions={0}, \
frontend_attributes={chain_id="0"}
  ROOT %custom-call.2 = bf16[16]{0} custom-call(%all-gather.3), custom_call_target="AsyncCollectiveDone"
}
%sparsecore (p.3: bf16[4]) -> bf16[16] {
  %p.3 = bf16[4]{0} parameter(0)
  ROOT %all-gather.4 = bf16[16]{0} all-gather(%p.3), channel_id=9, replica_groups=[2,4]<=[8], dimensions={0}
}, execution_thread="sparsecore"
%asynchronous (p.4: bf16[4]) -> bf16[16] {
  %p.4 = bf16[4]{0} parameter(0)
  ROOT %call = bf16[16]{0} call(%p.4), to_apply=%sparsecore
}, execution_thread="sparsecore"
ENTRY %main (a: bf16[4]) -> bf16[16] {
  %a = bf16[4]{0} parameter(0)
  %fusion.1 = (bf16[4]{0}, bf16[16]{0}) fusion(%a), kind=kCustom, calls=%starting
  %fusion.2 = bf16[16]{0} fusion(%a), kind=kOutput, calls=%going, backend_config={"estimated_cycles":"1000"}
  %fusion.3 = bf16[16]{0} fusion(%a), kind=kCustom, calls=%ending
  %start = ((bf16[4]{0}), bf16[16]{0}, u32[]) async-start(%a), async_execution_thread="sparsecore", calls=%asynchronous
  %done = bf16[16]{0} async-done(%start)
  %permute-start = (bf16[4]{0}, bf16[4]{0}, u32[], u32[]) collective-permute-start(%a), channel_id=1, \
source_target_pairs={{0,4},{4,0}}
  %permute-done = bf16[4]{0} collective-permute-done(%permute-start)
  ROOT %last = bf16[16]{0} all-gather(%a), channel_id=8, replica_groups=[2,4]<=[8], dimensions={0}
}
"""


def test_asynchronous_collectives_count_once():
    program = Program(FUSED)
    collectives = Collectives(program, {"data": 2, "fsdp": 4})
    roles = [collectives.role_of("main", instruction) for instruction in program.computations["main"].values()]
    assert [entry and (entry[0], entry[2].kind, entry[2].axes, entry[2].bytes) for entry in roles[1:]] == [
        ("start", "all-gather", "fsdp", 24),
        None,
        ("done", "all-gather", "fsdp", 24),
        ("start", "all-gather", "fsdp", 24),
        ("done", "all-gather", "fsdp", 24),
        ("start", "collective-permute", "data", 8),
        ("done", "collective-permute", "data", 8),
        ("sync", "all-gather", "fsdp", 24),
    ]
    assert len(collectives.all) == 4
    keys = [entry[1] for entry in roles if entry]
    assert keys[0] == keys[1] and keys[2] == keys[3] and len(set(keys)) == 4
