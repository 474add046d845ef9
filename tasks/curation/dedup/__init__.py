"""Removing duplicates: exact ones by content hash, near-duplicates by MinHash and locality-sensitive hashing."""
