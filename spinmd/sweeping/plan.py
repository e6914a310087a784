"""The points of a sweep: the grid of values, the settings of each point, file names, and what the folder already holds.

Everything is checked before anything is written: each point's deck is read, and the first point is built, with each value
of each key in turn. ``sweep.json`` in the folder remembers deck, keys, values and points.
"""

import copy
import itertools
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py

from spinmd.checkpoint import GROUP as CHECKPOINT
from spinmd.checkpoint import open_run
from spinmd.complaints import raise_all
from spinmd.deck import Deck, digests, load_deck
from spinmd.errors import InputError
from spinmd.output import parts_folder
from spinmd.sweeping.values import MOST_POINTS, parse_over, same, shown
from spinmd.toml_source import TomlSource

MANIFEST = "sweep.json"
TABLE = "sweep.h5"
HIDDEN = ".sweep"  # logs of the points' processes, and the lock
VERSION = 1
LONGEST_NAME = 120
# what may differ between the settings of a point and those in its file: results do not depend on it, on the device up to rounding
UNIMPORTANT = ("output.file", "run.threads", "run.device")


@dataclass
class Point:
    """One run: where it stands in the grid (the last index counts seeds), its values, its settings.

    tables       the deck's tables with the point's values and seed
    total        steps of all stages; first: the step at which the last stage begins
    name         of its file in the sweep's folder, without ``.h5``
    """

    index: tuple[int, ...]
    values: dict[str, Any]
    seed: int
    tables: dict[str, Any]
    total: int
    first: int
    name: str = ""


@dataclass
class Plan:
    """A sweep as asked for: ``source`` has the deck with ``--set`` applied; ``decks`` one Deck for each grid point."""

    source: TomlSource
    values: dict[str, list]
    seeds: int
    points: list[Point]
    decks: dict[tuple[int, ...], Deck] = field(default_factory=dict)
    kept: list[dict] = field(default_factory=list)  # points of earlier commands, as in sweep.json
    inputs: dict[str, str] = field(default_factory=dict)  # SHA-256 of the files that the points read, by path

    @property
    def keys(self) -> list[str]:
        return list(self.values)

    @property
    def shape(self) -> tuple[int, ...]:
        return (*(len(values) for values in self.values.values()), self.seeds)

    @property
    def settings(self) -> dict[str, Any]:
        """What all points share, as JSON has it."""
        return common(self.source.tables, self.keys)

    def default_folder(self) -> Path:
        return self.source.folder / f"{Path(self.source.name).stem}-sweep"


def make_plan(
    deck: str | Path | Mapping | Deck,
    over: Mapping[str, Any] | Iterable[str] = (),
    overrides: Iterable[str] | Mapping[str, Any] = (),
    seeds: int = 1,
) -> Plan:
    """The points of a sweep, every one's deck read and found valid. Raises InputError(s) with the places of what is wrong.

    The order is that of nested loops: the first key outermost, seeds innermost.
    """
    if isinstance(seeds, bool) or not isinstance(seeds, int) or not 1 <= seeds <= MOST_POINTS:
        raise InputError(f"expected a whole number of seeds, at least 1, got {seeds!r}", "--seeds")
    source = TomlSource.read(deck.tables, deck.folder) if isinstance(deck, Deck) else TomlSource.read(deck)
    if isinstance(deck, Deck):
        source.text, source.name = deck.text, deck.name
    source.override(overrides)
    values = parse_over(over)
    check_keys(values, source, seeds)
    count = seeds
    for entries in values.values():
        count *= len(entries)
    if count > MOST_POINTS:
        raise InputError(f"the grid has {count} points, and at most {MOST_POINTS} make one sweep", "--over")
    file_of_points(source)
    plan = Plan(source, values, seeds, [])
    errors: dict[str, InputError] = {}
    for index in itertools.product(*(range(len(entries)) for entries in values.values())):
        chosen = {key: values[key][k] for key, k in zip(values, index, strict=True)}
        try:
            plan.decks[index] = read_point(source, chosen)
        except InputError as error:
            errors |= {str(one): one for one in getattr(error, "errors", [error])}
            continue
        plan.points += [seeded(plan.decks[index], index, chosen, k) for k in range(seeds)]
    raise_all(list(errors.values()))
    return plan


