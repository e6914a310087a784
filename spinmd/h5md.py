"""The output file of a run: H5MD 1.1, written in segments so that it can be read at any time and survives a kill.

Layout (atoms in their original order; every dataset has an attribute ``unit``)

    /h5md                          attribute version, groups author and creator
    /particles/trajectory          box/edges, position (unwrapped), velocity, spin, atomic_force, magnetic_field, each
                                   {step, time, value}; constants species, mass, id (original index), moment
    /spinmd/thermo/<column>        one row per thermo interval (denser than the frames, so not in /observables)
    /spinmd/rows/<name>            arrays that the mover adds to each of these rows
    /spinmd/deck/{text, settings}  the deck as given, and the settings in force as JSON
    /spinmd/conventions            attributes: signs, factors and countings that codes disagree about
    /spinmd/checkpoint             the last checkpoint

While a run goes on, rows stream into ``.RUN.h5.parts/segment-<n>.h5.tmp``. At a checkpoint the segment and the state
are fsynced and renamed, and RUN.h5 is replaced atomically by virtual datasets over all segments, so that trajectory and
checkpoint always match. ``close`` merges everything into one plain file. No visible file is ever changed in place.

MDAnalysis opens the file. It takes any box as periodic in all directions (it does not read ``box.boundary``), and keeps
lengths and angles of the cell only, so positions fit its box only where a lies along x and b in the xy plane.
"""

import contextlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import h5py
import numpy as np

from spinmd import __version__
from spinmd.checkpoint import GROUP as CHECKPOINT
from spinmd.checkpoint import LAYOUT_VERSION, read_checkpoint, reading, write_checkpoint
from spinmd.errors import DiskError, InputError, SpinmdError
from spinmd.integrity import check_table, damage_explained
from spinmd.output import (
    CONVENTIONS,
    QUANTITIES,
    OutputParameters,
    author,
    check_output,
    git_commit,
    parts_folder,
    real_path,
)
from spinmd.protocols import Frame, RowArray
from spinmd.segments import (
    Constant,
    FolderLock,
    Layout,
    NewFile,
    Segment,
    Series,
    adopt,
    commit,
    merge,
    open_file,
    refusal,
    remove,
    sync_folder,
    write_virtual,
)
from spinmd.state import State
from spinmd.units import G_FACTOR

__all__ = [
    "OutputParameters",
    "TrajectoryWriter",
    "check_output",
    "read_checkpoint",
    "read_deck",
    "read_row_arrays",
    "read_thermo",
]

TRAJECTORY = "particles/trajectory"
THERMO = "spinmd/thermo"
ROWS = "spinmd/rows"
STEPS = {"frames": f"{TRAJECTORY}/box/edges/step", "thermo": f"{THERMO}/step"}
COMPACT_COUNT = 8  # so many segments of one level become one of the next, and RUN.h5 stays small however long the run
COMPACT_BYTES = 4 * 1024**3  # but more than this is not copied before the end
RESUMED_LEVEL = 1000


def _layout(
    state: State, parameters: OutputParameters, columns: Sequence[tuple[str, str]], arrays: Sequence[RowArray]
) -> Layout:
    """What the file of this run holds; ``columns``: name and unit of the thermo columns, ``arrays``: of the same rows."""
    edges = f"{TRAJECTORY}/box/edges"
    series = [
        Series(f"{edges}/step", "1", "int64", (), "frames"),
        Series(f"{edges}/time", "ps", "float64", (), "frames"),
        Series(f"{edges}/value", "Angstrom", "float64", (3, 3), "frames"),
    ]
    links = {}
    chosen = parameters.chosen(state)
    ids = np.arange(state.natoms, dtype=np.int64) if chosen is None else chosen
    for name in parameters.quantities:
        element, unit, _ = QUANTITIES[name]
        series.append(Series(f"{TRAJECTORY}/{element}/value", unit, parameters.precision, (len(ids), 3), "frames"))
        for clock in ("step", "time"):
            links[f"{TRAJECTORY}/{element}/{clock}"] = f"{edges}/{clock}"
    for name, unit in columns:
        series.append(Series(f"{THERMO}/{name}", unit, "int64" if name == "step" else "float64", (), "thermo"))
    for one in arrays:
        series.append(Series(f"{ROWS}/{one.name}", one.unit, one.dtype, one.shape, "thermo"))
    species = h5py.enum_dtype({symbol: index for index, symbol in enumerate(state.symbols)}, basetype="i4")
    constants = (
        Constant(f"{TRAJECTORY}/species", "1", state.original_order(state.species)[ids].astype(species)),
        Constant(f"{TRAJECTORY}/mass", "amu", state.original_order(state.masses)[ids]),
        Constant(f"{TRAJECTORY}/id", "1", ids),
        Constant(f"{TRAJECTORY}/moment", "muB", state.original_order(state.moments)[ids]),
    )
    return Layout(tuple(series), constants, links, parameters.compression)


