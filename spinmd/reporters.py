"""What looks at a run while it goes on: thermo table, trajectory, checkpoints, progress bar, and the closing summary.

Reporters see Frames and know nothing of how a run is made. The thermo columns are one table, ``COLUMNS``, so that the
screen, the file and Python agree. The loop is expected to report the first frame to every reporter, each
``every``-th step to those that are due, and the end of a stage, a signal, a divergence and the end to all of them.
"""

import json
import math
import sys
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from tqdm import tqdm

from spinmd.drift import drift
from spinmd.errors import InputError
from spinmd.h5md import TrajectoryWriter
from spinmd.output import OutputParameters, check_output, check_stages
from spinmd.protocols import FIXED, Frame, Need, RowArray
from spinmd.units import EV_PER_A3_IN_GPA

__all__ = [
    "COLUMNS",
    "CheckpointReporter",
    "OutputParameters",
    "ProgressReporter",
    "ThermoReporter",
    "TrajectoryReporter",
    "check_output",
    "check_stages",
    "joined_arrays",
    "screen_interval",
    "summary",
    "summary_text",
]


@dataclass(frozen=True)
class Sample:
    """What the columns are computed from: energies in eV; virial (3, 3) in eV, None where a term has none."""

    step: int
    time: float
    lattice_temperature: float
    spin_temperature: float
    kinetic: float
    lattice_potential: float
    spin_energy: float
    conserved: float
    magnetisation: np.ndarray
    virial: np.ndarray | None
    volume: float

    @classmethod
    def of(cls, frame: Frame) -> "Sample":
        """Evaluates energies, fields and, if every term provides it, the virial."""
        state, model, integrator = frame.state, frame.model, frame.integrator
        with_virial = all(Need.VIRIAL in term.provides for term in getattr(model, "terms", ()))
        need = Need.ENERGY | Need.FIELD | (Need.VIRIAL if with_virial else Need.NONE)
        evaluation = frame.evaluation(need)
        magnetic = np.asarray(model.magnetic_terms, dtype=bool)
        # sums are taken now: the model may use the arrays again, and may sort the atoms when it evaluates
        spin_energy = float(evaluation.energies[magnetic].sum())
        lattice_potential = float(evaluation.energies[~magnetic].sum())
        virial = evaluation.virial.copy() if with_virial else None
        conserved = getattr(integrator, "conserved", None)
        freedom = getattr(integrator, "degrees_of_freedom", None)
        degrees = freedom(state, frame.aux) if freedom is not None else max(3 * state.natoms - 3, 1)
        conserves = getattr(integrator, "conserves_momentum", None)  # then motion as a whole is no heat
        moving_on = freedom is None or (conserves is not None and conserves(frame.aux))
        return cls(
            step=frame.step,
            time=frame.time,
            conserved=float(conserved(state, frame.aux, evaluation)) if conserved is not None else math.nan,
            lattice_temperature=math.nan if degrees <= 0 else state.temperature(None if moving_on else degrees),
            spin_temperature=float(model.spin_temperature(frame.aux.per_atom.get(FIXED))),
            kinetic=state.kinetic_energy(),
            lattice_potential=lattice_potential,
            spin_energy=spin_energy,
            magnetisation=state.magnetisation(),
            virial=virial,
            volume=state.volume,
        )

    @property
    def total(self) -> float:
        return self.kinetic + self.lattice_potential + self.spin_energy

    @property
    def pressure(self) -> float:
        """(2K + tr W)/(3V), GPa; NaN where a term has no virial."""
        if self.virial is None:
            return math.nan
        return (2.0 * self.kinetic + float(np.trace(self.virial))) / (3.0 * self.volume) * EV_PER_A3_IN_GPA


@dataclass(frozen=True)
class Column:
    """One thermo column: name and unit in the file and in Python; heading, least width and decimals on screen."""

    name: str
    unit: str
    heading: str
    width: int
    decimals: int
    value: Callable[[Sample], float]


