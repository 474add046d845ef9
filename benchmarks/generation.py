"""Tokens/s of decoding and of processing prompts, beside transformers (PyTorch) and llama.cpp, in one run.

    PYTHONPATH=.venv/oracles python benchmarks/generation.py --tokenizer=tokenizer.model --llama_cpp_python=PYTHON
        [--rounds=7] [--out=FILE.md]

PYTHON is an interpreter of an environment with xllamacpp and gguf (python -m venv ENV; ENV/bin/pip install xllamacpp
gguf).
The models have the shapes of stories15M and stories110M, and random float32 weights, which all programs read from one
safetensors file. Each program is a process of its own that works only when it is asked; a round asks each program for
each figure. Ratios are of the same round, and their medians are reported.

Decoding: 100 tokens for each of 1 or 16 prompts of 8 tokens, which are included in the time. Prompts: one of all but 8
tokens of the context, and one generated token. transformers runs with the fastest of four settings (attention sdpa or
eager, dynamic or static cache), which it finds before the first round. llama.cpp runs its server with as many slots as
prompts and a float32 cache; requests are made inside its process, without HTTP.
"""

import argparse
import datetime
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

VOCABULARY, NEW = 32_000, 100
# dim, layers, heads, feed-forward width, context
SHAPES = {"15M": (288, 6, 6, 768, 256), "110M": (768, 12, 12, 2048, 1024)}
FIGURES = ("decode 1", "decode 16", "prompt")
PROGRAMS = ("ours", "transformers", "llama.cpp")


def prompts(figure: str, context: int) -> tuple[list[list[int]], int]:
    """The prompts of a figure, and the number of tokens that each is continued by."""
    rng = np.random.default_rng(0)
    if figure == "prompt":
        return [rng.integers(3, VOCABULARY, context - 8).tolist()], 1
    return [rng.integers(3, VOCABULARY, 8).tolist() for _ in range(int(figure.split()[1]))], NEW


# --- the programs: each makes a function (prompts, new tokens) -> ids of the answers


def ours(folder: Path, shape: str, tokenizer: Path) -> Callable[[str], list[list[int]]]:
    from codellama_jax.config.generation import Sampling, Serving
    from codellama_jax.conversion.generation_model import open_model
    from codellama_jax.generation.engine import Engine

    context = SHAPES[shape][-1]
    model = open_model(folder, tokenizer, "float32")
    engines = {}
    for slots in (1, 16):
        serving = Serving(slots=slots, context=context, prefix_cache=False)
        engines[slots] = Engine(model.weights, model.llama, serving, VOCABULARY)
        engines[slots].warm_up()

    def run(figure: str) -> list[list[int]]:
        texts, new = prompts(figure, context)
        engine = engines[len(texts)]
        requests = [engine.submit(text, Sampling(max_tokens=new)) for text in texts]
        while engine.busy:
            engine.step()
        return [request.tokens for request in requests]

    return run


def transformers(folder: Path, shape: str, _: Path) -> Callable[[str], list[list[int]]]:
    import torch
    from transformers import LlamaForCausalLM

    torch.set_num_threads(os.cpu_count() or 1)
    model = LlamaForCausalLM.from_pretrained(folder).eval()
    best: dict[str, tuple[str, dict]] = {}

    def answer(figure: str, attention: str, options: dict) -> list[list[int]]:
        texts, new = prompts(figure, SHAPES[shape][-1])
        model.set_attn_implementation(attention)
        ids = torch.tensor(texts)
        with torch.inference_mode():
            mask = torch.ones_like(ids)
            out = model.generate(
                ids, attention_mask=mask, max_new_tokens=new, min_new_tokens=new, do_sample=False, **options
            )
        return out[:, ids.shape[1] :].tolist()

    for figure in FIGURES:
        times = {}
        for attention in ("sdpa", "eager"):
            for options in ({}, {"cache_implementation": "static", "disable_compile": True}):
                answer(figure, attention, options)
                start = time.perf_counter()
                answer(figure, attention, options)
                times[time.perf_counter() - start] = attention, options
        best[figure] = times[min(times)]
    return lambda figure: answer(figure, *best[figure])


def llama_cpp(folder: Path, shape: str, _: Path) -> Callable[[str], list[list[int]]]:
    import xllamacpp

    context = SHAPES[shape][-1]
    servers = {}
    for slots in (1, 16):
        settings = xllamacpp.CommonParams()
        settings.model.path = str(folder / "model.gguf")
        settings.n_ctx, settings.n_parallel, settings.warmup = context * slots, slots, True
        settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = os.cpu_count()
        settings.cache_type_k = settings.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        servers[slots] = xllamacpp.Server(settings)
    pool = ThreadPoolExecutor(16)

    def run(figure: str) -> list[list[int]]:
        texts, new = prompts(figure, context)
        server = servers[len(texts)]

        def answer(text: list[int]) -> list[int]:
            options = {"ignore_eos": True, "cache_prompt": False, "stream": False}
            found = server.handle_completions({"prompt": text, "n_predict": new, "temperature": 0, **options})
            return [int(id) for id in re.findall(r"t(\d+)", found["choices"][0]["text"])]

        return list(pool.map(answer, texts))

    return run