class TrajectoryWriter:
    """Writes one run's file. Nothing appears on disk before the first row or checkpoint.

    ``columns`` are (name, unit) of the thermo table and must hold ``step`` and ``time``; ``arrays`` go with its rows.
    ``resume``: go on with the
    file of an earlier run, from its last checkpoint; rows after it are dropped, rows that are there are not written
    again. ``resume_step``: the step of the checkpoint that the caller has read; ``drop``: tables ("frames", "thermo")
    of which the row at that step is dropped too, since it is there only because the run ended. Raises InputError (see
    ``check_output``), and DiskError if the disk refuses (full, gone); after that, and after an interrupt in the middle
    of writing, nothing is written any more and the last publication stays.
    """

    def __init__(
        self,
        parameters: OutputParameters,
        columns: Sequence[tuple[str, str]],
        *,
        deck: str = "",
        settings: Mapping[str, Any] | None = None,
        g_factor: float = G_FACTOR,
        force: bool = False,
        resume: bool = False,
        resume_step: int | None = None,
        drop: Sequence[str] = (),
        arrays: Sequence[RowArray] = (),
    ):
        check_output(parameters, force, resume)
        self.parameters = parameters
        self.path = real_path(parameters.file)
        self.parts = parts_folder(self.path)
        self._columns, self._arrays = tuple(columns), tuple(arrays)
        self._deck, self._settings, self._g_factor = deck, json.dumps(settings or {}, default=str), g_factor
        self._resume, self._resume_step, self._drop = resume, resume_step, frozenset(drop)
        self._lock = FolderLock(self.parts)
        self._layout: Layout | None = None
        self._boundary: list[str] = []
        self._natoms = 0  # of the system
        self._atoms: np.ndarray | None = None  # original indices of the atoms that frames hold; None: all
        self._file: NewFile | None = None
        self._segments: list[Segment] = []
        self._checkpoint: tuple[Path, str] | None = None  # file and group of the last checkpoint
        self._rows = {"frames": 0, "thermo": 0}  # rows in the open segment
        self._buffers: dict[str, list[dict[str, Any]]] = {"frames": [], "thermo": []}
        self._last_step = {"frames": -1, "thermo": -1}
        self._number = 0
        self._condemned: list[Path] = []  # to be removed once RUN.h5 no longer refers to them
        self._retired: list[Path] = []  # the same one publication later: a reader may just have opened the old RUN.h5
        self.devices: Sequence[Sequence[Any]] = ()  # where the run has computed: [first step, text] each
        self._published = False
        self._broken = False

    def append_frame(self, frame: Frame) -> bool:
        """Store the chosen quantities; False if this step (or a later one) is stored already."""
        values = {"step": frame.step, "time": frame.time, "value": frame.state.cell.copy()}
        row = {f"{TRAJECTORY}/box/edges/{name}": value for name, value in values.items()}
        with self._writing():
            self._open(frame.state)
        chosen = self._atoms
        for name in self.parameters.quantities:
            array = frame.array(name)
            row[f"{TRAJECTORY}/{QUANTITIES[name][0]}/value"] = array if chosen is None else array[chosen]
        return self._append("frames", frame, row)

    def append_thermo(
        self, frame: Frame, values: Mapping[str, float], arrays: Mapping[str, np.ndarray] = MappingProxyType({})
    ) -> bool:
        """Store one thermo row, a value per column and the arrays that go with it; False if this step (or a later one) is
        stored already."""
        row: dict[str, Any] = {f"{THERMO}/{name}": values[name] for name, _ in self._columns}
        row |= {f"{ROWS}/{one.name}": arrays[one.name] for one in self._arrays}
        return self._append("thermo", frame, row)

    def checkpoint(self, frame: Frame, extra: Mapping[str, Any] | None = None) -> None:
        """Make all rows so far and the present state readable and safe.

        ``extra`` (JSON-able) comes back as ``meta["extra"]``.
        """
        history = frame.model.list_history() if hasattr(frame.model, "list_history") else None
        meta = {"deck": self._deck, "settings": json.loads(self._settings), "stage": frame.stage}
        meta |= {"reason": frame.reason, "extra": dict(extra or {}), "version": __version__, "commit": git_commit()}
        with self._writing():
            self._open(frame.state)
            self._close_segment()
            self._compact()
            final = self.parts / f"checkpoint-{self._next():06d}.h5"
            temporary = final.with_suffix(".tmp")
            with NewFile(temporary) as file:
                write_checkpoint(file.create_group("checkpoint"), frame.state, frame.aux, history, meta)
            commit(temporary, final)
            if self._checkpoint is not None and self._checkpoint[1] == "checkpoint":
                self._retired.append(self._checkpoint[0])
            self._checkpoint = (final, "checkpoint")
            self._publish()

    def publish(self) -> None:
        """Make the rows so far readable without a new checkpoint: after a run diverged, its state is worth nothing."""
        if self._layout is not None:
            with self._writing():
                self._close_segment()
                self._publish()

    def close(self) -> None:
        """Merge everything into one plain file and remove the segments.

        Does nothing if nothing was written; leaves the last publication as it is if writing has failed.
        """
        if self._layout is None or self._broken:
            self._lock.release()
            return
        with self._writing():
            self._close_segment()
            temporary = self.parts / "run.tmp"
            with NewFile(temporary) as file:
                self._write_header(file)
                merge(file, self._layout, self._segments, constants=True)
                if self._checkpoint is not None:
                    with open_file(self._checkpoint[0]) as source:
                        source.copy(self._checkpoint[1], file, name=CHECKPOINT)
            commit(temporary, self.path)
        self._layout = None
        shutil.rmtree(self.parts, ignore_errors=True)
        self._lock.release()

    def _append(self, table: str, frame: Frame, row: dict[str, Any]) -> bool:
        with self._writing():
            self._open(frame.state)
            if frame.step <= self._last_step[table]:
                return False
            self._last_step[table] = frame.step
            buffer = self._buffers[table]
            buffer.append(row)
            if len(buffer) >= min(series.chunk_rows for series in self._layout.table(table)):
                self._flush(table)
        return True

    def _flush(self, table: str) -> None:
        buffer = self._buffers[table]
        if not buffer:
            return
        first = self._rows[table]
        file = self._segment()
        for series in self._layout.table(table):
            dataset = file[series.path]
            dataset.resize(first + len(buffer), axis=0)
            rows = [np.asarray(row[series.path], dtype=series.dtype) for row in buffer]
            dataset[first:] = rows[0][None] if len(rows) == 1 else np.stack(rows)
        file.check()
        self._rows[table] = first + len(buffer)
        buffer.clear()

    def _next(self) -> int:
        self._number += 1
        return self._number

    def _segment(self) -> NewFile:
        """The open segment; only the first of a run holds the constants."""
        if self._file is None:
            self._file = NewFile(self.parts / f"segment-{self._next():06d}.h5.tmp")
            self._layout.create(self._file, constants=not self._segments)
        return self._file

    def _close_segment(self) -> None:
        for table in self._buffers:
            self._flush(table)
        file = self._segment() if not self._segments else self._file
        if file is None:
            return
        self._file = None
        file.close()
        final = file.path.with_suffix("")
        commit(file.path, final)
        self._segments.append(Segment(final, dict(self._rows)))
        self._rows = dict.fromkeys(self._rows, 0)

    def _compact(self) -> None:
        """Merge the last segments where they have been merged equally often: few segments at a small cost per row."""
        while len(self._segments) >= COMPACT_COUNT:
            last = self._segments[-COMPACT_COUNT:]
            if len({segment.level for segment in last}) > 1 or sum(s.path.stat().st_size for s in last) > COMPACT_BYTES:
                return
            final = self.parts / f"segment-{self._next():06d}.h5"
            temporary = final.with_suffix(".tmp")
            with NewFile(temporary) as file:
                merge(file, self._layout, last, constants=last[0] is self._segments[0])
            commit(temporary, final)
            rows = {table: sum(segment.rows.get(table, 0) for segment in last) for table in self._rows}
            self._segments[-COMPACT_COUNT:] = [Segment(final, rows, last[0].level + 1)]
            self._retired += [segment.path for segment in last]

    def _publish(self) -> None:
        temporary = self.parts / "run.tmp"
        relative = self.parts.name
        with NewFile(temporary) as file:
            self._write_header(file)
            write_virtual(file, self._layout, self._segments, relative)
            file["spinmd"].attrs["segments"] = json.dumps([segment.record(relative) for segment in self._segments])
            if self._checkpoint is not None:
                path, group = self._checkpoint
                file[CHECKPOINT] = h5py.ExternalLink(f"{relative}/{path.name}", f"/{group}")
                record = [f"{relative}/{path.name}", group, path.stat().st_size]
                file["spinmd"].attrs["checkpoint"] = json.dumps(record)
        commit(temporary, self.path)
        self._published = True
        remove(self._condemned)
        self._condemned, self._retired = self._retired, []

    def _write_header(self, file: h5py.File) -> None:
        """Everything in the file beside series, constants and checkpoint."""
        h5md = file.create_group("h5md")
        h5md.attrs["version"] = np.array([1, 1], dtype=np.int32)
        h5md.create_group("author").attrs["name"] = author()
        creator = h5md.create_group("creator")
        creator.attrs["name"], creator.attrs["version"] = "spinmd", __version__
        libraries = f"h5py {h5py.__version__}, HDF5 {h5py.version.hdf5_version}, numpy {np.__version__}"
        creator.attrs["libraries"] = libraries
        units = h5md.create_group("modules/units")
        units.attrs["version"] = np.array([1, 0], dtype=np.int32)
        box = file.create_group(f"{TRAJECTORY}/box")
        box.attrs["dimension"] = 3
        box.attrs["boundary"] = self._boundary
        spinmd = file.create_group("spinmd")
        spinmd.attrs["version"], spinmd.attrs["git_commit"] = __version__, git_commit()
        spinmd.attrs["layout_version"], spinmd.attrs["natoms"] = LAYOUT_VERSION, self._natoms
        spinmd.attrs["devices"] = json.dumps([list(one) for one in self.devices])
        for name, text in (("text", self._deck), ("settings", self._settings)):
            spinmd.create_dataset(f"deck/{name}", data=text, dtype=h5py.string_dtype()).attrs["unit"] = "text"
        conventions = spinmd.create_group("conventions")
        for name, text in CONVENTIONS.items():
            conventions.attrs[name] = text
        conventions.attrs["g_factor"] = self._g_factor

    def _open(self, state: State) -> None:
        if self._layout is not None:
            return
        layout = _layout(state, self.parameters, self._columns, self._arrays)
        if self._resume:
            _check_resumable(self.path, layout)
        self._natoms, self._atoms = state.natoms, self.parameters.chosen(state)
        self._boundary = ["periodic" if periodic else "none" for periodic in state.pbc]
        fresh = not self.parts.exists()
        self.parts.mkdir(exist_ok=True)
        if not self._lock.acquire():
            way_out = "wait for it" if self._resume else "wait for it or choose another name"
            raise InputError(f"another run is writing {self.path} at this moment; {way_out}", "output.file")
        try:
            self._take_over(layout)
        except BaseException:  # somebody else may want to go on with the file
            if fresh:
                shutil.rmtree(self.parts, ignore_errors=True)
            self._lock.release()
            raise

    def _take_over(self, layout: Layout) -> None:
        """Tidy what a killed run has left, and with ``resume`` go on with what there is."""
        sync_folder(self.parts.parent)
        remove(self.parts.glob("*.tmp"))  # what a killed run was just writing, which may be all that fills the disk
        leftover = [path for path in self.parts.iterdir() if path != self._lock.path]
        numbers = [path.name.split(".")[0].rpartition("-")[2] for path in leftover]
        self._number = max((int(number) for number in numbers if number.isdigit()), default=0)
        if self._resume:
            self._load()
        listed = {segment.path for segment in self._segments} | ({self._checkpoint[0]} if self._checkpoint else set())
        self._condemned = [path for path in leftover if path not in listed]
        self._layout = layout

    def _load(self) -> None:
        """Take over segments and checkpoint of the file that is resumed, without the rows after the checkpoint."""
        with reading(self.path) as file:
            step = int(file[CHECKPOINT].attrs["step"])
            if self._resume_step not in (None, step):
                raise InputError(
                    f"another run has gone on from step {self._resume_step} in the meantime, to step {step}; resume it again",
                    str(self.path),
                )
            attributes = file["spinmd"].attrs
            virtual = "segments" in attributes
            if virtual:
                records = json.loads(attributes["segments"])
                self._segments = [Segment(self.path.parent / r["file"], r["rows"], r["level"]) for r in records]
                name, group, _ = json.loads(attributes["checkpoint"])
                self._checkpoint = (self.path.parent / name, group)
            else:
                rows = {table: len(file[path]) for table, path in STEPS.items()}
        if not virtual:
            # the plain file becomes the first segment under a second name; RUN.h5 itself stays until it is replaced
            first = self.parts / f"segment-{self._next():06d}.h5"
            adopt(self.path, first)
            self._segments = [Segment(first, rows, RESUMED_LEVEL)]
            self._checkpoint = (first, CHECKPOINT)
        for segment in self._segments:
            with damage_explained(str(segment.path)), open_file(segment.path) as file:
                for table, path in STEPS.items():
                    segment.stored[table] = len(file[path])
                    steps = file[path][: segment.rows.get(table, 0)]
                    side = "left" if table in self._drop else "right"
                    segment.rows[table] = int(np.searchsorted(steps, step, side=side))
                    if segment.rows[table]:
                        self._last_step[table] = int(steps[segment.rows[table] - 1])

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Turns the disk's refusals into one sentence; after one, ``close`` leaves what was published as it is."""
        if self._broken:
            raise DiskError(
                f"{self.path} is not written any more, since writing was cut short before; {self._rescue()}"
            )
        try:
            yield
        except SpinmdError:
            raise
        except (OSError, RuntimeError) as error:
            self._give_up()
            raise DiskError(f"cannot write {self.path}: {refusal(error)}; {self._rescue()}") from error
        except BaseException:  # an interrupt: nobody knows which rows are there
            self._give_up()
            raise

    def _give_up(self) -> None:
        self._broken = True
        self._buffers = {table: [] for table in self._buffers}
        with contextlib.suppress(BaseException):
            if self._file is not None:
                self._file.close()
        self._file = None
        with contextlib.suppress(OSError):
            remove(self.parts.glob("*.tmp"))  # half a segment is of no use, and room may be what is missing

    def _rescue(self) -> str:
        """What is left after a failure, and what to do."""
        if self._published or self._resume:
            return f"everything up to the last checkpoint is safe: mend that, then go on with spinmd resume {self.path}"
        if self.path.exists():
            return "the earlier file is untouched"
        return "nothing was saved"


