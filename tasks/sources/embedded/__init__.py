"""The embedded corpus: text that any machine with Python has."""
