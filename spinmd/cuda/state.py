"""The state of a simulation on the device: the names of ``spinmd.state.State``, arrays that stay where they are."""

from typing import Any

import numpy as np
import torch

from spinmd.cuda.arrays import DeviceArray, on_device, parts
from spinmd.state import Clock, State
from spinmd.units import AMU, BOLTZMANN

ON_DEVICE = tuple(name for name in State.PER_ATOM if name != "reference")


class DeviceState:
    """Per-atom arrays on the device, made from a State of the host; ``cell``, ``pbc``, ``symbols``, ``clock`` and the atoms'
    places in the lattice, ``reference``, stay on the host."""

    def __init__(self, state: State, precision: str = "float64"):
        self.precision = precision  # of pair arithmetic: "float64", or "mixed" with float32
        self.cell, self.pbc, self.symbols = state.cell.copy(), state.pbc.copy(), state.symbols
        self.clock = Clock(state.clock.step, state.clock.time)
        for name in ON_DEVICE:
            setattr(self, name, on_device(getattr(state, name)))
        self.reference = state.reference
        self.natoms = state.natoms
        # the clock of the device: noise and ramps look at it, so that a captured step finds the present time
        self.ticks, self.time = (
            on_device(np.array([state.clock.step], np.int64)),
            on_device(np.array([state.clock.time])),
        )
        self.magnetic = int((self.moments.tensor > 0.0).sum())

    positions: DeviceArray
    velocities: DeviceArray
    spins: DeviceArray
    moments: DeviceArray
    masses: DeviceArray
    species: DeviceArray
    ids: DeviceArray
    images: DeviceArray
    reference: np.ndarray

    def host(self) -> State:
        """A State on the host, in the present order."""
        arrays: dict[str, Any] = {name: getattr(self, name).host() for name in ON_DEVICE}
        return State(cell=self.cell.copy(), pbc=self.pbc.copy(), **arrays, reference=self.reference.copy(),
                     symbols=self.symbols, clock=Clock(self.clock.step, self.clock.time))  # fmt: skip

    @property
    def volume(self) -> float:
        """Å³"""
        return float(abs(np.linalg.det(self.cell)))

    def kinetic_energy(self) -> float:
        """½ Σ m v², eV; summed on the device."""
        v, masses = self.velocities.tensor, self.masses.tensor
        sums = [(masses[part] * v[part].square().sum(dim=1)).sum() for part in parts(self.natoms)]
        return 0.5 * AMU * float(torch.stack(sums).sum())

    def centre_velocity(self) -> np.ndarray:
        """(3,) velocity of the centre of mass, Å/ps."""
        v, masses = self.velocities.tensor, self.masses.tensor
        sums = [(masses[part, None] * v[part]).sum(dim=0) for part in parts(self.natoms)]
        return (torch.stack(sums).sum(dim=0) / masses.sum()).cpu().numpy()

    def magnetisation(self) -> np.ndarray:
        """(3,) mean moment of the magnetic atoms, µB."""
        return (self.spins.tensor.sum(dim=0) / max(self.magnetic, 1)).cpu().numpy()

    def kinetic_energy_about(self, velocity: np.ndarray) -> float:
        """½ Σ m (v − V)² for the velocity V (3,) of the centre of mass, eV."""
        return self.kinetic_energy() - 0.5 * AMU * float(self.masses.tensor.sum()) * float(velocity @ velocity)

    def temperature(self, degrees_of_freedom: int | None = None) -> float:
        """Lattice temperature, K; as ``State.temperature``."""
        if degrees_of_freedom is None:
            kinetic = self.kinetic_energy_about(self.centre_velocity())
            return 2.0 * max(kinetic, 0.0) / (max(3 * self.natoms - 3, 1) * BOLTZMANN)
        return 2.0 * self.kinetic_energy() / (degrees_of_freedom * BOLTZMANN)
