"""Immutable pieces of a trajectory file: how they are committed, joined as virtual datasets, and merged.

A run's file is made of *segments*, HDF5 files that are never touched again once they have their final name. Nothing
here knows what the series mean; the layout is decided in ``spinmd.h5md``.
"""

import errno
import io
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from spinmd.errors import InputError
from spinmd.integrity import SIGNED_BYTES, signature, verify

try:
    import fcntl
except ImportError:  # not a POSIX system: two runs writing to one file are not noticed there
    fcntl = None

PENDING_BYTES = 256 * 1024
CHUNK_BYTES = 256 * 1024
MERGE_BLOCK_BYTES = 16 * 1024 * 1024
COMPRESSION: dict[str, dict[str, Any]] = {
    "gzip": {"compression": "gzip", "compression_opts": 1, "shuffle": True},  # has a checksum of its own
    "lzf": {"compression": "lzf", "shuffle": True, "fletcher32": True},
    "none": {"fletcher32": True},
}


@dataclass(frozen=True)
class Series:
    """One growing dataset: its path in the file, unit, type, shape of a row, and the table whose rows it shares."""

    path: str
    unit: str
    dtype: str
    shape: tuple[int, ...]
    table: str

    @property
    def row_bytes(self) -> int:
        return int(np.dtype(self.dtype).itemsize * np.prod(self.shape, dtype=np.int64))

    @property
    def chunk_rows(self) -> int:
        """Rows of one chunk: 1 for large frames, so that a merge copies compressed chunks as they are."""
        return int(np.clip(CHUNK_BYTES // max(self.row_bytes, 1), 1, 1024))

    @property
    def fill(self):
        """What a reader gets for rows whose segment has gone: NaN, or -1 for integers."""
        return np.nan if np.dtype(self.dtype).kind == "f" else -1

    def create(self, file: h5py.File, compression: str, rows: int = 0) -> h5py.Dataset:
        dataset = file.create_dataset(
            self.path,
            (rows, *self.shape),
            self.dtype,
            maxshape=(None, *self.shape),
            chunks=(self.chunk_rows, *self.shape),
            fillvalue=self.fill,
            **COMPRESSION[compression],
        )
        dataset.attrs["unit"] = self.unit
        return dataset


@dataclass(frozen=True)
class Constant:
    """A dataset that does not change during a run: path, unit, values."""

    path: str
    unit: str
    values: np.ndarray


@dataclass(frozen=True)
class Layout:
    """What a segment holds. ``links`` are further names (hard links) of series: alias -> path."""

    series: tuple[Series, ...]
    constants: tuple[Constant, ...]
    links: Mapping[str, str]
    compression: str

    def table(self, name: str) -> tuple[Series, ...]:
        return tuple(series for series in self.series if series.table == name)

    def create(self, file: h5py.File, constants: bool) -> None:
        """Empty series and, in a run's first segment, the constants."""
        for series in self.series:
            series.create(file, self.compression)
        if constants:
            for constant in self.constants:
                made = file.create_dataset(constant.path, data=constant.values, chunks=True, fletcher32=True)
                made.attrs["unit"] = constant.unit
        self.link(file)

    def link(self, file: h5py.File) -> None:
        for alias, path in self.links.items():
            file[alias] = file[path]


@dataclass
class Segment:
    """A finished piece: where it is, how many rows of each table count, and how many times it has been merged.

    stored  rows of each table in the file, where these are more than count: a run that goes on drops what it does again
    """

    path: Path
    rows: dict[str, int] = field(default_factory=dict)
    level: int = 0
    stored: dict[str, int] = field(default_factory=dict)

    def record(self, folder: str) -> dict[str, Any]:
        """What the visible file says about this segment; ``folder``: where it is, seen from that file."""
        name = f"{folder}/{self.path.name}"
        return {"file": name, "bytes": self.path.stat().st_size, "rows": self.rows, "level": self.level}


def open_file(path: str | Path, locking: bool | None = False) -> h5py.File:
    """An HDF5 file for reading, by default without a lock: some file systems have none. ``locking``: as for h5py.

    HDF5 refuses a file that this process has open with another ``locking``: the other choice is tried then. OSError for a
    damaged file.
    """
    verify(path)
    try:
        return h5py.File(path, "r", locking=locking)
    except OSError as error:
        if "lock" not in str(error):
            raise
        return h5py.File(path, "r", locking=None if locking is False else False)


class _Bytes(io.RawIOBase):
    """The bytes of a file that is being written. The first failure is kept, and all goes on as if nothing were wrong.

    HDF5 cannot be trusted with failures: it reports those of a write that it had put off when an object is released,
    where h5py can only print them, and goes on with a file that lacks the data.
    """

    def __init__(self, path: Path):
        self.error: BaseException | None = None
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | getattr(os, "O_CLOEXEC", 0), 0o666)
        self._position = self._end = 0
        self._pending, self._pending_at = bytearray(), 0  # HDF5 writes a few hundred bytes at a time, one after another

    def readable(self):
        return True

    def writable(self):
        return True

    def seekable(self):
        return True

    def seek(self, offset, whence=os.SEEK_SET):
        self._position = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._end}[whence]
        return self._position

    def tell(self):
        return self._position

    def readinto(self, buffer):
        self._drain()
        done = os.preadv(self._descriptor, [buffer], self._position)
        self._position += done
        return done

    def write(self, data):
        size = len(data)
        if self._position != self._pending_at + len(self._pending) or size > PENDING_BYTES:
            self._drain()
        if size > PENDING_BYTES:
            self._put(data, self._position)
        else:
            self._pending_at = self._pending_at if self._pending else self._position
            self._pending += data
            if len(self._pending) > PENDING_BYTES:
                self._drain()
        self._position += size
        self._end = max(self._end, self._position)
        return size

    def _drain(self):
        data, self._pending = self._pending, bytearray()
        self._put(data, self._pending_at)

    def _put(self, data, position):
        rest = memoryview(data).cast("B")
        while rest and self.error is None:  # a disk that is nearly full takes a part
            done = self._keep(os.pwrite, self._descriptor, rest, position) or 0
            rest, position = rest[done:], position + done

    def sign(self) -> None:
        """Put the digest of the content behind it, unless it is too much to be read again."""
        self._drain()
        if self.error is None and self._end <= SIGNED_BYTES:
            content = self._keep(os.pread, self._descriptor, self._end, 0)
            if content is not None:
                self._put(signature(content), self._end)

    def truncate(self, size=None):
        size = self._position if size is None else size
        self._drain()
        self._keep(os.ftruncate, self._descriptor, size)
        self._end = size
        return size

    def close(self):
        if not self.closed:
            self._drain()
            self._keep(os.close, self._descriptor)
        super().close()

    def _keep(self, function, *arguments):
        try:
            return function(*arguments)
        except BaseException as error:  # an interrupt too must not run through HDF5
            self.error = self.error or error


