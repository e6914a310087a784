"""The results of a sweep in one HDF5 file, ``sweep.h5``: written while points finish, always whole; ``read_sweep`` reads it.

    /axes/<key>                     (n,) the values; attributes unit, axis (which axis of the grid)
    /points/<name>                  status, message, exit_code, seed, steps, seconds, file;  shape: the grid, then seeds
    /points/values/<key>            the value of each point, in the same shape
    /thermo/<column>/<statistic>    mean, standard_error, standard_deviation, final over the rows of the last stage;  the same shape
    /averages/<column>/<statistic>  mean and standard_error over the seeds;  shape: the grid
    /averages/seeds                 how many seeds are finished
    /deck/{text, settings}          the deck as given, and what all points share, as JSON

Every dataset has an attribute ``unit``. Numbers of points that are not finished are NaN.
"""

import json
import math
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from pydantic import BaseModel

from spinmd import __version__
from spinmd.checkpoint import open_run
from spinmd.deck import Deck
from spinmd.drift import mean_and_error
from spinmd.errors import InputError
from spinmd.h5md import THERMO
from spinmd.reporters import FILE_COLUMNS
from spinmd.segments import open_file, written_whole
from spinmd.sweeping.plan import TABLE, Plan, read_point, run_file

VERSION = 1
SHOWN = 5  # failures that a message names
STATISTICS = ("mean", "standard_error", "standard_deviation", "final")
COLUMNS = tuple((name, unit) for name, unit in FILE_COLUMNS if name not in ("step", "time"))
POINT_UNITS = {"status": "text", "message": "text", "file": "text", "seconds": "s"}
TEXT = h5py.string_dtype()


def statistics(path: Path, total: int, first: int, discard: float) -> dict[str, tuple[float, float, float, float]]:
    """Column -> mean, standard error, standard deviation, final value of a finished run.

    Taken over the thermo rows of the last stage, which goes from step ``first`` to ``total``, without its first part,
    ``discard`` of its steps. A row at the boundary belongs to the stage before, with another one before it.
    """
    with open_run(path) as file:
        steps = file[f"{THERMO}/step"][()]
        begin = first + discard * (total - first)
        chosen = (steps >= begin) & ((steps > first) | (first == 0))
        if not chosen.any():  # no row in a short last stage but its last one
            chosen[-1:] = True
        result = {}
        for name, _ in COLUMNS:
            values = file[f"{THERMO}/{name}"][()]
            rows = values[chosen]
            finite = rows[np.isfinite(rows)]
            spread = float(finite.std(ddof=1)) if len(finite) > 1 else math.nan
            result[name] = (*mean_and_error(rows), spread, float(values[-1]))
    return result


def write_table(
    plan: Plan,
    axes: Mapping[str, tuple[np.ndarray, str]],
    folder: Path,
    records: Mapping[tuple[int, ...], Mapping[str, Any]],
    discard: float,
) -> None:
    """Write ``sweep.h5``.

    axes     from ``axis_arrays``
    records  index of the grid -> status, message, exit_code, seed, steps, seconds, name and, of a finished point,
             ``statistics``; an index that no command has asked for is absent
    """
    shape = plan.shape
    points = {
        "status": np.full(shape, "absent", dtype=object),
        "message": np.full(shape, "", dtype=object),
        "file": np.full(shape, "", dtype=object),
        "exit_code": np.full(shape, -1),
        "seed": np.full(shape, -1),
        "steps": np.zeros(shape, dtype=np.int64),
        "seconds": np.full(shape, np.nan),
    }
    thermo = np.full((len(COLUMNS), len(STATISTICS), *shape), np.nan)
    for index, record in records.items():
        for name in ("status", "message", "exit_code", "seed", "steps", "seconds"):
            points[name][index] = record[name]
        points["file"][index] = run_file(folder, record["name"]).name
        for column, (name, _) in enumerate(COLUMNS):
            thermo[(column, slice(None), *index)] = record.get("statistics", {}).get(name, np.nan)
    with written_whole(folder / TABLE) as file:
        file.attrs["spinmd_sweep"], file.attrs["version"] = VERSION, __version__
        file.attrs["keys"], file.attrs["discard"] = json.dumps(plan.keys), discard
        labels = [*plan.keys, "seed"]
        for axis, (key, (values, unit)) in enumerate(axes.items()):
            _write(file, f"axes/{_safe(key)}", values, unit, ()).attrs["axis"] = axis
            here = (slice(None), *([None] * (len(shape) - 1 - axis)), *([slice(None)] * (values.ndim - 1)))
            spread = np.broadcast_to(values[here], (*shape, *values.shape[1:]))
            _write(file, f"points/values/{_safe(key)}", spread, unit, labels)
        for name, values in points.items():
            _write(file, f"points/{name}", values, POINT_UNITS.get(name, "1"), labels)
        finished = points["status"] == "finished"
        _write(file, "averages/seeds", finished.sum(axis=-1), "1", plan.keys)
        for column, (name, unit) in enumerate(COLUMNS):
            for statistic, values in zip(STATISTICS, thermo[column], strict=True):
                _write(file, f"thermo/{name}/{statistic}", values, unit, labels)
            mean, error = over_seeds(thermo[column][0], thermo[column][1])
            _write(file, f"averages/{name}/mean", mean, unit, plan.keys)
            _write(file, f"averages/{name}/standard_error", error, unit, plan.keys)
        _write(file, "deck/text", plan.source.text, "text", ())
        _write(file, "deck/settings", json.dumps(plan.settings), "text", ())


