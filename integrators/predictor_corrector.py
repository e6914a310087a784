"""What the explicit two-stage spin solvers (S) share: a predictor with the field at S₀, a corrector with that at S' as well.

Evaluations of the field per solve: 2, or 1 where the solve follows a kick with a live potential, whose forces and fields
at S₀ come from one evaluation (the first S of V S R S V, and that of R V S V R).

With live potentials F loses its part along S first. That part is no torque; but a potential may hold |S| by a strong
field along S, which turns with the spin, and a rotation about where it was would gain energy fast.

With noise ξ the field is F + ξ, with the same ξ in both stages: the Stratonovich solution.

What the bath takes is the time integral of the power F·dS/dt by the trapezoidal rule over S₀ and S',

    Q = h (g/ħ)/(1 + α²) Σ ½ [P(S₀, F₀) + P(S', F')],    P(S, F) = (α/|S|) (S × F)·(S × (F + ξ)) − F·(S × ξ)

and not the change of the energy, so that ``conserved`` shows the error of the solver.
"""

import numpy as np
from numba import njit, prange

from spinmd.backend import BLOCK
from spinmd.integrators.baths import SpinBath, block_sums
from spinmd.integrators.fields import SpinField
from spinmd.integrators.held import fixed_spins
from spinmd.integrators.spin_flow import SpinFlow
from spinmd.protocols import OK, Aux, Code, Status
from spinmd.spin_laws import TINY, heat_power
from spinmd.state import State


@njit(cache=True)
def _power(i, spins, field, noise, noisy, alpha):
    """``heat_power`` of atom i."""
    nx, ny, nz = 0.0, 0.0, 0.0
    if noisy:
        nx, ny, nz = noise[i, 0], noise[i, 1], noise[i, 2]
    return heat_power(
        spins[i, 0], spins[i, 1], spins[i, 2], field[i, 0], field[i, 1], field[i, 2], nx, ny, nz, alpha
    )  # fmt: skip


@njit(cache=True, parallel=True)
def bath_power(natoms, start, first, predicted, second, noise, alphas, sums, block):
    """Per block, Σ ½ (P₀ + P')/(1 + α²) in eV²/µB, which (g/ħ) h turns into eV."""
    noisy = noise.shape[0] > 0
    for b in prange(sums.shape[0]):
        total = 0.0
        for i in range(b * block, min((b + 1) * block, natoms)):
            alpha = alphas[i]
            total += (
                _power(i, start, first, noise, noisy, alpha) + _power(i, predicted, second, noise, noisy, alpha)
            ) / (1.0 + alpha * alpha)
        sums[b] = 0.5 * total


@njit(cache=True, parallel=True)
def make_normal(natoms, spins, field, block):
    """F − S (S·F)/S²."""
    for b in prange((natoms + block - 1) // block):
        for i in range(b * block, min((b + 1) * block, natoms)):
            x, y, z = spins[i, 0], spins[i, 1], spins[i, 2]
            along = (x * field[i, 0] + y * field[i, 1] + z * field[i, 2]) / (x * x + y * y + z * z + TINY)
            field[i, 0] -= along * x
            field[i, 1] -= along * y
            field[i, 2] -= along * z


class PredictorCorrector(SpinFlow):
    """S by two stages; a solver adds ``predict`` and ``correct``.

    damping, g_factor, bath  see ``SpinFlow``
    after_kick  turns that directly follow a V; ``Splitting`` sets it
    """

    starts_with_field = True

    def __init__(self, damping: float = 0.0, g_factor: float = 2.0, bath: SpinBath | None = None):
        super().__init__(damping, g_factor, bath)
        self.after_kick: frozenset[int] = frozenset()

    def init(self, state: State, aux: Aux, seed: int, turns: int = 1) -> None:
        """What the bath keeps; nothing else is kept from solve to solve."""
        super().init(state, aux, seed, turns)
        n = state.natoms
        self._field = SpinField(n)
        self._start, self._predicted, self._first, self._second = (np.zeros((n, 3)) for _ in range(4))
        self._sums = block_sums(n)

    def flow(self, state: State, aux: Aux, model, h: float, turn: int = 0) -> Status:
        """Turn the spins for ``h`` ps in the field of all terms at the present positions."""
        n = state.natoms
        gh, alphas, noise = self.start(state, aux, h, turn)
        self._field.fixed = fixed_spins(aux)
        np.copyto(self._start, state.spins)
        self.evaluations += self._field.at_start(state, model, self._first, turn in self.after_kick)
        live = bool(model.live_terms())
        if live:
            make_normal(n, self._start, self._first, BLOCK)
        self.predict(n, self._start, self._first, noise, alphas, gh, self._predicted, BLOCK)
        self._field.at(state, model, self._predicted, self._second)
        self.evaluations += 1
        if live:
            make_normal(n, self._predicted, self._second, BLOCK)
        self.correct(
            n, self._start, self._first, self._predicted, self._second, noise, alphas, gh, state.spins, BLOCK
        )  # fmt: skip
        self.solves += 1
        if self.bath.damped:
            self.take_heat(aux, gh, noise, alphas)
        model.moved(spins=True)
        if not np.isfinite(state.spins.sum()):
            return Status(Code.DIVERGED, message="a spin or its field is not a number")
        return OK

    def take_heat(self, aux: Aux, gh: float, noise: np.ndarray, alphas: np.ndarray) -> None:
        """Add what the bath has taken to the account."""
        n = len(self._start)
        bath_power(n, self._start, self._first, self._predicted, self._second, noise, alphas, self._sums, BLOCK)
        aux.globals["spin_heat"][0] += gh * float(self._sums.sum())
