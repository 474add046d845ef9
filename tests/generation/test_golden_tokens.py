"""The tokens of other programs: greedy decoding by transformers, and of a small trained model."""

import json
from pathlib import Path

import numpy as np
import pytest
from generation_engines import finished
from generation_models import SHAPES, ParamsSource, model

from codellama_jax.config.generation import Sampling, Serving
from codellama_jax.conversion import hf
from codellama_jax.conversion.generation_model import open_model
from codellama_jax.generation.engine import Engine


@pytest.mark.parametrize("shape", SHAPES)
def test_greedy_tokens_are_those_of_transformers(tmp_path: Path, shape: str):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    llama, params, weights = model(shape)
    hf.write(ParamsSource(llama, params), tmp_path)
    theirs, loading = transformers.LlamaForCausalLM.from_pretrained(
        tmp_path, dtype=torch.float32, output_loading_info=True
    )
    assert not any(loading.values()), loading
    theirs.generation_config.eos_token_id = None  # generates all tokens
    prompt = np.random.default_rng(4).integers(3, 300, 30).tolist()
    with torch.no_grad():
        out = theirs.generate(torch.tensor([prompt]), max_new_tokens=100, do_sample=False)[0].tolist()
    assert len(out) == 130
    running = Engine(weights, llama, Serving(slots=2, context=160, chunks=(32,)), llama.vocab_size)
    assert finished(running, [running.submit(prompt, Sampling(max_tokens=100))]) == [out[30:]]


def test_stories260k_gives_its_golden_ids(shared_data: Path):
    folder = shared_data / "stories260K"
    golden = json.loads((folder / "golden_greedy.json").read_text())
    opened = open_model(folder / "stories260K.bin", folder / "tok512.model", "float32")
    running = Engine(opened.weights, opened.llama, Serving(slots=2, context=512), opened.tokenizer.rows)
    request = running.submit([golden["bos"]], Sampling(max_tokens=200))
    assert finished(running, [request]) == [golden["greedy_ids"][-200:]]
