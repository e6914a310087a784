"""Atoms that stand still and spins that do not turn, while the others move around them.

A mover keeps two masks in its Aux, (N,) int64 in the present order of the atoms, nonzero for what is held: ``frozen_atoms``,
which no drift, kick or bath moves and which have no velocity, and ``fixed_spins``, which no solver or bath turns. Both
still act on their neighbours. Where there is no mask, nothing is held.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from spinmd.errors import InputError
from spinmd.integrators.baths import mask_of
from spinmd.protocols import FIXED, FROZEN, Aux
from spinmd.state import State

NOTHING_HELD = np.zeros(0, np.int64)


@dataclass
class Held:
    """What a deck holds.

    frozen_atoms, fixed_spins  names of elements and groups
    groups                     name -> (N,) bool, original order
    """

    frozen_atoms: Iterable[str] = ()
    fixed_spins: Iterable[str] = ()
    groups: Mapping[str, np.ndarray] = field(default_factory=dict)

    def masks(self, state: State) -> dict[str, np.ndarray]:
        """The masks that are not empty, by name. InputError for unknown names, and where nothing would be left to move."""
        result = {}
        for key, what, remedy in ((FROZEN, "atom", "lattice"), (FIXED, "spin", "spins")):
            mask = np.zeros(state.natoms, bool)
            for name in getattr(self, key):
                mask |= mask_of(name, state, self.groups, f"integrator.{key}")
            free = ~mask if key == FROZEN else ~mask & (state.moments > 0.0)
            if mask.any() and not free.any():
                raise InputError(f'every {what} is held; write {remedy} = "frozen" instead', f"integrator.{key}")
            if mask.any():
                result[key] = mask.astype(np.int64)
        return result

    def begin(self, state: State, aux: Aux) -> None:
        """Put the masks into ``aux``, and the frozen atoms to rest."""
        masks = self.masks(state)
        aux.per_atom.update(masks)
        if FROZEN in masks:
            state.velocities[masks[FROZEN] != 0] = 0.0


def frozen_atoms(aux: Aux) -> np.ndarray:
    """(N,) int64, nonzero for atoms that stand still; empty if there are none."""
    return aux.per_atom.get(FROZEN, NOTHING_HELD)


def fixed_spins(aux: Aux) -> np.ndarray:
    """(N,) int64, nonzero for spins that do not turn; empty if there are none."""
    return aux.per_atom.get(FIXED, NOTHING_HELD)


def thermal_motion(state: State, aux: Aux) -> tuple[float, np.ndarray]:
    """What a thermostat of the whole lattice acts on: the kinetic energy, eV, and the velocity (3,) Å/ps about which it is.

    That is the velocity of the centre of mass, which may come from a Langevin bath before and is no heat; zero where some
    atoms stand still.
    """
    if len(frozen_atoms(aux)):
        return state.kinetic_energy(), np.zeros(3)
    drift = state.centre_velocity()
    return max(state.kinetic_energy_about(drift), 0.0), drift


def degrees_of_freedom(state: State, aux: Aux) -> int:
    """3N − 3 of a lattice whose momentum is conserved; three for each atom that moves where some stand still, which push it."""
    frozen = frozen_atoms(aux)
    return max(3 * state.natoms - 3, 1) if not len(frozen) else 3 * int((frozen == 0).sum())