def write_gguf(weights: dict[str, np.ndarray], shape: str, path: Path) -> None:
    """The same weights for llama.cpp, whose rotation pairs neighbours: rows of q and k are reordered."""
    import gguf

    dim, layers, heads, width, context = SHAPES[shape]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(context)
    writer.add_embedding_length(dim)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(width)
    writer.add_head_count(heads)
    writer.add_head_count_kv(heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(dim // heads)
    writer.add_rope_freq_base(1e4)
    writer.add_vocab_size(VOCABULARY)
    writer.add_tokenizer_model("llama")
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    writer.add_token_list([*pieces, *(f"t{id}" for id in range(len(pieces), VOCABULARY))])
    writer.add_token_scores([0.0] * VOCABULARY)
    writer.add_token_types([2, 3, 3, *[6] * 256, *[1] * (VOCABULARY - 259)])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    names = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v"}
    names |= {"self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up"}
    names |= {"mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}
    outside = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
    for name, array in weights.items():
        stem = name.removesuffix(".weight")
        if stem in outside:
            target = outside[stem]
        else:
            layer, part = stem.removeprefix("model.layers.").split(".", 1)
            target = f"blk.{layer}.{names[part]}"
        if target.endswith(("attn_q", "attn_k")):
            array = array.reshape(heads, 2, -1, dim).swapaxes(1, 2).reshape(dim, dim)
        writer.add_tensor(f"{target}.weight", np.ascontiguousarray(array))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_model(folder: Path, shape: str) -> None:
    """Random weights in the format of transformers. They are large enough that logits differ by more than rounding."""
    from safetensors.numpy import save_file

    dim, layers, heads, width, context = SHAPES[shape]
    rng = np.random.default_rng(0)

    def normal(*sizes: int, scale: float = 1.0) -> np.ndarray:
        return rng.standard_normal(sizes, np.float32) * np.float32(scale * sizes[-1] ** -0.5)

    weights = {"model.embed_tokens.weight": normal(VOCABULARY, dim, scale=dim**0.5)}
    weights |= {"model.norm.weight": np.ones(dim, np.float32), "lm_head.weight": normal(VOCABULARY, dim, scale=3)}
    weights["lm_head.weight"][:259] = 0  # special ids and bytes, which llama.cpp's server does not print as ids
    for layer in range(layers):
        start = f"model.layers.{layer}."
        for name in ("input_layernorm", "post_attention_layernorm"):
            weights[f"{start}{name}.weight"] = np.ones(dim, np.float32)
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            weights[f"{start}self_attn.{name}.weight"] = normal(dim, dim)
        for name in ("gate_proj", "up_proj"):
            weights[f"{start}mlp.{name}.weight"] = normal(width, dim)
        weights[f"{start}mlp.down_proj.weight"] = normal(dim, width)
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": VOCABULARY}
    config |= {"hidden_size": dim, "intermediate_size": width, "num_hidden_layers": layers, "rms_norm_eps": 1e-5}
    config |= {"num_attention_heads": heads, "num_key_value_heads": heads, "max_position_embeddings": context}
    config |= {"rope_theta": 1e4, "hidden_act": "silu", "tie_word_embeddings": False, "torch_dtype": "float32"}
    config |= {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": None}
    (folder / "config.json").write_text(json.dumps(config))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    np.savez(folder / "weights.npz", **weights)


# --- processes


def work(program: str, folder: Path, shape: str, tokenizer: Path) -> None:
    """Runs one program: for each figure on standard input, prints the seconds and the ids of the answers."""
    if program == "llama.cpp":
        write_gguf(dict(np.load(folder / "weights.npz")), shape, folder / "model.gguf")
    make = {"ours": ours, "transformers": transformers, "llama.cpp": llama_cpp}[program]
    run = make(folder, shape, tokenizer)
    for figure in FIGURES:
        run(figure)
    print("@ ready", flush=True)
    for line in sys.stdin:
        start = time.perf_counter()
        ids = run(line.strip())
        print("@ " + json.dumps([time.perf_counter() - start, ids]), flush=True)
    os._exit(0)  # the threads of llama.cpp's servers do not end


class Program:
    """A process that runs one program."""

    def __init__(self, python: str, name: str, folder: Path, options: argparse.Namespace, shape: str):
        flags = f"--work={name}", f"--folder={folder}", f"--shape={shape}", f"--tokenizer={options.tokenizer}"
        command = [python, __file__, *flags]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        self._answer()

    def ask(self, figure: str) -> tuple[float, list[list[int]]]:
        assert self._process.stdin is not None
        print(figure, file=self._process.stdin, flush=True)
        seconds, ids = json.loads(self._answer())
        return seconds, ids

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("@ "):
                return line[2:]
        raise SystemExit(f"error: {' '.join(map(str, self._process.args))} has ended: run it alone to see why")


def first_difference(a: list[list[int]], b: list[list[int]]) -> str:
    """Where the first answer that differs does so."""
    for row, (x, y) in enumerate(zip(a, b, strict=True)):
        if x != y:
            return f"answer {row} from token {next(i for i, (p, q) in enumerate(zip(x, y, strict=False)) if p != q)}"
    return "none"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", type=Path, required=True, help="a tokenizer.model with 32,000 pieces")
    parser.add_argument("--llama_cpp_python", help="an interpreter with xllamacpp and gguf; without it: not compared")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--out", type=Path, help="write the results here")
    parser.add_argument("--work", choices=PROGRAMS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--shape", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        work(options.work, options.folder, options.shape, options.tokenizer)
        return
    lines = [line for shape in options.shapes for line in compared(shape, options)]
    text = "\n".join(report(lines, options)) + "\n"
    print(text)
    if options.out:
        options.out.write_text(text)


def compared(shape: str, options: argparse.Namespace) -> Iterator[str]:
    """The rows of the table for one shape."""
    context = SHAPES[shape][-1]
    pythons = {"ours": sys.executable, "transformers": sys.executable, "llama.cpp": options.llama_cpp_python}
    with tempfile.TemporaryDirectory() as name:
        write_model(Path(name), shape)
        running = {
            program: Program(python, program, Path(name), options, shape)
            for program, python in pythons.items()
            if python
        }
        seconds: dict[tuple[str, str], list[float]] = {}
        ids: dict[tuple[str, str], Any] = {}
        for number in range(options.rounds):
            for figure in FIGURES:
                for program in running:
                    taken, ids[figure, program] = running[program].ask(figure)
                    seconds.setdefault((figure, program), []).append(taken)
            print(f"{shape}: round {number + 1} of {options.rounds}", file=sys.stderr, flush=True)
        for process in running.values():
            process.close()
    for figure in FIGURES:
        texts, new = prompts(figure, context)
        tokens = len(texts) * new if figure != "prompt" else len(texts[0])
        row = [shape, figure]
        for program in PROGRAMS:
            row.append(f"{tokens / statistics.median(seconds[figure, program]):,.0f}" if program in running else "-")
        for program in PROGRAMS[1:]:
            if program not in running:
                row += ["-", "-"]
                continue
            pairs = zip(seconds[figure, program], seconds[figure, "ours"], strict=True)
            ratios = sorted(theirs / own for theirs, own in pairs)
            row.append(f"**{statistics.median(ratios):.2f}** ({ratios[0]:.2f} to {ratios[-1]:.2f})")
            row.append(first_difference(ids[figure, "ours"], ids[figure, program]))
        yield f"| {' | '.join(row)} |"


def report(rows: list[str], options: argparse.Namespace) -> Iterator[str]:
    from result_file import paragraph, processor

    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("jax", "torch", "transformers"))
    if options.llama_cpp_python:
        find = "from importlib import metadata; print(metadata.version('xllamacpp'))"
        found = subprocess.run([options.llama_cpp_python, "-c", find], capture_output=True, text=True, check=True)
        versions += f", xllamacpp {found.stdout.strip()} (llama.cpp)"
    yield f"# Generation, {datetime.date.today()}\n"
    yield "    PYTHONPATH=.venv/oracles python benchmarks/generation.py --tokenizer=tokenizer.model \\"
    yield f"        --llama_cpp_python=PYTHON --rounds={options.rounds}\n"
    yield from paragraph(
        f"{os.cpu_count()} cores of {processor()}, shared; Python {platform.python_version()}, {versions}; float32."
        " Tokens/s are medians; ratios are ours to theirs, medians of the rounds with their extremes. 'Differs' is the"
        " first greedy token that is not the same; programs round differently, so near ties may fall otherwise."
    )
    yield ""
    columns = "shape | figure | ours | transformers | llama.cpp | to transformers | differs | to llama.cpp | differs"
    yield f"| {columns} |"
    yield "|---|---|---|---|---|---|---|---|---|"
    yield from rows


if __name__ == "__main__":
    main()
