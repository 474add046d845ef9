"""Loads gin files and flags into one value. Only this module imports gin, and it uses only gin's parser.

    flags = gin_files.split_flags(sys.argv[1:])
    bindings = gin_files.load(flags.gin_files, flags.bindings, default_size="local")
    config = bindings.resolve()            # or only some parts: bindings.resolve(Corpus, Tokenizer)
    print(bindings.explain("Stage.steps"))

A run is composed of a stage file (gin/code.gin), a size file (gin/models/7b.gin), the user's own files and
--gin.NAME=VALUE flags. They apply in this order, whatever the order on the command line; of two files, or two flags, of
the same kind, the later one wins. NAME is a setting (Stage.steps) or a macro (CODE_STEPS): a value that a stage file
leaves to the size file.

gin itself accepts misspelt macros and values of the wrong type. Here each raises a UserError with EXIT_USAGE and
a one-line message. There is no global state: several configurations can be loaded side by side.
"""

import dataclasses
import functools
import re
import tokenize
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from gin import config_parser

from codellama_jax.config import locations
from codellama_jax.config.bindings import (
    REQUIRED,
    Binding,
    Bindings,
    Macro,
    check_names,
    macros,
    nearest,
    one_of,
    usage_error,
)
from codellama_jax.config.run import ADDED_SETTINGS, RESULT_NEUTRAL, current_name

ROOT = Path(__file__).resolve().parents[2]
# In a checkout the gin files are next to the package; in an installed wheel they are inside it.
SHIPPED = ROOT / "gin" if (ROOT / "gin" / "models").is_dir() else Path(__file__).resolve().parents[1] / "gin"
SIZES = SHIPPED / "models"
EXPERIMENTS = SHIPPED / "paper"


@dataclasses.dataclass(frozen=True)
class Flags:
    """A command line.

    Attributes:
        gin_files: the values of --gin_file.
        bindings: "NAME=VALUE" for each --gin.NAME=VALUE.
        rest: all other arguments, for argparse.
        imports: the values of --import, names of modules.
    """

    gin_files: list[str]
    bindings: list[str]
    rest: list[str]
    imports: list[str] = dataclasses.field(default_factory=list)


def split_flags(argv: Sequence[str]) -> Flags:
    """Separates --gin_file=FILE, --gin.NAME=VALUE and --import=MODULE from the other arguments.

    Args:
        argv: the arguments, without the program's name. --gin_file FILE and --import MODULE are accepted too.

    Raises:
        UserError: --gin_file without a file, --import without a module, or --gin.NAME without "=".
    """
    flags = Flags([], [], [])
    arguments = iter(argv)

    def value_of(flag: str, equals: str, value: str, example: str) -> str:
        value = value if equals else next(arguments, "")
        if not value or value.startswith("--"):
            raise usage_error(f"{flag} needs a value: write {flag}={example}")
        return value

    for argument in arguments:
        flag, equals, value = argument.partition("=")
        if flag == "--gin_file":
            flags.gin_files.append(value_of(flag, equals, value, "gin/code.gin"))
        elif flag == "--import":
            flags.imports.append(_module(value_of(flag, equals, value, "my_package.tasks"), argument))
        elif flag.startswith("--gin."):
            if not equals:
                value = re.sub("^--.*", "VALUE", next(arguments, "--"))
                raise usage_error(f"{flag} needs its value after an equals sign: write {flag}={value}")
            flags.bindings.append(argument.removeprefix("--gin."))
        else:
            flags.rest.append(argument)
    return flags


@dataclasses.dataclass(frozen=True)
class _File:
    path: Path
    bindings: list[Binding]
    imports: list[str]

    def binds(self, name: str) -> bool:
        return any(binding.name == name for binding in self.bindings)

    @property
    def order(self) -> int:
        """0: a stage or another shipped file. 1: a size, which overrides 0. 2: a user's file or an experiment of
        gin/paper, which overrides both.

        A saved configuration binds stage and size: it counts as a size.
        """
        if self.path.parent == SIZES or self.binds("Stage.size"):
            return 1
        shipped = self.path.is_relative_to(SHIPPED) and not self.path.is_relative_to(EXPERIMENTS)
        return 0 if self.binds("Stage.name") or shipped else 2


