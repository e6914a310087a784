"""What an analysis gives: named arrays with units, errors and meanings; written as HDF5 or CSV, read back, shown as text.

    result["susceptibility"]            the values, an array or a number
    result.error("susceptibility")      one standard error, of the same shape, or None
    result.quantities["susceptibility"] with .unit, .error, .meaning and .axes
    result.write("chi.h5")              or .csv, which holds numbers and one table

A quantity names what its dimensions count: ``axes = ("r",)`` says that the quantity "r" has the abscissa. Results of several
runs are laid ``side_by_side`` along a first axis "run", or ``averaged`` over them, which gives errors.
"""

import csv
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from spinmd import __version__
from spinmd.errors import InputError
from spinmd.segments import open_file, written_whole

VERSION = 1
SUFFIXES = (".h5", ".hdf5", ".csv")
RUN = "run"  # the axis that counts runs


@dataclass(frozen=True)
class Quantity:
    """An array (or a number, shape ()) with its unit, "1" for none.

    error  one standard error, of the same shape, or None
    axes   for each dimension the name of the quantity that has its values, or of what is counted ("run", "component")
    """

    values: Any
    unit: str
    meaning: str = ""
    error: Any = None
    axes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        values = np.asarray(self.values)
        object.__setattr__(self, "values", values)
        if self.error is not None:
            object.__setattr__(self, "error", np.broadcast_to(np.asarray(self.error, dtype=float), values.shape))
        if len(self.axes) > values.ndim:
            raise ValueError(f"{len(self.axes)} axes for an array of shape {values.shape}")

    def same(self, other: "Quantity") -> bool:
        """Whether the other one holds the same values, in shape and to rounding."""
        if self.values.shape != other.values.shape or self.unit != other.unit:
            return False
        if self.values.dtype.kind in "fc" and other.values.dtype.kind in "fc":
            return bool(np.allclose(self.values, other.values, rtol=1.0e-9, atol=1.0e-12, equal_nan=True))
        return bool(np.array_equal(self.values, other.values))