COLUMNS = (
    Column("step", "1", "step", 8, 0, lambda s: s.step),
    Column("time", "ps", "time", 8, 4, lambda s: s.time),
    Column("lattice_temperature", "K", "T lattice", 9, 2, lambda s: s.lattice_temperature),
    Column("spin_temperature", "K", "T spin", 9, 2, lambda s: s.spin_temperature),
    Column("kinetic_energy", "eV", "kinetic", 10, 4, lambda s: s.kinetic),
    Column("lattice_potential_energy", "eV", "lattice", 10, 4, lambda s: s.lattice_potential),
    Column("spin_energy", "eV", "spin", 10, 4, lambda s: s.spin_energy),
    Column("total_energy", "eV", "total", 10, 4, lambda s: s.total),
    Column("conserved", "eV", "conserved", 10, 5, lambda s: s.conserved),
    Column("magnetisation_x", "muB", "mx", 7, 4, lambda s: float(s.magnetisation[0])),
    Column("magnetisation_y", "muB", "my", 7, 4, lambda s: float(s.magnetisation[1])),
    Column("magnetisation_z", "muB", "mz", 7, 4, lambda s: float(s.magnetisation[2])),
    Column("magnetisation", "muB", "|m|", 7, 4, lambda s: float(np.linalg.norm(s.magnetisation))),
    Column("pressure", "GPa", "pressure", 9, 4, lambda s: s.pressure),
)
# name and unit of each column, as the file's writer wants them
FILE_COLUMNS = tuple((column.name, column.unit) for column in COLUMNS)


def joined_arrays(integrators: Sequence[Any]) -> tuple[RowArray, ...]:
    """The arrays that rows hold in a run with these [integrator] tables, one for each stage.

    Raises InputError where stages give one array different shapes.
    """
    result: dict[str, RowArray] = {}
    for table in integrators:
        for one in getattr(table, "row_arrays", ()):
            if result.setdefault(one.name, one) != one:
                raise InputError(
                    "the rows of one file hold as many temperatures in all stages: give each stage with parallel tempering "
                    f"{result[one.name].shape[0]}, as the first, or run them on their own",
                    "integrator.temperatures",
                )
    return tuple(result.values())


def screen_interval(steps: int, thermo: int, rows: int = 25) -> int:
    """Of how many thermo rows one goes to the screen, so that a run of ``steps`` prints at most about ``rows``."""
    if thermo <= 0:
        return 1
    return max(1, math.ceil(steps / thermo / rows))


