"""Labelled frames in DeePMD's spin layout: reading, writing, choosing. Checks are in ``data_checks``; numpy only.

A folder is one system, all of its frames having the same atoms in the same order:

    type.raw            one number per atom, an index into type_map.raw
    type_map.raw        one element symbol per line
    nopbc               (may be absent) the presence of this file says that nothing is periodic
    set.*/box.npy       (F, 9) Å, rows are lattice vectors          set.*/energy.npy     (F,) eV
    set.*/coord.npy     (F, 3N) Å                                   set.*/force.npy      (F, 3N) eV/Å
    set.*/spin.npy      (F, 3N) µB, atomic magnetic moments          set.*/force_mag.npy  (F, 3N) eV/µB, −∂E/∂S
    set.*/virial.npy    (F, 9) eV, −∂E/∂ε at fixed spins; may be absent

float32 and float64 are read alike; everything is float64 here. DeePMD-kit's manual gives the unit of force_mag as eV/Å;
what its models are trained on and predict is eV/µB for spins in µB. Layout: https://docs.deepmodeling.com (DeePMD-kit, data).
"""

import glob
import os
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np

from spinmd.errors import InputError
from spinmd.potentials.deepspin.data_checks import check_system

REQUIRED = ("coord", "spin", "energy", "force", "force_mag")
VACUUM = 20.0  # Å around the atoms of a frame without a box


@dataclass
class System:
    """F labelled frames of N atoms; float64 arrays.

    elements   symbols of the types (type_map.raw);  types (N,) int64, index into elements
    box        (F, 3, 3) Å, rows are lattice vectors;  coord (F, N, 3) Å;  spin (F, N, 3) µB
    energy     (F,) eV;  force (F, N, 3) eV/Å;  field (F, N, 3) −∂E/∂S, eV/µB;  virial (F, 3, 3) eV or None
    name       for messages and tables;  magnetic (N,) bool: atoms of elements that carry spins
    periodic   False: nothing is periodic, and the box only encloses the atoms
    """

    elements: tuple[str, ...]
    types: np.ndarray
    box: np.ndarray
    coord: np.ndarray
    spin: np.ndarray
    energy: np.ndarray
    force: np.ndarray
    field: np.ndarray
    virial: np.ndarray | None = None
    name: str = "system"
    magnetic: np.ndarray | None = None
    periodic: bool = True

    PER_FRAME = ("box", "coord", "spin", "energy", "force", "field", "virial")

    def __post_init__(self):
        if self.magnetic is None:
            carries = (self.spin != 0.0).any(axis=(0, 2))
            self.magnetic = np.isin(self.types, np.unique(self.types[carries]))

    @property
    def frames(self) -> int:
        """F"""
        return len(self.energy)

    @property
    def natoms(self) -> int:
        """N"""
        return len(self.types)

    @property
    def symbols(self) -> list[str]:
        """The element of each atom."""
        return [self.elements[t] for t in self.types]

    @property
    def magnetic_elements(self) -> tuple[str, ...]:
        """The elements that carry spins, in the order of ``elements``."""
        present = set(self.types[self.magnetic].tolist())
        return tuple(symbol for t, symbol in enumerate(self.elements) if t in present)

    def with_elements(self, elements: Sequence[str]) -> "System":
        """The same system with types that count in another list of elements; InputError if one of its own is not in it."""
        for t in np.unique(self.types):
            if self.elements[t] not in elements:
                known = ", ".join(elements)
                raise InputError(
                    f"holds {self.elements[t]}, which is not among {known}; leave this system out or add the element",
                    self.name,
                )
        index = np.array([list(elements).index(e) if e in elements else -1 for e in self.elements], dtype=np.int64)
        return replace(self, elements=tuple(elements), types=index[self.types])


def elements_of(systems: Iterable[System]) -> tuple[str, ...]:
    """Every element that has atoms in some system, in the order in which they are met."""
    found: dict[str, None] = {}
    for system in systems:
        present = set(system.types.tolist())
        found.update(dict.fromkeys(e for t, e in enumerate(system.elements) if t in present))
    return tuple(found)


# ---------------------------------------------------------------------------------------------- reading


