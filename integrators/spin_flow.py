"""What all spin solvers (S) share: the bath, its noise in a sub-step, and counters."""

import numpy as np

from spinmd.integrators.baths import NO_NOISE, SpinBath
from spinmd.protocols import Aux
from spinmd.state import State
from spinmd.units import HBAR


class SpinFlow:
    """Base of the solvers.

    damping   Gilbert's α;  g_factor g;  or both, and temperatures, in a ``bath``
    evaluations, solves  counters of field evaluations and solves since the object was made
    """

    letter = "S"
    moves = "spins"
    keeps_length = True

    def __init__(self, damping: float = 0.0, g_factor: float = 2.0, bath: SpinBath | None = None):
        self.bath = SpinBath(damping, g_factor=g_factor) if bath is None else bath
        self.evaluations = 0
        self.solves = 0
        self._noise = NO_NOISE

    def init(self, state: State, aux: Aux, seed: int, turns: int = 1) -> None:
        """What the bath keeps; solvers add their own."""
        self.bath.init(state, aux, seed)

    def start(self, state: State, aux: Aux, h: float, turn: int) -> tuple[float, np.ndarray, np.ndarray]:
        """(g/ħ) h in µB/eV, α of each atom (N,) or empty, and the noise ξ (N, 3) eV/µB of this sub-step, or empty."""
        alphas = self.bath.alphas(aux, state.natoms)
        noise = NO_NOISE
        if self.bath.noisy:
            if len(self._noise) != state.natoms:
                self._noise = np.zeros((state.natoms, 3))
            noise = self._noise
            self.bath.noise(state, aux, h, turn, noise)
        return self.bath.g_factor / HBAR * h, alphas, noise
