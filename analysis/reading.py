"""Which frames and rows of a run an analysis looks at, and how it goes through long files: in pieces, with a progress bar."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from tqdm import tqdm

from spinmd.errors import InputError
from spinmd.output import parts_folder
from spinmd.trajectory import Table, Trajectory

MEGABYTES = 128.0  # of a piece that is read at once
MOST_BINS = 100_000  # of a histogram
SLACK = 1.0e-9  # of a time: the clock is a sum of timesteps


@dataclass(frozen=True)
class Window:
    """The part of a run that is looked at.

    start    ps, the first time; None: the beginning of the last stage, and ``discard`` of its length later
    stop     ps, the last time; None: the end
    every    every n-th frame (rows of the thermo table: all)
    discard  part of the last stage that is left out at its beginning, while the system comes to equilibrium; without ``start`` only
    """

    start: float | None = None
    stop: float | None = None
    every: int = 1
    discard: float = 0.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.discard < 1.0:
            raise InputError(f"expected a part of the run, from 0 to less than 1, got {self.discard:g}", "--discard")
        if self.every < 1:
            raise InputError(f"expected a whole number of frames, at least 1, got {self.every}", "--every")
        if self.start is not None and self.stop is not None and not self.start < self.stop:
            raise InputError(f"nothing lies between {self.start:g} and {self.stop:g} ps", "--from")

    def settings(self) -> dict[str, Any]:
        """For the record: what was given."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    def frames(self, trajectory: Trajectory, fewest: int = 1) -> Trajectory:
        """The frames within, in the order of time; InputError if there are fewer than ``fewest``."""
        times = trajectory.times
        chosen = np.flatnonzero(self._within(trajectory, times, trajectory.steps))
        chosen = chosen[np.argsort(times[chosen], kind="stable")][:: self.every]
        if len(chosen) < fewest:
            raise InputError(
                f"{_count(len(chosen), 'frame')} where this analysis needs {fewest}: {self._counted(trajectory)}; "
                + (
                    unfinished(trajectory)
                    or "store more (output.trajectory in the deck), or change --from, --to, --every or --discard"
                ),
                str(trajectory.path),
            )
        steps = np.unique(np.diff(chosen))
        if len(steps) == 1 and steps[0] > 0:  # a slice reads faster than a list
            return trajectory[int(chosen[0]) : int(chosen[-1]) + 1 : int(steps[0])]
        return trajectory[chosen]

    def rows(self, trajectory: Trajectory, fewest: int = 1) -> Table:
        """The rows of the thermo table within; InputError if there are fewer than ``fewest``."""
        table = trajectory.thermo
        chosen = self.chosen_rows(trajectory, fewest)
        return Table({name: values[chosen] for name, values in table.items()}, table.units)

    def chosen_rows(self, trajectory: Trajectory, fewest: int = 1) -> np.ndarray:
        """(rows,) mask of the thermo table, for ``row_arrays`` too; InputError if fewer than ``fewest`` are within."""
        table = trajectory.thermo
        chosen = self._within(trajectory, table["time"], table["step"])
        if np.count_nonzero(chosen) < fewest:
            raise InputError(
                f"{_count(int(np.count_nonzero(chosen)), 'row')} of the thermo table where this analysis needs {fewest}; "
                + (
                    unfinished(trajectory)
                    or "write more (output.thermo in the deck), or change --from, --to or --discard"
                ),
                str(trajectory.path),
            )
        return chosen

    def _within(self, trajectory: Trajectory, times: np.ndarray, steps: np.ndarray) -> np.ndarray:
        slack = SLACK * max(np.abs(times).max(initial=0.0), 1.0)
        if self.start is not None:
            chosen = times >= self.start - slack
        else:
            first, last = trajectory.last_stage
            # a row at the boundary was written with the settings of the stage before
            chosen = (steps >= first + self.discard * (last - first)) & ((steps > first) | (first == 0))
            if not chosen.any():
                chosen = steps >= first
        return chosen if self.stop is None else chosen & (times <= self.stop + slack)

    def _counted(self, trajectory: Trajectory) -> str:
        times = trajectory.times
        span = f", {times[0]:g} to {times[-1]:g} ps" if len(times) else ""
        return f"the file has {_count(len(times), 'frame')}{span}"


WHOLE_STAGE = Window()
EQUILIBRIUM = Window(discard=0.2)  # what sweeps leave out, too


def pieces(
    trajectory: Trajectory, *quantities: str, progress: bool = False, label: str = "", megabytes: float | None = None
) -> Iterator[tuple]:
    """``trajectory.chunks`` along frames, with a progress bar on a terminal that counts frames: yields (part, array, ...)."""
    with tqdm(
        total=len(trajectory), unit=" frames", desc=label or None, disable=None if progress else True, leave=False
    ) as bar:
        for piece in trajectory.chunks(*quantities, megabytes=megabytes or MEGABYTES):
            yield piece
            bar.update(len(piece[0]))


def check_bins(bins: int, fewest: int = 2) -> None:
    """InputError for a number of bins that is no histogram, or one of hours and gigabytes."""
    if bins < fewest:
        raise InputError(f"expected at least {fewest}, got {bins}", "--bins")
    if bins > MOST_BINS:
        raise InputError(f"expected at most {MOST_BINS}, got {bins}", "--bins")


def timestep(trajectory: Trajectory) -> float:
    """Time between frames, ps; InputError unless frames are equally spaced, as everything with a frequency needs."""
    times = trajectory.times
    intervals = np.diff(times)
    if len(times) < 2:
        raise InputError(f"{_count(len(times), 'frame')}, at least two are needed", str(trajectory.path))
    check_clock(trajectory, times)
    if np.abs(intervals - intervals.mean()).max() > 1.0e-6 * intervals.mean():
        raise InputError(
            f"frames are {intervals.min():g} to {intervals.max():g} ps apart, and frequencies need equal intervals; choose one "
            "stage with --from and --to",
            str(trajectory.path),
        )
    return float(intervals.mean())


def check_clock(trajectory: Trajectory, times: np.ndarray) -> None:
    """InputError where no time passes between these ``times``, as in Monte Carlo: nothing moves there with a frequency."""
    if len(times) > 1 and not np.ptp(times) > 0.0:
        raise InputError(
            "no time passes in this run (Monte Carlo counts sweeps); what depends on time needs one of dynamics, for example "
            'ensemble = "nve" or "langevin"',
            str(trajectory.path),
        )


def unfinished(trajectory: Trajectory) -> str:
    """A remedy where a run has not come to its end, and what it wrote after its last checkpoint cannot be seen yet; else empty."""
    if not parts_folder(trajectory.path).is_dir():
        return ""
    return (
        "the run is not finished, and its rows and frames appear at checkpoints only: wait, go on with it (spinmd resume), or give "
        "output.checkpoint in the deck"
    )


def _count(number: int, what: str) -> str:
    return f"{number or 'no'} {what}{'' if number == 1 else 's'}"
