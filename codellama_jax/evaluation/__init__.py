"""Benchmarks of models: what they are asked, how their answers are judged, and the records of both."""
