"""The mathematics of a Llama decoder. Imports jax and flax only: no files, no flags, no meshes.

One legend for the letters that end the names of arrays:

    B batch    S sequence (T for keys)    D model width     H query heads    G key-value heads    R queries a kv head
    K head     F feed-forward width       V vocabulary      N layers
"""
