"""Code Llama's training recipe (arXiv 2308.12950) in JAX and Flax: the model side."""

__version__ = "0.1.0"
