"""Fit of a prior to labelled frames: weighted linear least squares with a ridge, which held-out frames choose.

    minimise  Σ_frames w² [ N (ΔE/N)²/σ_E² + Σ ΔF²/σ_F² + Σ ΔH²/σ_H² (+ Σ ΔW²/(N σ_W)²) ] + ridge Σ (θ_k |column_k|)²

over the coefficients θ and one energy per atom of each element (the shift). ΔE is in eV, ΔF in eV/Å; H = −∂E/∂S in
eV/µB, of magnetic atoms. w = 1/√(1 + (rms force/robust)²) gives less weight to frames far from equilibrium. Labels
H = λ (−∂E/∂S) with an unknown constant λ are possible (``field_scale``), and so is a fit to the part of H across S only
(``transverse_only``). Normal equations are summed in blocks: memory does not grow with the number of frames.
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from scipy import linalg, optimize
from tqdm import tqdm

from spinmd.errors import InputError
from spinmd.potentials.deepspin.field_labels import check_field_labels
from spinmd.potentials.deepspin.prior import DEFAULTS, Prior
from spinmd.potentials.deepspin.prior_design import core, design, find_pairs, predict

__all__ = ["FitResult", "Weights", "core", "design", "errors_of", "fit_prior", "predict", "training_settings"]

log = logging.getLogger(__name__)

RIDGES = (1e-11, 1e-10, 1e-9, 1e-8, 1e-7, 1e-6)
SCALES = (0.5, 2.0)  # between which a constant factor of the field labels is looked for
BUFFER = 24_000_000  # numbers in the block of rows whose products are summed at once
MOST_HELD_OUT = 100_000_000  # numbers kept of held-out frames


@dataclass(frozen=True)
class Weights:
    """What counts as a deviation of one: energy eV/atom, force eV/Å, field eV/µB, virial eV/atom; robust eV/Å or None."""

    energy: float = 0.3e-3
    force: float = 20e-3
    field: float = 5e-3
    virial: float = 5e-3
    robust: float | None = 0.5


@dataclass
class FitResult:
    """prior;  shift (n,) eV per element;  field_scale λ;  report: errors and settings of the fit, plain numbers."""

    prior: Prior
    shift: np.ndarray
    field_scale: float
    report: dict[str, Any] = field(default_factory=dict)

    def __iter__(self):
        """So that ``prior, shift, report = fit_prior(...)`` works."""
        return iter((self.prior, self.shift, self.report))


def sigmas(systems: Sequence[Any], robust: float | None) -> Weights:
    """Errors that a fit should reach: the usual ones, or a fifth of what the labels themselves vary by where that is less (frames
    close to a perfect crystal)."""
    usual = Weights(robust=robust or None)
    per_atom = np.concatenate([(s.energy - s.energy.mean()) / len(s.types) for s in systems])
    spread = {
        "energy": float(np.sqrt((per_atom**2).mean())),
        "force": float(np.sqrt(np.mean([(s.force**2).mean() for s in systems]))),
        "field": float(np.sqrt(np.mean([(s.field**2).mean() for s in systems]))),
    }
    return replace(
        usual, **{k: min(getattr(usual, k), max(0.2 * v, 0.05 * getattr(usual, k))) for k, v in spread.items()}
    )


def training_settings(systems: Sequence[Any], **overrides) -> dict[str, Any]:
    """Settings of a prior for these systems: elements, magnetic, rms |S| (µB), shortest distances (Å), and ``overrides``.

    A pair of elements that never comes within the cutoff gets the shortest distance of all. Raises InputError for
    unknown elements and for systems without atoms.
    """
    from ase.data import atomic_numbers

    if not systems:
        raise InputError("a fit needs at least one system", "systems")
    elements = list(overrides.get("elements") or dict.fromkeys(s for system in systems for s in system.elements))
    for symbol in elements:
        if symbol not in atomic_numbers:
            raise InputError(f"there is no element {symbol!r}; use chemical symbols in type_map.raw", "elements")
    n, cutoff = len(elements), float(overrides.get("cutoff", DEFAULTS["cutoff"]))
    squares, counts = np.zeros(n), np.zeros(n)
    shortest = np.full((n, n), np.inf)
    for system in systems:
        types = element_types(system, elements)
        lengths = np.einsum("fia,fia->fi", system.spin, system.spin)
        np.add.at(squares, types, lengths.sum(axis=0))
        np.add.at(counts, types, np.count_nonzero(lengths, axis=0))
        for box, coord in zip(system.box, system.coord, strict=True):
            first, second, d = find_pairs(coord, box, cutoff, getattr(system, "periodic", True))
            r = np.linalg.norm(d, axis=1)
            np.minimum.at(shortest, (types[first], types[second]), r)
    if not np.isfinite(shortest).any():
        raise InputError(f"no two atoms of the training data are within {cutoff:g} Å; choose a larger cutoff", "cutoff")
    shortest = np.where(np.isfinite(shortest), shortest, shortest[np.isfinite(shortest)].min())
    moments = np.sqrt(squares / np.maximum(counts, 1))
    found = {
        "elements": elements,
        "magnetic": (moments > 0.0).tolist(),
        "reference_moment": np.where(moments > 0.0, moments, 1.0).tolist(),
        "atomic_numbers": [int(atomic_numbers[symbol]) for symbol in elements],
        "shortest": np.minimum(shortest, shortest.T).tolist(),
    }
    return {**found, **overrides}


def element_types(system, elements: Sequence[str]) -> np.ndarray:
    """(N,) indices of the system's atoms into ``elements``; InputError for an element that is not among them."""
    missing = [symbol for symbol in system.elements if symbol not in elements]
    used = {system.elements[t] for t in system.types}
    for symbol in missing:
        if symbol in used:
            raise InputError(
                f"the prior has no {symbol}, only {', '.join(elements)}", getattr(system, "name", "system")
            )
    index = np.array([elements.index(s) if s in elements else -1 for s in system.elements])
    return index[np.asarray(system.types, dtype=np.int64)]


