"""The data pipeline: sources, infilling, packing, the trainer's loader, and the same streams as SeqIO tasks.

Only this package imports TensorFlow and SeqIO, and only for a source, a gs:// path or a SeqIO task that needs them.
"""
