"""Runs programs that a model wrote: without network, bounded in time, memory, files and processes."""