class _Frames:
    """Labels of all frames of all systems, without core and a first guess of the shift; rows on demand."""

    def __init__(self, prior: Prior, systems, weights: Weights, transverse_only: bool):
        self.prior, self.systems, self.weights, self.transverse_only = prior, systems, weights, transverse_only
        n = len(prior.elements)
        self.types = [element_types(system, prior.elements) for system in systems]
        self.counts = np.array([np.bincount(t, minlength=n) for t in self.types], dtype=np.float64)
        self.index = [(s, f) for s, system in enumerate(systems) for f in range(len(system.energy))]
        compositions = self.counts[[s for s, _ in self.index]]
        energies = np.concatenate([np.asarray(system.energy, dtype=np.float64) for system in systems])
        self.guess = np.linalg.lstsq(compositions, energies, rcond=None)[0]

    def weight(self, s: int, f: int) -> float:
        """w of a frame."""
        robust = self.weights.robust
        if not robust:
            return 1.0
        rms2 = float((self.systems[s].force[f] ** 2).mean()) * 3.0
        return 1.0 / np.sqrt(1.0 + rms2 / robust**2)

    def columns(self, s: int, f: int) -> tuple[np.ndarray, np.ndarray]:
        """(count + n + 1, m) of energy, forces and virial and of the field: each column one equation, over its σ and
        times w; the last row is the label."""
        prior, system, types = self.prior, self.systems[s], self.types[s]
        natoms, n, weights = len(types), len(prior.elements), self.weights
        labels = getattr(system, "virial", None)
        geometry = (types, system.box[f], system.coord[f])
        periodic = getattr(system, "periodic", True)
        rows = design(prior, *geometry, system.spin[f], virial=labels is not None, periodic=periodic)
        core_energy, core_forces, core_virial = core(prior, *geometry, periodic=periodic)
        w = self.weight(s, f)
        main = np.zeros((prior.count + n + 1, 1 + 3 * natoms + (9 if labels is not None else 0)))
        by_energy, by_force = w / (weights.energy * np.sqrt(natoms)), w / weights.force
        main[:-1, 0] = np.concatenate([rows.energy, self.counts[s]]) * by_energy
        main[-1, 0] = (system.energy[f] - core_energy - self.guess @ self.counts[s]) * by_energy
        np.multiply(rows.positions, -by_force, out=main[: prior.count, 1 : 1 + 3 * natoms])
        main[-1, 1 : 1 + 3 * natoms] = (system.force[f] - core_forces).ravel() * by_force
        if labels is not None:
            by_virial = w / (weights.virial * natoms)
            main[: prior.count, 1 + 3 * natoms :] = rows.virial * by_virial
            main[-1, 1 + 3 * natoms :] = (np.asarray(labels[f]).reshape(3, 3) - core_virial).ravel() * by_virial
        magnetic = np.flatnonzero(prior.magnetic[types] & (system.spin[f] != 0.0).any(axis=1))
        field_rows = np.concatenate([-rows.spins, np.zeros((n, 3 * natoms)), system.field[f].reshape(1, -1)])
        field_rows = field_rows.reshape(-1, natoms, 3)[:, magnetic] * (w / weights.field)
        if self.transverse_only:
            along = system.spin[f][magnetic]
            along = along / np.linalg.norm(along, axis=1)[:, None]
            field_rows = field_rows - np.einsum("kia,ia->ki", field_rows, along)[:, :, None] * along
        return main, field_rows.reshape(len(main), -1)


