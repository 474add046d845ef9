"""The training loop of a stage and its components."""
