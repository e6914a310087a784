"""Langevin bath of the lattice (O): friction and noise, solved exactly for a time h.

    dv = −γ v dt + √(2 γ k_B T/m) dW:    v ← c v + √(k_B T (1 − c²)/m) g,    c = exp(−γ h)

v in Å/ps, γ in 1/ps, g Gaussian. In the middle of a step, V R O R V, it is BAOAB: Leimkuhler, Matthews, Appl. Math. Res.
Express 2013, 34 (2013), whose configurations are exact for harmonic crystals whatever the step. The momentum of the crystal is not
conserved: 3N degrees of freedom.
"""

import math

import numpy as np
from numba import njit, prange

from spinmd.backend import BLOCK
from spinmd.errors import InputError
from spinmd.integrators.baths import Temperatures, block_sums, per_atom
from spinmd.integrators.held import frozen_atoms
from spinmd.protocols import OK, Aux, Status
from spinmd.rng import LATTICE_CHANNEL, fill_normals
from spinmd.state import State
from spinmd.units import AMU, BOLTZMANN


@njit(cache=True, parallel=True)
def _flow(natoms, velocities, masses, friction, kinds, temperatures, h, noise, sums, block):
    """v of all atoms; per block, Σ m (v₀² − v₁²)/2 in amu Å²/ps². ``temperatures``: k_B T/AMU by kind, amu Å²/ps²."""
    for b in prange(sums.shape[0]):
        total = 0.0
        for i in range(b * block, min((b + 1) * block, natoms)):
            if friction[i] == 0.0 or kinds[i] < 0:
                continue
            c = math.exp(-friction[i] * h)
            sigma = math.sqrt(temperatures[kinds[i]] * (1.0 - c * c) / masses[i])
            for k in range(3):
                before = velocities[i, k]
                after = c * before + sigma * noise[i, k]
                velocities[i, k] = after
                total += 0.5 * masses[i] * (before * before - after * after)
        sums[b] = total


class Langevin:
    """O: friction (1/ps, a number or one per element or group) at ``temperatures`` K."""

    letter = "O"
    moves = "lattice"
    conserves_momentum = False

    def __init__(self, friction, temperatures: Temperatures, groups=None):
        self.friction = dict(friction) if isinstance(friction, dict) else float(friction)
        values = list(self.friction.values()) if isinstance(friction, dict) else [self.friction]
        if any(not value >= 0.0 for value in values):
            raise InputError(f"must not be negative, got {min(values)}", "integrator.lattice_friction")
        self.temperatures = temperatures
        self.groups = dict(groups or {})

    def init(self, state: State, aux: Aux, seed: int, turns: int = 1) -> None:
        """Friction and temperature of each atom, the seed, the start of the stage, and the heat that the bath takes."""
        friction = per_atom(self.friction, state, self.groups, "integrator.lattice_friction")
        if len(frozen := frozen_atoms(aux)):
            friction[frozen != 0] = 0.0
        aux.per_atom["lattice_friction"] = friction
        aux.per_atom["lattice_bath"] = self.temperatures.kinds(state, self.groups)
        aux.globals["lattice_noise"] = np.array([seed], np.int64)
        aux.globals["lattice_bath_start"] = np.array([state.clock.time])
        aux.globals.setdefault("lattice_heat", np.zeros(1))
        self._noise = np.zeros((state.natoms, 3))
        self._sums = block_sums(state.natoms)

    def flow(self, state: State, aux: Aux, model, h: float, turn: int = 0) -> Status:
        """Friction and noise for ``h`` ps."""
        n = state.natoms
        seed, start = int(aux.globals["lattice_noise"][0]), float(aux.globals["lattice_bath_start"][0])
        fill_normals(n, state.ids, seed, LATTICE_CHANNEL + turn, state.clock.step, self._noise, BLOCK)
        thermal = self.temperatures.at(state.clock.time - start) * (BOLTZMANN / AMU)
        friction, kinds = aux.per_atom["lattice_friction"], aux.per_atom["lattice_bath"]
        _flow(n, state.velocities, state.masses, friction, kinds, thermal, h, self._noise, self._sums, BLOCK)
        aux.globals["lattice_heat"][0] += AMU * float(self._sums.sum())
        return OK
