"""What the commands of ``spinmd analyze`` share: options, the runs that a command line names, and what becomes of a result.

Heavy modules are imported inside functions, so that ``spinmd --help`` is quick.
"""

import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spinmd.errors import InputError

if TYPE_CHECKING:
    import numpy as np

    from spinmd.analysis.reading import Window
    from spinmd.analysis.results import Result
    from spinmd.sweeping.table import Sweep
    from spinmd.trajectory import Trajectory

app = typer.Typer(
    help="Physics from runs: numbers with units and errors, and a figure.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

RunFiles = Annotated[
    list[Path],
    typer.Argument(metavar="RUN.h5...", help="files of runs, or sweep.h5 for all of its runs", show_default=False),
]
Output = Annotated[Path | None, typer.Option("-o", "--output", help="write the numbers to this file (.h5 or .csv)")]
Plot = Annotated[Path | None, typer.Option("--plot", help="draw a figure to this file (.png, .pdf or .svg)")]
From = Annotated[
    str | None, typer.Option("--from", metavar="TIME", help="first time, ps or with a unit [default: the last stage]")
]
To = Annotated[str | None, typer.Option("--to", metavar="TIME", help="last time [default: the end]")]
Every = Annotated[int, typer.Option("--every", metavar="N", help="every N-th frame")]
Discard = Annotated[
    float, typer.Option("--discard", help="part of the last stage left out at its beginning (without --from)")
]
Element = Annotated[str | None, typer.Option("--element", help="only the atoms of this element")]
PathOption = Annotated[
    str | None,
    typer.Option("--path", help="through the Brillouin zone: G-H-N-G-P, or '0,0,0 1/2,0,0' [default: seekpath's]"),
]
PathUnits = Annotated[
    str,
    typer.Option("--path-units", metavar="conventional|primitive", help="reciprocal vectors that coordinates count in"),
]
Snap = Annotated[bool, typer.Option("--snap", help="wave vectors near the path too, not only exactly on it")]
IgnoreElements = Annotated[
    bool, typer.Option("--ignore-elements", help="the lattice of the sites, whatever element is on them")
]
Average = Annotated[bool, typer.Option("--average", help="mean over the runs (seeds), with errors from their scatter")]
Quiet = Annotated[bool, typer.Option("--quiet", help="no progress bar, no numbers on the screen")]
Force = Annotated[bool, typer.Option("--force", help="replace files that exist")]


def window(start: str | None, stop: str | None, every: int = 1, discard: float = 0.0) -> "Window":
    """The Window of the options; InputError for times that are none."""
    from spinmd.analysis.reading import Window

    return Window(_time(start, "--from"), _time(stop, "--to"), every, discard)


def _time(text: str | None, place: str) -> float | None:
    from spinmd.units import convert

    return None if text is None else convert(number(text), "time", place)


def number(text: str) -> Any:
    try:
        return float(text)
    except ValueError:
        return text


def vector(text: str | None, place: str) -> tuple[float, float, float] | None:
    """``0,0,1`` as three numbers; InputError for anything else."""
    if text is None:
        return None
    numbers = floats(text, place)
    if len(numbers) != 3:
        raise InputError(f"expected three numbers such as 0,0,1, got {text!r}", place)
    return tuple(numbers)


def floats(text: str, place: str) -> list[float]:
    """``1,2.5,3`` as numbers; InputError for anything else."""
    try:
        values = [float(part) for part in text.replace(" ", ",").split(",") if part]
    except ValueError:
        values = []
    if not values or not all(map(math.isfinite, values)):
        raise InputError(f"expected numbers with commas between them, got {text!r}", place)
    return values


@dataclass
class Runs:
    """The runs of a command line: open trajectories, and what tells the points of a sweep apart, name -> (values, unit)."""

    trajectories: list["Trajectory"]
    axes: dict[str, tuple["np.ndarray", str]]

    def each(self, analyse: Callable[["Trajectory"], "Result"], average: bool = False) -> "Result":
        """``analyse`` on every run: one Result alone, several side by side, or averaged over the seeds of each point."""
        from spinmd.analysis.results import averaged, side_by_side

        if average:
            self._check_seeds()
        results = [analyse(trajectory) for trajectory in self.trajectories]
        if average:
            return averaged(results, self.axes)
        return results[0] if len(results) == 1 and not self.axes else side_by_side(results, self.axes)

    def _check_seeds(self) -> None:
        """InputError where runs that would be averaged differ in more than the seed, by their decks."""
        from spinmd.analysis.results import alike, is_seed

        columns = [values for name, (values, _) in self.axes.items() if not is_seed(name)]
        for point in alike(columns, len(self.trajectories)):
            first, *others = (self.trajectories[k] for k in point)
            known = _physics(first.settings)
            for other in others:
                found = _physics(other.settings)
                key = next((key for key in {**known, **found} if known.get(key) != found.get(key)), None)
                if key is not None:
                    raise InputError(
                        f"{other.path.name} has another {key} than {first.path.name}, and an average is over runs that differ in "
                        "their seed only; name runs of one kind, or leave --average out",
                        "--average",
                    )


def _physics(settings: Any, key: str = "") -> dict[str, Any]:
    """The keys and values of a deck, without what runs of one kind may differ in: seeds, lengths, files that are written."""
    parts = (
        settings.items() if isinstance(settings, dict) else enumerate(settings) if isinstance(settings, list) else None
    )
    if parts is None:
        return {key: settings}
    found: dict[str, Any] = {}
    for name, value in parts:
        own = f"{key}.{name}" if key else str(name)
        if own not in ("title", "run", "output", "structure.file", "structure.seed") and not _about_runs(own):
            found |= _physics(value, own)
    return found


def _about_runs(key: str) -> bool:
    parts = key.split(".")
    return parts[0] == "stage" and len(parts) == 3 and parts[2] in ("run", "output")


@contextmanager
def opened(paths: Sequence[Path]) -> Iterator[Runs]:
    """Open the runs that are named; a sweep stands for all of its finished points, in the order of its grid."""
    from spinmd.trajectory import Trajectory

    files, axes = expanded(paths)
    with ExitStack() as stack:
        yield Runs([stack.enter_context(Trajectory(file)) for file in files], axes)


def expanded(paths: Sequence[Path]) -> tuple[list[Path], dict[str, tuple["np.ndarray", str]]]:
    """Files of runs, and the values that tell those of sweeps apart."""
    import numpy as np

    from spinmd.sweeping.table import read_sweep

    files: list[Path] = []
    columns: dict[str, list[np.ndarray]] = {}
    units: dict[str, str] = {}
    sweeps = 0
    for path in paths:
        if not is_sweep(path):
            files.append(path)
            continue
        sweep, sweeps = read_sweep(path), sweeps + 1
        found, values = points(sweep)
        files += found
        for name, array in values.items():
            columns.setdefault(name, []).append(array)
            units[name] = sweep.units.get(name, "1")
    if len(set(map(str, files))) < len(files):
        raise InputError("the same run is named twice", str(next(f for f in files if files.count(f) > 1)))
    whole = {name: np.concatenate(parts) for name, parts in columns.items() if len(parts) == sweeps == len(paths)}
    return files, {name: (values, units[name]) for name, values in whole.items()}


def points(sweep: "Sweep") -> tuple[list[Path], dict[str, "np.ndarray"]]:
    """Files of the finished points of a sweep, and for each key (and "seed", if there are several) their values."""
    import numpy as np

    shape = sweep.points["status"].shape
    indices = [index for index in np.ndindex(shape) if sweep.points["status"][index] == "finished"]
    if not indices:
        raise InputError(
            "no point of this sweep is finished; the command that made it goes on with it", str(sweep.path)
        )
    files = [sweep.path.parent / str(sweep.points["file"][index]) for index in indices]
    gone = next((file for file in files if not file.exists()), None)
    if gone is not None:
        raise InputError(
            f"{gone.name} is gone, which the sweep lists as finished; put it back, or let the command that made the sweep run that "
            "point again",
            str(sweep.path),
        )
    values = {
        key: np.array([array[index[k]] for index in indices]) for k, (key, array) in enumerate(sweep.axes.items())
    }
    if shape[-1] > 1:
        values["seed"] = np.array([sweep.points["seed"][index] for index in indices])
    return files, values


def is_sweep(path: Path) -> bool:
    """Whether a path names the table of a sweep, or its folder."""
    return path.is_dir() or marked(path, "spinmd_sweep")


def marked(path: Path, attribute: str) -> bool:
    """Whether a path is an HDF5 file with this attribute, which says what it holds."""
    import h5py

    try:
        with h5py.File(path, "r", locking=False) as file:
            return attribute in file.attrs
    except OSError:
        return False


@dataclass
class Asked:
    """What a command of an analysis is asked: the runs, the part of them, and how to go about it."""

    runs: Runs
    window: "Window"
    progress: bool
    average: bool
    output: Path | None

    @property
    def alone(self) -> bool:
        """Whether there is one run, which is no point of a sweep: its time series are worth a figure."""
        return len(self.runs.trajectories) == 1 and not self.runs.axes

    def each(self, analyse: Callable[["Trajectory", "Window"], "Result"]) -> "Result":
        """``analyse(run, window)`` of every run, as ``Runs.each``."""
        return self.runs.each(lambda one: analyse(one, self.window), self.average)


def analysis(name: str, *, discard: float | None = None, every: bool = True, average: bool = True) -> Callable:
    """Decorator that makes ``spinmd analyze NAME`` of a function (asked, options of its own) -> Result.

    The command has the options that all analyses share, and then those of the function, whose docstring is its help.
    discard  default of --discard, for averages in equilibrium; None: the command has no such option
    every, average  whether the command has these options
    """

    def register(function: Callable[..., "Result"]) -> Callable[..., "Result"]:
        own = list(inspect.signature(function).parameters.values())[1:]
        shared = {"runs": (RunFiles, inspect.Parameter.empty), "output": (Output, None), "plot": (Plot, None)}
        shared |= {"start": (From, None), "stop": (To, None)}
        shared |= {"every": (Every, 1)} if every else {}
        shared |= {"discard": (Discard, discard)} if discard is not None else {}
        closing = ({"average": (Average, False)} if average else {}) | {
            "force": (Force, False),
            "quiet": (Quiet, False),
        }

        def parameters(table: dict) -> list[inspect.Parameter]:
            kind = inspect.Parameter.KEYWORD_ONLY
            return [inspect.Parameter(key, kind, default=value, annotation=of) for key, (of, value) in table.items()]

        def command(**given: Any) -> None:
            options = {one.name: given[one.name] for one in own}
            check_targets(given["output"], given["plot"], given["runs"], given["force"])
            within = window(given["start"], given["stop"], given.get("every", 1), given.get("discard", 0.0))
            with opened(given["runs"]) as runs:
                asked = Asked(runs, within, not given["quiet"], given.get("average", False), given["output"])
                result = function(asked, **options)
            finish(result, given["output"], given["plot"], given["quiet"])

        owned = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in own]
        everything = [*parameters(shared), *owned, *parameters(closing)]
        command.__signature__ = inspect.Signature(everything)
        command.__annotations__ = {one.name: one.annotation for one in everything}
        command.__doc__ = function.__doc__
        app.command(name)(command)
        return function

    return register


