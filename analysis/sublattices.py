"""Sublattices of a magnet, and the staggered order between them: which atoms belong together, and with which sign or phase.

    groups = by_element(trajectory)                          name -> mask of atoms
    pattern = wave(trajectory, (0.5, 0.5, 0.5))              cos and sin of 2π q·r on the ideal sites
    pattern = initial_signs(trajectory)                      ±1 of the collinear state that the run began with

Wave vectors are in units of the reciprocal vectors of the deck's unit cell, as ``structure.spins.wavevector`` is.
"""

import numpy as np

from spinmd.analysis.conditions import unit_cell
from spinmd.errors import InputError
from spinmd.trajectory import Trajectory

SAME = 1.0e-3  # of a lattice vector: sites that differ by less are the same site of the unit cell
COLLINEAR = 0.95


def by_element(trajectory: Trajectory) -> dict[str, np.ndarray]:
    """Element -> (N,) mask of its magnetic atoms."""
    magnetic = trajectory.moments > 0.0
    return {name: mask for name in trajectory.elements if (mask := magnetic & (trajectory.symbols == name)).any()}


def by_site(trajectory: Trajectory) -> dict[str, np.ndarray]:
    """Atom of the deck's unit cell -> (N,) mask, for those that are magnetic; named by number and element, "site 0 (Fe)"."""
    index = unit_cell_sites(trajectory)[0]
    magnetic = trajectory.moments > 0.0
    groups = {}
    for k in range(int(index.max()) + 1):
        mask = magnetic & (index == k)
        if mask.any():
            groups[f"site_{k}_{trajectory.symbols[mask][0]}"] = mask
    return groups


def unit_cell_sites(trajectory: Trajectory) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(N,) number of each atom's site in the unit cell, (sites, 3) their fractional coordinates, (N, 3) cell of each atom.

    Sites are numbered in the order of the atoms. Coordinates are relative to the first atom's.
    """
    fractional = (trajectory.sites - trajectory.sites[0]) @ np.linalg.inv(unit_cell(trajectory))
    cells = np.floor(fractional + SAME)
    inside = fractional - cells
    found: list[np.ndarray] = []
    index = np.full(len(inside), -1)
    while (index < 0).any():
        first = inside[np.argmax(index < 0)]
        apart = inside - first
        apart -= np.rint(apart)
        index[(index < 0) & (np.abs(apart) < SAME).all(axis=1)] = len(found)
        found.append(first)
    return index, np.array(found), cells.astype(np.int64)


def wave(trajectory: Trajectory, wavevector) -> np.ndarray:
    """(patterns, N) cos 2π q·r on the sites, r from the first magnetic atom, where it is ±1 everywhere, else cos and sin."""
    q = np.asarray(wavevector, dtype=np.float64)
    if q.shape != (3,) or not np.isfinite(q).all():
        raise InputError(f"expected three numbers such as 0.5,0.5,0.5, got {q.tolist()}", "--wavevector")
    magnetic = trajectory.moments > 0.0
    if not magnetic.any():
        raise InputError("no atoms carry a magnetic moment; this analysis needs spins", str(trajectory.path))
    first = trajectory.sites[int(np.argmax(magnetic))]
    phase = 2.0 * np.pi * ((trajectory.sites - first) @ np.linalg.solve(unit_cell(trajectory), q))
    cosine, sine = np.cos(phase), np.sin(phase)
    if np.abs(sine[magnetic]).max() < 1.0e-3:
        return np.rint(cosine)[None]
    return np.stack([cosine, sine])


def initial_signs(trajectory: Trajectory) -> np.ndarray:
    """(1, N) signs of the collinear state of the first frame; InputError where it was none, or is not stored."""
    spins = _first_spins(trajectory)
    lengths = np.linalg.norm(spins, axis=1)
    magnetic = (trajectory.moments > 0.0) & (lengths > 0.0)
    if not magnetic.any():
        raise InputError("no atoms carry a magnetic moment; this analysis needs spins", str(trajectory.path))
    unit = spins[magnetic] / lengths[magnetic][:, None]
    axis = np.linalg.eigh(unit.T @ unit)[1][:, -1]
    cosine = unit @ axis
    if np.abs(cosine).min() < COLLINEAR:
        raise InputError(
            "its first frame is not collinear, so that no sublattices can be read from it; give the wave vector of the order, for "
            "example --wavevector 0.5,0.5,0.5",
            str(trajectory.path),
        )
    signs = np.zeros(len(spins))
    signs[magnetic] = np.sign(cosine) * np.sign(cosine[0])
    return signs[None]


def _first_spins(trajectory: Trajectory) -> np.ndarray:
    if not len(trajectory) or trajectory.steps[0] != 0:
        raise InputError(
            "the first frame of the run is not among those looked at; give the wave vector of the order, for example "
            "--wavevector 0.5,0.5,0.5",
            str(trajectory.path),
        )
    return np.asarray(trajectory[0].spins, dtype=np.float64)


def starts_antiferromagnetic(trajectory: Trajectory) -> bool:
    """Whether the deck's texture is antiferromagnetic."""
    spins = trajectory.settings.get("structure", {}).get("spins") or {}
    return str(spins.get("texture", "")).lower() == "antiferromagnetic"


def pattern_of(trajectory: Trajectory, wavevector=None) -> np.ndarray | None:
    """The pattern of the staggered order: of the wave vector, else of an antiferromagnetic deck; None where there is neither.

    ``trajectory`` must begin with the first frame of the run.
    """
    if wavevector is not None:
        return wave(trajectory, wavevector)
    return initial_signs(trajectory) if starts_antiferromagnetic(trajectory) else None
