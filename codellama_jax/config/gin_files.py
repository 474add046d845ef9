"""gin files and --gin flags in, plain dataclasses out. The only module that knows gin.

    flags = configuration.split_flags(sys.argv[1:])
    configuration.load(flags.gin_files, flags.bindings, default_size="local")
    config = configuration.resolve()            # or resolve(Corpus, Tokenizer): just what a tool needs

A run is composed of a stage file (gin/code.gin), a size file (gin/models/7b.gin), files of one's own and
--gin.NAME=VALUE flags, applied in this order whatever the order on the command line; among equals the later wins.
NAME is a setting (Stage.steps) or a macro (CODE_STEPS), which is what a stage file leaves to the size.

gin itself accepts a misspelt macro, a value of the wrong type and a value that nobody uses. None of that passes here:
whatever the user can mend raises UserError with EXIT_USAGE and a message of one line.
"""

import dataclasses
import difflib
import re
import tokenize
import types
import typing
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import gin

from codellama_jax.config.curation import Build, Decontamination, Quality
from codellama_jax.config.data import Chat, Corpus, DataLoader, Filters, Fim, Mixture, Packing, Tokenizer
from codellama_jax.config.model import Llama
from codellama_jax.config.training import AdamW, Checkpoints, Evaluation, LossSpikes, Mesh, Monitoring, Stage
from codellama_jax.errors import EXIT_USAGE, UserError

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ROOT / "gin"
SIZES = SHIPPED / "models"
UNRESOLVED: Any = None


@dataclasses.dataclass(frozen=True)
class Config:
    """The configuration of a run as plain dataclasses. A part that resolve() was not asked for is UNRESOLVED (None)."""

    stage: Stage = UNRESOLVED
    llama: Llama = UNRESOLVED
    adamw: AdamW = UNRESOLVED
    mesh: Mesh = UNRESOLVED
    mixture: Mixture = UNRESOLVED
    corpus: Corpus = UNRESOLVED
    filters: Filters = UNRESOLVED
    tokenizer: Tokenizer = UNRESOLVED
    fim: Fim = UNRESOLVED
    packing: Packing = UNRESOLVED
    data_loader: DataLoader = UNRESOLVED
    chat: Chat = UNRESOLVED
    evaluation: Evaluation = UNRESOLVED
    checkpoints: Checkpoints = UNRESOLVED
    loss_spikes: LossSpikes = UNRESOLVED
    monitoring: Monitoring = UNRESOLVED
    build: Build = UNRESOLVED
    quality: Quality = UNRESOLVED
    decontamination: Decontamination = UNRESOLVED


PARTS: dict[str, type] = typing.get_type_hints(Config)  # attribute of Config -> class
_OF_TOOLS = (Build, Quality, Decontamination)  # no part of a run: resolved where a tool asks for them
SETTINGS = {f"{kind.__name__}.{field.name}" for kind in PARTS.values() for field in dataclasses.fields(kind)}
# What differences() passes over: how often to save and to look, not what is computed.
_NO_MATTER = (
    *("Checkpoints.every", "Checkpoints.keep", "Checkpoints.grace_seconds", "Evaluation.every", "Evaluation.sample"),
    *("Mesh.", "Corpus.on_damage", "LossSpikes.", "Monitoring."),
    # how the same numbers are computed: last digits may change
    *(
        "Stage.micro_batches",
        "Llama.remat",
        "Llama.offload",
        "Llama.ffn_parts",
        "Llama.unroll",
        "Llama.attention",
        "Llama.gathered_heads",
        "Llama.splash_block",
        "Llama.loss_chunk",
    ),
)

# The classes live in modules of their own, so a second import of this file (as __main__) registers the same ones again.
for _kind in PARTS.values():
    gin.external_configurable(_kind)
_SELECTORS = {kind.__name__: f"{kind.__module__}.{kind.__name__}" for kind in PARTS.values()}

# Of what is loaded: where each name got its value ("gin/code.gin:12", or the flag); the flags that nothing refers to.
_origins: dict[str, str] = {}
_unused: list[str] = []


