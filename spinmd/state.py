"""The state of a simulation: a struct of arrays, updated in place.

Nothing here knows about potentials, integrators or files. Names are frozen; arrays are C-contiguous float64 unless stated.
Atoms may be reordered in space for locality (``permute``); ``ids`` remembers the original order, in which all output is written.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from spinmd.errors import InputError
from spinmd.units import AMU, BOLTZMANN


@dataclass
class Clock:
    """Where the run stands: ``step`` counts through the whole run (all stages), ``time`` in ps."""

    step: int = 0
    time: float = 0.0


@dataclass
class State:
    """Positions, velocities and spins of N atoms.

    cell        (3, 3) Å, rows are lattice vectors
    pbc         (3,) bool, periodic along each lattice vector
    positions   (N, 3) Å, wrapped into the cell along periodic directions when neighbour lists are built
    velocities  (N, 3) Å/ps
    spins       (N, 3) µB, the atomic magnetic moments; zero for a non-magnetic atom
    moments     (N,) µB, the constant reference moments m_i; e_i = S_i/m_i
    masses      (N,) amu
    species     (N,) int32, index into ``symbols``
    ids         (N,) int64, the original index of each atom
    images      (N, 3) int32; positions + images @ cell are the unwrapped positions
    reference   (N, 3) Å, ideal sites: couplings given by shell or by list are found on these
    symbols     element symbols, one per species
    """

    cell: np.ndarray
    pbc: np.ndarray
    positions: np.ndarray
    velocities: np.ndarray
    spins: np.ndarray
    moments: np.ndarray
    masses: np.ndarray
    species: np.ndarray
    ids: np.ndarray
    images: np.ndarray
    reference: np.ndarray
    symbols: tuple[str, ...]
    clock: Clock = field(default_factory=Clock)

    PER_ATOM = ("positions", "velocities", "spins", "moments", "masses", "species", "ids", "images", "reference")

    @classmethod
    def create(
        cls,
        cell,
        positions,
        elements: Sequence[str],
        masses,
        *,
        pbc=(True, True, True),
        velocities=None,
        spins=None,
        moments=None,
        reference=None,
    ) -> "State":
        """A State from plain arrays, in any layout; missing velocities and spins are zero.

        ``elements`` has one symbol per atom; ``masses`` (amu) one number per atom. ``moments`` default to \\|S_i\\|.
        Raises InputError for wrong shapes, NaN, non-positive masses or a singular cell.
        """
        positions = np.array(positions, dtype=np.float64, order="C")
        natoms = len(positions)

        def array(value, shape, name):
            if value is None:
                return np.zeros(shape)
            result = np.array(value, dtype=np.float64, order="C")
            if result.shape != shape:
                raise InputError(f"has shape {result.shape}, expected {shape}", name)
            if not np.isfinite(result).all():
                bad = np.argwhere(~np.isfinite(result))[0]
                raise InputError(
                    f"holds a value that is not finite (first at index {tuple(int(i) for i in bad)})", name
                )
            return result

        positions = array(positions, (natoms, 3), "positions")
        if natoms == 0:
            raise InputError("there are no atoms", "structure")
        cell = array(cell, (3, 3), "cell")
        if abs(np.linalg.det(cell)) < 1e-9:
            raise InputError("the three lattice vectors do not span a volume", "cell")
        masses = array(masses, (natoms,), "masses")
        if (masses <= 0.0).any():
            bad = int(np.argmax(masses <= 0.0))
            raise InputError(
                f"atom {bad} ({elements[bad]}) has mass {masses[bad]:g} amu; masses must be positive", "masses"
            )
        spins = array(spins, (natoms, 3), "spins")
        moments = np.linalg.norm(spins, axis=1) if moments is None else array(moments, (natoms,), "moments")
        if (moments < 0.0).any():
            raise InputError("reference moments must not be negative", "moments")
        if len(elements) != natoms:
            raise InputError(f"{len(elements)} elements for {natoms} atoms", "elements")
        symbols, species = np.unique(np.asarray(elements, dtype=str), return_inverse=True)
        return cls(
            cell=cell,
            pbc=np.array(pbc, dtype=bool).reshape(3),
            positions=positions,
            velocities=array(velocities, (natoms, 3), "velocities"),
            spins=spins,
            moments=moments,
            masses=masses,
            species=species.astype(np.int32).reshape(natoms),
            ids=np.arange(natoms, dtype=np.int64),
            images=np.zeros((natoms, 3), dtype=np.int32),
            reference=positions.copy() if reference is None else array(reference, (natoms, 3), "reference"),
            symbols=tuple(str(s) for s in symbols),
        )

    @property
    def natoms(self) -> int:
        return len(self.positions)

    @property
    def volume(self) -> float:
        """Å³"""
        return float(abs(np.linalg.det(self.cell)))

    @property
    def elements(self) -> list[str]:
        """Element symbol of each atom, in the present order."""
        return [self.symbols[s] for s in self.species]

    def kinetic_energy(self) -> float:
        """½ Σ m v² of the lattice, eV."""
        return 0.5 * AMU * float(np.einsum("i,ij,ij->", self.masses, self.velocities, self.velocities))

    def centre_velocity(self) -> np.ndarray:
        """(3,) velocity of the centre of mass, Å/ps."""
        return self.masses @ self.velocities / self.masses.sum()

    def kinetic_energy_about(self, velocity: np.ndarray) -> float:
        """½ Σ m (v − V)² for the ``velocity`` V (3,) Å/ps of the centre of mass, eV: heat, without the motion as a whole."""
        return self.kinetic_energy() - 0.5 * AMU * float(self.masses.sum()) * float(velocity @ velocity)

    def temperature(self, degrees_of_freedom: int | None = None) -> float:
        """Lattice temperature 2K/(n_dof k_B), K.

        Without n_dof that of the motion about the centre of mass, which has 3N − 3 where the momentum is conserved.
        """
        if degrees_of_freedom is None:
            kinetic = self.kinetic_energy_about(self.centre_velocity())
            return 2.0 * max(kinetic, 0.0) / (max(3 * self.natoms - 3, 1) * BOLTZMANN)
        return 2.0 * self.kinetic_energy() / (degrees_of_freedom * BOLTZMANN)

    def magnetisation(self) -> np.ndarray:
        """(3,) mean moment Σ S_i / n of the n magnetic atoms, µB; zero without magnetic atoms."""
        magnetic = np.count_nonzero(self.moments > 0.0)
        return self.spins.sum(axis=0) / max(magnetic, 1)

    def unwrapped(self) -> np.ndarray:
        """(N, 3) positions followed through the periodic boundaries, Å, in the present order."""
        return self.positions + self.images @ self.cell

    def permute(self, order: np.ndarray) -> None:
        """Reorder the atoms in place: atom k becomes what was atom ``order[k]``."""
        for name in self.PER_ATOM:
            array = getattr(self, name)
            array[:] = array[order]

    def original_order(self, array: np.ndarray) -> np.ndarray:
        """A copy of a per-atom array of this state's present order, in the original order of the atoms."""
        result = np.empty_like(array)
        result[self.ids] = array
        return result

    def copy(self) -> "State":
        """An independent copy, clock included."""
        arrays = {name: getattr(self, name).copy() for name in ("cell", "pbc", *self.PER_ATOM)}
        return State(**arrays, symbols=self.symbols, clock=Clock(self.clock.step, self.clock.time))