def _check_resumable(path: Path, layout: Layout) -> None:
    """Raise InputError if there is no checkpoint, or if this run's rows would hold something else than the file's."""
    with reading(path) as file:
        if CHECKPOINT not in file:
            raise InputError("holds no checkpoint, so the run cannot be resumed", str(path))
        for series in layout.series:
            old = file.get(series.path)
            if old is None or old.shape[1:] != series.shape or old.dtype != np.dtype(series.dtype):
                raise InputError(
                    f"cannot go on writing {path}: its {series.path} is absent, or differs in shape or precision from "
                    "what this run stores; keep the settings of the first run, or write to a new file",
                    "output",
                )
        for constant in layout.constants:
            old = file.get(constant.path)
            if old is None or old.shape != constant.values.shape or (old[()] != constant.values).any():
                raise InputError(
                    f"cannot go on writing {path}: it holds other atoms than this run stores; keep output.atoms and the "
                    "structure of the first run, or write to a new file",
                    "output",
                )


def read_thermo(path: str | Path) -> dict[str, np.ndarray]:
    """The thermo table of a run's file: column name -> array. InputError if the file cannot be read."""
    with reading(path) as file:
        check_table(file[THERMO], str(path))
        return {name: dataset[()] for name, dataset in file[THERMO].items()}


def read_row_arrays(path: str | Path) -> dict[str, np.ndarray]:
    """The arrays that go with the rows of the thermo table: name -> (rows, ...); empty where the run had none."""
    with reading(path) as file:
        return {name: dataset[()] for name, dataset in file.get(ROWS, {}).items()}


def read_deck(path: str | Path) -> tuple[str, dict[str, Any]]:
    """Text of the deck and settings in force, from a run's file."""
    with reading(path) as file:
        return file["spinmd/deck/text"].asstr()[()], json.loads(file["spinmd/deck/settings"].asstr()[()])
