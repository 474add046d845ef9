"""Attention and matrix-product kernels, one file for each backend."""
