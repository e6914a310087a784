"""The reader of a run's file for post-processing: frames, slices, and arrays that stay on disk until they are indexed.

    import spinmd

    with spinmd.Trajectory("fe.h5") as trajectory:
        print(trajectory)                              # frames, atoms, steps, what is stored
        spins = trajectory.spins[-1]                   # µB, (N, 3): only this frame is read
        iron = trajectory.select(elements="Fe")[::10]  # nothing is read yet
        for frame in iron:
            print(frame.time, frame.spins.mean(axis=0))

Atoms are in their original order; Å, ps, eV, amu, µB. It reads finished runs, runs that go on and killed ones alike; nothing
here writes. docs/trajectories.md has the same with other programs.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np

from spinmd.checkpoint import GROUP, read_checkpoint
from spinmd.errors import InputError
from spinmd.h5md import ROWS, THERMO, TRAJECTORY
from spinmd.integrity import check_table
from spinmd.output import QUANTITIES, parts_folder
from spinmd.protocols import Aux
from spinmd.segments import locked
from spinmd.snapshot import Snapshot
from spinmd.state import State
from spinmd.stored_arrays import Index, RunFile, StoredArray, take

EDGES = f"{TRAJECTORY}/box/edges"


class Table(dict):
    """The thermo table: column -> (rows,) array; ``units``: column -> unit."""

    def __init__(self, columns: Mapping[str, np.ndarray], units: Mapping[str, str]):
        super().__init__(columns)
        self.units = dict(units)


class Checkpoint(NamedTuple):
    """The last checkpoint: a State to look at or to start from, what the mover kept, list history, and meta."""

    state: State
    aux: Aux
    history: dict[str, np.ndarray] | None
    meta: dict[str, Any]


class Trajectory:
    """A run's file, or a part of its frames and atoms. Opens nothing but this file and its segments.

    ``trajectory[i]`` is a Snapshot, ``trajectory[a:b:c]`` and ``select`` give parts that read nothing themselves.
    Raises InputError for a file that is missing, foreign, damaged or of a newer spinmd, and for what is not stored.
    """

    def __init__(self, path: str | Path):
        self._source = RunFile(path)
        self._root = self
        try:
            with self._source.reading() as file:
                self._constants = _read_constants(file[TRAJECTORY])
                self._stored = _read_units(file[TRAJECTORY], (len(self._source.steps), len(self._constants["mass"]), 3))
                self.system_atoms = int(file["spinmd"].attrs.get("natoms", len(self._constants["mass"])))
        except BaseException:
            self._source.close()
            raise
        self._tables: dict[str, Any] = {}
        self._frames: Index = range(len(self._source.steps))
        self._atoms: Index = range(len(self._constants["mass"]))

    def _part(self, frames: Index, atoms: Index) -> "Trajectory":
        part = object.__new__(Trajectory)
        part.__dict__.update(self.__dict__)
        part._frames, part._atoms = frames, atoms
        return part

    # ------------------------------------------------------------------ frames and atoms

    def __len__(self) -> int:
        return len(self._frames)

    def __getitem__(self, key: Any) -> "Snapshot | Trajectory":
        """A frame for a number, a part for a slice, a list of numbers or a mask of frames."""
        frames = take(self._frames, key, "frame")
        if isinstance(frames, int):
            return Snapshot(self._part(range(frames, frames + 1), self._atoms), frames)
        return self._part(frames, self._atoms)

    def __iter__(self) -> Iterator["Snapshot"]:
        return (self[i] for i in range(len(self)))

    def select(self, elements: str | Iterable[str] | None = None, indices: Any = None) -> "Trajectory":
        """Only some atoms: of these elements, and of these indices into ``trajectory.symbols`` (numbers, slice, mask)."""
        atoms = self._atoms
        if indices is not None:
            atoms = take(atoms, indices if isinstance(indices, slice) else np.atleast_1d(indices), "atom")
        part = self._part(self._frames, atoms)
        if elements is None:
            return part
        wanted = [elements] if isinstance(elements, str) else list(elements)
        missing = [one for one in wanted if one not in self.elements]
        if missing:
            raise InputError(f"it holds no {missing[0]}, only {', '.join(self.elements)}", self._source.place)
        return self._part(self._frames, take(atoms, np.isin(part.symbols, wanted), "atom"))

    def chunks(self, *quantities: str, megabytes: float = 64.0, along: str = "frames") -> Iterator[tuple]:
        """Go through a long file in pieces: yields (part, array, ...), one array per quantity, with ``megabytes`` in all.

        part   the Trajectory of this piece (part.times, part.cells, part.symbols, ...)
        along  "frames": whole frames, in order;  "atoms": all frames of some atoms, which reads the file once per piece

        A piece holds at least one frame (or atom).
        """
        if along not in ("frames", "atoms"):
            raise InputError(f'expected "frames" or "atoms", got {along!r}', "along")
        if not quantities or not megabytes > 0.0:
            raise InputError("name at least one quantity, and give a positive number of megabytes", "chunks")
        arrays = [self.array(name) for name in quantities]
        total, across = sum(array.nbytes for array in arrays), len(self) if along == "frames" else self.natoms
        count = max(1, int(1.0e6 * megabytes * across / max(total, 1)))
        if along == "frames" and isinstance(self._frames, range) and self._frames.step == 1:
            rows = max(array.chunk_rows for array in arrays)
            count -= count % rows if count > rows else 0
        return self._pieces(quantities, count, across, along)

    def _pieces(self, quantities: tuple[str, ...], count: int, across: int, along: str) -> Iterator[tuple]:
        for first in range(0, across, count):
            piece = slice(first, first + count)
            part = self[piece] if along == "frames" else self.select(indices=piece)
            yield (part, *(part.array(name)[...] for name in quantities))

    # ------------------------------------------------------------------ what is stored

    @property
    def path(self) -> Path:
        return self._source.path

    @property
    def natoms(self) -> int:
        return len(self._atoms)

    @property
    def quantities(self) -> tuple[str, ...]:
        """What frames hold per atom: of positions, velocities, spins, forces, fields."""
        return tuple(self._stored)

    @property
    def units(self) -> dict[str, str]:
        """Unit of each stored quantity, and of times, cells, masses and moments."""
        return {**self._stored, "times": "ps", "cells": "Angstrom", "masses": "amu", "moments": "muB"}

    def array(self, name: str) -> StoredArray:
        """A stored quantity (or "wrapped") by name: (frames, atoms, 3), read when indexed."""
        stored = "positions" if name == "wrapped" else name
        if stored not in QUANTITIES:
            raise InputError(f"there is no quantity {name!r}; there are {', '.join(QUANTITIES)} and wrapped", "array")
        if stored not in self._stored:
            held = ", ".join(self._stored) or "no quantity per atom"
            raise InputError(
                f'holds {held}, and no {stored}; to store them, give quantities = [..., "{stored}"] in the deck\'s '
                "[output] and run again",
                self._source.place,
            )
        change = self._wrap if name == "wrapped" else None
        path = f"{TRAJECTORY}/{QUANTITIES[stored][0]}/value"
        return StoredArray(self._source, path, self._frames, self._atoms, self._stored[stored], change)

    @property
    def positions(self) -> StoredArray:
        """Å, unwrapped: followed through the periodic boundaries."""
        return self.array("positions")

    @property
    def wrapped(self) -> StoredArray:
        """Positions moved into the cell along periodic directions, Å."""
        return self.array("wrapped")

    @property
    def velocities(self) -> StoredArray:
        """Å/ps"""
        return self.array("velocities")

    @property
    def spins(self) -> StoredArray:
        """µB, the atomic moments S"""
        return self.array("spins")

    @property
    def forces(self) -> StoredArray:
        """eV/Å"""
        return self.array("forces")

    @property
    def fields(self) -> StoredArray:
        """−∂E/∂S, eV/µB"""
        return self.array("fields")

    def _wrap(self, frames: Index, positions: np.ndarray) -> np.ndarray:
        cells = self._root_cells()[np.asarray(frames)]
        fractional = np.einsum("fni,fij->fnj", positions, np.linalg.inv(cells))
        fractional -= np.where(self.pbc, np.floor(fractional), 0.0)
        fractional[(fractional == 1.0) & self.pbc] = 0.0  # from a coordinate a hair below zero
        return np.einsum("fni,fij->fnj", fractional, cells).astype(positions.dtype)

    # ------------------------------------------------------------------ per frame, small

    @property
    def steps(self) -> np.ndarray:
        """(frames,) steps of the run"""
        return self._source.steps[np.asarray(self._frames, dtype=np.int64)]

    @property
    def times(self) -> np.ndarray:
        """(frames,) ps"""
        times = self._cached("times", lambda: self._source.read(f"{EDGES}/time"))
        return times[np.asarray(self._frames, dtype=np.int64)]

    @property
    def cells(self) -> np.ndarray:
        """(frames, 3, 3) Å, rows are lattice vectors"""
        return self._root_cells()[np.asarray(self._frames, dtype=np.int64)]

    def _root_cells(self) -> np.ndarray:
        return self._cached("cells", self._read_cells)

    def _read_cells(self) -> np.ndarray:
        cells = self._source.read(f"{EDGES}/value")
        whole = cells.ndim == 3 and cells.shape[1:] == (3, 3) and cells.dtype.kind == "f"
        if not whole or not (np.abs(np.linalg.det(cells)) > 0.0).all():
            raise InputError("is damaged: the cells of its frames are none", self._source.place)
        return cells

    # ------------------------------------------------------------------ per atom, constant

    def _constant(self, name: str) -> np.ndarray:
        return self._constants[name][np.asarray(self._atoms, dtype=np.int64)]

    @property
    def symbols(self) -> np.ndarray:
        """(N,) element of each atom, as text"""
        return self._constant("symbol")

    @property
    def species(self) -> np.ndarray:
        """(N,) number of the element of each atom in ``elements``"""
        return self._constant("species")

    @property
    def elements(self) -> tuple[str, ...]:
        """All elements of the run; ``species`` counts in them."""
        return self._constants["elements"]

    @property
    def masses(self) -> np.ndarray:
        """(N,) amu"""
        return self._constant("mass")

    @property
    def moments(self) -> np.ndarray:
        """(N,) reference moments, µB"""
        return self._constant("moment")

    @property
    def ids(self) -> np.ndarray:
        """(N,) index of each atom in the run's structure"""
        return self._constant("id")

    @property
    def pbc(self) -> np.ndarray:
        """(3,) whether the run was periodic along each lattice vector"""
        return self._constants["pbc"]

    @property
    def sites(self) -> np.ndarray:
        """(N, 3) ideal sites that the structure was built on, Å, in its cell (``site_cell``), without displacements"""
        return self._cached("sites", self._read_sites)[self.ids]

    @property
    def site_cell(self) -> np.ndarray:
        """(3, 3) cell of ``sites``, Å: that of the first frame; rows are lattice vectors"""
        return self._root_cells()[0]

    def _read_sites(self) -> np.ndarray:
        with self._source.reading() as file:
            state = file[f"{GROUP}/state"]
            return np.asarray(state["reference"][()])[np.argsort(state["ids"][()])]

    # ------------------------------------------------------------------ of the whole run

    @property
    def thermo(self) -> Table:
        """The thermo table of the whole run: column -> array, with ``units``; denser than the frames."""
        return self._cached("thermo", lambda: self._read_table(THERMO))

    @property
    def row_arrays(self) -> Table:
        """Arrays that go with the rows of ``thermo``, (rows, ...), with ``units``; empty where the ensemble has none."""
        return self._cached("row_arrays", lambda: self._read_table(ROWS))

    def _read_table(self, group: str) -> Table:
        with self._source.reading() as file:
            if group == THERMO:
                check_table(file[THERMO], self._source.place)
            names = {name: str(item.attrs.get("unit", "")) for name, item in file.get(group, {}).items()}
        return Table({name: self._source.read(f"{group}/{name}") for name in names}, names)

    @property
    def last_stage(self) -> tuple[int, int]:
        """First and last step of the last stage that the run has come to; the first is 0 in a run of one stage."""
        steps = self.thermo["step"]
        with self._source.reading() as file:
            place = json.loads(file[f"{GROUP}/meta"].asstr()[()]).get("extra") if GROUP in file else None
        first = place.get("first_step", 0) if isinstance(place, dict) else 0
        return int(first), int(max(steps[-1] if len(steps) else 0, self._source.steps[-1], first))

    @property
    def deck(self) -> str:
        """Text of the deck as it was given."""
        with self._source.reading() as file:
            return file["spinmd/deck/text"].asstr()[()]

    @property
    def settings(self) -> dict[str, Any]:
        """The settings in force, overrides included: the tables of the deck."""
        with self._source.reading() as file:
            return json.loads(file["spinmd/deck/settings"].asstr()[()])

    @property
    def conventions(self) -> dict[str, Any]:
        """Signs, factors and countings that codes disagree about, in words."""
        with self._source.reading() as file:
            return {name: value.item() if hasattr(value, "item") else value
                    for name, value in file["spinmd/conventions"].attrs.items()}  # fmt: skip

    @property
    def devices(self) -> list[tuple[int, str]]:
        """Where the run computed: first step and device, with GPU, driver, versions and precision, once for each change."""
        with self._source.reading() as file:
            stored = json.loads(file["spinmd"].attrs.get("devices", "[]"))
        return [(int(step), str(text)) for step, text in stored]

    @property
    def checkpoint(self) -> Checkpoint:
        """The last checkpoint: all atoms and quantities in full precision, whatever frames hold."""
        return Checkpoint(*read_checkpoint(self.path))

    @property
    def running(self) -> bool:
        """Whether a process is writing the file at this moment."""
        return locked(parts_folder(self.path))

    # ------------------------------------------------------------------ while a run goes on

    def refresh(self) -> int:
        """Look for frames that a run has added since; returns how many. Parts made before stay as they are."""
        if self is not self._root:
            raise InputError("refresh the whole trajectory, and take its parts anew", self._source.place)
        known = len(self._frames)
        self._source.renew()
        self._tables.clear()
        self._frames = range(len(self._source.steps))
        return len(self._frames) - known

    def close(self) -> None:
        """Close the file, of all parts too. Closing twice does nothing."""
        self._source.close()

    def __enter__(self) -> "Trajectory":
        return self

    def __exit__(self, kind, error, traceback) -> None:
        self.close()

    def _cached(self, name: str, read) -> Any:
        if name not in self._tables:
            self._tables[name] = read()
        return self._tables[name]

    def __repr__(self) -> str:
        steps = f", steps {self.steps[0]} to {self.steps[-1]}" if len(self) else ""
        plural = "s" if len(self) != 1 else ""
        return (
            f"Trajectory({self.path.name!r}: {len(self)} frame{plural} of {self.natoms} atoms{steps}; "
            f"{', '.join(self.quantities)})"
        )


