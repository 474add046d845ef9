"""Checkpoints in and out: Hugging Face, Meta and llama2.c to our folders and back, a block of a tensor at a time."""