def _error(message: str) -> UserError:
    return UserError(message, EXIT_USAGE)


@dataclasses.dataclass(frozen=True)
class Flags:
    """A command line: gin files, bindings ("NAME=VALUE"), and the rest for argparse."""

    gin_files: list[str]
    bindings: list[str]
    rest: list[str]


def split_flags(argv: Sequence[str]) -> Flags:
    """Takes --gin_file=FILE, --gin_file FILE and --gin.NAME=VALUE out of argv (without the program's name).

    Raises:
        UserError: --gin_file without a file, or --gin.NAME without "=".
    """
    flags = Flags([], [], [])
    arguments = iter(argv)
    for argument in arguments:
        flag, equals, value = argument.partition("=")
        if flag == "--gin_file":
            value = value if equals else next(arguments, "")
            if not value or value.startswith("--"):
                raise _error("--gin_file needs a file: write --gin_file=gin/code.gin")
            flags.gin_files.append(value)
        elif flag.startswith("--gin."):
            if not equals:
                value = re.sub("^--.*", "VALUE", next(arguments, "--"))
                raise _error(f"{flag} needs its value after an equals sign: write {flag}={value}")
            flags.bindings.append(argument.removeprefix("--gin."))
        else:
            flags.rest.append(argument)
    return flags


@dataclasses.dataclass(frozen=True)
class _Binding:
    name: str  # "Stage.steps", or a macro's name
    value: Any  # references to macros are still references
    origin: str

    @classmethod
    def of(cls, statement: Any, origin: str) -> "_Binding":
        scope = f"{statement.scope}/" if statement.scope else ""
        return cls(scope + ".".join(filter(None, (statement.selector, statement.arg_name))), statement.value, origin)


@dataclasses.dataclass(frozen=True)
class _File:
    path: Path
    bindings: list[_Binding]

    def binds(self, name: str) -> bool:
        return any(binding.name == name for binding in self.bindings)

    @property
    def order(self) -> int:
        """0: a stage, or else shipped. 1: a size, which knows more. 2: a file of the user, who knows best."""
        if self.path.parent == SIZES or self.binds("Stage.size"):
            return 1
        return 0 if self.binds("Stage.name") or self.path.is_relative_to(SHIPPED) else 2


def find(name: str, including: Path | None = None) -> Path:
    """The absolute path of a gin file, sought beside the file that includes it, from the current directory and from the
    checkout's root, in this order.

    Raises:
        UserError: there is none; names the nearest.
    """
    for folder in (including.parent if including else Path.cwd(), Path.cwd(), ROOT):
        path = folder / Path(name).expanduser()
        if path.is_file():
            return path.resolve()
    shipped = [_shown(path) for path in sorted(SHIPPED.rglob("*.gin"))]
    words = {Path(path).stem: path for path in shipped} | {path: path for path in shipped}
    hint = "".join(f"did you mean {words[word]}? " for word in _nearest(name, words))
    asked = f"{_shown(including)} includes {name}, which" if including else f"--gin_file={name}"
    raise _error(f"{asked} does not exist: {hint}There are {', '.join(shipped)}")


def shipped_stages() -> dict[str, Path]:
    """Name of each stage that comes with the project -> its gin file."""
    names = {path: [b.value for b in _read(path).bindings if b.name == "Stage.name"] for path in SHIPPED.glob("*.gin")}
    return {bound[-1]: path for path, bound in sorted(names.items()) if bound}


def is_size_file(name: str) -> bool:
    """Whether a gin file says the size. Raises UserError as load does."""
    return _read(find(name)).order == 1


def is_stage_file(name: str) -> bool:
    """Whether a gin file is a stage's: one that binds Stage.name, itself or by what it includes.

    Raises:
        UserError: as load does.
    """
    return _read(find(name)).binds("Stage.name")


def _shown(path: Path) -> str:
    return str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path)


def _one_of(paths: Iterable[Path]) -> str:
    return "add one of " + ", ".join(f"--gin_file={_shown(path)}" for path in sorted(paths))


