"""The experiment of benchmarks/paper.py: its steps, the processes that run them, the claims, and the page."""
