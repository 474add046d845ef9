"""Imports, exports and compares checkpoints.

    python -m codellama_jax.convert import --from=DIR --to=DIR [--vocab_size=N [--new_rows=mean|zero]]
    python -m codellama_jax.convert import --from=ADAPTER --base=DIR --to=DIR
    python -m codellama_jax.convert export --from=DIR --to=DIR --format=hf|meta [--dtype=bfloat16] [--tokenizer=PATH]
    python -m codellama_jax.convert export --from=STAGE --to=DIR --format=peft [--dtype=float32]
    python -m codellama_jax.convert verify --a=DIR --b=DIR [--logits] [--json] [--tolerance=0]

DIR is local or in a bucket (gs://BUCKET/FOLDER).
The format of a folder is detected from its files: a checkpoint of this project (runs/NAME/STAGE, one of its
checkpoints, or an import), Hugging Face's, Meta's, or a .bin file of llama2.c. The folder of a stage that trained
adapters stands for its model with these adapters; an export writes their sum, or with --format=peft only the adapters.
"""

import argparse
import contextlib
import dataclasses
import json
import logging
import math
import re
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from codellama_jax.config import gin_files
from codellama_jax.errors import EXIT_DONE, EXIT_FAILED, EXIT_USAGE, UserError
from codellama_jax.runtime import cli, filesystem

_log = logging.getLogger(__name__)

_UNITS = {"": 1, "MB": 10**6, "GB": 10**9}