def _read(path: Path, including: tuple[Path, ...] = ()) -> _File:
    """The bindings of a file and of what it includes, in order. `including` is the chain of files that led here."""
    if path in including:
        raise _error(f"{_shown(path)} includes itself")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise _error(f"cannot read {_shown(path)}: {error}") from error
    return _File(path, list(_parse(text, _shown(path), (*including, path))))


def _parse(text: str, origin: str, including: tuple[Path, ...] = ()) -> Iterator[_Binding]:
    try:
        for statement in gin.config_parser.ConfigParser(text, gin.config.ParserDelegate()):
            at = f"{origin}:{statement.location.line_num}"
            if isinstance(statement, gin.config_parser.BindingStatement):
                yield _Binding.of(statement, at)
            elif isinstance(statement, gin.config_parser.IncludeStatement):
                yield from _read(find(statement.filename, *including[-1:]), including).bindings
            elif isinstance(statement, gin.config_parser.ImportStatement):
                raise _error(f"{at}: import has no place in a gin file of this project")
    except (SyntaxError, tokenize.TokenError, ValueError) as error:
        number = getattr(error, "lineno", None) or 0
        line = "".join(text.splitlines()[number - 1 : number]).strip()
        what = f"{origin}:{number}: cannot read {line!r}" if line else f"{origin} cannot be read to its end"
        form = "NAME = VALUE, with a number, a 'string' in quotes, True, False, None, a {'dict': 1.0} or a %MACRO"
        raise _error(f"{what}: write {form}") from error


def load(gin_files: Sequence[str], bindings: Sequence[str], *, default_size: str | None = None) -> None:
    """Makes gin's configuration of files and "NAME=VALUE" bindings, in the order that the module's docstring states.

    Files are sought as find() says. If none of them is a size, gin/models/`default_size`.gin is added. The VALUE of a
    binding is a gin literal, or a bare word or path, which is taken as a string.

    Raises:
        UserError: no such file, a file that cannot be read, a stage without a size, an unknown setting or macro, a
            macro without a value. What was loaded before then stays.
    """
    files = [_read(find(name)) for name in gin_files]
    if not any(file.order == 1 for file in files):
        if default_size is not None:
            files.append(_read(find(f"gin/models/{default_size}.gin")))
        elif stages := [file.path for file in files if file.binds("Stage.name")]:
            raise _error(f"{_shown(stages[0])} needs a size: {_one_of(SIZES.glob('*.gin'))}")
    files.sort(key=lambda file: file.order)
    flags = [_read_flag(binding) for binding in bindings]
    bound = [binding for file in files for binding in file.bindings] + flags
    used = _check_names(bound)

    gin.clear_config()
    _origins.clear()
    for binding in bound:
        kind, _, field = binding.name.rpartition(".")
        key = ("", _SELECTORS[kind], field) if kind else (binding.name, "gin.macro", "value")
        gin.bind_parameter(key, binding.value)
        _origins[binding.name] = binding.origin
    _unused[:] = sorted({flag.name for flag in flags if "." not in flag.name} - used)


def unused() -> list[str]:
    """Macros given on the command line that only other stages or sizes refer to: worth a note to the user."""
    return list(_unused)


# A value on the command line that may go without quotes: no brackets, no quotes, no reference.
_BARE = re.compile(r"[^@%'\"()\[\]{}\s][^'\"()\[\]{}\n]*")


def _read_flag(binding: str) -> _Binding:
    name, _, text = (part.strip() for part in binding.partition("="))
    flag = f"--gin.{binding}"
    if not text or not re.fullmatch(r"[A-Za-z_][\w./]*", name):
        raise _error(f"{flag} is not of the form --gin.NAME=VALUE")
    try:
        [statement] = gin.config_parser.ConfigParser(f"{name} = {text}", gin.config.ParserDelegate())
        return _Binding.of(statement, flag)
    except (SyntaxError, tokenize.TokenError, ValueError) as error:
        if _BARE.fullmatch(text):
            return _Binding(name, text, flag)
        form = "a number, True, False, None, \"{'dict': 1.0}\" or '\"a string\"'"
        raise _error(f"cannot read the value of {flag}: write {form}") from error