class ThermoReporter:
    """Keeps the thermo table, writes it to the file, and prints every ``screen_every``-th row (0: none).

    ``arrays``: what the movers of this run add to its rows; rows of a mover that does not are filled.
    Printing goes through tqdm so that a progress bar stays below the table.
    """

    needs = Need.ENERGY | Need.FIELD | Need.VIRIAL

    def __init__(
        self, every: int, *, writer: TrajectoryWriter | None = None, screen_every: int = 1, stream: TextIO | None = None,
        arrays: Sequence[RowArray] = (),
    ):  # fmt: skip
        self.every = every
        self.writer = writer
        self.screen_every = screen_every
        self.stream = stream
        self._table = {column.name: array("d") for column in COLUMNS}
        self._arrays = tuple(arrays)
        self._stacks: dict[str, list[np.ndarray]] = {one.name: [] for one in self._arrays}
        self._widths: list[int] = []
        self._stage: str | None = None
        self._stage_start = 0
        self._printed_stage = ""

    @property
    def rows(self) -> int:
        return len(self._table["step"])

    def table(self) -> dict[str, np.ndarray]:
        """The rows so far: column name -> (rows,) array; steps are integers."""
        result = {name: np.array(values) for name, values in self._table.items()}
        result["step"] = result["step"].astype(np.int64)
        return result

    def row_arrays(self) -> dict[str, np.ndarray]:
        """What movers have added to the rows so far: name -> (rows, ...)."""
        return {
            one.name: np.array(self._stacks[one.name], dtype=one.dtype).reshape(-1, *one.shape) for one in self._arrays
        }

    def last_stage(self) -> dict[str, np.ndarray]:
        """The rows of the present stage: another stage may conserve another quantity."""
        return {name: values[self._stage_start :] for name, values in self.table().items()}

    def restore(
        self, table: Mapping[str, np.ndarray], arrays: Mapping[str, np.ndarray], stage: str, stage_start: int
    ) -> None:
        """Begin with the rows that a run has written so far; ``stage_start`` is the first row of its present stage."""
        for name, values in self._table.items():
            values.extend(float(value) for value in table[name])
        for name, stack in self._stacks.items():
            stack.extend(arrays[name])
        self._stage = self._printed_stage = stage
        self._stage_start = stage_start

    def report(self, frame: Frame) -> None:
        """Add a row, unless this step has one or the state is not worth one."""
        if not _due(frame, self.every) or (self.rows and frame.step <= self._table["step"][-1]):
            return
        sample = Sample.of(frame)
        row = {column.name: column.value(sample) for column in COLUMNS}
        if frame.stage != self._stage:
            self._stage, self._stage_start = frame.stage, self.rows
        for name, value in row.items():
            self._table[name].append(value)
        added = self._added(frame)
        for name, value in added.items():
            self._stacks[name].append(value)
        if self.writer is not None:
            self.writer.append_thermo(frame, row, added)
        if self.screen_every and ((self.rows - 1) % self.screen_every == 0 or frame.reason in ("signal", "end")):
            self._print(frame, row)

    def _added(self, frame: Frame) -> dict[str, np.ndarray]:
        """The arrays of this row, copied; filled where the present mover does not give them."""
        offered = getattr(frame.integrator, "row", None)
        given = offered(frame) if offered is not None and self._arrays else {}
        return {one.name: np.array(given.get(one.name, np.full(one.shape, one.fill))) for one in self._arrays}

    def close(self) -> None:
        """Nothing is held open."""

    def _print(self, frame: Frame, row: Mapping[str, float]) -> None:
        texts = [_number(row[column.name], column.decimals) for column in COLUMNS]
        if not self._widths:
            # wide enough for the first row and a little growth; narrow for small systems
            self._widths = [max(c.width, len(t) + 1) for c, t in zip(COLUMNS, texts, strict=True)]
            units = ["" if column.unit == "1" else column.unit.replace("mu", "µ") for column in COLUMNS]
            self._line([column.heading for column in COLUMNS])
            self._line(units)
        if frame.stage != self._printed_stage:
            self._printed_stage = frame.stage
            self._write(f"--- {frame.stage} ---")
        self._line(texts)

    def _line(self, texts: list[str]) -> None:
        self._write(" ".join(text.rjust(width) for text, width in zip(texts, self._widths, strict=True)))

    def _write(self, line: str) -> None:
        tqdm.write(line, file=self.stream or sys.stdout)


def _number(value: float, decimals: int) -> str:
    return f"{value:.{decimals}f}" if math.isfinite(value) else "-"


def _due(frame: Frame, every: int) -> bool:
    """Whether a row or a frame belongs to this moment: stages begin and end with one, an interruption adds none."""
    if frame.reason in ("signal", "resume"):
        return every > 0 and frame.step % every == 0
    return frame.reason != "diverged"


class TrajectoryReporter:
    """Stores frames.

    Where a signal stops a run, and where one goes on, none is stored that is not due: the checkpoint has the state, and the
    frames of a resumed run are evenly spaced.
    """

    def __init__(self, every: int, writer: TrajectoryWriter):
        self.every = every
        self.writer = writer
        self.needs = writer.parameters.needs

    def report(self, frame: Frame) -> None:
        if _due(frame, self.every):
            self.writer.append_frame(frame)

    def close(self) -> None:
        """The writer is closed by the CheckpointReporter, after everybody has written."""


class CheckpointReporter:
    """Writes checkpoints and closes the file; it must be the last of the reporters that write, to include their rows.

    The state of a run that diverged is not written: the checkpoint before stays, with all rows up to the end.
    ``extra(frame)`` gives whatever JSON-able the caller wants back from ``read_checkpoint`` as ``meta["extra"]``.
    """

    needs = Need.NONE

    def __init__(self, every: int, writer: TrajectoryWriter, extra: Callable[[Frame], Mapping[str, Any]] | None = None):
        self.every = every
        self.writer = writer
        self.extra = extra
        self.last_step: int | None = None  # of the last checkpoint written here

    def report(self, frame: Frame) -> None:
        if frame.reason == "diverged":
            self.writer.publish()
        else:
            self.writer.checkpoint(frame, self.extra(frame) if self.extra is not None else None)
            self.last_step = frame.step

    def close(self) -> None:
        self.writer.close()


