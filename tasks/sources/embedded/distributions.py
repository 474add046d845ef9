"""Descriptions and licences of the installed distributions that this project requires, as text files.

Other installed packages are not read, so that they do not change the data.
"""

import builtins
import functools
import hashlib
import importlib.metadata
import os
import re
import site
import sys
import sysconfig
import tomllib
from collections.abc import Mapping
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tasks.sources import files
from tasks.sources.embedded.docstrings import SHORTEST_PROSE
from tasks.sources.filters import text_or_none
from tasks.sources.folder import File

PROJECT = "codellama-jax"
# Requirements that were added after the embedded corpus was fixed. Reading them would change it, and end saved runs.
NOT_IN_CORPUS = frozenset(("jinja2", "tokenizers", "zstandard"))

_LICENCE_NAME = re.compile(r"(licen[cs]e|copying|notice)", re.IGNORECASE)


@functools.cache
def distribution_files() -> list[File]:
    """The description of each required distribution, and each licence once, Python's own included."""
    python_licence = Path(sysconfig.get_path("stdlib"), "LICENSE.txt")
    licences = [("python/LICENSE.txt", python_licence)] if python_licence.is_file() else []
    entries = []
    requirements = [line for line in project_requirements() if Requirement(line).name not in NOT_IN_CORPUS]
    for folder in required_distributions(requirements, installed_distributions()):
        metadata = folder / "METADATA"
        if metadata.is_file():
            read = functools.partial(description, metadata)
            entries.append(File(f"{folder.name}/METADATA", metadata.stat().st_size, read))
        # importlib.metadata lists licences only by parsing RECORD, which takes longer than walking the folder
        for path in sorted(folder.rglob("*")):
            relative = path.relative_to(folder).as_posix()
            if (relative.startswith("licenses/") or _LICENCE_NAME.match(relative)) and path.is_file():
                licences.append((f"{folder.name}/{relative}", path))
    unique: dict[bytes, File] = {}
    for shown, path in licences:
        # Distributions share licence texts that differ only in copyright lines. A text must be in one split only.
        lines = [line for line in (_read_text(path) or "").lower().splitlines() if "copyright" not in line]
        key = hashlib.sha256(" ".join(" ".join(lines).split()).encode("utf-8")).digest()
        unique.setdefault(key, File(shown, path.stat().st_size, functools.partial(files.read_bytes, str(path))))
    entries += unique.values()
    if len(entries) < 2:  # an interpreter without distributions: one text for each split
        documented = [f"{name}\n\n{value.__doc__}" for name, value in sorted(vars(builtins).items()) if value.__doc__]
        for shown, text in (("python/copyright", sys.copyright), ("python/builtins", "\n\n".join(documented))):
            entries.append(File(shown, len(text), functools.partial(str, text)))
    return entries


def project_requirements() -> list[str]:
    """The requirements that this project declares: in pyproject.toml of a checkout, else in its installed metadata."""
    path = Path(__file__).resolve().parents[3] / "pyproject.toml"
    if path.is_file():
        project = tomllib.loads(path.read_text(encoding="utf-8")).get("project", {})
        if canonicalize_name(project.get("name", "")) == PROJECT:
            return project["dependencies"]
    try:
        lines = importlib.metadata.requires(PROJECT) or []
    except importlib.metadata.PackageNotFoundError:
        return []
    return lines


def installed_distributions() -> dict[str, Path]:
    """Canonical name -> the .dist-info folder of each distribution in this interpreter's own folders.

    sys.path is not searched, because it depends on how the process was started.
    """
    folders = [sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), *site.getsitepackages()]
    paths = [path for folder in reversed(folders) for path in sorted(Path(folder).glob("*.dist-info"))]
    return {canonicalize_name(path.name.partition("-")[0]): path for path in paths}


def required_distributions(requirements: list[str], installed: Mapping[str, Path]) -> list[Path]:
    """The .dist-info folders of the requirements and, transitively, of their requirements, sorted by name."""
    extras: dict[str, set[str]] = {}  # extras of each distribution whose requirements were followed; "" is none
    pending = [(line, {""}) for line in requirements]
    while pending:
        line, of_extras = pending.pop()
        requirement = Requirement(line)
        name = canonicalize_name(requirement.name)
        marker = requirement.marker
        applies = any(marker.evaluate({"extra": extra}) for extra in of_extras) if marker else "" in of_extras
        new = {"", *requirement.extras} - extras.get(name, set())
        if applies and new and name in installed:
            extras.setdefault(name, set()).update(new)
            lines = importlib.metadata.PathDistribution(installed[name]).requires or ()
            pending += [(line, new) for line in lines]
    return sorted((installed[name] for name in extras), key=lambda path: path.name.lower())


def description(location: str | os.PathLike[str]) -> str | None:
    """The long description in a METADATA file, which follows the header. None if it is short or not text."""
    parts = re.split(r"\r?\n\r?\n", _read_text(location) or "", maxsplit=1)
    body = parts[-1].strip() if len(parts) == 2 else ""
    return body + "\n" if len(body) >= SHORTEST_PROSE else None


def _read_text(location: str | os.PathLike[str]) -> str | None:
    return text_or_none(files.read_bytes(os.fspath(location)))