def _check_names(bound: Iterable[_Binding]) -> set[str]:
    """Raises UserError for a name that means nothing and for a macro without a value. Returns the macros in use."""
    effective = {binding.name: binding for binding in bound}
    used = {macro for binding in effective.values() for macro in _macros(binding.value)}
    shipped = [binding for path in SHIPPED.rglob("*.gin") for binding in _read(path).bindings]
    known = used | {macro for binding in shipped for macro in _macros(binding.value)}
    for name, binding in effective.items():
        if name not in SETTINGS and name not in known:
            where = "" if binding.origin.startswith("--") else f"{binding.origin}: "
            raise _error(where + _unknown(name, known))
        for macro in _macros(binding.value) - effective.keys():
            near = _nearest(macro, effective.keys() & known)
            hint = f"did you mean %{near[0]}?" if near else f"give it with --gin.{macro}=VALUE"
            raise _error(f"{binding.origin}: {name} is %{macro}, which has no value: {hint}")
    return used


def _unknown(name: str, macros: set[str]) -> str:
    if "." in name:
        near = _nearest(name, SETTINGS)
    else:  # a setting's field alone, such as "steps", is a likely slip
        fields = {setting.rpartition(".")[2]: setting for setting in sorted(SETTINGS)}
        near = [fields.get(word, word) for word in _nearest(name, macros | fields.keys(), 2)]
    hint = f"did you mean {' or '.join(near)}?" if near else f"settings are those of {', '.join(_SELECTORS)}"
    return f"unknown {'setting' if '.' in name else 'macro'} {name}: {hint}"


def _nearest(name: str, known: Iterable[str], count: int = 1) -> list[str]:
    folded = {word.lower(): word for word in sorted(known)}
    return [folded[word] for word in difflib.get_close_matches(name.lower(), folded, count)]


def _macros(value: Any) -> set[str]:
    """Names of the macros in a parsed value. gin.REQUIRED is a constant, not a macro."""
    references = gin.config.iterate_references(value)
    return {"/".join(reference.scopes) for reference in references if reference.selector == "gin.macro"}


_EXPECTED: dict[Any, str] = {int: "an integer", float: "a number", str: "a string", bool: "True or False"}
_EXPECTED |= {type(None): "None", dict[str, float]: "a dict of strings and numbers", Sequence[str]: "a list of strings"}


def resolve(*kinds: type) -> Config:
    """The dataclasses that gin's configuration describes: all of a run, or only `kinds`, whose values alone are then
    required.

    Raises:
        UserError: values that are required and not given (all of them in one message), a value of the wrong type, or
            one that the dataclass refuses.
    """
    parts, missing = dict[str, dict[str, Any]](), list[str]()
    kinds = kinds or tuple(kind for kind in PARTS.values() if kind not in _OF_TOOLS)
    asked = {attribute: kind for attribute, kind in PARTS.items() if kind in kinds}
    for attribute, kind in asked.items():
        parts[attribute] = values = {}
        bound = gin.get_bindings(_SELECTORS[kind.__name__], resolve_references=False)
        hints = typing.get_type_hints(kind)
        for field in dataclasses.fields(kind):
            setting = f"{kind.__name__}.{field.name}"
            if field.name in bound:
                values[field.name] = _value(setting, bound[field.name], hints[field.name], missing)
            elif field.default is dataclasses.MISSING:
                missing.append(setting)
    if missing:
        raise _required(list(dict.fromkeys(missing)))
    try:
        return Config(**{attribute: kind(**parts[attribute]) for attribute, kind in asked.items()})
    except (ValueError, ZeroDivisionError) as error:
        zero = isinstance(error, ZeroDivisionError)
        raise _error("a dimension, length or number of parts is 0" if zero else str(error)) from error


