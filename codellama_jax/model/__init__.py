"""The mathematics of a Llama decoder. Imports jax and flax only: no files, flags or meshes.

    from codellama_jax.model import Decoder, Llama, hidden_states

Array names end in one letter per dim:

    B batch    S sequence (T for keys)    D model width     H query heads    G key-value heads    R queries per kv head
    K head     F feed-forward width       V vocabulary      N layers
"""

from codellama_jax.config.model import Llama
from codellama_jax.model.llama import Decoder, hidden_states, parameter_dims

__all__ = ["Decoder", "Llama", "hidden_states", "parameter_dims"]