def find(name: str, including: Path | None = None) -> Path:
    """Finds a gin file, and returns its absolute path.

    Searches next to the file that includes it, in the current directory and among the shipped files, in this order.

    Raises:
        UserError: there is no such file; the message names the most similar one.
    """
    if locations.is_remote(name):
        raise usage_error(f"--gin_file={name}: gin files are read from local paths: copy it here first")
    for folder in (including.parent if including else Path.cwd(), Path.cwd(), SHIPPED.parent):
        path = folder / Path(name).expanduser()
        if path.is_file():
            return path.resolve()
    shipped = [_shown(path) for path in sorted(SHIPPED.rglob("*.gin"))]
    words = {Path(path).stem: path for path in shipped} | {path: path for path in shipped}
    hint = "".join(f"did you mean {words[word]}? " for word in nearest(name, words))
    subject = f"{_shown(including)} includes {name}, which" if including else f"--gin_file={name}"
    raise usage_error(f"{subject} does not exist: {hint}The shipped files are {', '.join(shipped)}")


def shipped_stages() -> dict[str, Path]:
    """Name of each shipped stage -> its gin file."""
    files = (file for file in _shipped_files() if file.path.parent == SHIPPED)
    names = {file.path: [binding.value for binding in file.bindings if binding.name == "Stage.name"] for file in files}
    return {bound[-1]: path for path, bound in names.items() if bound}


def is_size_file(name: str) -> bool:
    """Whether a gin file sets the size. Raises UserError for the same reasons as load."""
    return _read(find(name)).order == 1


def is_stage_file(name: str) -> bool:
    """Whether a gin file defines a stage: it, or a file that it includes, binds Stage.name.

    Raises:
        UserError: for the same reasons as load.
    """
    return _read(find(name)).binds("Stage.name")


def load(
    gin_files: Sequence[str],
    bindings: Sequence[str],
    *,
    default_size: str | None = None,
    imports: Sequence[str] = (),
) -> Bindings:
    """Loads gin files and bindings; they apply in the order that the module's docstring states.

    Args:
        gin_files: names or paths, resolved by find().
        bindings: "NAME=VALUE". VALUE is a gin literal, or a bare word or path, which is taken as a string.
        default_size: if no file sets the size, gin/models/`default_size`.gin is added.
        imports: modules in addition to those that the files import. They are listed in the result, not imported.

    Raises:
        UserError: a file does not exist or cannot be read, a stage has no size, a setting or macro is unknown, or a
            macro has no value.
    """
    size_files = tuple(_shown(path) for path in sorted(SIZES.glob("*.gin")))
    files = [_read(find(name)) for name in gin_files]
    if not any(file.order == 1 for file in files):
        if default_size is not None:
            files.append(_read(find(f"gin/models/{default_size}.gin")))
        elif stages := [file.path for file in files if file.binds("Stage.name")]:
            raise usage_error(f"{_shown(stages[0])} needs a size: {one_of(size_files)}")
    files.sort(key=lambda file: file.order)
    flags = [_read_flag(binding) for binding in bindings]
    own_files = [binding for file in files if file.order == 2 for binding in file.bindings]
    for level in (own_files, flags):
        _check_one_mixture(level)
    bound = [binding for file in files for binding in file.bindings] + flags
    shipped = _shipped_files()
    used = check_names(
        bound, {macro for file in shipped for binding in file.bindings for macro in macros(binding.value)}
    )
    modules = dict.fromkeys([*(module for file in files for module in file.imports), *imports])
    return Bindings(
        tuple(bound),
        unused=tuple(sorted({flag.name for flag in flags if "." not in flag.name} - used)),
        imports=tuple(modules),
        stage_files=tuple(
            _shown(file.path) for file in shipped if file.path.parent == SHIPPED and file.binds("Stage.name")
        ),
        size_files=size_files,
    )


def _check_one_mixture(bindings: Sequence[Binding]) -> None:
    """Raises UserError if the user's files, or the flags, set both Mixture.shares and Mixture.seqio."""
    bound = {binding.name: binding for binding in bindings if binding.value is not None}
    if {"Mixture.shares", "Mixture.seqio"} <= bound.keys():
        origins = " and ".join(bound[name].origin for name in ("Mixture.shares", "Mixture.seqio"))
        raise usage_error(f"Mixture.shares and Mixture.seqio contradict each other ({origins}): bind one of them")


def differences(old: str, new: str) -> list[str]:
    """The differences between two operative configurations in settings that change the result.

    Each is a text such as "AdamW.peak_learning_rate: 0.0003 before, 0.001 now".

    Raises:
        UserError: one of the texts is not a configuration.
    """
    added = {name: repr(value) for name, value in ADDED_SETTINGS.items()}  # a text of an earlier version lacks them
    before = added | {
        binding.name: repr(binding.value) for binding in _parse(old, "the earlier configuration").bindings
    }
    now = added | {binding.name: repr(binding.value) for binding in _parse(new, "the new configuration").bindings}
    changed = [name for name in now | before if before.get(name) != now.get(name)]
    return [
        f"{name}: {before.get(name, 'not set')} before, {now.get(name, 'not set')} now"
        for name in changed
        if not name.startswith(RESULT_NEUTRAL)
    ]


