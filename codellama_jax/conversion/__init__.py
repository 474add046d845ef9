"""Import and export of checkpoints: Hugging Face, Meta and llama2.c, one block of a tensor at a time."""
