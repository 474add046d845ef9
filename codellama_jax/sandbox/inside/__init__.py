"""What runs inside the sandbox, with Python's standard library alone. Of the project, only this folder is visible there."""
