"""Everything about data: sources, infilling, packing, SeqIO tasks and the trainer's stream.

TensorFlow and SeqIO live in this package and nowhere else, and are imported only where data is read.
"""
