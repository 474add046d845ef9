"""Jobs of the 7B model for tests of the cloud executors."""

from codellama_jax.config import gin_files
from launch.executor import Experiment, Job
from launch.source_archive import ROOT

BINDINGS = (  # contain characters that are special in shells
    "TOKENIZER=gs://b/t.model",
    "CODE_CORPUS=gs://b/c d/*.parquet",
    'NL_CODE_CORPUS="gs://b/it\'s $x"',
    "NL_CORPUS=gs://b/nl",
    "INITIAL_CHECKPOINT=gs://b/llama",
)


def job(stage: str = "lcft", imports: tuple[str, ...] = ()) -> Job:
    files = [f"gin/{stage}.gin", "gin/models/7b.gin"]
    config = gin_files.load(files, BINDINGS, imports=imports).resolve()
    paths = tuple(str(ROOT / file) for file in files)
    flags = tuple(f"--import={module}" for module in imports)
    return Job(stage, paths, BINDINGS, "gs://b/runs", "seven", flags, config)


def experiment(*jobs: Job) -> Experiment:
    return Experiment("seven", "gs://b/runs", jobs or (job(),))