class _Gram:
    """Σ of products of columns, a block of them at a time."""

    def __init__(self, size: int):
        self.matrix = np.zeros((size, size), order="F")
        self._room = max(512, BUFFER // size)
        self._block = np.empty((size, self._room), order="F")
        self._used = 0

    def add(self, columns: np.ndarray) -> None:
        if self._used + columns.shape[1] > self._room:
            self.flush()
        if columns.shape[1] > self._room:
            self._multiply(np.asfortranarray(columns))
            return
        self._block[:, self._used : self._used + columns.shape[1]] = columns
        self._used += columns.shape[1]

    def flush(self) -> None:
        if self._used:
            self._multiply(self._block[:, : self._used])
            self._used = 0

    def _multiply(self, block) -> None:
        self.matrix = linalg.blas.dsyrk(1.0, block, beta=1.0, c=self.matrix, overwrite_c=1, lower=1)

    def full(self) -> np.ndarray:
        """The symmetric matrix."""
        self.flush()
        return np.tril(self.matrix) + np.tril(self.matrix, -1).T


def _scaled(main: np.ndarray, fields: np.ndarray, scale: float) -> np.ndarray:
    """The products of all equations when the field labels are ``scale`` times −∂E/∂S."""
    total = main + fields
    total[:-1, :-1] = main[:-1, :-1] + scale**2 * fields[:-1, :-1]
    total[:-1, -1] = total[-1, :-1] = main[:-1, -1] + scale * fields[:-1, -1]
    return total


def _solve(gram: np.ndarray, ridge: float) -> tuple[np.ndarray, float]:
    """θ and the remaining Σ of squares. A ridge that is too small for the arithmetic is raised tenfold until it does."""
    diagonal = np.diag(gram)[:-1]
    scale = np.where(diagonal > 0.0, 1.0 / np.sqrt(np.where(diagonal > 0.0, diagonal, 1.0)), 0.0)
    matrix = gram[:-1, :-1] * scale[:, None] * scale
    right = gram[:-1, -1] * scale
    while True:
        damped = matrix.copy()
        damped[np.diag_indices_from(damped)] += np.where(scale > 0.0, ridge, 1.0)
        try:
            y = linalg.cho_solve(linalg.cho_factor(damped, overwrite_a=True), right)
            break
        except linalg.LinAlgError:
            ridge *= 10.0
    return y * scale, float(gram[-1, -1] - 2.0 * right @ y + y @ (matrix @ y))


def _fit_scale(main: np.ndarray, fields: np.ndarray, ridge: float) -> float:
    """λ that leaves the smallest sum of squares."""
    found = optimize.minimize_scalar(
        lambda scale: _solve(_scaled(main, fields, scale), ridge)[1],
        bounds=SCALES,
        method="bounded",
        options={"xatol": 1e-4},
    )
    return float(found.x)


def fit_prior(
    settings: dict[str, Any] | None,
    systems: Sequence[Any],
    weights: Weights | None = None,
    *,
    ridges: Sequence[float] = RIDGES,
    held_out: float = 0.2,
    field_scale: float | str = 1.0,
    transverse_only: bool = False,
    progress: bool = True,
) -> FitResult:
    """The prior that fits the labels of ``systems`` best.

    settings         those of a Prior that should differ from ``training_settings(systems)`` and DEFAULTS
    systems          objects with elements, types, box, coord, spin, energy, force, field and virial (or None), as
                     ``potentials.deepspin.data.System``
    ridges           the one with the smallest error of the held-out frames is used, then all frames are fitted; one
                     ridge alone is used as it is
    held_out         fraction of the frames of each system that choose the ridge (evenly spread); 0 takes the first ridge
    field_scale      λ of the field labels, or "fit"
    transverse_only  fit the part of the field across S only

    Raises InputError for settings, systems or options that make no sense; warns of field labels of another unit or sign.
    """
    weights = weights or Weights()
    if isinstance(field_scale, str) and field_scale != "fit":
        raise InputError(f'expected a number or "fit", got {field_scale!r}', "field_scale")
    if not 0.0 <= held_out <= 0.5:
        raise InputError(f"must lie between 0 and 0.5, got {held_out}", "held_out")
    if not ridges or min(ridges) <= 0.0:
        raise InputError("give one or more positive numbers", "ridges")
    began = time.perf_counter()
    overrides = dict(settings or {})
    complete = {"elements", "magnetic", "reference_moment", "shortest", "atomic_numbers"} <= set(overrides)
    prior = Prior(overrides if complete else training_settings(systems, **overrides))
    frames = _Frames(prior, systems, weights, transverse_only)
    kept = _held_out(frames, held_out)
    size = prior.count + len(prior.elements) + 1
    grams = _Gram(size), _Gram(size)
    test: list[tuple[tuple[int, int], np.ndarray, np.ndarray]] = []
    for s, f in tqdm(frames.index, desc="prior", unit="frame", disable=not progress, leave=False):
        columns = frames.columns(s, f)
        if (s, f) in kept:
            test.append(((s, f), *columns))
        else:
            for gram, part in zip(grams, columns, strict=True):
                gram.add(part)
    main, fields = (gram.full() for gram in grams)
    scale = _fit_scale(main, fields, float(np.median(ridges))) if field_scale == "fit" else float(field_scale)
    report: dict[str, Any] = {"frames": len(frames.index), "held_out": len(test), "coefficients": prior.count}
    ridge, theta = float(ridges[0]), None
    if test:
        total = _scaled(main, fields, scale)
        thetas = [_solve(total, ridge)[0] for ridge in ridges]
        scores = [_score(test, theta, scale) for theta in thetas]
        best = int(np.argmin(scores))
        ridge, theta = float(ridges[best]), thetas[best]
        report["ridges"] = {f"{r:g}": float(x) for r, x in zip(ridges, scores, strict=True)}
        report["held_out_errors"] = _errors(frames, test, theta, scale)
        for _, *columns in test:
            for gram, part in zip(grams, columns, strict=True):
                gram.add(part)
        main, fields = (gram.full() for gram in grams)
        if field_scale == "fit":
            scale = _fit_scale(main, fields, ridge)
    theta, remaining = _solve(_scaled(main, fields, scale), ridge)
    if fields[-1, -1] > 0.0:
        least = max(ridge, 1e-8)
        report["field_label_factor"] = check_field_labels(lambda x: _solve(_scaled(main, fields, x), least)[1], scale)
    report.update(
        ridge=ridge, field_scale=scale, transverse_only=transverse_only, weights=asdict(weights),
        weighted_rest=remaining, seconds=time.perf_counter() - began,
    )  # fmt: skip
    log.info(
        "prior of %d coefficients fitted to %d frames in %.1f s", prior.count, len(frames.index), report["seconds"]
    )
    return FitResult(prior.with_coefficients(theta[: prior.count]), frames.guess + theta[prior.count :], scale, report)


def _held_out(frames: _Frames, fraction: float) -> set[tuple[int, int]]:
    """Evenly spread frames of each system, few enough to keep their equations."""
    if fraction == 0.0:
        return set()
    period = max(2, round(1.0 / fraction))
    chosen = [(s, f) for s, f in frames.index if f % period == period - 1]
    if not chosen:
        chosen = frames.index[period - 1 :: period]
    size = sum(frames.prior.count * (6 * len(frames.types[s]) + 10) for s, _ in chosen)
    return set(chosen[:: max(1, -(-size // MOST_HELD_OUT))])


def _score(test, theta: np.ndarray, scale: float) -> float:
    """Root of the mean over energy, forces and fields of their mean squares (over σ², times w²)."""
    sums, counts = np.zeros(3), np.zeros(3)
    for _, main, fields in test:
        rest = main[-1] - theta @ main[:-1]
        parts = rest[:1], rest[1:], fields[-1] - scale * (theta @ fields[:-1])
        for k, part in enumerate(parts):
            sums[k] += part @ part
            counts[k] += part.size
    used = counts > 0
    return float(np.sqrt((sums[used] / counts[used]).mean()))


def _errors(frames: _Frames, test, theta: np.ndarray, scale: float) -> dict[str, dict[str, float]]:
    """RMSE of each system's frames: meV/atom (also after an offset), meV/Å, meV/µB."""
    found: dict[int, list[list[np.ndarray]]] = {}
    for (s, f), main, fields in test:
        natoms, w = len(frames.types[s]), frames.weight(s, f)
        rest = main[-1] - theta @ main[:-1]
        parts = [
            rest[:1] * frames.weights.energy * np.sqrt(natoms) / (w * natoms),
            rest[1 : 1 + 3 * natoms] * frames.weights.force / w,
            (fields[-1] - scale * (theta @ fields[:-1])) * frames.weights.field / w,
        ]
        found.setdefault(s, []).append(parts)
    result = {}
    for s, parts in found.items():
        energy, force, spin = (np.concatenate([part[k] for part in parts]) * 1000.0 for k in range(3))
        result[_unique(getattr(frames.systems[s], "name", f"system {s}"), result)] = {
            "frames": len(parts),
            "energy_rmse_mev_per_atom": float(np.sqrt((energy**2).mean())),
            "energy_rmse_after_offset_mev_per_atom": float(energy.std()),
            "force_rmse_mev_per_ang": float(np.sqrt((force**2).mean())),
            "field_rmse_mev_per_mub": float(np.sqrt((spin**2).mean())) if spin.size else 0.0,
        }
    return result


def _unique(name: str, taken) -> str:
    count = 1 + sum(1 for other in taken if other == name or other.startswith(name + "#"))
    return name if count == 1 else f"{name}#{count}"


def errors_of(
    prior: Prior, shift, systems: Sequence[Any], *, field_scale: float = 1.0, transverse_only: bool = False
) -> dict[str, dict[str, float]]:
    """RMSE of a fitted prior on other systems, in the form of ``report["held_out_errors"]``."""
    frames = _Frames(prior, systems, Weights(robust=None), transverse_only)
    theta = np.concatenate([prior.coefficients, np.asarray(shift, dtype=np.float64) - frames.guess])
    return _errors(frames, [((s, f), *frames.columns(s, f)) for s, f in frames.index], theta, field_scale)
