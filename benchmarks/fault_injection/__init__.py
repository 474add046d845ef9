"""The parts of benchmarks/faults.py: each runs the real command, injects faults and yields lines of the result file."""