def _required(missing: list[str]) -> UserError:
    if "Stage.name" in missing:
        return _error(f"no stage file is given: {_one_of(shipped_stages().values())}")
    if "Llama.dim" in missing or "Stage.size" in missing:
        return _error(f"no size file is given: {_one_of(SIZES.glob('*.gin'))}")
    flags = " ".join(f"--gin.{name}=VALUE" for name in missing)
    files = ", ".join(dict.fromkeys(_origins[name].rpartition(":")[0] for name in missing if name in _origins))
    return _error(f"required and not given{files and f' (see {files})'}: add {flags}")


def _value(setting: str, value: Any, hint: Any, missing: list[str]) -> Any:
    """The value of a setting with its macros followed, of the type `hint`. Adds what it lacks to `missing`."""
    value, name = _follow(value, setting)
    entries = {key: _follow(entry, name) for key, entry in value.items()} if isinstance(value, dict) else {}
    if lacking := [end for entry, end in [(value, name), *entries.values()] if entry is gin.REQUIRED]:
        missing.extend(lacking)
        return None
    value = {key: entry for key, (entry, _) in entries.items()} if entries else value
    try:
        return _typed(value, hint)
    except TypeError:
        options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
        expected = " or ".join(_EXPECTED[option] for option in options)
        raise _error(f"{setting} = {value!r} ({_origins.get(name, name)}): expected {expected}") from None


def _follow(value: Any, name: str) -> tuple[Any, str]:
    """What is bound to `name`, or at the end of its chain of macros, and the last name on the way."""
    passed = {name}
    while isinstance(value, gin.config.ConfigurableReference) and value.selector in ("gin.macro", "gin.constant"):
        if value.selector == "gin.constant":
            return value.scoped_configurable_fn(), name
        name = "/".join(value.scopes)
        if name in passed:
            raise _error(f"{_origins[name]}: the macro {name} refers to itself")
        passed.add(name)
        value = gin.query_parameter(f"{name}/gin.macro.value")
    return value, name


def _typed(value: Any, hint: Any) -> Any:
    """The value as `hint` has it: an integer where a number is expected becomes a float. Raises TypeError."""
    if isinstance(hint, types.UnionType):
        options = typing.get_args(hint)
        kind = Sequence[str] if isinstance(value, list | tuple) else type(value)
        hint = kind if kind in options else options[0]
    if hint == Sequence[str] and isinstance(value, list | tuple):
        return tuple(_typed(entry, str) for entry in value)
    if typing.get_origin(hint) is dict and isinstance(value, dict):
        of_key, of_value = typing.get_args(hint)
        return {_typed(key, of_key): _typed(entry, of_value) for key, entry in value.items()}
    if hint is float and type(value) is int:
        return float(value)
    if type(value) is not hint:  # exactly: True is no integer
        raise TypeError
    return value


def operative(config: Config) -> str:
    """Every setting of `config` with its value, as a gin file that needs no other and that resolves to `config`."""
    text = "# The configuration of a run, complete: --gin_file=THIS_FILE alone sets every value of it again.\n"
    for attribute, kind in PARTS.items():
        if (part := getattr(config, attribute)) is not UNRESOLVED:
            text += f"\n# {kind.__name__}\n"
            for field in dataclasses.fields(kind):
                text += f"{kind.__name__}.{field.name} = {getattr(part, field.name)!r}\n"
    return text


def differences(old: str, new: str) -> list[str]:
    """Settings that shape the result and in which two operative configurations differ, `old` being there and `new`
    here: "AdamW.peak_learning_rate: 0.0003 there, 0.001 here".

    Raises:
        UserError: one of the texts is not a configuration.
    """
    there = {binding.name: repr(binding.value) for binding in _parse(old, "the configuration there")}
    here = {binding.name: repr(binding.value) for binding in _parse(new, "the configuration here")}
    changed = [name for name in here | there if there.get(name) != here.get(name) and not name.startswith(_NO_MATTER)]
    return [f"{name}: {there.get(name, 'nothing')} there, {here.get(name, 'nothing')} here" for name in changed]
