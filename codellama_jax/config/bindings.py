"""The assignments in gin files and flags, as one value that resolves to a Config (config/run.py)."""

import dataclasses
import difflib
import types
import typing
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from codellama_jax.config.data import STREAMS, Corpus, Mixture
from codellama_jax.config.derived import check_together
from codellama_jax.config.run import BENCHMARK_PARTS, CURATION_PARTS, DEFAULTS, PARTS, SETTINGS, Config
from codellama_jax.errors import EXIT_USAGE, UserError


def usage_error(message: str) -> UserError:
    """A UserError that exits with EXIT_USAGE."""
    return UserError(message, EXIT_USAGE)


@dataclasses.dataclass(frozen=True)
class Macro:
    """A reference to a macro, %NAME, in the value of a binding.

    "gin.REQUIRED" is not a macro: it marks a value that the user must set.
    """

    name: str

    def __repr__(self) -> str:
        return f"%{self.name}"


REQUIRED = Macro("gin.REQUIRED")


@dataclasses.dataclass(frozen=True)
class Binding:
    """One assignment.

    Attributes:
        name: the setting ("Stage.steps") or macro ("CODE_STEPS") that is assigned.
        value: the assigned value: Python literals, with a Macro for each reference.
        origin: the file and line, such as "gin/code.gin:12", or the flag.
    """

    name: str
    value: Any
    origin: str