def read_system(
    folder: str | Path, *, magnetic: Sequence[str] | None = None, elements: Sequence[str] | None = None
) -> System:
    """The System in ``folder``, checked (``data_checks.check_system``).

    magnetic  elements that may carry spins; None: those that do
    elements  used where type_map.raw is missing

    Raises InputError that names the file, the frame (counted from 0 through all sets) and the atom; warns of what looks
    wrong and may be right.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError("there is no such folder", str(folder))
    symbols = _type_map(folder, elements)
    types = _types(folder, symbols)
    periodic = not (folder / "nopbc").exists()
    sets = sorted(path for path in folder.glob("set.*") if path.is_dir())
    if not sets:
        raise InputError("the system has no folder set.*, in which the frames are; export the data again", str(folder))
    parts = [_read_set(path, len(types), periodic) for path in sets]
    with_virial = [path.name for path, part in zip(sets, parts, strict=True) if part["virial"] is not None]
    if with_virial and len(with_virial) < len(sets):
        raise InputError(
            f"only {', '.join(with_virial)} of {len(sets)} sets have virial.npy; add the others' or remove these",
            str(folder),
        )
    arrays = {
        name: None if parts[0][name] is None else np.concatenate([part[name] for part in parts]) for name in parts[0]
    }
    if len(arrays["energy"]) == 0:
        raise InputError("the sets hold no frames; remove this system from the list", str(folder))
    system = System(symbols, types, **arrays, name=str(folder), periodic=periodic)
    check_system(system, magnetic)
    return system


def read_systems(paths: str | Path | Iterable[str | Path], *, magnetic: Sequence[str] | None = None) -> list[System]:
    """All systems below ``paths``: folders of systems, parent folders, or patterns such as ``"data/iter-*"``.

    What one path stands for is sorted by name; a system that is met twice is read once. InputError if a path holds none.
    """
    found: dict[Path, Path] = {}
    for path in [paths] if isinstance(paths, (str, Path)) else paths:
        below = system_folders(path)
        found.update({folder.resolve(): folder for folder in below if folder.resolve() not in found})
    if not found:
        raise InputError("no data is given; name at least one folder", "data")
    return [read_system(folder, magnetic=magnetic) for folder in found.values()]


def system_folders(path: str | Path) -> list[Path]:
    """The folders with a type.raw that ``path`` (a folder, a parent or a pattern) stands for, sorted; none is read."""
    text = os.path.expanduser(str(path))
    matches = [Path(text)] if Path(text).exists() else [Path(match) for match in sorted(glob.glob(text))]
    if not matches:
        raise InputError("there is no such folder, and no folder fits it as a pattern", str(path))
    folders = [file.parent for match in matches if match.is_dir() for file in sorted(match.rglob("type.raw"))]
    if not folders:
        raise InputError("holds no system in DeePMD's layout (a folder with type.raw and set.*)", str(path))
    return sorted(set(folders))


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot be read as text ({error})", str(path)) from None


def _type_map(folder: Path, elements: Sequence[str] | None) -> tuple[str, ...]:
    path = folder / "type_map.raw"
    if path.exists():
        symbols = _lines(path)
    elif elements is not None:
        symbols = list(elements)
    else:
        raise InputError("this file is missing; write the element symbols into it, one per line", str(path))
    repeated = {symbol for symbol in symbols if symbols.count(symbol) > 1}
    if repeated:
        raise InputError(f"names {' and '.join(sorted(repeated))} twice; every element comes once", str(path))
    return tuple(symbols)


def _types(folder: Path, symbols: tuple[str, ...]) -> np.ndarray:
    path = folder / "type.raw"
    if not path.exists():
        raise InputError("this file is missing; it holds one type number per atom", str(path))
    words = _lines(path)
    if not words:
        raise InputError("is empty; it holds one type number per atom", str(path))
    for atom, word in enumerate(words):
        if not word.isdigit() or int(word) >= len(symbols):
            raise InputError(
                f"atom {atom} has type {word}; types are whole numbers from 0 to {len(symbols) - 1}, the "
                f"{len(symbols)} lines of type_map.raw",
                str(path),
            )
    return np.array([int(word) for word in words], dtype=np.int64)


def _read_set(folder: Path, natoms: int, periodic: bool) -> dict[str, np.ndarray | None]:
    """The arrays of one set.* folder under the names of System, float64 and shaped."""
    if (folder / "real_atom_types.npy").exists():
        raise InputError(
            "frames of different atoms in one system (mixed types) are not read; split them, for example with dpdata",
            str(folder / "real_atom_types.npy"),
        )
    for name in REQUIRED if not periodic else ("box", *REQUIRED):
        if not (folder / f"{name}.npy").exists():
            remedy = {
                "box": "; add it, or an empty file nopbc beside type.raw if nothing is periodic",
                "spin": "; DeepSPIN needs the moments of the atoms in µB",
                "force_mag": "; DeepSPIN needs the magnetic forces −∂E/∂S in eV/µB of constrained-moment calculations",
            }.get(name, "")
            raise InputError(f"this file is missing{remedy}", str(folder / f"{name}.npy"))
    energy = _load(folder / "energy.npy")
    if energy.ndim not in (1, 2) or energy.size != len(energy):
        raise InputError(f"has shape {energy.shape}, expected one energy per frame", str(folder / "energy.npy"))
    frames = len(energy)
    result: dict[str, np.ndarray | None] = {"energy": energy.reshape(frames)}
    for name, own in (("coord", "coord"), ("spin", "spin"), ("force", "force"), ("force_mag", "field")):
        result[own] = _shaped(folder / f"{name}.npy", frames, (natoms, 3))
    has_virial = (folder / "virial.npy").exists()
    result["virial"] = _shaped(folder / "virial.npy", frames, (3, 3)) if has_virial else None
    if (folder / "box.npy").exists() and periodic:
        result["box"] = _shaped(folder / "box.npy", frames, (3, 3))
    else:
        extent = np.ptp(result["coord"], axis=1) + VACUUM
        result["box"] = extent[:, :, None] * np.eye(3)
    return result


def _load(path: Path) -> np.ndarray:
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"cannot be read as a numpy array ({error})", str(path)) from None
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiu":
        raise InputError("does not hold an array of real numbers", str(path))
    return np.atleast_1d(array).astype(np.float64)


def _shaped(path: Path, frames: int, shape: tuple[int, int]) -> np.ndarray:
    array = _load(path)
    flat = shape[0] * shape[1]
    if array.shape not in ((frames, flat), (frames, *shape)):
        per_frame = array.size // max(len(array), 1)
        if len(array) != frames:
            reason = f"{len(array)} frames where energy.npy has {frames}"
        elif shape[1] == 3 and path.stem not in ("box", "virial"):
            reason = f"{per_frame} numbers in a frame where the {shape[0]} atoms of type.raw need {flat}"
        else:
            reason = f"{per_frame} numbers in a frame, expected {flat}"
        raise InputError(f"has shape {array.shape}: {reason}", str(path))
    return array.reshape(frames, *shape)


# ---------------------------------------------------------------------------------------------- writing


def write_system(folder: str | Path, system: System, *, frames_per_set: int | None = None, force: bool = False) -> None:
    """Write a System in DeePMD's spin layout; a reader sees all of it or nothing.

    ``frames_per_set`` spreads the frames over several sets. Raises InputError if ``folder`` exists, unless ``force``
    (which replaces a folder that is a system, and nothing else).
    """
    folder = Path(folder)
    if folder.exists() and not (force and (folder / "type.raw").is_file()):
        hint = "choose another name" if not (folder / "type.raw").is_file() else "choose another name or replace it"
        raise InputError(f"exists already; {hint}", str(folder))
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
    try:
        temporary.chmod(0o755)
        (temporary / "type_map.raw").write_text("".join(f"{symbol}\n" for symbol in system.elements))
        (temporary / "type.raw").write_text("".join(f"{t}\n" for t in system.types))
        if not system.periodic:
            (temporary / "nopbc").touch()
        size = frames_per_set or max(system.frames, 1)
        for number, first in enumerate(range(0, system.frames, size)):
            _write_set(temporary / f"set.{number:03d}", select(system, slice(first, first + size)))
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(temporary, folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _write_set(folder: Path, system: System) -> None:
    folder.mkdir()
    for name, own in (
        ("box", "box"), ("coord", "coord"), ("spin", "spin"), ("force", "force"), ("force_mag", "field"),
        ("virial", "virial"),
    ):  # fmt: skip
        array = getattr(system, own)
        if array is not None:
            np.save(folder / f"{name}.npy", array.reshape(system.frames, -1))
    np.save(folder / "energy.npy", system.energy)


# ---------------------------------------------------------------------------------------------- choosing


def select(system: System, frames) -> System:
    """Some frames of a system: a slice, indices, or one bool per frame. Elements keep being magnetic."""
    chosen = {}
    for entry in fields(System):
        if entry.name in System.PER_FRAME:
            array = getattr(system, entry.name)
            chosen[entry.name] = None if array is None else array[frames]
    return replace(system, **chosen)


def split(systems: Sequence[System], fraction: float, seed: int) -> tuple[list[System], list[System]]:
    """(training, validation): of each system ``fraction`` of the frames, drawn at random, goes to validation.

    The numbers of frames are rounded so that their sum over all systems is right, and at least one; the frames keep
    their order. Systems without frames on a side are left out there. A fraction of zero leaves validation empty.
    Raises InputError for a fraction outside [0, 1), or if no frame is left to train on.
    """
    if not 0.0 <= fraction < 1.0:
        raise InputError(f"the fraction for validation must be at least 0 and less than 1, got {fraction:g}", "split")
    total = sum(system.frames for system in systems)
    ends = np.cumsum([0, *(system.frames for system in systems)]) * fraction
    counts = np.diff(np.floor(ends + 0.5)).astype(int)
    if fraction > 0.0 and counts.sum() == 0 and total > 0:
        counts[int(np.argmax([system.frames for system in systems]))] = 1
    if counts.sum() >= total:
        raise InputError(f"there are {total} frames, too few to set some aside for validation", "split")
    training, validation = [], []
    for number, (system, count) in enumerate(zip(systems, counts, strict=True)):
        stream = np.random.default_rng([seed, number])
        aside = np.zeros(system.frames, dtype=bool)
        aside[stream.permutation(system.frames)[:count]] = True
        for side, chosen in ((training, ~aside), (validation, aside)):
            if chosen.any():
                side.append(select(system, chosen))
    return training, validation


def split_evenly(systems: list[System], fraction: float) -> tuple[list[System], list[System]]:
    """Frames of each system that stay, and every (1/fraction)-th one apart, spread evenly."""
    stay, apart = [], []
    for system in systems:
        count = round(fraction * system.frames)
        chosen = np.unique(((np.arange(count) + 0.5) * system.frames / max(count, 1)).astype(int))
        rest = np.setdiff1d(np.arange(system.frames), chosen)
        if not len(rest):
            chosen, rest = chosen[:0], np.arange(system.frames)
        stay.append(select(system, rest))
        if len(chosen):
            apart.append(select(system, chosen))
    return stay, apart
