"""A pool of sandboxes that run jobs side by side.

with Pool(workers=2) as pool:
    outcome = pool.submit(PythonTest(program, test)).result()
"""

from concurrent.futures import Future

from codellama_jax.sandbox.jobs import Job, Outcome


class Pool:
    """Sandboxes that are started once and then run many jobs.

    Args:
        workers: number of jobs that run at a time; 0: one for each processor.
        unsandboxed: runs jobs with time limits only, without isolation.

    Raises:
        UserError: the sandbox cannot be started here; the message says why, and what helps.
    """

    def __init__(self, workers: int = 0, unsandboxed: bool = False):
        raise NotImplementedError

    def submit(self, job: Job) -> Future[Outcome]:
        """Queues a job. May be called from any thread; jobs start in the order of submission."""
        raise NotImplementedError

    def close(self) -> None:
        """Stops everything; jobs that have not ended are cancelled."""

    def __enter__(self) -> "Pool":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
