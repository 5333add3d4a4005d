"""The machines moesim knows by name, and those a user describes in a file."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from moesim.errors import ConfigError, Fault, UnknownNameError
from moesim.files import data_dir
from moesim.hardware.curves import Surfaces
from moesim.hardware.types import Hardware

#: Folders of further machines, offered by installed packages: an entry point whose object is a path.
PLUGINS = "moesim.hardware"

_ALIASES = re.compile(r"^aliases:[ \t]*\[([^\]]*)\]", re.MULTILINE)
_HINT = "list them with: moesim hardware list"


@dataclass(frozen=True, slots=True)
class Description:
    """A hardware file, read and validated.

    Parameters
    ----------
    spec
        A `moesim.hardware.spec.Spec`.
    origins
        Origin of each number, in file order.
    path
        The file.
    catalogue
        Whether it is one of moesim's own.
    """

    spec: Any
    origins: tuple[Any, ...]
    path: Path
    catalogue: bool


def load_hardware(name: str | os.PathLike[str], nodes: int | None = None) -> Hardware:
    """A machine of the catalogue, or one described in a file.

    Parameters
    ----------
    name
        Catalogue name or alias (case, ``_`` and ``-`` do not matter), or the path of a YAML file.
    nodes
        Number of nodes; None for the machine as it is sold: one node, all trays of a rack.

    Returns
    -------
    Hardware
        In SI units, ready for the cost model.

    Raises
    ------
    UnknownNameError
        If there is no such machine; the nearest names are suggested.
    ConfigError
        If the file is wrong, with every fault, or the machine cannot have that many nodes.

    Examples
    --------
    >>> machine = load_hardware("H200_SXM", nodes=4)
    >>> machine.name, machine.num_devices, machine.device.memory.bandwidth_bytes_per_s
    ('h200-sxm-8', 32, 4800000000000.0)
    """
    path = find(name)
    return _load(path, _stamp(path), nodes)


@functools.lru_cache(maxsize=256)
def _load(path: Path, _seen: object, nodes: int | None) -> Hardware:
    """Read a machine once for as long as its file stays as it is."""
    from moesim.hardware.build import build, default_nodes, max_nodes

    description, findings = examine(path)
    if description is None or any(finding.strict for finding in findings):
        strict = [finding.fault for finding in findings if finding.strict]
        # A file that must be mended anyway is told the rest too, each kind of it once.
        alike: dict[str, list[Fault]] = {}
        for finding in findings:
            if not finding.strict:
                alike.setdefault(finding.fault.message, []).append(finding.fault)
        raise ConfigError([*strict, *(_as_one(faults) for faults in alike.values())], path)
    most = max_nodes(description.spec)
    wanted = default_nodes(description.spec) if nodes is None else nodes
    if isinstance(wanted, bool) or not isinstance(wanted, int) or wanted < 1:
        raise ConfigError(Fault("no number of nodes", "--nodes", wanted, "a whole number from 1"), path)
    if most is not None and wanted > most:
        reason = "has no network between nodes" if description.spec.cluster is None else "has fewer nodes"
        raise ConfigError(
            Fault(f"{description.spec.name} {reason}", "--nodes", wanted, f"at most {most}"), path
        )
    return build(
        description.spec,
        description.origins,
        functools.partial(_family, path.parent),
        functools.partial(_kernels, path.parent),
        str(path),
        wanted,
    )


def _as_one(faults: list[Fault]) -> Fault:
    more = f" (and {len(faults) - 1} more like it)" if len(faults) > 1 else ""
    return replace(faults[0], message=faults[0].message + more)


def read_description(path: Path) -> Description:
    """Read and validate one hardware file, without the checks of plausibility."""
    from moesim.hardware.read import read_yaml, validate
    from moesim.hardware.spec import Spec

    raw = read_yaml(path)
    return _described(validate(Spec, raw, path), raw, path)


def examine(path: Path) -> tuple[Description | None, list[Any]]:
    """Read one hardware file, and everything that is wrong with it.

    Returns
    -------
    Description | None
        None if it cannot be read as one.
    list
        Every `moesim.hardware.check.Finding`: what cannot be read, and what the checks say of all the rest.

    Raises
    ------
    ConfigError
        If the file is no YAML mapping.
    """
    from pydantic import ValidationError

    from moesim.hardware.check import Finding
    from moesim.hardware.read import faults_of, read_yaml
    from moesim.hardware.repair import repaired
    from moesim.hardware.spec import Spec

    raw = read_yaml(path)
    try:
        description = _described(Spec.model_validate(raw), raw, path)
    except ValidationError as error:
        findings = [Finding(fault, True) for fault in faults_of(Spec, error)]
        rest = repaired(Spec, raw, error)
        if rest is not None:
            found = find_faults(_described(rest.spec, rest.raw, path))
            findings += [finding for finding in found if rest.believes(finding.fault)]
        return None, findings
    return description, find_faults(description)


def _described(spec: Any, raw: Mapping[str, Any], path: Path) -> Description:  # noqa: ANN401 - a Spec
    from moesim.hardware.provenance import provenance

    return Description(spec, tuple(provenance(spec, raw)), path, path.parent == data_dir("hardware"))


def find_faults(description: Description) -> list[Any]:
    """Every `moesim.hardware.check.Finding` about a description."""
    from moesim.hardware.check import check

    return check(
        description.spec,
        description.origins,
        families=sorted(_families(description.path.parent)),
        kernels=sorted(_kernel_files(description.path.parent)),
        catalogue=description.catalogue,
    )


def find(name: str | os.PathLike[str]) -> Path:
    """The file of a machine: a path as it stands, else the catalogue's, else a plug-in's.

    Raises
    ------
    UnknownNameError
        If there is no such machine.
    """
    text = os.fspath(name)
    path = Path(text)
    if path.suffix.lower() in (".yaml", ".yml") or os.sep in text:
        return path
    own = data_dir("hardware")
    if re.fullmatch(r"[\w.+-]{1,64}", text) and (own / f"{_fold(text)}.yaml").is_file():
        return own / f"{_fold(text)}.yaml"
    for folder in _folders():
        found = _table(folder).get(_fold(text))
        if found is not None:
            return found
    known = [key for folder in _folders() for key in _table(folder)]
    raise UnknownNameError("hardware", text, known, _HINT)


def names() -> list[str]:
    """Names of all machines, sorted.

    >>> "h200-sxm-8" in names()
    True
    """
    return sorted({path.stem for folder in _folders() for path in folder.glob("*.yaml")})


def aliases() -> dict[str, str]:
    """Catalogue name by each other spelling of it.

    >>> aliases()["h200-sxm"]
    'h200-sxm-8'
    """
    table = {key: path.stem for folder in _folders() for key, path in _table(folder).items()}
    return {key: name for key, name in table.items() if key != name}


def _stamp(path: Path) -> tuple[int, ...]:
    """What changes when a file does."""
    try:
        stat = path.stat()
    except (OSError, ValueError):
        return ()
    return stat.st_dev, stat.st_ino, stat.st_mtime_ns, stat.st_size


def _fold(name: str) -> str:
    return name.strip().lower().replace("_", "-").replace(" ", "-")


def _table(folder: Path) -> dict[str, Path]:
    """Files of a folder by name and alias; reads one line of each, no YAML."""
    table: dict[str, Path] = {}
    paths = sorted(folder.glob("*.yaml"))
    for path in paths:
        match = _ALIASES.search(path.read_text(encoding="utf-8", errors="replace"))
        for alias in match[1].split(",") if match else ():
            if alias.strip():
                table.setdefault(_fold(alias.strip().strip("\"'")), path)
    table.update({_fold(path.stem): path for path in paths})
    return table


def _folders() -> Iterator[Path]:
    """The folder of moesim itself, then those of plug-ins."""
    yield data_dir("hardware")
    from importlib.metadata import entry_points

    for point in entry_points(group=PLUGINS):
        offered = point.load()
        folder = Path(os.fspath(offered() if callable(offered) else offered))
        if not folder.is_dir():
            raise ConfigError(
                Fault("offers no folder", f"plug-in {point.name}", str(folder), "a folder of hardware files")
            )
        yield folder


def _families(beside: Path) -> dict[str, Path]:
    """Efficiency families by name: those of the folder beside a file hide those of the catalogue."""
    folders = (data_dir("hardware"), beside)
    return {path.stem: path for folder in folders for path in (folder / "efficiency").glob("*.yaml")}


def _kernel_files(beside: Path) -> dict[str, Path]:
    """Files of measured kernels by name: those of the folder beside a file hide those of the catalogue."""
    folders = (data_dir("hardware"), beside)
    return {path.stem: path for folder in folders for path in (folder / "kernels").glob("*.json")}


def _kernels(beside: Path, name: str) -> Surfaces:
    from moesim.hardware.kernels import read_kernels

    path = _kernel_files(beside)[name]
    return read_kernels(path, _stamp(path))


def _family(beside: Path, name: str) -> tuple[Any, Mapping[str, str]]:
    return read_family(_families(beside)[name])


def read_family(path: Path) -> tuple[Any, Mapping[str, str]]:
    """An efficiency family, and the origin of each entry by path; read once while the file stays as it is."""
    return _read_family(path, _stamp(path))


@functools.lru_cache(maxsize=32)
def _read_family(path: Path, _seen: object) -> tuple[Any, Mapping[str, str]]:
    from moesim.hardware.provenance import provenance
    from moesim.hardware.read import read_yaml, validate
    from moesim.hardware.spec import EfficiencyFile

    raw = read_yaml(path)
    family = validate(EfficiencyFile, raw, path)
    if family.like is not None:
        raise ConfigError(Fault("a family is not like another", "like", family.like, "only 'kinds'"), path)
    return family, {origin.path: str(origin) for origin in provenance(family, raw)}
