"""Predictions of potentials for labelled frames, and ``spinmd test``: a model's errors on data."""

import json as json_module
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from spinmd import __version__
from spinmd.errors import InputError
from spinmd.evaluator import Evaluator
from spinmd.learning.parity import plot_parity
from spinmd.potentials.deepspin.accuracy import Predictions, accuracy, table
from spinmd.potentials.deepspin.data import System, read_systems
from spinmd.protocols import Need, Potential

DEEPMD_SUFFIXES = (".dp", ".pth", ".pt", ".pb", ".yaml", ".yml", ".pt2", ".hlo")


def load_potential(path: str | Path) -> Potential:
    """The potential of a DeepSPIN model file; InputError for a file that is missing or of another code."""
    path = Path(path).expanduser()
    if not path.exists():
        raise InputError("there is no such model file", str(path))
    if path.is_dir():
        raise InputError("is a folder; a model file is expected", str(path))
    if path.suffix.lower() in DEEPMD_SUFFIXES:
        raise InputError(
            f"looks like a model of DeePMD-kit; convert it first: spinmd convert {path.name} {path.stem}.h5", str(path)
        )
    from spinmd.potentials.deepspin.potential import DeepSpin

    return DeepSpin(model=path)


def evaluate_systems(
    potentials: str | Path | Potential | Sequence[Potential],
    systems: Sequence[System],
    *,
    moments: Mapping[str, float] | None = None,
    progress: bool = False,
    threads: int | None = None,
) -> list[Predictions]:
    """Energies, forces, fields and (where the potentials have them) virials of all frames, one Predictions per system.

    potentials  a model file, a potential or the terms of a sum
    moments     reference moment of each element (µB) for classical terms, e = S/m; None: the longest spin of the element in
                all systems. A DeepSPIN model does not use them
    progress    a progress bar on the error stream, if that is a terminal

    Raises InputError, with system and frame, for what the potentials refuse.
    """
    if isinstance(potentials, (str, Path)):
        potentials = load_potential(potentials)
    terms = list(potentials) if isinstance(potentials, Sequence) else [potentials]
    evaluator = Evaluator(terms, threads=threads)
    need = evaluator.provides
    by_element = longest_spins(systems) if moments is None else dict(moments)
    bar = tqdm(
        total=sum(system.frames for system in systems),
        desc="evaluating",
        unit=" frames",
        leave=False,
        disable=not (progress and sys.stderr.isatty()),
    )
    with bar:
        return [_predict(evaluator, system, by_element, need, bar) for system in systems]


def longest_spins(systems: Sequence[System]) -> dict[str, float]:
    """µB, the longest spin of each element in all systems."""
    longest: dict[str, float] = {}
    for system in systems:
        lengths = np.linalg.norm(system.spin, axis=2).max(axis=0)
        for symbol, length in zip(system.symbols, lengths.tolist(), strict=True):
            longest[symbol] = max(longest.get(symbol, 0.0), length)
    return longest


def _predict(evaluator: Evaluator, system: System, by_element: dict[str, float], need: Need, bar) -> Predictions:
    symbols = system.symbols
    moments = np.array([by_element.get(symbol, 0.0) for symbol in symbols])
    result = Predictions(
        np.zeros(system.frames),
        np.zeros((system.frames, system.natoms, 3)),
        np.zeros((system.frames, system.natoms, 3)),
        np.zeros((system.frames, 3, 3)) if Need.VIRIAL in need and system.periodic else None,
    )
    for frame in range(system.frames):
        try:
            answer = evaluator(
                system.box[frame], system.coord[frame], symbols, need, spins=system.spin[frame], moments=moments,
                pbc=[system.periodic] * 3,
            )  # fmt: skip
        except InputError as error:
            place = f"{system.name}, frame {frame}" + (f", {error.place}" if error.place else "")
            raise InputError(error.message, place) from error
        result.energy[frame] = answer.energy
        result.force[frame] = answer.forces
        if answer.fields is not None:
            result.field[frame] = answer.fields
        if result.virial is not None:
            result.virial[frame] = answer.virial
        bar.update()
    for name in ("energy", "force", "field"):
        if not np.isfinite(getattr(result, name)).all():
            bad = int(np.argwhere(~np.isfinite(getattr(result, name)))[0][0])
            raise InputError(f"the predicted {name} is not finite", f"{system.name}, frame {bad}")
    return result


def test_model(
    model: str | Path,
    data: str | Path | Sequence[str | Path],
    *,
    json: str | Path | None = None,
    figure: str | Path | None = None,
    progress: bool = False,
    threads: int | None = None,
) -> tuple[dict[str, Any], str]:
    """Errors of a model on data, as a report for JSON (``accuracy``) and as a table for the screen: ``spinmd test``.

    model   a model file;  data  folders, parent folders or patterns
    json    write the report here;  figure  write parity figures here (PNG, PDF, SVG)

    Raises InputError for a model or data that cannot be read, before anything is written.
    """
    for path, place in ((json, "--json"), (figure, "--plot")):
        if path is not None and not Path(path).absolute().parent.is_dir():
            raise InputError(f"there is no folder {Path(path).absolute().parent}; make it first", place)
    potential = load_potential(model)
    systems = read_systems(data)
    predictions = evaluate_systems(potential, systems, progress=progress, threads=threads)
    provenance = potential.model.provenance if hasattr(potential, "model") else {}
    scale = float(provenance.get("field_scale", 1.0))  # labels are this times −∂E/∂S
    for prediction in predictions:
        prediction.field = scale * prediction.field
    report = {"model": str(model), "spinmd": __version__, "field_scale": scale, **accuracy(systems, predictions)}
    if json is not None:
        Path(json).write_text(_json(report), encoding="utf-8")
    if figure is not None:
        plot_parity(systems, predictions, figure, title=Path(model).name)
    text = table(report)
    if scale != 1.0:
        text += (
            f"\nfields are compared after multiplication with the model's field_scale, {scale:.4g}, as in its training"
        )
    return report, text


test_model.__test__ = False  # pytest takes it for a test otherwise


def _json(report: dict[str, Any]) -> str:
    return json_module.dumps(report, indent=2) + "\n"