def check_keys(values: dict[str, list], source: TomlSource, seeds: int) -> None:
    """InputError for keys that cannot be swept."""
    if not values and seeds == 1:
        raise InputError(
            "give what to vary: --over KEY=VALUES, or --seeds M for runs that differ by their seed", "--over"
        )
    for key in values:
        if key == "output.file" or re.fullmatch(r"stage\.\d+\.output\.file", key):
            raise InputError("a sweep names the files of its runs itself; give its folder with -o", f"--over {key}")
        if key == "run.seed" and seeds > 1:
            raise InputError("run.seed is varied by --over and by --seeds; use one of them", "--over")
        if any(dotted_under(".".join(map(str, place)), key) for place in source.overridden):
            raise InputError("is set by --set, too; give it once", f"--over {key}")


def dotted_under(key: str, top: str) -> bool:
    return key == top or key.startswith(top + ".")


def file_of_points(source: TomlSource) -> None:
    """Put a stand-in for each run's own file into [output]; a stage that repeats the deck's file says nothing new."""
    output = source.tables.setdefault("output", {})
    if not isinstance(output, dict):
        return
    stages = source.tables.get("stage", [])
    for stage in stages if isinstance(stages, list) else ():
        table = stage.get("output") if isinstance(stage, dict) else None
        if isinstance(table, dict) and table.get("file") == output.get("file"):
            table.pop("file", None)
    output["file"] = "sweep.h5"


def read_point(source: TomlSource, chosen: Mapping[str, Any]) -> Deck:
    """The deck of a point; InputError for one that cannot run."""
    own = source.copy()
    own.override(chosen, "--over")
    deck = load_deck(own)
    if deck.run is None:
        raise InputError("the deck has no [run]; give the number of steps, for example run = { steps = 1000 }", "run")
    if deck.integrator is None:
        raise InputError("the deck has no [integrator], which a run needs", "integrator")
    return deck


def seeded(deck: Deck, index: tuple[int, ...], chosen: dict[str, Any], k: int) -> Point:
    """The point with the k-th seed: run.seed + k, also in stages with a seed of their own."""
    tables = copy.deepcopy(deck.tables)
    tables["run"]["seed"] = deck.seed + k
    for stage in tables.get("stage", []):
        if "seed" in stage.get("run", {}):
            stage["run"]["seed"] += k
    steps = [stage.run.steps for stage in deck.stages()]
    return Point((*index, k), chosen, deck.seed + k, tables, sum(steps), sum(steps[:-1]))


def check_builds(plan: Plan, stop: Callable[[], bool] | None = None) -> None:
    """Build the first point with each value of each key in turn, for what reading a deck does not show. Writes nothing.

    A GPU need not be here: the points may run on other machines.
    """
    from spinmd.building import build

    errors: dict[str, InputError] = {}
    first = next(iter(plan.decks))
    for index, deck in plan.decks.items():
        if stop is not None and stop():
            return
        other = {key: k for key, k, own in zip(plan.keys, index, first, strict=True) if k != own}
        if len(other) > 1:
            continue
        try:
            build(deck, threads=1, output=False, here=False)
        except InputError as error:
            which = "".join(f" (with {key} = {shown(plan.values[key][k])})" for key, k in other.items())
            for one in getattr(error, "errors", [error]):
                errors[str(one)] = InputError(one.message + which, one.place)
    raise_all(list(errors.values()))


# ---------------------------------------------------------------------------------------------- settings


def common(tables: Mapping[str, Any], keys: Iterable[str]) -> dict[str, Any]:
    """A JSON copy of ``tables`` without what points differ in and what does not matter; run.seed written out."""
    result = json.loads(json.dumps(tables, default=str))
    result.setdefault("run", {}).setdefault("seed", 1)
    for key in (*keys, *UNIMPORTANT):
        here: Any = result
        *path, last = key.split(".")
        for part in path:
            here = _entry(here, part)
        if isinstance(here, dict):
            here.pop(last, None)
        elif _entry(here, last) is not None:
            here[int(last)] = None
    return result


def _entry(value: Any, part: str) -> Any:
    if isinstance(value, dict):
        return value.get(part)
    return value[int(part)] if isinstance(value, list) and part.isdigit() and int(part) < len(value) else None


