"""Going on with a run from its file alone: ``spinmd resume RUN.h5``, or ``spinmd.resume("run.h5")`` in Python.

The checkpoint gives the state in its present order, the integrator's arrays, the neighbour lists as they were built, the
settings in force and the place in the deck; the structure is not made again. What follows is bitwise what the run would
have done had it never stopped (docs/restart.md).
"""

import json
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from spinmd import __version__
from spinmd.building import asked_device, asked_threads, assemble
from spinmd.checkpoint import DAMAGE, open_run, read_checkpoint
from spinmd.deck import Deck, stored_deck
from spinmd.errors import InputError
from spinmd.h5md import read_row_arrays, read_thermo
from spinmd.output import check_output, parts_folder
from spinmd.reporters import COLUMNS
from spinmd.simulation import COUNTERS, Past, Simulation
from spinmd.state import State
from spinmd.toml_source import Place

PLACE_KEYS = ("stage", "first_step", "steps_left", "counters", "folder", "inputs")


def resume(
    path: str | Path,
    steps: int | None = None,
    *,
    device: str | None = None,
    threads: int | None = None,
    force: bool = False,
    folder: str | Path | None = None,
) -> Simulation:
    """A Simulation that goes on with the run of a file, at its last checkpoint; ``run()`` takes the steps.

    steps    that ``run()`` is to take: first what the deck has left, the rest in the last stage; None: what is left
    device   "cpu" or "cuda", which may be another one than before; None: the deck's
    threads  CPU threads; the result does not depend on them
    force    go on although a potential's file has changed since the run began
    folder   where the deck's relative paths start now; default: where they did, or beside the file if it was moved along

    Raises InputError for a file that cannot be resumed; nothing has been written then.
    """
    path = Path(path).expanduser().absolute()
    if steps is not None and (isinstance(steps, bool) or not isinstance(steps, int) or steps < 1):
        raise InputError(f"expected a whole number of further steps, at least 1, got {steps!r}", "--steps")
    if folder is not None and not Path(folder).expanduser().is_dir():
        raise InputError(f"there is no folder {folder}; name the one where the deck's files are now", "--folder")
    try:
        _check_name(path)
        state, aux, history, meta = read_checkpoint(path)
        where, rows = _place(meta, path), _rows(path, state.clock.step)
        arrays = {name: values[: len(rows["step"])] for name, values in read_row_arrays(path).items()}
    except DAMAGE as error:
        raise InputError(f"is damaged and cannot be read ({error})", str(path)) from None
    deck = _deck(meta, where, path, force, None if folder is None else Path(folder).expanduser().absolute())
    _check(deck, where, state, history, path)
    check_output(deck.output, resume=True)
    if meta.get("version") != __version__:
        warnings.warn(
            f"{path.name} was written by spinmd {meta.get('version')}, this is {__version__}: the run goes on, but perhaps not "
            "with the same bits",
            stacklevel=2,
        )
    left = list(where["steps_left"])
    if steps is not None:
        left[-1] += max(steps - sum(left), 0)
    past = Past(
        aux, where["stage"], where["first_step"], left, where["counters"], rows, arrays, limit=steps,
        devices=where.get("devices", []),
    )  # fmt: skip
    return assemble(
        deck,
        state,
        asked_threads(deck, threads),
        device=asked_device(deck, device, resuming=True),
        past=past,
        history=history,
    )


def deck_of_run(path: str | Path, *, force: bool = False, folder: str | Path | None = None) -> Deck:
    """The deck of a run from its file, with the settings in force; nothing is run and no structure is read.

    ``force`` and ``folder`` are those of ``resume``. Raises InputError for another file, and where files of potentials have
    changed.
    """
    path = Path(path).expanduser().absolute()
    try:
        _, _, _, meta = read_checkpoint(path)
        where = _place(meta, path)
    except DAMAGE as error:
        raise InputError(f"is damaged and cannot be read ({error})", str(path)) from None
    return _deck(meta, where, path, force, None if folder is None else Path(folder).expanduser().absolute())


def _check_name(path: Path) -> None:
    """InputError for an unfinished run's file under another name: its data are in a hidden folder that has the old one."""
    with open_run(path) as file:
        segments = json.loads(file["spinmd"].attrs.get("segments", "[]"))
    for segment in segments:
        folder = Path(segment["file"]).parent.name
        if folder != parts_folder(path).name:
            name = folder.removeprefix(".").removesuffix(".parts")
            raise InputError(
                f"was {name} when the run stopped, and its data are in {folder}; give it back that name, which may change "
                "when the run is finished",
                str(path),
            )


