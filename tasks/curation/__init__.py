"""The training-set build: reading, cleaning, deduplicating, decontaminating and writing, on Apache Beam."""
