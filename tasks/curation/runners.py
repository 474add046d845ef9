"""Which runner Beam's flags select."""

from collections.abc import Sequence

from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions
from apache_beam.runners.runner import create_runner

from codellama_jax.errors import EXIT_USAGE, UserError, first_line
from tasks.curation.runner import Runner, options, unknown_flags

EMBEDDED = ("directrunner", "fnapirunner", "switchingdirectrunner", "bundlebaseddirectrunner")
DASK = "apache_beam.runners.dask.dask_runner.DaskRunner"
# Flags that the embedded runner and Dask's would accept and ignore -> the runner that they belong to
_BELONGS_TO = {
    "--dask_": "DaskRunner",
    "--flink_": "FlinkRunner",
    "--spark_": "SparkRunner",
    "--prism_": "PrismRunner",
    "--job_endpoint": "PortableRunner",
}


def select(flags: Sequence[str]) -> Runner | None:
    """The runner that the flags select; None for the embedded one.

    Raises:
        UserError: Beam does not know the runner or a flag, or a package is missing.
    """
    name = PipelineOptions(_of(StandardOptions, flags)).view_as(StandardOptions).runner
    embedded = name is None or name.rpartition(".")[2].lower() in EMBEDDED
    is_dask = name is not None and name.lower() in ("dask", "daskrunner", DASK.lower())  # Beam has no name for it
    if embedded or is_dask:
        for flag in flags:
            for prefix, runner in _BELONGS_TO.items():
                if flag.startswith(prefix) and not (is_dask and runner == "DaskRunner"):
                    raise UserError(f"{flag.partition('=')[0]} needs --runner={runner}", EXIT_USAGE)
    if name is None or embedded:
        options(flags)
        return None
    try:
        create_runner(DASK if is_dask else name)  # imports it, which defines its flags
    except ImportError as error:
        fix = "pip install 'codellama_jax[dask]'" if is_dask else "install it"
        raise UserError(f"--runner={name} needs a package that is missing ({first_line(error)}): {fix}") from error
    except (ValueError, AttributeError) as error:
        raise UserError(f"--runner={name}: {first_line(error, 1000)}", EXIT_USAGE) from error
    options(flags)
    if is_dask:
        from tasks.curation.dask_runner import Dask  # imported here: dask is optional

        return Dask(DASK, flags)
    return Runner(name, flags)


def _of(kind: type[PipelineOptions], flags: Sequence[str]) -> list[str]:
    """The flags that belong to a class of options."""
    unknown = unknown_flags([kind], flags)
    return [flag for flag in flags if flag not in unknown]
