"""How far predictions are from labels: RMSE and MAE per system and in total; numpy only.

    energy             (E − E_label)/N, meV/atom; also after one constant offset per system, and after one for all frames
    force              components of F − F_label, meV/Å, all atoms
    field              components of −∂E/∂S, meV/µB, atoms of magnetic elements only
    field_transverse   components of the part of that difference perpendicular to S, meV/µB, atoms with a spin
    torque             components of S × (field − label), meV, atoms with a spin
    virial             components of (W − W_label)/N, meV/atom, where there are labels

RMSE and MAE of vectors are over components, so that with all spins present the squares of the transverse and of the
longitudinal RMSE add up to that of the field. ``label`` is the rms of the labels themselves (of energies and virials: about
their mean in the system): what a prediction of zero, or of the mean, has as its error.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

UNITS = {
    "energy": "mev_per_atom",
    "force": "mev_per_ang",
    "field": "mev_per_mub",
    "field_transverse": "mev_per_mub",
    "torque": "mev",
    "virial": "mev_per_atom",
}
TITLES = {
    "energy": ("energy", "meV/atom"),
    "energy_offset_per_system": ("energy, offset per system", "meV/atom"),
    "energy_one_offset": ("energy, one offset", "meV/atom"),
    "force": ("force", "meV/Å"),
    "field": ("field", "meV/µB"),
    "field_transverse": ("transverse field", "meV/µB"),
    "torque": ("torque", "meV"),
    "virial": ("virial", "meV/atom"),
}


@dataclass
class Predictions:
    """What a potential says of the frames of one system: energy (F,) eV; force (F, N, 3) eV/Å; field (F, N, 3) eV/µB;
    virial (F, 3, 3) eV, or None."""

    energy: np.ndarray
    force: np.ndarray
    field: np.ndarray
    virial: np.ndarray | None = None


def transverse(vectors: np.ndarray, spins: np.ndarray) -> np.ndarray:
    """The parts of ``vectors`` (..., 3) perpendicular to ``spins`` (..., 3) of non-zero length."""
    along = spins / np.linalg.norm(spins, axis=-1, keepdims=True)
    return vectors - np.einsum("...a,...a->...", vectors, along)[..., None] * along


def quantities(system, values) -> dict[str, np.ndarray]:
    """Flat arrays of everything that is compared (meV), from a System or from Predictions of its frames.

    energy (F,) meV/atom;  force, field, field_transverse, torque: components;  virial: components, where ``values`` has one.
    """
    result = {"energy": 1e3 * values.energy / system.natoms, "force": 1e3 * values.force.reshape(-1)}
    field, spin = 1e3 * values.field[:, system.magnetic], system.spin[:, system.magnetic]
    present = (spin != 0.0).any(axis=2)
    result["field"] = field.reshape(-1)
    result["field_transverse"] = transverse(field[present], spin[present]).reshape(-1)
    result["torque"] = np.cross(spin[present], field[present]).reshape(-1)
    if values.virial is not None:
        result["virial"] = 1e3 * values.virial.reshape(-1) / system.natoms
    return result


def accuracy(systems: Sequence, predictions: Sequence[Predictions]) -> dict:
    """The report: errors in total under keys such as ``force_rmse_mev_per_ang``, and of each system under ``systems``.

    ``X_rmse_U``, ``X_mae_U`` and ``X_label_rms_U`` for every X of the module's docstring, U its unit;
    ``energy_offset_per_system_*`` and ``energy_one_offset_*`` after the mean of the error, of each system and of all frames, is
    subtracted. ``elements`` has the force and field errors of the atoms of each element (fields of magnetic ones). None where
    nothing could be compared. Plain numbers, ready for JSON.
    """
    compared = [_compare(system, values) for system, values in zip(systems, predictions, strict=True)]
    report = {"frames": sum(system.frames for system in systems), "atoms": [system.natoms for system in systems]}
    report |= _errors(compared)
    report["elements"] = _by_element(systems, predictions)
    report["systems"] = [
        {"name": s.name, "frames": s.frames, "natoms": s.natoms, **_errors([one])}
        for s, one in zip(systems, compared, strict=True)
    ]
    return report


def _by_element(systems: Sequence, predictions: Sequence[Predictions]) -> dict[str, dict[str, float | None]]:
    """RMSE and label rms of forces and fields over the atoms of each element, in the order in which elements are met."""
    parts: dict[str, dict[str, list[tuple[np.ndarray, np.ndarray]]]] = {}
    for system, values in zip(systems, predictions, strict=True):
        for t in dict.fromkeys(system.types.tolist()):
            own = system.types == t
            found = parts.setdefault(system.elements[t], {"force": [], "field": []})
            found["force"].append((values.force[:, own] - system.force[:, own], system.force[:, own]))
            own = own & system.magnetic
            found["field"].append((values.field[:, own] - system.field[:, own], system.field[:, own]))
    report = {}
    for symbol, found in parts.items():
        report[symbol] = {}
        for name, pairs in found.items():
            errors, labels = (1e3 * np.concatenate([pair[k].reshape(-1) for pair in pairs]) for k in range(2))
            report[symbol][f"{name}_rmse_{UNITS[name]}"] = _rms(errors)
            report[symbol][f"{name}_label_rms_{UNITS[name]}"] = _rms(labels)
    return report


def _compare(system, values: Predictions) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """name -> (predictions − labels, labels about their mean where only differences mean something)."""
    labels, own = quantities(system, system), quantities(system, values)
    result = {name: (own[name] - labels[name], labels[name]) for name in labels if name in own}
    result["energy"] = (result["energy"][0], labels["energy"] - labels["energy"].mean())
    if "virial" in result:
        frames = labels["virial"].reshape(system.frames, 9)
        result["virial"] = (result["virial"][0], (frames - frames.mean(axis=0)).reshape(-1))
    return result


def _errors(compared: list[dict[str, tuple[np.ndarray, np.ndarray]]]) -> dict[str, float | None]:
    report: dict[str, float | None] = {}
    for name, unit in UNITS.items():
        parts = [one[name] for one in compared if name in one]
        errors = np.concatenate([part[0] for part in parts]) if parts else np.zeros(0)
        labels = np.concatenate([part[1] for part in parts]) if parts else np.zeros(0)
        if name == "virial" and not len(errors):
            continue
        report |= _both(name, unit, errors)
        if name == "energy":
            report |= _both("energy_offset_per_system", unit, np.concatenate([p[0] - p[0].mean() for p in parts]))
            report |= _both("energy_one_offset", unit, errors - errors.mean())
            report["energy_offset_mev_per_atom"] = float(errors.mean())
        report[f"{name}_label_rms_{unit}"] = _rms(labels)
    return report


def _both(name: str, unit: str, errors: np.ndarray) -> dict[str, float | None]:
    return {
        f"{name}_rmse_{unit}": _rms(errors),
        f"{name}_mae_{unit}": float(np.abs(errors).mean()) if len(errors) else None,
    }


def _rms(values: np.ndarray) -> float | None:
    return float(np.sqrt(np.mean(values**2))) if len(values) else None


def table(report: dict) -> str:
    """The report as a table for the screen: RMSE, MAE and the rms of the labels in total, of each element where there are
    several, then the RMSE of each system."""
    rows = [("", "", "RMSE", "MAE", "rms of labels")]
    for name, (title, unit) in TITLES.items():
        suffix = UNITS.get(name, "mev_per_atom")
        if f"{name}_rmse_{suffix}" not in report:
            continue
        numbers = (report.get(f"{name}_{kind}_{suffix}") for kind in ("rmse", "mae", "label_rms"))
        rows.append((title, unit, *(_number(number) for number in numbers)))
    lines = [f"{report['frames']} frames of {len(report['systems'])} systems", *_aligned(rows, 2), ""]
    if len(report["elements"]) > 1:
        rows = [("RMSE (rms of labels)", "force, meV/Å", "field, meV/µB")]
        for symbol, one in report["elements"].items():
            cells = []
            for name in ("force", "field"):
                value, label = (one[f"{name}_{kind}_{UNITS[name]}"] for kind in ("rmse", "label_rms"))
                cells.append("" if value is None else f"{_number(value)} ({_number(label)})")
            rows.append((symbol, *cells))
        lines += [*_aligned(rows, 1), ""]
    names = [name for name in TITLES if f"{name}_rmse_{UNITS.get(name, 'mev_per_atom')}" in report]
    names = [name for name in names if name != "energy_one_offset"]
    heads = {"energy_offset_per_system": "less offset", "field_transverse": "transverse"}
    rows = [("RMSE", "frames", "atoms", *(heads.get(name, name) for name in names))]
    for one in report["systems"]:
        numbers = (_number(one.get(f"{name}_rmse_{UNITS.get(name, 'mev_per_atom')}")) for name in names)
        rows.append((one["name"], str(one["frames"]), str(one["natoms"]), *numbers))
    return "\n".join([*lines, *_aligned(rows, 1)])


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _aligned(rows: list[tuple[str, ...]], left: int) -> list[str]:
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(w) if k < left else cell.rjust(w) for k, (cell, w) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return lines
