"""Generation: a batched engine with a paged key-value cache, sampling, stop conditions, and prompts."""