class NewFile(h5py.File):
    """A new HDF5 file; ``check`` and ``close`` raise what the disk says.

    In the format of HDF5 1.10 (2016), which virtual datasets need anyway: its headers and indices carry checksums. In the
    older one a damaged byte there can give other numbers, and can make HDF5 hang.
    """

    def __init__(self, path: Path):
        self.path = path
        self._bytes = _Bytes(path)
        super().__init__(self._bytes, "w", libver=("v110", "v110"))

    def check(self) -> None:
        """Raise the first failure so far, an OSError, or an interrupt that came while bytes were being written."""
        if self._bytes.error is not None:
            raise self._bytes.error

    def close(self) -> None:
        if self:
            super().close()
            self._bytes.sign()
        self._bytes.close()
        self.check()


def sync_folder(folder: Path) -> None:
    """Bring the names in ``folder`` to the disk: a file that has one only in memory is lost in a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def commit(temporary: Path, final: Path) -> None:
    """Give a closed temporary file its final name: its bytes reach the disk first, then the name changes atomically."""
    descriptor = os.open(temporary, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    os.replace(temporary, final)
    sync_folder(final.parent)


def adopt(source: Path, final: Path) -> None:
    """A second name for a file that is never written to again; a copy where the file system has no hard links."""
    try:
        os.link(source, final)
    except OSError:
        temporary = final.with_suffix(".tmp")
        shutil.copyfile(source, temporary)
        commit(temporary, final)
    else:
        sync_folder(final.parent)


@contextmanager
def written_whole(path: Path) -> Iterator[h5py.File]:
    """A new HDF5 file at ``path`` that appears whole or not at all, with the permissions of an ordinary file."""
    with _in_place_of(path) as temporary, NewFile(temporary) as file:
        yield file


def write_json(path: Path, content: Any, indent: int | None = None) -> None:
    """Write JSON to ``path``, whole or not at all; what JSON does not know becomes its text."""
    with _in_place_of(path) as temporary:
        temporary.write_text(json.dumps(content, indent=indent, default=str) + "\n", encoding="utf-8")


@contextmanager
def _in_place_of(path: Path) -> Iterator[Path]:
    """A temporary file beside ``path`` that takes its place if all goes well, and goes if not."""
    handle, name = tempfile.mkstemp(dir=path.absolute().parent, prefix=f".{path.name}.", suffix=".tmp")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)  # mkstemp makes files that only their owner can read
        commit(temporary, path.absolute())
    finally:
        temporary.unlink(missing_ok=True)


def refusal(error: Exception) -> str:
    """What the disk has against it, in words: HDF5 hides the number of the error in its own long sentences."""
    hidden = re.search(r"errno = (\d+)", str(error))
    number = getattr(error, "errno", None) or (int(hidden[1]) if hidden else None)
    if number in (errno.ENOSPC, errno.EDQUOT):
        return "the disk is full"
    return str(error) if number is None else os.strerror(number)


def remove(paths: Iterable[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)


def totals(segments: Sequence[Segment]) -> dict[str, int]:
    """Rows of each table over all segments."""
    result: dict[str, int] = {}
    for segment in segments:
        for table, rows in segment.rows.items():
            result[table] = result.get(table, 0) + rows
    return result


def write_virtual(file: h5py.File, layout: Layout, segments: Sequence[Segment], relative: str) -> None:
    """Series and constants of ``segments`` as virtual datasets; ``relative``: their folder, seen from the file."""
    count = totals(segments)
    for series in layout.series:
        total = count.get(series.table, 0)
        if total == 0:
            series.create(file, layout.compression)
            continue
        virtual = h5py.VirtualLayout((total, *series.shape), series.dtype)
        offset = 0
        for segment in segments:
            rows = segment.rows.get(series.table, 0)
            if rows:
                name = f"{relative}/{segment.path.name}"
                stored = segment.stored.get(series.table, rows)
                source = h5py.VirtualSource(name, series.path, (stored, *series.shape), series.dtype)
                virtual[offset : offset + rows] = source if stored == rows else source[:rows]
                offset += rows
        file.create_virtual_dataset(series.path, virtual, fillvalue=series.fill).attrs["unit"] = series.unit
    for constant in layout.constants:
        virtual = h5py.VirtualLayout(constant.values.shape, constant.values.dtype)
        name = f"{relative}/{segments[0].path.name}"
        virtual[...] = h5py.VirtualSource(name, constant.path, constant.values.shape, constant.values.dtype)
        file.create_virtual_dataset(constant.path, virtual).attrs["unit"] = constant.unit
    layout.link(file)


def merge(file: NewFile, layout: Layout, segments: Sequence[Segment], constants: bool) -> None:
    """Copy the rows of ``segments``, in order, into plain datasets of ``file``."""
    layout.create(file, constants)
    for name, rows in totals(segments).items():
        for series in layout.table(name):
            file[series.path].resize(rows, axis=0)
    offset: dict[str, int] = {}
    for segment in segments:
        with open_file(segment.path) as source:
            for table, rows in segment.rows.items():
                for series in layout.table(table):
                    _copy_rows(source[series.path], file[series.path], offset.get(table, 0), rows, series)
                    file.check()
                offset[table] = offset.get(table, 0) + rows


def _filters(dataset: h5py.Dataset) -> list:
    properties = dataset.id.get_create_plist()
    return [properties.get_filter(i) for i in range(properties.get_nfilters())]


def _copy_rows(source: h5py.Dataset, target: h5py.Dataset, offset: int, rows: int, series: Series) -> None:
    """Rows [0, rows) of ``source`` to ``target`` from ``offset`` on; one-row chunks are copied as they are."""
    if source.chunks == target.chunks and series.chunk_rows == 1 and _filters(source) == _filters(target):
        rest = (0,) * len(series.shape)
        for row in range(rows):
            mask, data = source.id.read_direct_chunk((row, *rest))
            target.id.write_direct_chunk((offset + row, *rest), data, mask)
        return
    if len(source) < rows or source.shape[1:] != target.shape[1:]:
        raise InputError(f"is damaged: {series.path} does not hold its {rows} rows", source.file.filename)
    block = max(MERGE_BLOCK_BYTES // max(series.row_bytes, 1), 1)
    for first in range(0, rows, block):
        last = min(first + block, rows)
        target[offset + first : offset + last] = source[first:last]


class FolderLock:
    """An advisory lock on the folder of segments: two runs do not write to one file. It ends with its process."""

    NAME = "lock"

    def __init__(self, folder: Path):
        self.path = folder / self.NAME
        self._descriptor: int | None = None

    def acquire(self) -> bool:
        """True if the lock is ours (or cannot be had on this file system); False if another process holds it."""
        self.release()
        self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        if fcntl is None:
            return True
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.release()
            return False
        except OSError:
            return True
        if self.path.exists() and os.path.samestat(os.stat(self.path), os.fstat(self._descriptor)):
            return True
        self.release()  # a run that ended just now took the file away: a lock on it keeps nobody out
        return False

    def release(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def locked(folder: Path) -> bool:
    """True if a running process writes into ``folder``; changes nothing."""
    path = folder / FolderLock.NAME
    if fcntl is None or not path.exists():
        return False
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return False
