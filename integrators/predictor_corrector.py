"""What the explicit two-stage spin solvers (S) share: a predictor with the field at S₀, a corrector with that at S' as well.

Evaluations of the field per solve: 2, or 1 where the solve follows a kick with a live potential, whose forces and fields
at S₀ come from one evaluation (the first S of V S R S V, and that of R V S V R).

With live potentials F loses its part along S first. That part is no torque; but a potential may hold |S| by a strong
field along S, which turns with the spin, and a rotation about where it was would gain energy fast.

What damping takes is the time integral of its power by the trapezoidal rule over S₀ and S',

    Q = h (g/ħ) α/(1 + α²) Σ ½ (|S₀ × F₀|² + |S' × F'|²)/|S|

and not the change of the energy, so that ``conserved`` shows the error of the solver.
"""

import math

import numpy as np
from numba import njit, prange

from spinmd.backend import BLOCK, block_count
from spinmd.integrators.fields import SpinField
from spinmd.protocols import OK, Aux, Code, Status
from spinmd.spin_laws import TINY
from spinmd.state import State
from spinmd.units import HBAR


@njit(cache=True)
def _power(x, y, z, fx, fy, fz):
    """|S × F|²/|S|; zero for a vanished spin."""
    length = math.sqrt(x * x + y * y + z * z)
    if length == 0.0:
        return 0.0
    return ((y * fz - z * fy) ** 2 + (z * fx - x * fz) ** 2 + (x * fy - y * fx) ** 2) / length


@njit(cache=True, parallel=True)
def _damping_power(natoms, start, first, predicted, second, sums, block):
    """Per block, Σ ½ (|S₀ × F₀|² + |S' × F'|²)/|S|."""
    for b in prange(sums.shape[0]):
        total = 0.0
        for i in range(b * block, min((b + 1) * block, natoms)):
            total += _power(start[i, 0], start[i, 1], start[i, 2], first[i, 0], first[i, 1], first[i, 2])
            total += _power(predicted[i, 0], predicted[i, 1], predicted[i, 2], second[i, 0], second[i, 1], second[i, 2])
        sums[b] = 0.5 * total


@njit(cache=True, parallel=True)
def _make_normal(natoms, spins, field, block):
    """F − S (S·F)/S²."""
    for b in prange((natoms + block - 1) // block):
        for i in range(b * block, min((b + 1) * block, natoms)):
            x, y, z = spins[i, 0], spins[i, 1], spins[i, 2]
            along = (x * field[i, 0] + y * field[i, 1] + z * field[i, 2]) / (x * x + y * y + z * z + TINY)
            field[i, 0] -= along * x
            field[i, 1] -= along * y
            field[i, 2] -= along * z


class PredictorCorrector:
    """S by two stages; a solver adds ``predict`` and ``correct``. ``damping`` Gilbert's α, ``g_factor`` g.

    evaluations, solves  counters of field evaluations and solves since the object was made
    after_kick           turns that directly follow a V; ``Splitting`` sets it
    """

    letter = "S"
    moves = "spins"
    starts_with_field = True

    def __init__(self, damping: float = 0.0, g_factor: float = 2.0):
        self.damping = float(damping)
        self.g_factor = float(g_factor)
        self.evaluations = 0
        self.solves = 0
        self.after_kick: frozenset[int] = frozenset()

    def init(self, state: State, aux: Aux, seed: int, turns: int = 1) -> None:
        """The heat that damping takes; nothing else is kept from solve to solve."""
        aux.globals.setdefault("spin_heat", np.zeros(1))
        n = state.natoms
        self._field = SpinField(n)
        self._start, self._predicted, self._first, self._second = (np.zeros((n, 3)) for _ in range(4))
        self._sums = np.zeros(block_count(n))

    def flow(self, state: State, aux: Aux, model, h: float, turn: int = 0) -> Status:
        """Turn the spins for ``h`` ps in the field of all terms at the present positions."""
        n = state.natoms
        gh = self.g_factor / HBAR * h
        np.copyto(self._start, state.spins)
        self.evaluations += self._field.at_start(state, model, self._first, turn in self.after_kick)
        live = bool(model.live_terms())
        if live:
            _make_normal(n, self._start, self._first, BLOCK)
        self.predict(n, self._start, self._first, self.damping, gh, self._predicted, BLOCK)
        self._field.at(state, model, self._predicted, self._second)
        self.evaluations += 1
        if live:
            _make_normal(n, self._predicted, self._second, BLOCK)
        self.correct(n, self._start, self._first, self._predicted, self._second, self.damping, gh, state.spins, BLOCK)
        self.solves += 1
        if self.damping != 0.0:
            _damping_power(n, self._start, self._first, self._predicted, self._second, self._sums, BLOCK)
            aux.globals["spin_heat"][0] += gh * self.damping / (1.0 + self.damping**2) * float(self._sums.sum())
        model.moved(spins=True)
        if not math.isfinite(float(state.spins.sum())):
            return Status(Code.DIVERGED, message="a spin or its field is not a number")
        return OK
