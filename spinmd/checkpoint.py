"""The full state of a run in one HDF5 group, bit for bit, and back.

Arrays keep the present (sorted) order of the atoms; ``ids`` tells the original one. The arrays of the mover (``Aux``)
and of the neighbour lists' history are stored under the names they have. Nothing here knows about trajectories.
"""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from spinmd.errors import InputError
from spinmd.integrity import DAMAGE, check_seal, damage_explained, seal, verify
from spinmd.protocols import Aux
from spinmd.segments import open_file
from spinmd.state import Clock, State

__all__ = ["DAMAGE", "GROUP", "open_run", "read_checkpoint", "read_group", "reading", "write_checkpoint"]

GROUP = "spinmd/checkpoint"
VERSION = 2  # 1 did not say where in its deck the run stood
LAYOUT_VERSION = 1  # of the file around it; grows when a reader of the old layout would be wrong about a new file
UNITS = {
    "cell": "Angstrom",
    "pbc": "1",
    "positions": "Angstrom",
    "velocities": "Angstrom ps-1",
    "spins": "muB",
    "moments": "muB",
    "masses": "amu",
    "species": "1",
    "ids": "1",
    "images": "1",
    "reference": "Angstrom",
}
INTERNAL = "internal (Angstrom, ps, eV, amu, K, muB)"


def _escape(name: str) -> str:
    return name.replace("%", "%25").replace("/", "%2F")


def _unescape(name: str) -> str:
    return name.replace("%2F", "/").replace("%25", "%")


def _write_arrays(group: h5py.Group, arrays: Mapping[str, Any]) -> None:
    for name, array in arrays.items():
        group.create_dataset(_escape(name), data=np.asarray(array)).attrs["unit"] = INTERNAL


def _read_arrays(group: h5py.Group) -> dict[str, np.ndarray]:
    return {_unescape(name): np.asarray(dataset[()]) for name, dataset in group.items()}


def write_checkpoint(
    group: h5py.Group, state: State, aux: Aux, history: Mapping[str, Any] | None, meta: Mapping[str, Any]
) -> None:
    """Write everything that a run needs to go on bitwise into an empty ``group``. ``meta`` must be JSON-able."""
    group.attrs["checkpoint_version"] = VERSION
    group.attrs["step"] = state.clock.step
    group.attrs["time"] = state.clock.time
    group.attrs["symbols"] = json.dumps(list(state.symbols))
    group.attrs["has_list_history"] = history is not None
    # attributes are limited to 64 kB and a deck is not, so the rest is a dataset
    group.create_dataset("meta", data=json.dumps(dict(meta)), dtype=h5py.string_dtype()).attrs["unit"] = "text"
    arrays = group.create_group("state")
    for name, unit in UNITS.items():
        arrays.create_dataset(name, data=getattr(state, name)).attrs["unit"] = unit
    _write_arrays(group.create_group("aux/per_atom"), aux.per_atom)
    _write_arrays(group.create_group("aux/globals"), aux.globals)
    _write_arrays(group.create_group("list_history"), history or {})
    seal(group)


def read_group(group: h5py.Group) -> tuple[State, Aux, dict[str, np.ndarray] | None, dict[str, Any]]:
    """What ``write_checkpoint`` wrote; ValueError if it is something else by now."""
    check_seal(group)
    symbols = tuple(json.loads(group.attrs["symbols"]))
    clock = Clock(int(group.attrs["step"]), float(group.attrs["time"]))
    arrays = {name: np.ascontiguousarray(group["state"][name][()]) for name in UNITS}
    aux = Aux(_read_arrays(group["aux/per_atom"]), _read_arrays(group["aux/globals"]))
    history = _read_arrays(group["list_history"]) if group.attrs["has_list_history"] else None
    meta = json.loads(group["meta"].asstr()[()])
    meta.update(
        checkpoint_version=int(group.attrs["checkpoint_version"]),
        step=clock.step,
        time=clock.time,
        natoms=len(arrays["positions"]),
    )
    return State(**arrays, symbols=symbols, clock=clock), aux, history, meta


def read_checkpoint(path: str | Path) -> tuple[State, Aux, dict[str, np.ndarray] | None, dict[str, Any]]:
    """The last checkpoint of a run's file: state, the mover's arrays, history of the neighbour lists (or None), meta.

    ``meta`` holds deck (text), settings, stage, extra, version, commit, checkpoint_version, step, time (ps), natoms.
    Raises InputError where the file is missing, is not spinmd's, is damaged or from a newer version, or has lost the hidden
    folder it refers to.
    """
    with open_run(path) as file:
        try:
            group = file[GROUP]
        except (KeyError, RuntimeError):  # RuntimeError: a link that leads nowhere
            message = "holds no checkpoint; a run writes one at its start, or its hidden folder has gone"
            raise InputError(message, str(path)) from None
        with damage_explained(str(path), "the checkpoint"):
            version = int(group.attrs["checkpoint_version"])
            if version > VERSION:
                message = f"the checkpoint has version {version}, written by a newer spinmd; update spinmd to read it"
                raise InputError(message, str(path))
            return read_group(group)


@contextmanager
def reading(path: str | Path) -> Iterator[h5py.File]:
    """``open_run`` for a few lines, in which whatever h5py has to say of a damaged file becomes an InputError."""
    with open_run(path) as file, damage_explained(str(path)):
        yield file


def open_run(path: str | Path, locking: bool | None = False) -> h5py.File:
    """A run's file for reading.

    Raises InputError if it is missing, damaged, not spinmd's, or has lost the folder of its segments.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError("is a folder; give the file in it that a run wrote, such as fe.h5", str(path))
    if not path.is_file():
        raise InputError("there is no such file; give the file that a run wrote, such as fe.h5", str(path))
    try:
        file = open_file(path, locking)
    except DAMAGE:
        raise InputError("is not an HDF5 file, or is damaged; give the file that a run wrote", str(path)) from None
    try:
        with damage_explained(str(path)):
            if "spinmd" not in file:
                raise InputError("is not a file that spinmd wrote (it has no group /spinmd)", str(path))
            _check_parts(file["spinmd"].attrs, path)
    except BaseException:
        file.close()
        raise
    return file


def _check_parts(attributes: Mapping[str, Any], path: Path) -> None:
    """InputError unless all files that a run's file refers to are there, and as long as they were."""
    folder = Path(os.path.realpath(path)).parent
    version = int(attributes.get("layout_version", LAYOUT_VERSION))
    if version > LAYOUT_VERSION:
        raise InputError(f"has layout version {version}, of a newer spinmd; update spinmd to read it", str(path))
    parts = {segment["file"]: segment.get("bytes") for segment in json.loads(attributes.get("segments", "[]"))}
    if "checkpoint" in attributes:
        name, _, size = json.loads(attributes["checkpoint"])
        parts[name] = size
    for name, size in parts.items():
        if (folder / name).is_file() and size is not None and (folder / name).stat().st_size < size:
            raise InputError(
                f"refers to {name}, which is damaged: it should have {size} bytes, and has "
                f"{(folder / name).stat().st_size}; take both from a copy",
                str(path),
            )
        if not (folder / name).is_file():
            raise InputError(
                f"refers to {name}, which is missing: while a run goes on, and after one that was killed, "
                "the hidden folder beside the file holds its data; keep the two together",
                str(path),
            )
        with damage_explained(str(path), name):
            verify(folder / name)  # HDF5 opens it by itself