def first_difference(one: Any, other: Any, place: str = "") -> str:
    """The first key at which nested tables differ, dotted; empty if they are equal. 1 and 1.0 are equal."""
    if isinstance(one, dict) and isinstance(other, dict):
        pairs = [(str(k), one.get(k), other.get(k)) for k in dict.fromkeys([*one, *other])]
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        pairs = [(str(k), a, b) for k, (a, b) in enumerate(zip(one, other, strict=True))]
    else:
        return "" if same(one) == same(other) else place
    for key, a, b in pairs:
        found = first_difference(a, b, f"{place}.{key}" if place else key)
        if found:
            return found
    return ""


# ---------------------------------------------------------------------------------------------- the folder


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """What an earlier command left in the folder; None for a folder that is new or empty. Raises InputError."""
    if not folder.exists():
        if not folder.parent.is_dir():
            raise InputError(f"the folder {folder.parent} does not exist; make it first", "--output")
        folder = folder.parent
        if not os.access(folder, os.W_OK | os.X_OK):
            raise InputError(f"no permission to write in the folder {folder}; choose another one with -o", "--output")
        return None
    if not folder.is_dir():
        raise InputError(f"{folder} is a file, a folder is expected; choose another name with -o", "--output")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(f"no permission to write in the folder {folder}; choose another one with -o", "--output")
    path = folder / MANIFEST
    if not path.exists():
        if any(entry.name != HIDDEN for entry in folder.iterdir()):
            raise InputError(f"{folder} exists and holds no sweep; choose another folder with -o", "--output")
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        version = found["spinmd_sweep"]
        if version == VERSION:
            known = [found["deck"]["settings"], found["values"].items(), found["seeds"] + 0]
            known += [(p["name"] + "", [int(k) for k in p["index"]], p["total"] + p["first"]) for p in found["points"]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise InputError("is damaged or not what a sweep wrote; choose another folder with -o", str(path)) from None
    if version != VERSION:
        raise InputError(f"has version {version}, written by a newer spinmd; update spinmd to go on with it", str(path))
    return found


def adopt(plan: Plan, found: dict[str, Any] | None, folder: Path) -> None:
    """Give all points names and, with an earlier sweep in the folder, their places in the grid of both together.

    Values of the earlier sweep come first, new ones are appended. Raises InputError if it was another sweep.
    """
    plan.inputs = digests(_files(plan.decks.values()))
    if found is not None:
        _check_same(plan, found, folder)
        plan.inputs = found.get("inputs", {}) | plan.inputs
        values = {key: list(entries) for key, entries in found["values"].items()}
        for key in values:
            known = {same(value) for value in values[key]}
            values[key] += [value for value in plan.values[key] if same(value) not in known]
        plan.values, plan.seeds = values, max(plan.seeds, found["seeds"])
    place = {key: {same(value): k for k, value in enumerate(entries)} for key, entries in plan.values.items()}
    decks = {}
    for point in plan.points:
        grid = tuple(place[key][same(point.values[key])] for key in plan.values)
        decks[grid] = plan.decks[tuple(point.index[:-1])] if point.index[-1] == 0 else decks[grid]
        point.index = (*grid, point.index[-1])
    plan.decks = decks
    names = {} if found is None else {tuple(entry["index"]): entry["name"] for entry in found["points"]}
    taken = {name.lower() for name in names.values()}
    labels = key_labels(plan.keys)
    for point in plan.points:
        if point.index not in names:
            names[point.index] = _free_name(point_name(point, labels), taken)
        point.name = names[point.index]
    own = {point.index for point in plan.points}
    plan.kept = [] if found is None else [entry for entry in found["points"] if tuple(entry["index"]) not in own]


def _check_same(plan: Plan, found: dict[str, Any], folder: Path) -> None:
    way_out = "give another folder with -o, or replace that sweep with --force"
    if set(found["values"]) != set(plan.values):
        over = ", ".join(found["values"]) or "seeds only"
        raise InputError(f"{folder} holds a sweep over {over}; {way_out}", "--over")
    plan.values = {key: plan.values[key] for key in found["values"]}
    key = first_difference(plan.settings, found["deck"]["settings"])
    if key:
        raise InputError(
            f"{key} differs from what the sweep in {folder} has; {way_out}", plan.source.place(_place(key))
        )
    for name, digest in plan.inputs.items():
        if found.get("inputs", {}).get(name, digest) != digest:
            raise InputError(
                f"{name} has changed since the sweep in {folder} began; bring back what it was, or {way_out}"
            )


def _files(decks: Iterable[Deck]) -> list[Path]:
    """What the decks read: structures, potentials, models, plug-ins; each once."""
    paths: dict[Path, None] = {}
    for deck in decks:
        paths |= dict.fromkeys([*([deck.structure.file] if deck.structure.file else []), *deck.files_of_potentials()])
    return list(paths)


def _place(key: str) -> tuple[str | int, ...]:
    return tuple(int(part) if part.isdigit() else part for part in key.split("."))


def key_labels(keys: list[str]) -> dict[str, str]:
    """The shortest end of each key that is unique and begins with a word: integrator.timestep -> timestep."""
    labels = {}
    for key in keys:
        parts = key.split(".")
        for length in range(1, len(parts) + 1):
            label = ".".join(parts[-length:])
            alone = sum(dotted_under(other[::-1], label[::-1]) for other in keys) == 1
            if alone and not parts[-length].isdigit():
                break
        labels[key] = label
    return labels


def point_name(point: Point, labels: Mapping[str, str]) -> str:
    """temperature=100_seed=1: safe characters only."""
    parts = [f"{label}={shown(point.values[key])}" for key, label in labels.items()]
    if "run.seed" not in point.values:
        parts.append(f"seed={point.seed}")
    return "_".join(re.sub(r"[^\w.,=+-]+", "-", part, flags=re.ASCII).strip("-") for part in parts)[:LONGEST_NAME]


def _free_name(name: str, taken: set[str]) -> str:
    free, number = name, 1
    while free.lower() in taken:  # also on file systems that do not tell A from a
        number += 1
        free = f"{name}-{number}"
    taken.add(free.lower())
    return free


def manifest(plan: Plan) -> dict[str, Any]:
    """The content of ``sweep.json``."""
    source = plan.source
    deck = {"name": source.name, "folder": str(source.folder), "text": source.text, "settings": plan.settings}
    points = [
        {"name": p.name, "index": list(p.index), "seed": p.seed, "values": p.values, "total": p.total, "first": p.first}
        for p in plan.points
    ]
    points = sorted([*points, *plan.kept], key=lambda entry: entry["index"])
    parts = {"deck": deck, "inputs": plan.inputs, "values": plan.values, "seeds": plan.seeds, "points": points}
    return {"spinmd_sweep": VERSION, **parts}


def remove_sweep(folder: Path, found: dict[str, Any] | None) -> None:
    """Remove the files of an earlier sweep (``--force``), and nothing else."""
    for entry in [] if found is None else found["points"]:
        path = run_file(folder, entry["name"])
        path.unlink(missing_ok=True)
        shutil.rmtree(parts_folder(path), ignore_errors=True)
    for name in (TABLE, MANIFEST):
        (folder / name).unlink(missing_ok=True)


def run_file(folder: Path, name: str) -> Path:
    """The file of a point's run."""
    return folder / f"{name}.h5"


def progress_of(path: Path, tables: Mapping[str, Any] | None, total: int) -> tuple[str, int]:
    """("finished" | "unfinished" | "missing", the step of its last checkpoint), from the run's own file.

    Finished is a whole file whose checkpoint is at the last step. A file that cannot be read counts as missing: its point
    starts anew. Raises InputError for the file of a run with other settings than ``tables`` (None: they are not compared).
    """
    if not path.exists():
        return "missing", 0
    try:
        with open_run(path) as file:
            step = int(file[CHECKPOINT].attrs["step"])
            whole = isinstance(file.get(CHECKPOINT, getlink=True), h5py.HardLink)
            settings = json.loads(file["spinmd/deck/settings"].asstr()[()])
    except (InputError, OSError, KeyError, ValueError, RuntimeError):
        return "missing", 0
    key = "" if tables is None else first_difference(common(settings, ()), common(tables, ()))
    if key:
        raise InputError(
            f"is not a run of this sweep, {key} differs; move it away, or replace the sweep with --force", str(path)
        )
    return ("finished" if whole and step >= total else "unfinished"), step
