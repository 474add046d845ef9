"""The tokens of other programs: greedy decoding by transformers, and of a small trained model."""

import json
from pathlib import Path

import numpy as np
import pytest
from generation_engines import finished
from generation_models import SHAPES, random_params, weights_of

from codellama_jax.config.generation import Sampling, Serving
from codellama_jax.conversion.generation_model import open_model
from codellama_jax.generation.engine import Engine


@pytest.mark.parametrize("shape", SHAPES)
def test_greedy_tokens_are_those_of_transformers(shape: str):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    llama = SHAPES[shape]
    params = random_params(llama)
    config = transformers.LlamaConfig(
        vocab_size=llama.vocab_size,
        hidden_size=llama.dim,
        intermediate_size=llama.ffn_dim,
        num_hidden_layers=llama.layers,
        num_attention_heads=llama.heads,
        num_key_value_heads=llama.kv_heads,
        rms_norm_eps=llama.norm_eps,
        rope_theta=llama.rope_theta,
        rope_parameters={"rope_type": "default", "rope_theta": llama.rope_theta},
        max_position_embeddings=512,
        bos_token_id=1,
        eos_token_id=None,
        pad_token_id=None,
        tie_word_embeddings=False,
    )
    theirs = transformers.LlamaForCausalLM(config).eval()
    names = {"attention_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm"}
    names |= {f"w{x}": f"self_attn.{x}_proj" for x in "qkvo"}
    names |= {"w1": "mlp.gate_proj", "w2": "mlp.down_proj", "w3": "mlp.up_proj"}
    state = {
        "model.embed_tokens.weight": params["embedding"],
        "model.norm.weight": params["norm"],
        "lm_head.weight": params["head"].T,
    }
    for name, stacked in params["blocks"].items():
        for layer, array in enumerate(stacked):
            if array.ndim > 1:
                array = array.reshape((-1, llama.dim) if name == "wo" else (len(array), -1)).T
            state[f"model.layers.{layer}.{names[name]}.weight"] = array
    theirs.load_state_dict({name: torch.tensor(np.ascontiguousarray(array)) for name, array in state.items()})
    prompt = np.random.default_rng(4).integers(3, 300, 30).tolist()
    with torch.no_grad():
        out = theirs.generate(torch.tensor([prompt]), max_new_tokens=100, do_sample=False)[0].tolist()
    running = Engine(weights_of(params, llama), llama, Serving(slots=2, context=160, chunks=(32,)), llama.vocab_size)
    assert finished(running, [running.submit(prompt, Sampling(max_tokens=100))]) == [out[30:]]


def test_stories260k_gives_its_golden_ids(shared_data: Path):
    folder = shared_data / "stories260K"
    golden = json.loads((folder / "golden_greedy.json").read_text())
    opened = open_model(folder / "stories260K.bin", folder / "tok512.model", "float32")
    running = Engine(opened.weights, opened.llama, Serving(slots=2, context=512), opened.tokenizer.rows)
    request = running.submit([golden["bos"]], Sampling(max_tokens=200))
    assert finished(running, [request]) == [golden["greedy_ids"][-200:]]
