"""Classical Runge-Kutta for spins (S): explicit, four evaluations of the field, |S| restored at the end, fourth order.

    T(S) = −(g/ħ) S × B(S),    B = (F + α u × F)/(1 + α²),    u = S/|S|,    F = −∂E/∂S
    S₁ = P[S₀ + h (T(S₀) + 2 T(S_a) + 2 T(S_b) + T(S_c))/6],    S_a = S₀ + h T(S₀)/2, S_b = S₀ + h T(S_a)/2, S_c = S₀ + h T(S_b)

P[·] scales to the length |S₀|; the stages between are not scaled, which would cost the order. Fourth order for spins alone; with a
moving lattice the splitting is of second order. With noise ξ, the same in all stages, the Stratonovich solution, of first order in
law like the others. Neither symplectic nor reversible.

Source: Kutta, Z. Math. Phys. 46, 435 (1901); for spins García-Palacios, Lázaro, Phys. Rev. B 58, 14937 (1998) name the
requirement that the scheme tends to the Stratonovich solution.
"""

import numpy as np
from numba import njit, prange

from spinmd.backend import BLOCK
from spinmd.integrators.baths import block_sums, noisy_field
from spinmd.integrators.fields import SpinField
from spinmd.integrators.held import fixed_spins
from spinmd.integrators.predictor_corrector import bath_power, make_normal
from spinmd.integrators.spin_flow import SpinFlow
from spinmd.protocols import OK, Aux, Code, Status
from spinmd.spin_laws import scaled_to, spin_torque
from spinmd.state import State

STAGES = 4


@njit(cache=True, parallel=True)
def _stage(natoms, start, at, field, noise, alphas, step, weight, result, total, last, block):
    """``total`` += weight T(S) and S = S₀ + step T(S) to ``result``; at the ``last`` stage P[S₀ + total] to ``result``."""
    for b in prange((natoms + block - 1) // block):
        for i in range(b * block, min((b + 1) * block, natoms)):
            fx, fy, fz, alpha = noisy_field(i, field, noise, alphas)
            tx, ty, tz = spin_torque(at[i, 0], at[i, 1], at[i, 2], fx, fy, fz, alpha)
            x, y, z = start[i, 0], start[i, 1], start[i, 2]
            total[i, 0] += weight * tx
            total[i, 1] += weight * ty
            total[i, 2] += weight * tz
            if last:
                result[i, 0], result[i, 1], result[i, 2] = scaled_to(
                    x + total[i, 0], y + total[i, 1], z + total[i, 2], x, y, z
                )
            else:
                result[i, 0], result[i, 1], result[i, 2] = x + step * tx, y + step * ty, z + step * tz


class RungeKutta(SpinFlow):
    """S by the classical method of Runge and Kutta; four evaluations of the field. Arguments: see ``SpinFlow``."""

    starts_with_field = True

    def __init__(self, damping: float = 0.0, g_factor: float = 2.0, bath=None):
        super().__init__(damping, g_factor, bath)
        self.after_kick: frozenset[int] = frozenset()

    def init(self, state: State, aux: Aux, seed: int, turns: int = 1) -> None:
        """What the bath keeps; nothing else is kept from solve to solve."""
        super().init(state, aux, seed, turns)
        n = state.natoms
        self._field = SpinField(n)
        self._at = np.zeros((STAGES, n, 3))
        self._fields = np.zeros((STAGES, n, 3))
        self._total = np.zeros((n, 3))
        self._sums = block_sums(n)

    def flow(self, state: State, aux: Aux, model, h: float, turn: int = 0) -> Status:
        """Turn the spins for ``h`` ps in the field of all terms at the present positions."""
        n = state.natoms
        gh, alphas, noise = self.start(state, aux, h, turn)
        self._field.fixed = fixed_spins(aux)
        live = bool(model.live_terms())
        start = self._at[0]
        np.copyto(start, state.spins)
        self._total[:] = 0.0
        for k, (step, weight) in enumerate(((0.5, 1.0), (0.5, 2.0), (1.0, 2.0), (0.0, 1.0))):
            at, field = self._at[k], self._fields[k]
            if k == 0:
                self.evaluations += self._field.at_start(state, model, field, turn in self.after_kick)
            else:
                self._field.at(state, model, at, field)
                self.evaluations += 1
            if live:
                make_normal(n, at, field, BLOCK)
            last = k == STAGES - 1
            result = state.spins if last else self._at[k + 1]
            _stage(n, start, at, field, noise, alphas, gh * step, gh * weight / 6.0, result, self._total, last, BLOCK)
        self.solves += 1
        if self.bath.damped:
            for first, second, share in ((0, 3, 1.0 / 3.0), (1, 2, 2.0 / 3.0)):  # Simpson's rule
                pair = self._at[first], self._fields[first], self._at[second], self._fields[second]
                bath_power(n, *pair, noise, alphas, self._sums, BLOCK)
                aux.globals["spin_heat"][0] += gh * share * float(self._sums.sum())
        model.moved(spins=True)
        if not np.isfinite(state.spins.sum()):
            return Status(Code.DIVERGED, message="a spin or its field is not a number")
        return OK
