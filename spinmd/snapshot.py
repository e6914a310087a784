"""One frame of a run's file: arrays that are read when first asked for, and the frame as ASE's Atoms.

Made by ``spinmd.Trajectory``, which is where files are opened.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from spinmd.trajectory import Trajectory


class Snapshot:
    """One frame: arrays are read when first asked for, and kept. Å, ps, Å/ps, µB, eV/Å, eV/µB."""

    def __init__(self, part: "Trajectory", index: int):
        self._trajectory = part
        self._cache: dict[str, np.ndarray] = {}
        self.index = index  # in the file
        self.step = int(part.steps[0])
        self.time = float(part.times[0])
        self.cell = part.cells[0]
        self.pbc = part.pbc
        self.natoms = part.natoms

    def array(self, name: str) -> np.ndarray:
        """(N, 3) of a stored quantity, or "wrapped"; InputError if it is not stored."""
        if name not in self._cache:
            self._cache[name] = self._trajectory.array(name)[0]
        return self._cache[name]

    @property
    def positions(self) -> np.ndarray:
        """(N, 3) Å, unwrapped"""
        return self.array("positions")

    @property
    def wrapped(self) -> np.ndarray:
        """(N, 3) Å, inside the cell along periodic directions"""
        return self.array("wrapped")

    @property
    def velocities(self) -> np.ndarray:
        """(N, 3) Å/ps"""
        return self.array("velocities")

    @property
    def spins(self) -> np.ndarray:
        """(N, 3) µB"""
        return self.array("spins")

    @property
    def forces(self) -> np.ndarray:
        """(N, 3) eV/Å"""
        return self.array("forces")

    @property
    def fields(self) -> np.ndarray:
        """(N, 3) −∂E/∂S, eV/µB"""
        return self.array("fields")

    @property
    def symbols(self) -> np.ndarray:
        """(N,) elements"""
        return self._trajectory.symbols

    @property
    def masses(self) -> np.ndarray:
        """(N,) amu"""
        return self._trajectory.masses

    @property
    def ids(self) -> np.ndarray:
        """(N,) index of each atom in the run's structure"""
        return self._trajectory.ids

    @property
    def thermo(self) -> dict[str, float]:
        """The thermo row of this step: column -> number; empty if the table has none for it."""
        table = self._trajectory.thermo
        rows = table.get("step", np.zeros(0, dtype=np.int64))
        at = int(np.searchsorted(rows, self.step))
        if at >= len(rows) or rows[at] != self.step:
            return {}
        return {name: column[at].item() for name, column in table.items()}

    @property
    def energy(self) -> float | None:
        """Potential energy of all atoms of the run, lattice and spins, eV; None if the table has no row of this step."""
        row = self.thermo
        parts = [row.get(name) for name in ("lattice_potential_energy", "spin_energy")]
        return None if None in parts else sum(parts)

    def atoms(self, wrap: bool = False):
        """This frame as ``ase.Atoms`` in ASE's units; needs positions, takes what else is stored.

        Spins are the initial magnetic moments (N, 3) and the ``magmoms`` of a calculator that also has forces and
        energy (potential, if all atoms are stored). Fields (eV/µB) are ``arrays["magnetic_forces"]``; step and time (ps) are in
        ``info``; of a part of the atoms, ``arrays["id"]`` has the original indices.  wrap: positions inside the cell.
        """
        from ase import Atoms, units
        from ase.calculators.singlepoint import SinglePointCalculator
        from ase.data import atomic_masses

        stored = self._trajectory.quantities
        atoms = Atoms(list(self.symbols), positions=self.array("wrapped" if wrap else "positions").astype(np.float64),
                      cell=self.cell, pbc=self.pbc, info={"step": self.step, "time": self.time})  # fmt: skip
        if not np.array_equal(self.masses, atomic_masses[atoms.numbers]):
            atoms.set_masses(self.masses)
        results: dict[str, Any] = {}
        if "velocities" in stored:
            atoms.set_velocities(self.velocities / (1000.0 * units.fs))
        if "spins" in stored:
            results["magmoms"] = self.spins.astype(np.float64)
            atoms.set_initial_magnetic_moments(results["magmoms"])
        if "forces" in stored:
            results["forces"] = self.forces.astype(np.float64)
        if "fields" in stored:
            atoms.set_array("magnetic_forces", self.fields.astype(np.float64))
        if not np.array_equal(self.ids, np.arange(self._trajectory.system_atoms)):
            atoms.set_array("id", self.ids)
        elif self.energy is not None:
            results["energy"] = self.energy
        if results:
            atoms.calc = SinglePointCalculator(atoms, **results)
        return atoms

    def __repr__(self) -> str:
        return f"Snapshot({self._trajectory.path.name!r}: step {self.step}, {self.time:g} ps, {self.natoms} atoms)"
