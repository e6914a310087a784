"""Arrays that stay in a run's file until they are indexed, and the file behind them, also while a run replaces it.

What the arrays mean is in ``spinmd.trajectory``. A run that goes on replaces its file at each checkpoint and removes
segments that it has merged: ``RunFile`` then opens the new file by itself, so that a reader neither stops nor gets fill
values for rows whose segment has gone.
"""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from spinmd.checkpoint import open_run
from spinmd.errors import InputError
from spinmd.h5md import STEPS
from spinmd.output import real_path
from spinmd.segments import open_file

PIECE_BYTES = 32_000_000  # read from the file at once, where only a part of it is kept
Index = range | np.ndarray


class RunFile:
    """A run's file, open for reading; ``steps`` are the steps of the frames known since opening or ``renew``.

    Raises InputError for a file that is missing, foreign, damaged, of a newer spinmd, or replaced by another run.
    """

    def __init__(self, path: str | Path):
        self.path = real_path(path)
        self.place = str(path)  # in messages
        self._file: h5py.File | None = None
        self._datasets: dict[str, h5py.Dataset] = {}
        self._segments: list[Path] = []
        self.steps = np.zeros(0, dtype=np.int64)
        self.renew()

    def renew(self) -> int:
        """Look at the file as it is now; returns the number of new frames."""
        while True:
            before = self._identity()
            try:
                steps = self._open()
                break
            except InputError as error:
                self.close()
                if self._identity() == before:  # else the run has replaced the file at this very moment
                    raise InputError(error.message, self.place) from None
        known = len(self.steps)
        if len(steps) < known or (steps[:known] != self.steps).any():
            raise InputError("was replaced by another run since it was opened; open it again", self.place)
        self.steps = steps
        return len(steps) - known

    def _identity(self) -> tuple[int, int] | None:
        """What changes when the file is replaced; None if there is none."""
        try:
            status = os.stat(self.path)
        except OSError:
            return None
        return status.st_ino, status.st_mtime_ns

    def _open(self) -> np.ndarray:
        self.close()
        # with h5py's own choice of locks, for scripts that open the file with h5py or MDAnalysis at the same time
        self._file = open_run(self.path, locking=None)
        with self.reading():
            records = json.loads(self._file["spinmd"].attrs.get("segments", "[]"))
            self._segments = [self.path.parent / record["file"] for record in records]
            for segment in self._segments:
                self._check_segment(segment)
            if STEPS["frames"] not in self._file:
                raise InputError("holds no trajectory (/particles/trajectory is missing or incomplete)", self.place)
            steps = self.dataset(STEPS["frames"])[:].astype(np.int64)
        if steps.ndim != 1 or (np.diff(steps) <= 0).any() or (steps < 0).any():
            raise InputError("is damaged: the steps of its frames do not increase", self.place)
        return steps

    def _check_segment(self, path: Path) -> None:
        """HDF5 gives fill values, and no error, for rows of a virtual dataset whose source it cannot open."""
        try:
            open_file(path).close()
        except OSError:
            raise InputError(
                f"refers to {path.parent.name}/{path.name}, which is damaged or cut short; spinmd resume goes on from a "
                "checkpoint only where all segments before it are whole",
                self.place,
            ) from None

    @contextmanager
    def reading(self) -> Iterator[h5py.File]:
        """The open file; what h5py raises inside becomes one sentence."""
        if self._file is None:
            raise InputError("this trajectory is closed; open the file again", self.place)
        try:
            yield self._file
        except (OSError, RuntimeError, KeyError, ValueError, TypeError, IndexError) as error:
            reason = (str(error).strip("'\" ") or type(error).__name__).splitlines()[0]
            raise InputError(f"cannot be read, it is damaged or cut short ({reason})", self.place) from None

    def dataset(self, name: str) -> h5py.Dataset:
        """Kept open: its chunk cache serves neighbouring frames."""
        if name not in self._datasets:
            self._datasets[name] = self._file[name]
        return self._datasets[name]

    def read(self, name: str, *selection: Any) -> np.ndarray:
        """Part of a dataset. If the run merged segments meanwhile, it is read from the new ones."""
        for _ in range(3):
            if self._outdated():
                self.renew()
            with self.reading():
                values = self.dataset(name)[selection]
            if not self._outdated():
                return values
        raise InputError("changes faster than it can be read; try again", self.place)

    def _outdated(self) -> bool:
        return self._file is not None and not all(map(os.path.exists, self._segments))

    def close(self) -> None:
        self._datasets.clear()
        if self._file is not None:
            self._file.close()
        self._file = None


def take(index: Index, key: Any, what: str) -> int | Index:
    """``index[key]`` for a whole number, a slice, a list of numbers or a mask; IndexError says ``what`` is out of range."""
    if isinstance(key, slice):
        return index[key]
    array = np.asarray(key)
    if array.dtype == bool and array.ndim == 1:
        if len(array) != len(index):
            raise IndexError(f"a mask of {len(array)} for {len(index)} {what}s")
        return np.asarray(index)[array]
    if array.size and array.dtype.kind not in "iu" or array.ndim > 1:
        raise IndexError(f"index {what}s by numbers, slices, lists of numbers or masks, not by {key!r}")
    array = array.astype(np.int64)
    outside = (array < -len(index)) | (array >= len(index))
    if outside.any():
        raise IndexError(f"there is no {what} {array[outside].flat[0]}; there are {len(index)}, counted from 0")
    if array.ndim == 0:
        return int(index[int(array)])
    return np.asarray(index, dtype=np.int64)[array]