def _place(meta: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """What ``Simulation`` kept beside the state; InputError where it is not all there."""
    where = meta.get("extra")
    if meta["checkpoint_version"] < 2 or not isinstance(where, dict) or not all(key in where for key in PLACE_KEYS):
        raise InputError(
            "its checkpoint does not say where in the deck the run stood, so the run cannot go on; start a new one from it with "
            f'[structure] file = "{path.name}"',
            str(path),
        )
    return where


def _deck(meta: Mapping[str, Any], where: Mapping[str, Any], path: Path, force: bool, folder: Path | None) -> Deck:
    """The deck of the run with its output in ``path``, from the first folder in which its files are as they were."""
    folders = [folder] if folder is not None else _folders(where, path)
    errors: list[InputError] = []
    for start in folders:
        try:
            deck = stored_deck(meta["deck"], meta["settings"], start, where.get("deck_name", "deck"))
            if not force:
                _compare(deck.fingerprints(), where["inputs"], where["folder"])
            if deck.output is None:
                raise InputError("its deck has no [output], so it is no file that can go on", str(path))
            return deck.writing(path)
        except InputError as error:
            errors.append(error)
    gone = [name for name in where["inputs"] if not Path(name).exists()]
    if gone and all(error.message.startswith("there is no file") for error in getattr(errors[0], "errors", errors[:1])):
        raise InputError(
            f"{gone[0]} is gone, which the run reads; put it back, or name the folder where the deck's files are now with "
            "--folder",
            str(path),
        )
    raise errors[0]


def _folders(where: Mapping[str, Any], path: Path) -> Iterable[Path]:
    """Where relative paths of the deck may start: where they did, and the same way from the file, if all was moved."""
    old = Path(where["folder"])
    folders = [old]
    if "output" in where and old.is_absolute():
        up = Path(where["output"]).parent
        for steps, parent in enumerate([up, *up.parents]):
            if old.is_relative_to(parent):
                folders.append(path.parents[min(steps, len(path.parents) - 1)] / old.relative_to(parent))
                break
    return dict.fromkeys(folders)


def _compare(now: Mapping[str, str], then: Mapping[str, str], folder: str) -> None:
    """InputError if a file that the run reads differs from what it was; files are compared in the order of the deck."""
    if len(now) == len(then):
        for (name, digest), (_, old) in zip(now.items(), then.items(), strict=True):
            if digest != old:
                raise InputError(
                    f"{name} is not what the run read when it last went on; bring that back, or go on with it as it is with --force"
                )
        return
    raise InputError(f"the run reads other files than when it began in {folder}; go on nevertheless with --force")


def _check(deck: Deck, where: Mapping[str, Any], state: State, history: Mapping | None, path: Path) -> None:
    """InputError where deck and checkpoint cannot be of one run."""
    stages, left = deck.stages(), where["steps_left"]
    whole = all(isinstance(n, int) and n >= 0 for n in (*left, where["stage"], where["first_step"]))
    known = isinstance(where["counters"], dict) and all(name in where["counters"] for name in COUNTERS)
    if not (whole and known and len(left) == len(stages) and where["stage"] < len(stages)) or history is None:
        raise InputError("the checkpoint is damaged: it does not fit its own deck", str(path))
    at: Place = () if where["stage"] == 0 else ("stage", where["stage"] - 1)
    if stages[where["stage"]].integrator is None:
        raise InputError("the deck has no [integrator], which a run needs", deck.place((*at, "integrator")))
    if not np.array_equal(np.sort(state.ids), np.arange(state.natoms)):
        raise InputError("the checkpoint is damaged: its atoms are not numbered from 0", str(path))


def _rows(path: Path, step: int) -> dict[str, np.ndarray]:
    """The thermo rows up to ``step``; InputError where a column is missing."""
    table = read_thermo(path)
    missing = [column.name for column in COLUMNS if column.name not in table]
    if missing:
        raise InputError(f"its thermo table has no column {missing[0]}; it cannot be gone on with", str(path))
    kept = table["step"] <= step
    return {name: values[kept] for name, values in table.items()}