def check_targets(
    output: Path | None, plot: Path | None, sources: Sequence[Path], force: bool, place: str = "--plot"
) -> None:
    """InputError, before any work, for files that cannot be written or should not be replaced; ``place``: option of the figure."""
    from spinmd.analysis.figures import check_figure
    from spinmd.analysis.results import check_suffix
    from spinmd.output import real_path

    if output is not None:
        check_suffix(output)
    if plot is not None:
        check_figure(plot, place)
    for path, option in ((output, "--output"), (plot, place)):
        if path is None:
            continue
        if not path.absolute().parent.is_dir():
            raise InputError(f"there is no folder {path.absolute().parent}; make it first", option)
        if any(real_path(path) == real_path(source) for source in sources):
            raise InputError(f"{path} is a file that is analysed; choose another name", option)
        if path.is_dir():
            raise InputError(f"{path} is a folder, a file name is expected", option)
        if path.exists() and not force:
            raise InputError(f"{path} exists already; choose another name, or replace it with --force", option)


def finish(result: "Result", output: Path | None, plot: Path | None, quiet: bool) -> None:
    """Write, draw and print a result."""
    from spinmd.analysis.catalogue import plot as draw

    if output is not None:
        result.write(output)
    if plot is not None:
        draw(result, plot)
    if not quiet:
        print(result.text())
        for path in (output, plot):
            if path is not None:
                print(f"written: {path}")
