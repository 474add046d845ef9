"""What runs inside the sandbox, with Python's standard library alone; nothing else of the project is visible there."""
