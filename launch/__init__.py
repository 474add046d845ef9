"""The launcher: plans an experiment and runs its jobs with an executor, on this machine or in the cloud."""