class ProgressReporter:
    """A progress bar on the error stream: steps/s, time left, µs per atom-step; none if quiet or not on a terminal."""

    needs = Need.NONE
    stores = False

    def __init__(
        self, steps: int, natoms: int, *, first_step: int = 0, quiet: bool = False, stream: TextIO | None = None
    ):
        stream = stream or sys.stderr
        self.every = max(1, steps // 1000)  # a thousand looks are smooth enough, and cost nothing
        self._natoms = natoms
        self._step = first_step
        self._bar = tqdm(
            total=steps,
            disable=quiet or not stream.isatty(),
            file=stream,
            unit=" steps",
            leave=False,
            dynamic_ncols=True,
            bar_format="{desc}{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} "
            "[{elapsed}<{remaining}, {rate_fmt}{postfix}]",
        )

    def report(self, frame: Frame) -> None:
        done = frame.step - self._step
        if done <= 0 or self._bar.disable:
            return
        self._step = frame.step
        self._bar.n += done
        microseconds = 1.0e6 * self._bar.format_dict["elapsed"] / (self._bar.n * self._natoms)
        self._bar.set_description_str(f"{frame.stage}: " if frame.stage else "", refresh=False)
        self._bar.set_postfix_str(f"{microseconds:.3g} µs/atom-step", refresh=False)
        self._bar.update(0)
        if frame.reason != "step":
            self._bar.refresh()

    def close(self) -> None:
        self._bar.close()


def summary(
    thermo: ThermoReporter,
    *,
    atoms: int,
    steps: int,
    device: str,
    threads: int,
    seconds_loop: float,
    list_rebuilds: int,
    output: str | Path | None,
    device_name: str = "cpu",
    precision: str = "float64",
) -> dict[str, Any]:
    """The closing summary, ready for JSON; what is not defined is None.

    ``energy_first`` and ``energy_last`` are total energies in eV of the first and the last thermo row. The drift is
    that of the conserved quantity, meV/atom/ps, over the last stage (see ``spinmd.drift``).
    """
    energy = thermo.table()["total_energy"]
    stage = thermo.last_stage()
    slope, error = drift(stage["time"], 1.0e3 * stage["conserved"] / atoms)
    return {
        "atoms": atoms,
        "steps": steps,
        "device": device,
        "device_name": device_name,
        "precision": precision,
        "threads": threads,
        "seconds_loop": seconds_loop,
        "us_per_atom_step": 1.0e6 * seconds_loop / (atoms * steps) if steps else None,
        "list_rebuilds": list_rebuilds,
        "energy_first": _defined(energy[0]) if len(energy) else None,
        "energy_last": _defined(energy[-1]) if len(energy) else None,
        "drift_mev_per_atom_per_ps": _defined(slope),
        "drift_error": _defined(error),
        "output": None if output is None else str(output),
    }


def _defined(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def summary_text(values: Mapping[str, Any]) -> str:
    """The summary in a few lines for the screen."""
    threads = f"{values['threads']} thread" + ("s" if values["threads"] != 1 else "")
    place = threads if values["device"] == "cpu" else f"{values['device_name']} ({values['precision']})"
    lines = [f"{values['steps']} steps of {values['atoms']} atoms in {values['seconds_loop']:.2f} s on {place}"]
    if values["us_per_atom_step"] is not None:
        lines[0] += f": {values['us_per_atom_step']:.3g} µs per atom-step, {values['list_rebuilds']} list rebuilds"
    slope, error = values["drift_mev_per_atom_per_ps"], values["drift_error"]
    if slope is not None:
        uncertainty = f" ± {error:.1e}" if error is not None else ""
        lines.append(f"drift of the conserved quantity: {slope:.2e}{uncertainty} meV/atom/ps")
    if values["output"] is not None:
        lines.append(f"written: {values['output']}")
    return "\n".join(lines)


def write_summary(values: Mapping[str, Any], path: str | Path) -> None:
    """The summary as JSON."""
    Path(path).write_text(json.dumps(values, indent=2, allow_nan=False) + "\n", encoding="utf-8")
