"""Kinds of potentials by name: those of spinmd, those of installed packages, and ``"package.module:Class"``.

A package adds kinds with entry points of the group ``spinmd.potentials``; a deck can also name any class that keeps the
contract of ``spinmd.protocols.Potential``. Classes are imported when they are asked for, not before.
"""

import difflib
import importlib
import importlib.metadata
import sys
from functools import cache
from pathlib import Path

from pydantic import BaseModel

from spinmd.errors import InputError

GROUP = "spinmd.potentials"

# spinmd's own kinds, known without an installation; setup.cfg declares the same (a test compares the two)
OWN: dict[str, str] = {
    "eam": "spinmd.potentials.eam:EAM",
    "lennard-jones": "spinmd.potentials.pair:LennardJones",
    "morse": "spinmd.potentials.pair:Morse",
    "exchange": "spinmd.potentials.exchange:Exchange",
    "biquadratic": "spinmd.potentials.biquadratic:Biquadratic",
    "dmi": "spinmd.potentials.dmi:DMI",
    "tensor-exchange": "spinmd.potentials.tensor:TensorExchange",
    "anisotropy": "spinmd.potentials.anisotropy:UniaxialAnisotropy",
    "cubic-anisotropy": "spinmd.potentials.anisotropy:CubicAnisotropy",
    "zeeman": "spinmd.potentials.zeeman:Zeeman",
    "dipole": "spinmd.potentials.dipole:Dipole",
    "deepspin": "spinmd.potentials.deepspin.potential:DeepSpin",
}

# what a class must have to serve as a potential; instances have cutoff, provides, name and magnetic too
METHODS = ("prepare", "margin", "add", "freeze")


@cache
def _installed() -> dict[str, list[importlib.metadata.EntryPoint]]:
    found: dict[str, list[importlib.metadata.EntryPoint]] = {}
    for point in importlib.metadata.entry_points(group=GROUP):
        if point.value not in [other.value for other in found.get(point.name, [])]:
            found.setdefault(point.name, []).append(point)
    return found


def kinds() -> dict[str, str]:
    """Every known kind and where its class is, ``{"exchange": "spinmd.potentials.exchange:Exchange", ...}``."""
    return {**{name: points[0].value for name, points in _installed().items()}, **OWN}


def find(kind: str, folder: Path | None = None) -> type:
    """The class of ``kind``, a registered name or ``"package.module:Class"`` (modules in ``folder`` are found too).

    Raises InputError, without a place, for an unknown name, a failing import or a class that is not a potential.
    """
    if ":" in kind:
        return _checked(_load(kind, kind, folder), kind)
    if kind in OWN:
        return _checked(_load(kind, OWN[kind], None), kind)
    points = _installed().get(kind, [])
    if len(points) > 1:
        values = " and ".join(point.value for point in points)
        raise InputError(f"two installed packages offer the kind {kind!r} ({values}); name one as module:Class")
    if points:
        return _checked(_load(kind, points[0].value, None), kind)
    raise InputError(unknown(kind, kinds()))


def unknown(kind: str, known) -> str:
    """The sentence for a kind that nobody offers."""
    near = nearest(kind, known)
    if near:
        return f"unknown kind {kind!r}; did you mean {near}?"
    return f'unknown kind {kind!r}; known are {", ".join(sorted(known))}, or write "package.module:Class"'


def nearest(word: str, known) -> str:
    """The names most like ``word``, quoted and joined by "or"; empty if nothing is near."""
    lowered = {str(name).lower(): str(name) for name in known}
    likeness = 0.6 if len(str(word)) > 3 else 0.5
    near = [lowered[name] for name in difflib.get_close_matches(str(word).lower(), lowered, n=3, cutoff=likeness)]
    if not near:
        word = str(word).lower()
        near = [
            name for low, name in lowered.items() if len(word) > 2 and (low.startswith(word) or word.startswith(low))
        ]
    return " or ".join(repr(name) for name in near[:3])


def _load(kind: str, target: str, folder: Path | None) -> object:
    module_name, _, class_name = target.partition(":")
    if not module_name or not class_name:
        raise InputError(f'cannot read the kind {kind!r}; write "package.module:Class"')
    try:
        module = _import(module_name, folder)
    except Exception as error:  # whatever a foreign module does while it is imported is the user's to know
        what = f"{type(error).__name__}: {error}"
        raise InputError(f"the kind {kind!r} cannot be imported from {module_name} ({what})") from error
    found: object = module
    for part in class_name.split("."):
        if not hasattr(found, part):
            near = nearest(part, [name for name in vars(found) if isinstance(getattr(found, name), type)])
            hint = f"; did you mean {near}?" if near else ""
            raise InputError(f"module {module_name} has no class {class_name!r}{hint}")
        found = getattr(found, part)
    return found


def _import(name: str, folder: Path | None):
    if folder is None:
        return importlib.import_module(name)
    importlib.invalidate_caches()
    sys.path.append(str(folder))  # last: a file beside the deck must not shadow what its imports need
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(folder))


def _checked(found: object, kind: str) -> type:
    """``found`` if it can serve as a potential; InputError that lists what it lacks otherwise."""
    if not isinstance(found, type):
        raise InputError(f"the kind {kind!r} is a {type(found).__name__}, expected a class")
    missing = [name for name in METHODS if not callable(getattr(found, name, None))]
    parameters = getattr(found, "Parameters", None)
    if not (isinstance(parameters, type) and issubclass(parameters, BaseModel)):
        missing.insert(0, "Parameters (a pydantic model)")
    if missing:
        raise InputError(
            f"the class {found.__name__} of kind {kind!r} is not a potential: it lacks {', '.join(missing)}"
        )
    return found