def _shown(path: Path) -> str:
    """A path as messages show it: gin/code.gin for a shipped file."""
    return str(path.relative_to(SHIPPED.parent) if path.is_relative_to(SHIPPED.parent) else path)


def _module(name: str, origin: str) -> str:
    if not all(part.isidentifier() for part in name.split(".")):
        raise usage_error(f"{origin}: {name!r} is not a module name: write a name such as my_package.tasks")
    return name


@functools.cache
def _shipped_files() -> tuple[_File, ...]:
    """All shipped files, sorted by path. They do not change while a process runs."""
    return tuple(_read(path) for path in sorted(SHIPPED.rglob("*.gin")))


def _read(path: Path, including: tuple[Path, ...] = ()) -> _File:
    """The bindings of a file and of the files it includes, in order. `including` is the chain of including files."""
    if path in including:
        raise usage_error(f"{_shown(path)} includes itself")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise usage_error(f"cannot read {_shown(path)}: {error}") from error
    return _parse(text, _shown(path), path, (*including, path))


def _parse(text: str, origin: str, path: Path = Path(), including: tuple[Path, ...] = ()) -> _File:
    """The bindings and imports of a text. `origin` names the text in messages."""
    file = _File(path, [], [])
    for statement in _statements(text, origin):
        at = f"{origin}:{statement.location.line_num}"
        if isinstance(statement, config_parser.BindingStatement):
            file.bindings.append(_binding(statement, at))
        elif isinstance(statement, config_parser.IncludeStatement):
            included = _read(find(statement.filename, *including[-1:]), including)
            file.bindings.extend(included.bindings)
            file.imports.extend(included.imports)
        elif isinstance(statement, config_parser.ImportStatement):
            if statement.is_from or statement.alias:
                raise usage_error(f"{at}: write import PACKAGE.MODULE, without from and as")
            file.imports.append(_module(statement.module, at))
    return file


def _statements(text: str, origin: str) -> Iterator[Any]:
    try:
        yield from config_parser.ConfigParser(text, _ReferencesAsValues())
    except (SyntaxError, tokenize.TokenError, ValueError) as error:
        number = getattr(error, "lineno", None) or 0
        line = "".join(text.splitlines()[number - 1 : number]).strip()
        what = f"{origin}:{number}: cannot read {line!r}" if line else f"{origin} cannot be read to its end"
        form = "NAME = VALUE, with a number, a 'string' in quotes, True, False, None, a {'dict': 1.0} or a %MACRO"
        raise usage_error(f"{what}: write {form}") from error


class _ReferencesAsValues(config_parser.ParserDelegate):
    """Makes gin's parser return references to macros as values and refuse references to Python objects (@name)."""

    def configurable_reference(self, scoped_configurable_name: str, evaluate: bool) -> Any:
        raise ValueError(f"@{scoped_configurable_name} is a reference to a Python object")

    def macro(self, macro_name: str) -> Macro:
        return REQUIRED if macro_name == REQUIRED.name else Macro(macro_name)


def _binding(statement: Any, origin: str) -> Binding:
    scope = f"{statement.scope}/" if statement.scope else ""
    name = scope + ".".join(filter(None, (statement.selector, statement.arg_name)))
    return Binding(current_name(name), statement.value, origin)


# A value on the command line that needs no quotes: it has no brackets, no quotes and no reference.
_BARE = re.compile(r"[^@%'\"()\[\]{}\s][^'\"()\[\]{}\n]*")


def _read_flag(binding: str) -> Binding:
    name, _, text = (part.strip() for part in binding.partition("="))
    flag = f"--gin.{binding}"
    if not text or not re.fullmatch(r"[A-Za-z_][\w./]*", name):
        raise usage_error(f"{flag} is not of the form --gin.NAME=VALUE")
    try:
        [statement] = config_parser.ConfigParser(f"{name} = {text}", _ReferencesAsValues())
        return _binding(statement, flag)
    except (SyntaxError, tokenize.TokenError, ValueError) as error:
        if _BARE.fullmatch(text):
            return Binding(current_name(name), text, flag)
        form = "a number, True, False, None, \"{'dict': 1.0}\" or '\"a string\"'"
        raise usage_error(f"cannot read the value of {flag}: write {form}") from error
