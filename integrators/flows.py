"""Elementary flows of the lattice: drift (R) and kick (V). Each is exact for its part of the Hamiltonian.

R:  R += h v                    V:  v += h F/m        (F eV/Å, m amu × AMU = eV ps²/Å²)

Atoms that are held (``held.py``) are left alone.
"""

from numba import njit, prange

from spinmd.backend import BLOCK
from spinmd.integrators.held import frozen_atoms
from spinmd.protocols import OK, Aux, Need, Status
from spinmd.state import State
from spinmd.units import AMU


@njit(cache=True, parallel=True)
def _kick(natoms, velocities, forces, masses, frozen, step, block):
    some = frozen.shape[0] > 0
    for b in prange((natoms + block - 1) // block):
        for i in range(b * block, min((b + 1) * block, natoms)):
            scale = step / masses[i]
            if some and frozen[i] != 0:
                scale = 0.0
            velocities[i, 0] += scale * forces[i, 0]
            velocities[i, 1] += scale * forces[i, 1]
            velocities[i, 2] += scale * forces[i, 2]


@njit(cache=True, parallel=True)
def _drift(natoms, positions, velocities, frozen, step, block):
    some = frozen.shape[0] > 0
    for b in prange((natoms + block - 1) // block):
        for i in range(b * block, min((b + 1) * block, natoms)):
            if some and frozen[i] != 0:
                continue
            positions[i, 0] += step * velocities[i, 0]
            positions[i, 1] += step * velocities[i, 1]
            positions[i, 2] += step * velocities[i, 2]


class Drift:
    """R: positions move with constant velocities."""

    letter = "R"
    moves = "lattice"

    def init(self, state: State, aux: Aux, seed: int, turns: int = 1) -> None:
        """Nothing to keep."""

    def flow(self, state: State, aux: Aux, model, h: float, turn: int = 0) -> Status:
        """Move by ``h`` ps."""
        _drift(state.natoms, state.positions, state.velocities, frozen_atoms(aux), h, BLOCK)
        model.moved(positions=True)
        return OK


class Kick:
    """V: velocities change with constant forces.

    fields  whether to ask live potentials for their fields in the same evaluation, which the spin solver after a kick uses
    """

    letter = "V"
    moves = "lattice"

    def __init__(self):
        self.fields = False

    def init(self, state: State, aux: Aux, seed: int, turns: int = 1) -> None:
        """Nothing to keep."""

    def flow(self, state: State, aux: Aux, model, h: float, turn: int = 0) -> Status:
        """Kick for ``h`` ps; the model evaluates forces only if positions or spins have moved since the last time."""
        need = Need.FORCE | Need.FIELD if self.fields and model.live_terms() else Need.FORCE
        forces = model.evaluate(need).forces
        _kick(state.natoms, state.velocities, forces, state.masses, frozen_atoms(aux), h / AMU, BLOCK)
        return OK