def _read_constants(group: h5py.Group) -> dict[str, Any]:
    """What does not change from frame to frame; ValueError, which the caller words, if it cannot be right."""
    constants: dict[str, Any] = {name: group[name][:] for name in ("mass", "id", "moment", "species")}
    names = h5py.check_enum_dtype(group["species"].dtype)
    boundary = [side.decode() if isinstance(side, bytes) else side for side in group["box"].attrs["boundary"]]
    if names is None or sorted(names.values()) != list(range(len(names))) or len(boundary) != 3:
        raise ValueError("elements or boundaries of the cell are not stated")
    if len({len(values) for values in constants.values()}) != 1 or not (constants["mass"] > 0.0).all():
        raise ValueError("mass, species, id and moment of the atoms do not fit together")
    if not np.isin(constants["species"], list(names.values())).all():
        raise ValueError("an atom is of none of the elements")
    constants["elements"] = tuple(sorted(names, key=names.get))
    constants["symbol"] = np.array(constants["elements"])[constants["species"]]
    constants["pbc"] = np.array([side == "periodic" for side in boundary])
    return constants


def _read_units(group: h5py.Group, shape: tuple[int, int, int]) -> dict[str, str]:
    """Unit of each quantity that is stored; ValueError if its array has not the right shape."""
    units = {}
    for name, (element, unit, _) in QUANTITIES.items():
        if element in group:
            values = group[f"{element}/value"]
            # between opening the file and now a run may have added frames, never taken any away
            if values.ndim != 3 or values.shape[1:] != shape[1:] or len(values) < shape[0] or values.dtype.kind != "f":
                raise ValueError(f"{name} have shape {values.shape}, expected {shape}")
            units[name] = str(values.attrs.get("unit", unit))
    return units