@dataclass
class Result:
    """The result of one analysis.

    what        its name on the command line
    quantities  name -> Quantity
    settings    what was asked for: plain numbers, texts, lists
    sources     the files that were read
    notes       sentences that a user should read beside the numbers
    """

    what: str
    quantities: dict[str, Quantity] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    sources: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(
        self, name: str, values: Any, unit: str, meaning: str = "", error: Any = None, axes: Sequence[str] = ()
    ) -> None:
        """One more quantity."""
        self.quantities[name] = Quantity(values, unit, meaning, error, tuple(axes))

    def __getitem__(self, name: str) -> Any:
        """The values of a quantity: an array, or a number. InputError for a name that there is not."""
        values = self.quantity(name).values
        return values if values.ndim else values.item()

    def __contains__(self, name: str) -> bool:
        return name in self.quantities

    def error(self, name: str) -> Any:
        """The standard errors of a quantity; None if it has none."""
        error = self.quantity(name).error
        return error if error is None or error.ndim else error.item()

    def quantity(self, name: str) -> Quantity:
        """A quantity by name; InputError for one that there is not."""
        if name not in self.quantities:
            raise InputError(f"there is no quantity {name!r}; there are {', '.join(self.quantities)}", self.what)
        return self.quantities[name]

    # ------------------------------------------------------------------ text

    def text(self) -> str:
        """The numbers, one a line, with errors and units; of arrays their shapes; then the notes."""
        width = max((len(name) for name in self.quantities), default=0)
        lines = []
        for name, one in self.quantities.items():
            if one.values.size == 1:
                value = with_error(one.values.item(), None if one.error is None else one.error.item())
                value += "" if one.unit in ("1", "text") else f" {one.unit}"
            else:
                value = f"{' × '.join(str(n) for n in one.values.shape)} values" + _range(one)
            lines.append(f"{name:<{width}}  {value}{f'   {one.meaning}' if one.meaning else ''}")
        return "\n".join(lines + [f"note: {note}" for note in self.notes])

    # ------------------------------------------------------------------ files

    def write(self, path: str | Path) -> None:
        """Write HDF5 or CSV, by the file's name. InputError for another name, and for CSV of more than one table."""
        path = Path(path)
        check_suffix(path)
        if path.suffix.lower() == ".csv":
            self._write_csv(path)
        else:
            self._write_hdf5(path)

    def _write_hdf5(self, path: Path) -> None:
        try:
            with written_whole(path) as file:
                file.attrs["spinmd_analysis"], file.attrs["version"] = VERSION, __version__
                file.attrs["what"] = self.what
                for name in ("settings", "sources", "notes"):
                    file.create_dataset(f"about/{name}", data=json.dumps(getattr(self, name), default=str))
                file.attrs["order"] = json.dumps(list(self.quantities))
                for name, one in self.quantities.items():
                    parts = [("value", one.values), *([("error", one.error)] if one.error is not None else [])]
                    for part, values in parts:
                        dataset = file.create_dataset(f"quantities/{name}/{part}", data=_storable(values))
                        dataset.attrs["unit"], dataset.attrs["meaning"] = one.unit, one.meaning
                        dataset.attrs["axes"] = json.dumps(one.axes)
        except OSError as error:
            raise InputError(f"cannot be written: {error.strerror or error}", str(path)) from None

    def _write_csv(self, path: Path) -> None:
        headings = {axis for one in self.quantities.values() for axis in one.axes[1:]}  # of columns, not of rows
        if any(one.axes[:1] == (RUN,) for one in self.quantities.values()):
            headings |= {name for name, one in self.quantities.items() if _is_abscissa(name, one)}
        large = {name: one for name, one in self.quantities.items() if one.values.ndim and one.values.size > 1}
        tables = {name: one for name, one in large.items() if name not in headings}
        if len({len(one.values) for one in tables.values()}) > 1 or any(one.values.ndim > 2 for one in tables.values()):
            raise InputError(f"holds arrays of several shapes, which no CSV takes; write {path.stem}.h5", str(path))
        columns: dict[str, np.ndarray] = {}
        for name, one in tables.items():
            for heading, values in ((name, one.values), (f"{name}_error", one.error)):
                unit = "" if one.unit in ("1", "text") else f" ({one.unit})"
                if values is not None and values.ndim == 2:
                    columns |= {f"{heading}_{k}{unit}": values[:, k] for k in range(values.shape[1])}
                elif values is not None:
                    columns[f"{heading}{unit}"] = values
        try:
            with path.open("w", newline="", encoding="utf-8") as file:
                file.write(f"# spinmd {__version__} analyze {self.what}: {', '.join(self.sources)}\n")
                for name, one in self.quantities.items():
                    if one.values.size == 1:
                        error = "" if one.error is None else f" +- {one.error.item()!r}"
                        file.write(f"# {name} = {one.values.item()!r}{error} {one.unit}\n")
                    elif name not in tables:
                        file.write(f"# {name} = {', '.join(map(repr, one.values.ravel().tolist()))} {one.unit}\n")
                writer = csv.writer(file)
                if columns:
                    writer.writerow(columns)
                    writer.writerows(zip(*(values.tolist() for values in columns.values()), strict=True))
        except OSError as error:
            raise InputError(f"cannot be written: {error.strerror}", str(path)) from None


def read_result(path: str | Path) -> Result:
    """A Result from the HDF5 file that it was written to; InputError for any other file."""
    try:
        with open_file(Path(path)) as file:
            if "spinmd_analysis" not in file.attrs:
                raise InputError("is not the result of an analysis", str(path))
            if int(file.attrs["spinmd_analysis"]) > VERSION:
                raise InputError("was written by a newer spinmd; update spinmd to read it", str(path))
            about = {name: json.loads(file[f"about/{name}"].asstr()[()]) for name in ("settings", "sources", "notes")}
            result = Result(str(file.attrs["what"]), {}, **about)
            for name in json.loads(file.attrs["order"]):
                group = file[f"quantities/{name}"]
                value = group["value"]
                values = value.asstr()[()] if value.dtype.kind == "O" else value[()]
                error = group["error"][()] if "error" in group else None
                attributes = value.attrs
                axes = json.loads(attributes["axes"])
                result.add(name, values, str(attributes["unit"]), str(attributes["meaning"]), error, axes)
            return result
    except FileNotFoundError:
        raise InputError("there is no such file", str(path)) from None
    except (KeyError, ValueError, OSError, TypeError, RuntimeError):
        raise InputError("is damaged, or not the result of an analysis", str(path)) from None