class StoredArray:
    """(frames, atoms, 3) values in a run's file, read when indexed; ``unit`` says in what.

    Indexed axis by axis with numbers, slices, masks and (one) list of numbers; ``np.asarray`` reads everything.
    """

    ndim = 3

    def __init__(
        self,
        source: RunFile,
        name: str,
        frames: Index,
        atoms: Index,
        unit: str,
        change: Callable[[Index, np.ndarray], np.ndarray] | None = None,
    ):
        self._source, self._name, self._frames, self._atoms = source, name, frames, atoms
        self._change = change  # of what was read, given the numbers of its frames: wraps positions
        self.unit = unit
        self.shape = (len(frames), len(atoms), 3)
        with source.reading():
            self.dtype = source.dataset(name).dtype

    @property
    def size(self) -> int:
        return self.shape[0] * self.shape[1] * 3

    @property
    def nbytes(self) -> int:
        return self.size * self.dtype.itemsize

    @property
    def chunk_rows(self) -> int:
        """Frames that are compressed together: reading multiples of this wastes nothing."""
        with self._source.reading():
            chunks = self._source.dataset(self._name).chunks
        return chunks[0] if chunks else 1

    def __len__(self) -> int:
        return self.shape[0]

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, key: Any) -> np.ndarray:
        keys = list(key) if isinstance(key, tuple) else [key]
        dots = [i for i, one in enumerate(keys) if one is Ellipsis]
        if len(keys) - len(dots) > 3 or len(dots) > 1 or any(one is None for one in keys):
            raise IndexError("index up to three axes: frames, atoms, components")
        full = [slice(None)] * (3 - len(keys) + len(dots))
        at = dots[0] if dots else len(keys)
        keys[at : at + len(dots)] = full
        if sum(not isinstance(one, slice) and np.ndim(one) > 0 for one in keys) > 1:
            raise IndexError("one list of indices at a time: index the result for the other axis")
        frames = take(self._frames, keys[0], "frame")
        atoms = take(self._atoms, keys[1], "atom")
        return self._read(frames, atoms, take(range(3), keys[2], "component"))

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        if copy is False:
            raise ValueError("the values are in a file: there is no array without a copy")
        values = self[...]
        return values if dtype is None else values.astype(dtype, copy=False)

    def __repr__(self) -> str:
        return f"<{self._name.split('/')[-2]}: {self.shape} {self.dtype}, {self.unit}, in {self._source.path.name}>"

    def _read(self, frames: int | Index, atoms: int | Index, components: int | Index) -> np.ndarray:
        if isinstance(frames, int):
            return self._read(range(frames, frames + 1), atoms, components)[0]
        if isinstance(frames, range) and frames.step < 0:
            return self._read(frames[::-1], atoms, components)[::-1]
        columns, chosen = _span(atoms)
        shape = [len(frames)] + [len(axis) for axis in (atoms, components) if not isinstance(axis, int)]
        result = np.empty(shape, dtype=self.dtype)
        if isinstance(components, range):
            components = _as_slice(components)
        row_bytes = len(range(columns.start, columns.stop, columns.step)) * 3 * self.dtype.itemsize
        at = 0
        for rows in _runs(frames, max(1, PIECE_BYTES // max(row_bytes, 1))):
            if result.size:
                block = self._source.read(self._name, _as_slice(rows), columns)[:, chosen]
                if self._change is not None:
                    block = self._change(rows, block)
                result[at : at + len(rows)] = block[..., components]
            at += len(rows)
        return result


def _as_slice(index: range) -> slice:
    stop = index.stop if index.stop >= 0 else None  # a descending range that ends with 0
    return slice(index.start, stop, index.step)


def _span(atoms: int | Index) -> tuple[slice, Any]:
    """The ascending slice that holds these atoms, and what then picks them from it."""
    if isinstance(atoms, int):
        return slice(atoms, atoms + 1, 1), 0
    if len(atoms) == 0:
        return slice(0, 0, 1), slice(None)
    if isinstance(atoms, range):
        if atoms.step > 0:
            return _as_slice(atoms), slice(None)
        return _as_slice(atoms[::-1]), slice(None, None, -1)
    first = int(atoms.min())
    return slice(first, int(atoms.max()) + 1, 1), atoms - first


def _runs(frames: Index, limit: int) -> Iterator[range]:
    """``frames`` as ascending ranges of at most ``limit``, in order."""
    if isinstance(frames, range):
        for first in range(0, len(frames), limit):
            yield frames[first : first + limit]
        return
    ends = np.flatnonzero(np.diff(frames) != 1) + 1
    for one in np.split(frames, ends):
        if len(one):
            yield from _runs(range(int(one[0]), int(one[-1]) + 1), limit)
