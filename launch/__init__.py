"""One file for each place where a job can run."""