def check_suffix(path: Path) -> None:
    """InputError for a file name that does not say what is to be written."""
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"{path.name!r} says no format; results are written as .h5 or .csv", "--output")


# ---------------------------------------------------------------------- several runs


def side_by_side(results: Sequence[Result], axes: dict[str, tuple[Any, str]] | None = None) -> Result:
    """One Result of several runs: quantities get a first axis "run"; abscissas that agree stay as they are.

    axes  further quantities that tell the runs apart: name -> (values, unit), for example the temperatures of a sweep

    Numbers that some runs do not have (a fit that had nothing to fit) are NaN there, with a note. InputError where abscissas or
    shapes differ, since then the curves cannot share one array.
    """
    results = _filled(results)
    first = _comparable(results)
    merged = Result(first.what, {}, dict(first.settings), [s for one in results for s in one.sources])
    merged.notes = list(dict.fromkeys(note for one in (first, *results) for note in one.notes))
    for name, (values, unit) in (axes or {}).items():
        if name not in first:
            merged.add(name, values, unit, "of the runs", axes=(RUN,))
    for name, one in first.quantities.items():
        parts = [result.quantities[name] for result in results]
        if _is_abscissa(name, one):
            merged.quantities[name] = one
            continue
        errors = None if any(part.error is None for part in parts) else np.stack([part.error for part in parts])
        merged.add(name, np.stack([p.values for p in parts]), one.unit, one.meaning, errors, (RUN, *one.axes))
    return merged


def averaged(results: Sequence[Result], axes: dict[str, tuple[Any, str]] | None = None) -> Result:
    """The mean over independent runs, for instance seeds, with the standard error that their scatter gives.

    axes  as ``side_by_side`` takes them. Where they tell points apart in more than the seed there is a mean at each point, side by
          side; a point with one run has no error (NaN), as a note says

    InputError where no point has two runs, or abscissas or shapes differ.
    """
    others = {name: one for name, one in (axes or {}).items() if not is_seed(name)}
    points = alike([values for values, _ in others.values()], len(results))
    if max(map(len, points)) < 2:
        words = "an average needs at least two runs"
        if len(points) > 1:
            words = "an average is over seeds, and there is one run at each point; sweep with --seeds, or leave --average out"
        raise InputError(words, results[0].what)
    means = [_mean([results[k] for k in point]) for point in points]
    if len(means) == 1:
        return means[0]
    first = [point[0] for point in points]
    merged = side_by_side(means, {name: (np.asarray(values)[first], unit) for name, (values, unit) in others.items()})
    alone = sum(len(point) == 1 for point in points)
    if alone:
        merged.notes.append(f"of {alone} of {len(points)} points there is one run only, and no error")
    return merged


def is_seed(name: str) -> bool:
    """Whether what tells runs apart is the seed: of ``--seeds``, or a key of the deck."""
    return name.rpartition(".")[2] == "seed"


def alike(columns: Sequence[Any], count: int) -> list[np.ndarray]:
    """Which of ``count`` runs have the same values in all columns (count, ...): their numbers, each group where its first is."""
    found: dict[tuple, list[int]] = {}
    for k in range(count):
        found.setdefault(tuple(tuple(np.ravel(column[k]).tolist()) for column in columns), []).append(k)
    return [np.array(numbers) for numbers in found.values()]