def main(argv: list[str] | None = None) -> int:
    """Converts or compares; returns the exit code (0 done or equal, 1 failed or different, 2 wrong usage)."""
    parser = cli.Parser(prog="python -m codellama_jax.convert", description="Converts checkpoints.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="import|export|verify")
    importing = commands.add_parser(
        "import", help="Hugging Face, Meta or llama2.c -> a checkpoint that a stage can start from"
    )
    importing.add_argument(
        "--vocab_size", type=int, help="grow the vocabulary to this number of rows (default: unchanged)"
    )
    importing.add_argument(
        "--new_rows", choices=("mean", "zero"), default="mean", help="values of new rows (default: mean)"
    )
    importing.add_argument("--sequence_length", type=_positive, help="number of positions (default: from the files)")
    importing.add_argument("--base", type=filesystem.to_path, help="for an adapter of peft: the model it belongs to")
    exporting = commands.add_parser("export", help="a checkpoint -> Hugging Face, Meta or peft")
    exporting.add_argument("--format", choices=("hf", "meta", "peft"), required=True)
    dtypes = ("bfloat16", "float16", "float32")
    exporting.add_argument(
        "--dtype",
        choices=dtypes,
        help="dtype of all tensors (default: as imported; bfloat16 if trained; float32 with peft)",
    )
    exporting.add_argument(
        "--shard_size", default="5GB", help="hf: maximum size of a file, such as 5GB or 500MB (default: 5GB)"
    )
    exporting.add_argument(
        "--shards", type=_positive, help="meta: number of model-parallel parts (default: as imported, or Meta's number)"
    )
    for command in (importing, exporting):
        command.add_argument("--from", dest="origin", type=filesystem.to_path, required=True, help="checkpoint to read")
        command.add_argument("--to", type=filesystem.to_path, required=True, help="folder to create")
        command.add_argument(
            "--tokenizer",
            type=filesystem.to_path,
            help="a tokenizer.model or tokenizer.json, or a folder with one of them (default: the one in --from)",
        )
    verify = commands.add_parser("verify", help="compare two checkpoints of any formats")
    verify.add_argument("--a", type=filesystem.to_path, required=True)
    verify.add_argument("--b", type=filesystem.to_path, required=True)
    verify.add_argument("--logits", action="store_true", help="also compare the logits of fixed random ids, in float32")
    verify.add_argument(
        "--tolerance", type=_tolerance, default=0.0, help="largest difference that counts as equal (default: 0)"
    )
    verify.add_argument("--json", action="store_true", help="print the result as one JSON object")
    return cli.run(parser, argv, _convert, _explain)


def _explain(error: BaseException) -> str | None:
    """One line for the user about an error; None for a bug."""
    if isinstance(error, KeyboardInterrupt):
        return "interrupted; nothing was written"
    if isinstance(error, OSError) and error.filename is None:
        return f"the checkpoint could not be written ({error.strerror or error}); its files were removed"
    return cli.describe_os_error(error)


def _convert(flags: gin_files.Flags, options: argparse.Namespace) -> int:
    if flags.gin_files or flags.bindings:
        raise UserError("convert takes no gin files and no --gin flags", EXIT_USAGE)
    return {"import": _import, "export": _export, "verify": _verify}[options.command](options)


def _import(options: argparse.Namespace) -> int:
    # Imported here: importing Orbax takes a second, and a wrong flag should be reported at once.
    from codellama_jax.conversion import exported_files, formats, native
    from codellama_jax.conversion.canonical import Source
    from codellama_jax.conversion.values import CheckedValues
    from codellama_jax.conversion.vocabulary import GrownVocabulary

    if options.base:
        return _import_adapter(options)
    started = time.monotonic()
    opened = formats.open_checkpoint(options.origin)
    source: Source = opened.source
    if options.sequence_length:
        source.model = dataclasses.replace(source.model, sequence_length=options.sequence_length)
    if options.vocab_size is not None:
        source = GrownVocabulary(source, options.vocab_size, options.new_rows)
    source = checked = CheckedValues(source, opened.name_of)
    files, messages, _ = exported_files.replace_tokenizer(opened.files, options.tokenizer)
    rows = opened.source.model.llama.vocab_size
    lineage, more = exported_files.imported(files, opened.lineage, source.model, rows)
    left = formats.not_carried(options.origin, files) if opened.format != formats.OURS else []
    if left := [name for name in left if options.origin / name != options.tokenizer]:
        more.append(f"not carried: {', '.join(left)}")
    native.write(source, options.to, f"{opened.format}: {filesystem.absolute(options.origin)}", files, lineage)
    source.close()
    _print_summary(source.model, opened.format, options.to, started)
    _log_lines(checked.warnings())
    for message in (*messages, *more):
        print(message)
    print(f"start a stage from it with --gin.INITIAL_CHECKPOINT={options.to}")
    return EXIT_DONE


def _import_adapter(options: argparse.Namespace) -> int:
    from codellama_jax.conversion import adapters, formats, peft

    _refuse(options, "--base", "vocab_size", "sequence_length", "tokenizer")
    if not peft.is_adapter(options.origin):
        raise UserError(f"--base is for adapters of peft, and {options.origin} has no {peft.CONFIG}")
    base = formats.open_base(options.base)
    lora, factors = peft.read(options.origin, base.source.model.llama)
    origin = f"peft: {filesystem.absolute(options.origin)}"
    adapters.write(options.to, lora, factors, base, formats.folder(options.base), origin)
    base.source.close()
    print(f"peft -> {options.to}: adapters of rank {lora.rank} of {lora.targets}, for the model {options.base}")
    return EXIT_DONE


def _refuse(options: argparse.Namespace, because: str, *names: str) -> None:
    """Raises UserError if one of these flags, which have no effect with another one, is given."""
    for name in names:
        if getattr(options, name) is not None:
            raise UserError(f"--{name} has no effect with {because}: leave it out", EXIT_USAGE)


def _export_adapter(options: argparse.Namespace) -> int:
    from codellama_jax.conversion import formats, peft, verify
    from codellama_jax.conversion.adapters import AdaptedCheckpoint
    from codellama_jax.conversion.output import output_folder

    _refuse(options, "--format=peft", "tokenizer", "shards")
    source = formats.open_checkpoint(options.origin).source
    if not isinstance(source, AdaptedCheckpoint):
        raise UserError(f"{options.origin} has all parameters of its model, not adapters: use --format=hf")
    if different := verify.different_settings(source.base.model.llama, source.model.llama):
        raise UserError(
            f"the adapters in {options.origin} were trained with another model than {source.base_path} describes"
            f" ({different[0]}), which peft cannot state: use --format=hf, which merges them"
        )
    dtype = options.dtype or "float32"
    nbytes = sum(array.nbytes for factors in source.factors.values() for array in factors)
    with output_folder(options.to, nbytes, peft.CONFIG) as output:
        count = peft.write(source, output, dtype, source.base_name)
    source.close()
    print(f"{options.to}: {count:,} parameters of adapters of {source.base_name}")
    return EXIT_DONE


def _export(options: argparse.Namespace) -> int:
    from codellama_jax.conversion import exported_files, formats, hf, meta
    from codellama_jax.conversion.output import output_folder
    from codellama_jax.conversion.values import CheckedValues
    from codellama_jax.training import assets

    if options.format == "peft":
        return _export_adapter(options)
    started = time.monotonic()
    opened = formats.open_checkpoint(options.origin)
    dtype = options.dtype or opened.export_dtype
    source = CheckedValues(opened.source, opened.name_of, dtype)
    carried, messages, _ = exported_files.replace_tokenizer(opened.files, options.tokenizer)
    files, more, special_ids = exported_files.exported(
        carried, opened.lineage, source.model, options.format, opened.trained
    )
    source.model = dataclasses.replace(source.model, notes={**source.model.notes, **special_ids})
    last = hf.CONFIG if options.format == "hf" else meta.PARAMS
    with output_folder(options.to, formats.nbytes(source.model), last) as output:
        folder = output.path
        if options.format == "hf":
            hf.write(source, folder, _bytes(options.shard_size), output)
        else:
            meta.write(source, folder, options.shards, output)
        assets.write(files, folder)
    source.close()
    _print_summary(source.model, opened.format, options.to, started)
    _log_lines(source.warnings())
    for message in (*messages, *more):
        print(message)
    return EXIT_DONE


def _log_lines(lines: Iterable[str]) -> None:
    for line in lines:
        _log.warning("%s", line)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number above 0")
    return int(text)


def _tolerance(text: str) -> float:
    with contextlib.suppress(ValueError):
        if float(text) >= 0:  # not NaN
            return float(text)
    raise argparse.ArgumentTypeError(f"{text} is not a number of at least 0")


def _bytes(text: str) -> int:
    match = re.fullmatch(r"(\d+)(MB|GB|)", text)
    if not match or int(match[1]) == 0:
        raise UserError(f"--shard_size={text} is not a size: write 5GB or 500MB", EXIT_USAGE)
    return int(match[1]) * _UNITS[match[2]]


def _print_summary(model: Any, format: str, to: Path, started: float) -> None:
    from codellama_jax.conversion import formats

    seconds, nbytes = time.monotonic() - started, formats.nbytes(model)
    print(
        f"{format} -> {to}: {model.llama.parameters:,} parameters, {nbytes / 1e6:,.0f} MB in {seconds:.1f} s"
        f" ({nbytes / 1e6 / seconds:,.0f} MB/s)"
    )


def _verify(options: argparse.Namespace) -> int:
    from codellama_jax.conversion import formats, verify

    a, b = (formats.open_checkpoint(path).source for path in (options.a, options.b))
    result = verify.tensors(a, b)
    if options.logits and not result["unlike"]:
        result["max_logit_difference"] = verify.logits(a, b)
    differences = [result[key] for key in ("max_tensor_difference", "max_logit_difference") if key in result]
    equal = not result["unlike"] and all(value <= options.tolerance for value in differences)
    result = {"equal": equal, **result}
    a.close()
    b.close()
    if options.json:
        print(json.dumps({key: None if value == math.inf else value for key, value in result.items()}))
    else:
        for line in verify.lines(result):
            print(line)
    return EXIT_DONE if equal else EXIT_FAILED


if __name__ == "__main__":
    sys.exit(main())
