"""What can be wrong with labelled frames, said before anything is trained on them.

An InputError where the data cannot be meant; a warning where it may be. Frames count from 0 through all sets, atoms
from 0. A left-handed box is fine: nothing here depends on the handedness of the lattice vectors.
"""

import warnings
from collections.abc import Sequence

import numpy as np

from spinmd.errors import InputError

OVERLAP = 0.3  # Å, no two nuclei come so close in a calculation that is worth fitting
LONGEST_SPIN = 20.0  # µB
LARGEST_FORCE = 1.0e3  # eV/Å
LARGEST_FIELD = 1.0e2  # eV/µB
LARGEST_ENERGY = 1.0e5  # eV per atom
SHORTEST_BOX = 1.0  # Å
SMALLEST_FIELD = 1.0e-6  # eV/µB, anything less is print-out noise
FILES = {"field": "force_mag"}


def check_system(system, magnetic: Sequence[str] | None = None) -> None:
    """Check numbers, boxes, distances, spins and units of a ``System``.

    ``magnetic`` names the elements that may carry spins (None: those that do). Fields on elements without spins are set to
    zero in place, with a warning. Raises InputError with the place (system, file, frame, atom), the value and the remedy.
    """
    _check_finite(system)
    _check_box(system)
    _check_units(system)
    _check_spins(system, magnetic)
    _check_distances(system)


def _complain(system, file: str, frame: int, message: str, atom: int | None = None) -> InputError:
    return InputError(message, f"{system.name}, {file}.npy, {_where(system, frame, atom)}")


def _where(system, frame: int, atom: int | None = None) -> str:
    return f"frame {frame}" + ("" if atom is None else f", atom {atom} ({system.elements[system.types[atom]]})")


def _warn(system, file: str, message: str) -> None:
    warnings.warn(f"{system.name}, {file}.npy: {message}", stacklevel=4)


def _largest(array: np.ndarray) -> tuple[int, int, float]:
    """(frame, atom, length) of the longest vector of an (F, N, 3) array."""
    lengths = np.linalg.norm(array, axis=2)
    frame, atom = np.unravel_index(np.argmax(lengths), lengths.shape)
    return int(frame), int(atom), float(lengths[frame, atom])


def _check_finite(system) -> None:
    for name in ("box", "coord", "spin", "energy", "force", "field", "virial"):
        array = getattr(system, name)
        if array is None or np.isfinite(array).all():
            continue
        bad = np.argwhere(~np.isfinite(array))[0]
        atom = int(bad[1]) if array.ndim == 3 and name not in ("box", "virial") else None
        value = array[tuple(bad)]
        raise _complain(
            system, FILES.get(name, name), int(bad[0]), f"holds {value}; remove this frame or repair it", atom
        )


def _check_box(system) -> None:
    if not system.periodic:
        return
    lengths = np.linalg.norm(system.box, axis=2)
    frame = int(np.argmin(lengths.min(axis=1)))
    if lengths[frame].min() < SHORTEST_BOX:
        raise _complain(
            system,
            "box",
            frame,
            f"a lattice vector is {lengths[frame].min():g} Å long; convert the lengths to Å if they are in nm or in "
            "units of a lattice constant",
        )
    ratio = np.abs(np.linalg.det(system.box)) / lengths.prod(axis=1)
    frame = int(np.argmin(ratio))
    if ratio[frame] < 1e-3:
        raise _complain(
            system, "box", frame, f"the three lattice vectors do not span a volume: {system.box[frame].tolist()}"
        )


def _check_units(system) -> None:
    frame, atom, force = _largest(system.force)
    if force > LARGEST_FORCE:
        raise _complain(
            system,
            "force",
            frame,
            f"the force is {force:.4g} eV/Å; remove this frame, or convert the forces to eV/Å",
            atom,
        )
    per_atom = np.abs(system.energy) / system.natoms
    frame = int(np.argmax(per_atom))
    if per_atom[frame] > LARGEST_ENERGY:
        _warn(
            system,
            "energy",
            f"frame {frame} has {system.energy[frame] / system.natoms:.6g} eV per atom; check that energies are total "
            "energies in eV",
        )


