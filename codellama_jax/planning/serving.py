"""Plans the serving of a model on a slice: how many tokens its cache can hold, and how fast it can decode.

The programs of the engine are compiled for the slice: decoding with the fewest and the most slots, and a chunk of a
prompt. A step of decoding moves the weights, the keys and values of all texts, and some activations. The kernel for
attention reads its pages in blocks; how many depends on the texts, so their bytes are computed here, and all other
bytes are those of the program. What depends on the number of slots is interpolated between the two programs.
"""

import dataclasses
from typing import Any

from codellama_jax.config.run import Config
from codellama_jax.planning.aot_compile import Compiler
from codellama_jax.planning.chips import GiB, Topology
from codellama_jax.planning.serving_config import ServingProgram

BATCHES = (1, 4, 16, 64, 256)  # requests that are decoded together
CONTEXTS = (512, 1_024, 4_096, 16_384, 100_000)  # tokens of each of them
STEPS = 4  # of decoding in a dispatch
CHUNK = 512  # tokens of a prompt
PAGE = 128  # tokens
RESERVES = (0.5, 1.0, 2.0)  # GiB per device that are left for activations, the first with which the programs fit


def plan_serving(
    config: Config, slice_: Topology, compiler: Compiler, cache_dtype: str | None = None
) -> dict[str, Any]:
    """The plan, which --json prints. Bytes are per device.

    Raises:
        UserError: the kernel cannot read the heads of a device in this dtype, or a program fails to compile for a
            reason other than memory.
    """
    llama = config.llama
    smallest = ServingProgram(1, STEPS, PAGE, PAGE, PAGE, cache_dtype)
    sizes = compiler.analyze(config, slice_, estimate=False, serving=smallest)
    result: dict[str, Any] = {
        "size": config.stage.size,
        "topology": slice_.name,
        "chips": slice_.chips,
        "mesh": sizes["mesh"],
        "cache_dtype": cache_dtype or llama.compute_dtype,
        "page": PAGE,
        "weight_bytes": sizes["parameter_bytes"],
        "token_bytes": sizes["token_bytes"],
        "hbm_bytes": sizes["hbm_bytes"],
        "fits": False,
        "peak_bytes": sizes["peak_bytes"],
    }
    for reserve in RESERVES if sizes["fits"] else ():
        free = sizes["hbm_bytes"] - sizes["parameter_bytes"] - reserve * GiB
        tokens = int(free / sizes["token_bytes"]) // PAGE * PAGE
        programs = _programs(tokens, cache_dtype)
        if tokens < PAGE:
            break
        analyses = {}
        for name, program in programs.items():
            analyses[name] = compiler.analyze(config, slice_, estimate=False, serving=program)
            if not analyses[name]["fits"]:
                break
        else:
            peak = max(analysis["peak_bytes"] for analysis in analyses.values())
            result |= {"fits": True, "cache_tokens": tokens, "peak_bytes": peak}
            result["decode"] = _decoding(config, slice_, tokens, analyses)
            seconds = max(analyses["prefill"]["bound"].values())
            result["prefill"] = {
                "chunk": CHUNK,
                "bound_tokens_per_second": CHUNK / seconds,
                "bound_by": max(analyses["prefill"]["bound"], key=analyses["prefill"]["bound"].__getitem__),
            }
            break
    return result


def _programs(tokens: int, cache_dtype: str | None) -> dict[str, ServingProgram]:
    def program(slots: int, length: int) -> ServingProgram:
        context = max(min(max(CONTEXTS), tokens // max(slots, 1)), PAGE)
        return ServingProgram(slots, length, context, tokens, PAGE, cache_dtype)

    return {"most": program(BATCHES[-1], STEPS), "fewest": program(BATCHES[0], STEPS), "prefill": program(0, CHUNK)}


@dataclasses.dataclass(frozen=True)
class _Step:
    """Figures of one step of decoding, per device, without attention."""

    memory: float  # seconds
    compute: float
    interconnect: float


def _decoding(config: Config, slice_: Topology, tokens: int, analyses: dict[str, Any]) -> list[dict[str, Any]]:
    """The bound of every batch and context that the cache can hold."""
    llama, sizes = config.llama, analyses["most"]
    devices = sizes["mesh"]["tensor"]
    ends = [
        _Step(**{f.name: analyses[n]["bound"][f.name] / STEPS for f in dataclasses.fields(_Step)})
        for n in ("fewest", "most")
    ]
    rows = []
    for batch in BATCHES:
        share = (batch - BATCHES[0]) / (BATCHES[-1] - BATCHES[0])
        step = _Step(*(a + (b - a) * share for a, b in zip(*map(dataclasses.astuple, ends), strict=True)))
        for context in CONTEXTS:
            if batch * context > tokens:
                continue
            pages = sum(-(-context // keys) * size * keys for keys, size in sizes["blocks"]) * batch
            moved = step.memory * slice_.hbm_bandwidth + pages
            live = sizes["token_bytes"] * batch * context
            attention = 4.0 * llama.layers * llama.heads * llama.head_dim * context * batch / devices
            bounds = {
                "memory": moved / slice_.hbm_bandwidth,
                "compute": step.compute + attention / slice_.flops,
                "interconnect": step.interconnect,
            }
            limit = max(bounds, key=bounds.__getitem__)
            weights = sizes["parameter_bytes"] - sizes["embedding_bytes"]
            rows.append(
                {
                    "batch": batch,
                    "context": context,
                    "moved_bytes": moved,
                    "moved_ratio": moved / (weights + live),
                    "bound_by": limit,
                    "bound_seconds": bounds[limit],
                    "bound_tokens_per_second": batch / bounds[limit],
                }
            )
    return rows


def serving_table(result: dict[str, Any]) -> str:
    """A plan as a table."""
    devices = result["mesh"]["tensor"]
    weights = f"{result['weight_bytes'] / GiB:.2f} GiB of weights"
    title = f"{result['size']} on {result['topology']}, over {devices} of {result['chips']} chips, bf16"
    memory = f"{weights}, {result['token_bytes'] / 1024:.1f} KiB for each token of the {result['cache_dtype']} cache"
    lines = [title, f"per device: {memory}, {result['hbm_bytes'] / GiB:.2f} GiB of memory"]
    if not result["fits"]:
        return "\n".join([*lines, f"DOES NOT FIT: {result['peak_bytes'] / GiB:.2f} GiB are needed without a cache"])
    prefill = result["prefill"]
    lines += [
        f"FITS, with a cache of {result['cache_tokens']:,} tokens, peak {result['peak_bytes'] / GiB:.2f} GiB",
        f"prompts: at most {prefill['bound_tokens_per_second']:,.0f} tokens/s, by {prefill['bound_by']}",
        "",
        f"{'batch':>6} {'context':>8}  {'moved':>10}  {'ratio':>6}  {'step':>9}  {'tokens/s':>9}  limit",
    ]
    lines += [
        f"{row['batch']:>6} {row['context']:>8,}  {row['moved_bytes'] / 1e9:>7.2f} GB  {row['moved_ratio']:>6.3f}"
        f"  {row['bound_seconds'] * 1e3:>6.2f} ms  {row['bound_tokens_per_second']:>9,.0f}  {row['bound_by']}"
        for row in result["decode"]
    ]
    return "\n".join(
        [
            *lines,
            "",
            "Not measured: bounds that no run can beat. The ratio is that of moved bytes to weights and cache.",
        ]
    )
