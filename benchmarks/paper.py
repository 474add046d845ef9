"""Shows the paper's claims in small: trains, evaluates and compares, with several seeds, and writes a page.

    python benchmarks/paper.py --out=runs/paper [--seeds=3] [--claims NAME ...] [--size=FILE] [--result=FILE]
        [--docs=FILE]

Every step is a command of the project: xm_launch.py with the stage files, the size file and those of gin/paper,
evaluate and self_instruct, on one core each. What is done is kept: the same command resumes.
The page, OUT/report.html, shows a claim as soon as a seed has all its steps. --result writes the dated result file,
--docs the page for docs/.
"""

import argparse
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent.parent)]

from study import page, summary  # noqa: E402
from study.claims import CLAIMS  # noqa: E402
from study.engine import Setup, available_cores, run, tasks_of, tokenizer_path  # noqa: E402
from study.step import unique  # noqa: E402
from study.tokenizer import ensure_tokenizer  # noqa: E402

from codellama_jax.config import gin_files  # noqa: E402
from codellama_jax.errors import EXIT_DONE, EXIT_INTERRUPTED, EXIT_USAGE, UserError  # noqa: E402
from codellama_jax.runtime import cli, filesystem, lock  # noqa: E402


def main() -> int:
    parser = cli.Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [claim.key for claim in CLAIMS]
    parser.add_argument("--out", type=Path, default=Path("runs/paper"), help="folder of the experiment; resumed")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds (default: 3)")
    parser.add_argument("--claims", nargs="+", choices=names, default=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--size", default="gin/models/study.gin", help="the size file")
    parser.add_argument("--problems", type=int, default=400, help="exercises of each evaluation (default: 400)")
    parser.add_argument("--page_only", action="store_true", help="run nothing: write the pages of what is done")
    parser.add_argument("--result", type=Path, help="file for the result, as Markdown")
    parser.add_argument("--docs", type=Path, help="file for the page of docs/, as Markdown")
    return cli.run(parser, None, _run)


def _run(flags: gin_files.Flags, options: argparse.Namespace) -> int:
    if not 1 <= options.seeds <= 10:
        raise UserError(f"--seeds={options.seeds} must be between 1 and 10", EXIT_USAGE)
    if given := [*flags.gin_files, *flags.bindings]:
        raise UserError(
            f"{given[0]}: settings of this experiment are in its size file, --size={options.size}", EXIT_USAGE
        )
    out = options.out.resolve()
    claims = [claim for claim in CLAIMS if claim.key in options.claims]
    steps = unique(step for claim in claims for step in claim.steps)
    tasks = tasks_of(steps, options.seeds, Setup(out, options.size, options.problems))
    stopped = False
    if not options.page_only:
        out.mkdir(parents=True, exist_ok=True)
        held = lock.acquire(out)
        try:
            ensure_tokenizer(tokenizer_path(out), options.size)
            stopped = run(tasks, available_cores(), lambda: page.write(out, summary.read(claims, tasks)))
        finally:
            held.release()
    found = summary.read(claims, tasks)
    print(f"report in {page.write(out, found)}")
    if options.result:
        filesystem.write_atomically(options.result, summary.result_file(found))
    if options.docs:
        filesystem.write_atomically(options.docs, summary.docs_page(found))
    if stopped:
        print("interrupted; the same command resumes")
    return EXIT_INTERRUPTED if stopped else EXIT_DONE


if __name__ == "__main__":
    sys.exit(main())
