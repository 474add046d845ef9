"""What runs inside the sandbox, with Python's standard library alone. Imports here are relative: the folder is mounted
there without the package around it."""
