"""The executor for this machine."""
