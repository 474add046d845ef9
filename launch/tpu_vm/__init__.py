"""The executor for slices of Cloud TPU VMs."""
