"""A generator of small Python functions and tests: training data, and a benchmark that a small model can pass."""