@dataclasses.dataclass(frozen=True)
class Bindings:
    """A loaded configuration.

    Attributes:
        bound: all assignments in the order in which they apply: a later one overrides an earlier one of the same name.
        unused: macros set by flags that no setting of this configuration refers to.
        imports: modules that gin files and flags import.
        stage_files, size_files: the gin files that messages suggest if none was given.
    """

    bound: tuple[Binding, ...]
    unused: tuple[str, ...] = ()
    imports: tuple[str, ...] = ()
    stage_files: tuple[str, ...] = ()
    size_files: tuple[str, ...] = ()

    @property
    def effective(self) -> Mapping[str, Binding]:
        """Name -> the assignment that applies."""
        return {binding.name: binding for binding in self.bound}

    def resolve_training(self) -> Config:
        """The configuration of a training run; with the settings of benchmarks, if it measures any. Raises UserError as
        `resolve` does."""
        config = self.resolve()
        try:
            check_together(config)
        except ValueError as error:
            raise usage_error(str(error)) from error
        if not config.evaluation.measures_benchmarks:
            return config
        settings = self.resolve(*BENCHMARK_PARTS)
        of_benchmarks = [attribute for attribute, kind in PARTS.items() if kind in BENCHMARK_PARTS]
        return dataclasses.replace(config, **{attribute: getattr(settings, attribute) for attribute in of_benchmarks})

    def resolve(self, *kinds: type, streams: Collection[str] | None = None) -> Config:
        """Builds the dataclasses that these bindings describe: all those of a training run, or only `kinds`.

        Only the settings of these dataclasses are required, and of the corpora only those that are read.

        Args:
            kinds: the dataclasses.
            streams: the streams that are read; None: those of the mixture.

        Raises:
            UserError: required values are missing (one message names all of them), or a value has the wrong type or is
                rejected by its dataclass.
        """
        effective = self.effective
        if "Lora.rank" not in effective and (named := next((n for n in effective if n.startswith("Lora.")), None)):
            raise usage_error(f"{effective[named].origin}: {named} has no effect without Lora.rank: bind Lora.rank=16")
        kinds = kinds or tuple(kind for kind in PARTS.values() if kind not in (*CURATION_PARTS, *BENCHMARK_PARTS))
        requested = {attribute: kind for attribute, kind in PARTS.items() if kind in kinds}
        parts, missing = dict[str, dict[str, Any]](), list[str]()
        unread = self._unread_corpora(streams) if Corpus in kinds else set()
        for attribute, kind in requested.items():
            parts[attribute] = values = {}
            hints = typing.get_type_hints(kind)
            for field in dataclasses.fields(kind):
                setting = f"{kind.__name__}.{field.name}"
                if setting in effective:
                    unset = list[str]()
                    values[field.name] = _value(effective, setting, hints[field.name], unset)
                    missing += [] if setting in unread else unset
                elif setting not in DEFAULTS:
                    missing.append(setting)
        if missing:
            raise self._required(list(dict.fromkeys(missing)))
        try:
            built: dict[str, Any] = {attribute: kind(**parts[attribute]) for attribute, kind in requested.items()}
        except (ValueError, ZeroDivisionError) as error:
            zero = isinstance(error, ZeroDivisionError)
            raise usage_error("a dimension, length or number of parts is 0" if zero else str(error)) from error
        return Config(**built, imports=self.imports)

    def setting(self, name: str, default: Any) -> Any:
        """The value of one setting; `default` if it is not bound.

        Raises:
            UserError: it is required and not set, or it has the wrong type.
        """
        if name not in self.effective:
            return default
        kind, _, field = name.rpartition(".")
        hints = next(typing.get_type_hints(part) for part in PARTS.values() if part.__name__ == kind)
        missing = list[str]()
        value = _value(self.effective, name, hints[field], missing)
        if missing:
            raise self._required(missing)
        return value

    def _unread_corpora(self, streams: Collection[str] | None) -> set[str]:
        """The settings of the corpora that neither the streams nor the training of a tokenizer reads."""
        unset = list[str]()
        if "Tokenizer.model" not in self.effective:
            return set()  # a tokenizer is trained on all corpora
        model = _value(self.effective, "Tokenizer.model", str | None, unset)
        if model is None and not unset:
            return set()
        if streams is None:
            try:
                mixture = self.resolve(Mixture).mixture
            except UserError:
                return set()  # no mixture is bound; or the error is reported when it is requested
            streams = [] if mixture.seqio is not None else [name for name, share in mixture.shares.items() if share]
        return {f"Corpus.{stream}" for stream in STREAMS if stream not in streams}

    def _required(self, missing: list[str]) -> UserError:
        if "Stage.name" in missing:
            return usage_error(f"no stage file is given: {one_of(self.stage_files)}")
        if "Llama.dim" in missing or "Stage.size" in missing:
            return usage_error(f"no size file is given: {one_of(self.size_files)}")
        flags = " ".join(f"--gin.{name}=VALUE" for name in missing)
        effective = self.effective
        files = dict.fromkeys(effective[name].origin.rpartition(":")[0] for name in missing if name in effective)
        seen = f" (see {', '.join(files)})" if files else ""
        return usage_error(f"required values are not set{seen}: add {flags}")

    def explain(self, name: str) -> str:
        """Shows the value of a setting or macro, and the assignments that it comes from, one per line:

            Stage.steps = 1500
              gin/code.gin:25            Stage.steps = %CODE_STEPS
              gin/models/local.gin:35    CODE_STEPS = 1500

        Macros are followed. Overridden assignments come last, marked as such.

        Raises:
            UserError: there is no such setting or macro; the message names the most similar one.
        """
        effective = self.effective
        if name not in effective and name not in SETTINGS:
            raise usage_error(f"--explain={name}: {unknown(name, {b.name for b in self.bound if '.' not in b.name})}")
        chain = list(_chain(effective, name))
        if chain:
            value, _ = _follow(effective, chain[0].value, name)
            shown = "required, not set" if value is REQUIRED else repr(value)
            rows = [(binding.origin, f"{binding.name} = {binding.value!r}") for binding in chain]
        else:
            kind = name.rpartition(".")[0]
            of = next(part for part in PARTS.values() if part.__name__ == kind)
            required = name not in DEFAULTS
            shown = "required, not set" if required else repr(DEFAULTS[name])
            rows = [(f"{of.__module__.replace('.', '/')}.py", "no default" if required else f"the default of {kind}")]
        names = {binding.name for binding in chain}
        rows += [
            (binding.origin, f"{binding.name} = {binding.value!r}    (overridden)")
            for binding in reversed(self.bound)
            if binding.name in names and binding is not effective[binding.name]
        ]
        width = max(len(origin) for origin, _ in rows)
        return "\n".join([f"{name} = {shown}", *(f"  {origin.ljust(width)}    {text}" for origin, text in rows)])


def check_names(bound: Iterable[Binding], known_macros: Iterable[str]) -> set[str]:
    """Checks the names in these bindings; returns the macros that they use.

    Args:
        bound: the bindings, in the order in which they apply.
        known_macros: macros that other stages or sizes use.

    Raises:
        UserError: a name is neither a setting nor a macro, or a macro has no value; the message names the most similar
                one.
    """
    effective = {binding.name: binding for binding in bound}
    used = {macro for binding in effective.values() for macro in macros(binding.value)}
    known = used | set(known_macros)
    for name, binding in effective.items():
        if name not in SETTINGS and name not in known:
            where = "" if binding.origin.startswith("--") else f"{binding.origin}: "
            raise usage_error(where + unknown(name, known))
        for macro in macros(binding.value) - effective.keys():
            near = nearest(macro, effective.keys() & known)
            hint = f"did you mean %{near[0]}?" if near else f"set it with --gin.{macro}=VALUE"
            raise usage_error(f"{binding.origin}: {name} is %{macro}, which has no value: {hint}")
    return used