def over_seeds(means: np.ndarray, errors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Average of (..., seeds) means over the seeds that are there, and its standard error.

    There are two estimates of the error: from the spread of the seeds, and from the errors of the single runs. The larger
    counts: a few seeds may agree by chance, and a run shorter than its correlation time does not know its own error.
    """
    there = np.isfinite(means)
    count = there.sum(axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(there, means, 0.0).sum(axis=-1) / count
        squares = np.where(there, (means - mean[..., None]) ** 2, 0.0).sum(axis=-1)
        spread = np.sqrt(squares / (count - 1) / count)
        single = np.sqrt((np.where(there, errors, 0.0) ** 2).sum(axis=-1)) / count
    return mean, np.where(count > 0, np.fmax(np.where(count > 1, spread, np.nan), single), np.nan)


def _safe(key: str) -> str:
    return key.replace("%", "%25").replace("/", "%2F")


def _write(file: h5py.File, path: str, values: Any, unit: str, labels: Iterable[str]) -> h5py.Dataset:
    values = np.asarray(values)
    text = values.dtype.kind in "OU"
    dataset = file.create_dataset(path, data=values.astype(object) if text else values, dtype=TEXT if text else None)
    dataset.attrs["unit"] = unit
    if values.ndim:
        for dimension, label in zip(dataset.dims, labels, strict=False):
            dimension.label = label
    return dataset


# ---------------------------------------------------------------------------------------------- values with units


def axis_arrays(plan: Plan) -> dict[str, tuple[np.ndarray, str]]:
    """Key -> its values as the deck reads them ("100 K" is 100.0), and their unit; texts where they are no numbers."""
    result = {}
    for axis, (key, raw) in enumerate(plan.values.items()):
        read: dict[int, Any] = {}
        unit = ""
        for index, deck in plan.decks.items():
            if index[axis] not in read:
                read[index[axis]], unit = value_and_unit(deck, key)
        values = [read[k] if k in read else _of_earlier_command(plan, key, raw[k]) for k in range(len(raw))]
        result[key] = _array(values, raw, unit)
    return result


def _of_earlier_command(plan: Plan, key: str, raw: Any) -> Any:
    """A value that this command has no point with, as the deck reads it; None where it does not go with the others."""
    try:
        return value_and_unit(read_point(plan.source, {**plan.points[0].values, key: raw}), key)[0]
    except InputError:
        return None


def _array(values: list, raw: list, unit: str) -> tuple[np.ndarray, str]:
    if all(value is not None for value in values):
        try:
            array = np.array(values)
        except ValueError:  # lists of several lengths
            array = np.array(None)
        if array.dtype.kind in "bif":
            return array, unit or "1"
    texts = [value if isinstance(value, str) else json.dumps(value, default=str) for value in raw]
    return np.array(texts, dtype=object), "text"


def value_and_unit(deck: Deck, key: str) -> tuple[Any, str]:
    """What the deck has at a dotted key, in internal units, and the unit; (None, "") where it cannot be followed."""
    here: Any = deck
    unit = ""
    for part in key.split("."):
        if isinstance(here, BaseModel) and part in type(here).model_fields:
            unit = _unit(type(here), part)
            here = getattr(here, part)
        elif isinstance(here, dict) and part in here:
            here = here[part]
        elif isinstance(here, (list, tuple)) and part.isdigit() and int(part) < len(here):
            here = here[int(part)]
        else:
            return None, ""
    return here, unit


def _unit(model: type[BaseModel], name: str) -> str:
    field = model.model_fields[name]
    for found in _units((field, field.annotation)):
        return "" if found.startswith("file") else found
    return ""


def _units(parts: Iterable[Any]) -> Iterable[str]:
    """Units stated anywhere in a field or in the types that it is made of."""
    for part in parts:
        extra = getattr(part, "json_schema_extra", None)
        if isinstance(extra, dict) and "unit" in extra:
            yield extra["unit"]
        yield from _units((*getattr(part, "__metadata__", ()), *typing.get_args(part)))


# ---------------------------------------------------------------------------------------------- reading


@dataclass(frozen=True)
class Sweep:
    """The results of a sweep; arrays have the shape of the grid (one axis for each key, in order), ``shape``.

    axes      key -> (n,) values (of lists: (n, k));  a value that only another key's points have stays in its place
    units     key or column -> unit
    mean      column -> (shape) average over the last stage and the seeds;  error: its standard error
    points    status, message, exit_code, seed, steps, seconds, file -> (shape, seeds)
    thermo    column -> {mean, standard_error, standard_deviation, final -> (shape, seeds)}
    path      of the file

    ``sweep["integrator.timestep"]``, or ``sweep["timestep"]`` where only one key ends so, gives an axis, and
    ``sweep["spin_temperature"]`` a mean.
    """

    path: Path
    axes: dict[str, np.ndarray]
    units: dict[str, str]
    mean: dict[str, np.ndarray]
    error: dict[str, np.ndarray]
    points: dict[str, np.ndarray]
    thermo: dict[str, dict[str, np.ndarray]]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.points["status"].shape[:-1]

    def __repr__(self) -> str:
        grid = ", ".join(f"{len(values)} × {key}" for key, values in self.axes.items())
        return f"Sweep({str(self.path)!r}, {grid or 'one point'}, {self.points['status'].shape[-1]} seeds)"

    @property
    def finished(self) -> bool:
        """Whether every point that was asked for is finished."""
        return bool(np.isin(self.points["status"], ("finished", "absent")).all())

    @property
    def failed(self) -> list[str]:
        """The points that failed, and how, in words."""
        bad = np.isin(self.points["status"], ("diverged", "failed", "crashed"))
        rows = zip(*(self.points[name][bad] for name in ("file", "status", "message")), strict=True)
        return [f"{file.removesuffix('.h5')} ({status}: {message})" for file, status, message in rows]

    def failures(self) -> str:
        """One sentence about the points that failed."""
        count = int((self.points["status"] != "absent").sum())
        few = "; ".join(self.failed[:SHOWN]) + ("; ..." if len(self.failed) > SHOWN else "")
        return f"{len(self.failed)} of {count} points failed: {few}; {self.path} has them all, and the results of the others"

    def __getitem__(self, name: str) -> np.ndarray:
        if name in self.axes:
            return self.axes[name]
        ends = [key for key in self.axes if key.endswith("." + name)]
        if len(ends) == 1 and name not in self.mean:
            return self.axes[ends[0]]
        if name in self.mean:
            return self.mean[name]
        raise KeyError(
            f"{name!r} is neither a key of the sweep ({', '.join(self.axes)}) nor one of {', '.join(self.mean)}"
        )


def read_sweep(path: str | Path) -> Sweep:
    """The results of a sweep, from ``sweep.h5`` or its folder; InputError if it cannot be read."""
    path = Path(path)
    path = path / TABLE if path.is_dir() else path
    if not path.is_file():
        raise InputError("there is no such file; give the sweep.h5 that spinmd sweep wrote, or its folder", str(path))
    try:
        with open_file(path) as file:
            version = int(file.attrs["spinmd_sweep"])
            if version == VERSION:
                return _read(path, file)
    except (OSError, KeyError, ValueError, RuntimeError, TypeError):
        raise InputError("is damaged, or not the sweep.h5 that spinmd sweep wrote", str(path)) from None
    raise InputError(f"has version {version}, written by a newer spinmd; update spinmd to read it", str(path))


def _read(path: Path, file: h5py.File) -> Sweep:
    axes, units = {}, {}
    for key in json.loads(file.attrs["keys"]):
        dataset = file[f"axes/{_safe(key)}"]
        axes[key], units[key] = _values(dataset), dataset.attrs["unit"]
    points = {name: _values(item) for name, item in file["points"].items() if isinstance(item, h5py.Dataset)}
    thermo = {name: {s: _values(group[s]) for s in STATISTICS} for name, group in file["thermo"].items()}
    units |= {name: group["mean"].attrs["unit"] for name, group in file["thermo"].items()}
    mean = {name: _values(file[f"averages/{name}/mean"]) for name in thermo}
    error = {name: _values(file[f"averages/{name}/standard_error"]) for name in thermo}
    return Sweep(path, axes, units, mean, error, points, thermo)


def _values(dataset: h5py.Dataset) -> np.ndarray:
    return np.asarray(dataset.asstr()[()] if h5py.check_string_dtype(dataset.dtype) else dataset[()])