def _mean(results: Sequence[Result]) -> Result:
    first = _comparable(results)
    merged = Result(first.what, {}, dict(first.settings), [s for one in results for s in one.sources])
    merged.notes = list(dict.fromkeys(note for one in (first, *results) for note in one.notes))
    for name, one in first.quantities.items():
        values = [result.quantities[name].values for result in results]
        if _is_abscissa(name, one) or one.values.dtype.kind not in "fiuc":
            merged.quantities[name] = one
            continue
        few = len(values) < 2
        error = np.full(one.values.shape, np.nan) if few else np.std(values, axis=0, ddof=1) / math.sqrt(len(values))
        merged.quantities[name] = replace(one, values=np.mean(values, axis=0), error=error)
    return merged


def _is_abscissa(name: str, quantity: Quantity) -> bool:
    return quantity.axes == (name,)


def _filled(results: Sequence[Result]) -> list[Result]:
    """The results with NaN for the numbers, and the same abscissas, that others have."""
    templates = {name: one for result in reversed(results) for name, one in result.quantities.items()}
    filled, missing = [], []
    for result in results:
        quantities = dict(result.quantities)
        for name, one in templates.items():
            if name not in quantities and (_is_abscissa(name, one) or one.values.dtype.kind == "f"):
                nothing = np.full(one.values.shape, np.nan)
                error = None if one.error is None else nothing
                quantities[name] = one if _is_abscissa(name, one) else replace(one, values=nothing, error=error)
                missing.append(name)
        filled.append(replace(result, quantities=quantities))
    if missing:
        note = f"not given by all runs, and NaN for the others: {', '.join(dict.fromkeys(missing))}"
        filled[0] = replace(filled[0], notes=[*filled[0].notes, note])
    return filled


def _comparable(results: Sequence[Result]) -> Result:
    """The first result, with what all have. InputError where abscissas or shapes differ."""
    first = results[0]
    shared = [name for name in first.quantities if all(name in other for other in results)]
    every = dict.fromkeys(name for one in results for name in one.quantities)
    missing = [name for name in every if name not in shared]
    first = replace(first, quantities={name: first.quantities[name] for name in shared}, notes=list(first.notes))
    if missing:
        first.notes.append(f"not given by all runs, and left out: {', '.join(missing)}")
    for other in results[1:]:
        for name, one in first.quantities.items():
            theirs = other.quantities.get(name)
            if theirs is None or theirs.values.shape != one.values.shape:
                differs = True
            else:
                differs = _is_abscissa(name, one) and not one.same(theirs)
            if differs:
                raise InputError(
                    f"{other.sources[0] if other.sources else 'a run'} has another {name} than "
                    f"{first.sources[0] if first.sources else 'the first'}; analyse runs of one kind together, or each alone",
                    first.what,
                )
    return first


# ---------------------------------------------------------------------- words


def with_error(value: Any, error: float | None) -> str:
    """1043.2437 with 0.71 is ``1043.24 ± 0.71``, 3.42e-5 with 9.2e-6 is ``(3.42 ± 0.92)e-05``: two digits of the error."""
    if isinstance(value, (bool, str, bytes, complex)):
        return str(value)
    if error is None or not math.isfinite(error) or not math.isfinite(value) or error <= 1.0e-12 * abs(value):
        return f"{value:.6g}"  # none, or rounding
    largest = math.floor(math.log10(max(abs(value), error)))
    digits = 1 - math.floor(math.log10(error))
    if -4 <= largest <= 5 and digits <= 8:
        return f"{value:.{max(digits, 0)}f} ± {error:.{max(digits, 0)}f}"
    scale = 10.0**largest
    places = min(max(digits + largest, 0), 12)
    return f"({value / scale:.{places}f} ± {error / scale:.{places}f})e{largest:+03d}"


def _range(one: Quantity) -> str:
    if one.values.dtype.kind not in "fiu" or not one.values.size or not np.isfinite(one.values).any():
        return ""
    unit = "" if one.unit in ("1", "text") else f" {one.unit}"
    return f", {np.nanmin(one.values):.6g} to {np.nanmax(one.values):.6g}{unit}"


def _storable(values: np.ndarray) -> Any:
    return values.astype(object) if values.dtype.kind == "U" else values