def unknown(name: str, macro_names: set[str]) -> str:
    """The error message for a name that is neither a setting nor one of these macros."""
    if "." in name:
        near = nearest(name, SETTINGS)
    else:  # users write a field without its class, such as "steps"
        fields = {setting.rpartition(".")[2]: setting for setting in sorted(SETTINGS)}
        near = [fields.get(word, word) for word in nearest(name, macro_names | fields.keys(), 2)]
    classes = ", ".join(kind.__name__ for kind in PARTS.values())
    hint = f"did you mean {' or '.join(near)}?" if near else f"settings are those of {classes}"
    return f"unknown {'setting' if '.' in name else 'macro'} {name}: {hint}"


def nearest(name: str, known: Iterable[str], count: int = 1) -> list[str]:
    """The known names that are most similar to `name`, at most `count`."""
    folded = {word.lower(): word for word in sorted(known)}
    return [folded[word] for word in difflib.get_close_matches(name.lower(), folded, count)]


def one_of(files: Iterable[str]) -> str:
    """The remedy for a missing gin file, for an error message."""
    return "add one of " + ", ".join(f"--gin_file={file}" for file in files)


def macros(value: Any) -> set[str]:
    """The names of the macros in a value, without gin.REQUIRED, which is not a macro."""
    return {macro.name for macro in _references(value)} - {REQUIRED.name}


def _references(value: Any) -> Iterator[Macro]:
    if isinstance(value, Macro):
        yield value
    elif isinstance(value, dict):
        for key, entry in value.items():
            yield from _references(key)
            yield from _references(entry)
    elif isinstance(value, list | tuple | set):
        for entry in value:
            yield from _references(entry)


def _chain(effective: Mapping[str, Binding], name: str) -> Iterator[Binding]:
    """Yields the assignment of a name, then those of the macros in its value, depth first, each once."""
    seen, waiting = set[str](), [name]
    while waiting:
        name = waiting.pop(0)
        if name in seen or name not in effective:
            continue
        seen.add(name)
        yield effective[name]
        waiting = sorted(macros(effective[name].value)) + waiting


def _follow(effective: Mapping[str, Binding], value: Any, name: str) -> tuple[Any, str]:
    """Follows a chain of macros that starts with `value`, the value of `name`.

    Returns the value at the end of the chain, and the name that it is assigned to.
    """
    passed = {name}
    while isinstance(value, Macro) and value is not REQUIRED:
        name = value.name
        if name in passed:
            raise usage_error(f"{effective[name].origin}: the macro {name} refers to itself")
        passed.add(name)
        value = effective[name].value
    return value, name


_EXPECTED: dict[Any, str] = {int: "an integer", float: "a number", str: "a string", bool: "True or False"}
_EXPECTED |= {type(None): "None", Sequence[str]: "a list of strings"}
_EXPECTED |= {Sequence[int]: "a list of integers", Sequence[float]: "a list of numbers"}
_EXPECTED |= {Sequence[Sequence[float]]: "a list of lists of numbers"}
_EXPECTED |= {dict[str, float]: "a dict of strings and numbers", dict[str, str]: "a dict of strings"}


def _value(effective: Mapping[str, Binding], setting: str, hint: Any, missing: list[str]) -> Any:
    """The value of a setting, with its macros resolved, as the type `hint`. Appends unset names to `missing`."""
    value, name = _follow(effective, effective[setting].value, setting)
    entries = {key: _follow(effective, entry, name) for key, entry in value.items()} if isinstance(value, dict) else {}
    if unset := [end for entry, end in [(value, name), *entries.values()] if entry is REQUIRED]:
        missing.extend(unset)
        return None
    value = {key: entry for key, (entry, _) in entries.items()} if entries else value
    try:
        return _typed(value, hint)
    except TypeError:
        options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
        expected = " or ".join(_EXPECTED[option] for option in options)
        origin = effective[name].origin if name in effective else name
        raise usage_error(f"{setting} = {value!r} ({origin}): expected {expected}") from None


def _typed(value: Any, hint: Any) -> Any:
    """Converts a value to the type `hint`: a list to a tuple, an integer to a float. Raises TypeError."""
    if isinstance(hint, types.UnionType):
        options = typing.get_args(hint)
        kind = Sequence[str] if isinstance(value, list | tuple) else type(value)
        hint = next((option for option in options if kind in (option, typing.get_origin(option))), options[0])
    if typing.get_origin(hint) is Sequence and isinstance(value, list | tuple):
        return tuple(_typed(entry, *typing.get_args(hint)) for entry in value)
    if typing.get_origin(hint) is dict and isinstance(value, dict):
        of_key, of_value = typing.get_args(hint)
        return {_typed(key, of_key): _typed(entry, of_value) for key, entry in value.items()}
    if hint is float and type(value) is int:
        return float(value)
    if type(value) is not hint:  # not isinstance: True is not accepted as an integer
        raise TypeError
    return value