def _check_spins(system, magnetic: Sequence[str] | None) -> None:
    frame, atom, length = _largest(system.spin)
    if length > LONGEST_SPIN:
        raise _complain(
            system,
            "spin",
            frame,
            f"the spin is {length:.4g} µB long; spins are atomic moments in µB, not positions of virtual atoms",
            atom,
        )
    frame, atom, field = _largest(system.field)
    if field > LARGEST_FIELD:
        raise _complain(
            system,
            "force_mag",
            frame,
            f"the magnetic force is {field:.4g} eV/µB; remove this frame, or convert the labels to eV/µB",
            atom,
        )
    lengths = np.linalg.norm(system.spin, axis=2)
    if magnetic is not None:
        allowed = np.array([symbol in magnetic for symbol in system.elements])[system.types]
        bad = np.argwhere((lengths > 0.0) & ~allowed)
        if len(bad):
            frame, atom = (int(k) for k in bad[0])
            symbol = system.elements[system.types[atom]]
            raise _complain(
                system,
                "spin",
                frame,
                f"the spin is {lengths[frame, atom]:.4g} µB, but {symbol} is not among the magnetic elements "
                f"({', '.join(magnetic) or 'none'}); add it to them, or set its spins to zero",
                atom,
            )
        system.magnetic = allowed
    own = lengths[:, system.magnetic]
    if own.size and np.abs(own - 1.0).max() < 1e-6:
        _warn(system, "spin", "every spin is 1 µB long; if these are directions, multiply them by the moments in µB")
    _check_fields(system, lengths)


def _check_fields(system, lengths: np.ndarray) -> None:
    """Fields where there is no spin: dropped on non-magnetic elements, mentioned on magnetic ones."""
    strengths = np.linalg.norm(system.field, axis=2)
    outside = np.where(system.magnetic, 0.0, strengths)
    if outside.max(initial=0.0) > SMALLEST_FIELD:
        frame, atom = np.unravel_index(np.argmax(outside), outside.shape)
        _warn(
            system,
            "force_mag",
            f"{_where(system, frame, atom)} has a magnetic force of {outside[frame, atom]:.3g} eV/µB and its element "
            "no spins; magnetic forces of elements without spins are not used",
        )
    system.field[:, ~system.magnetic] = 0.0
    bare = np.where(system.magnetic & (lengths == 0.0), strengths, 0.0)
    if bare.max(initial=0.0) > SMALLEST_FIELD:
        frame, atom = np.unravel_index(np.argmax(bare), bare.shape)
        count = np.count_nonzero(bare > SMALLEST_FIELD)
        _warn(
            system,
            "force_mag",
            f"{_where(system, frame, atom)} has a magnetic force of {bare[frame, atom]:.3g} eV/µB and a spin of zero "
            f"({count} such atoms); check that spin.npy holds the constrained moments of all atoms",
        )


def _check_distances(system) -> None:
    close = overlap(system.coord, system.box if system.periodic else None, OVERLAP)
    if close is not None:
        frame, first, second, distance = close
        other = f"{second} ({system.elements[system.types[second]]})"
        raise _complain(
            system,
            "coord",
            frame,
            f"is {distance:.3g} Å from atom {other}; remove this frame, or convert the coordinates to Å if they are "
            "fractional or in nm",
            first,
        )


def overlap(coord: np.ndarray, box: np.ndarray | None, limit: float) -> tuple[int, int, int, float] | None:
    """The closest two atoms of all frames nearer than ``limit`` (Å): (frame, atom, atom, distance), or None.

    coord (F, N, 3);  box (F, 3, 3), or None where nothing is periodic. Atoms are sorted by their height over a lattice plane;
    only those within ``limit`` of each other in height are compared. ``limit`` must be below half of the heights of the cell.
    """
    frames, natoms, _ = coord.shape
    if natoms < 2:
        return None
    if box is None:
        heights, period = coord[:, :, 0], np.full((frames, 1), np.inf)
    else:
        inverse = np.linalg.inv(box)
        period = 1.0 / np.linalg.norm(inverse[:, :, 0], axis=1)[:, None]
        fractions = np.einsum("fnk,fk->fn", coord, inverse[:, :, 0]) % 1.0
        heights = fractions * period
    order = np.argsort(heights, axis=1)
    heights = np.take_along_axis(heights, order, axis=1)
    best = None
    for shift in range(1, natoms):
        gap = np.roll(heights, -shift, axis=1) - heights
        gap = np.where(gap < 0.0, gap + period, gap)
        near = np.argwhere(gap < limit)
        if not len(near):
            break
        frame, k = near.T
        first, second = order[frame, k], order[frame, (k + shift) % natoms]
        difference = coord[frame, second] - coord[frame, first]
        if box is not None:
            whole = np.round(np.einsum("pa,pab->pb", difference, inverse[frame]))
            difference -= np.einsum("pa,pab->pb", whole, box[frame])
        distance = np.linalg.norm(difference, axis=1)
        closest = int(np.argmin(distance))
        if distance[closest] < limit and (best is None or distance[closest] < best[3]):
            best = int(frame[closest]), int(first[closest]), int(second[closest]), float(distance[closest])
    return best
