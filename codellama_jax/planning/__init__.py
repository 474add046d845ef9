"""Memory and cost of a stage on a slice of TPUs, from its step compiled ahead of time."""
