"""Builds a training set: what any source gives, filtered, deduplicated, decontaminated, shuffled and cut into shards.

    python -m tasks.build --source=PLACE --out=FOLDER --tokenizer=tokenizer.model

Each step (tasks/build/steps) is an Apache Beam pipeline or a few, which writes files that the next one reads. Nothing
here is imported by training but manifest.py and config.py, which need no Beam.
"""
