"""The training loop of a stage and what it is made of."""
