"""Semi-implicit scheme B for spins (S): two evaluations of the field, |S| constant to rounding, second order.

    A(S) = (F(S) + α u × F(S))/(1 + α²),    u = S/|S|,    F = −∂E/∂S
    predictor  S' = S₀ + (g/ħ) h A(S₀) × M',    M' = (S₀ + S')/2
    corrector  S₁ = S₀ + (g/ħ) h A(M') × (S₀ + S₁)/2

Each is linear in the unknown spin: a Cayley rotation (``spin_laws.midpoint_map``), no iteration. S₀ → ``start``, F(S₀) →
``first``, M' → ``predicted``, F(M') → ``second``, S₁ → ``spins``, all (N, 3), spins in µB and fields in eV/µB; α of each atom →
``alphas`` (N,) or empty; the noise, which is added to both F → ``noise`` (N, 3) or empty; (g/ħ) h → ``gh``, µB/eV.

Source: Mentink, Tretyakov, Fasolino, Katsnelson, Rasing, J. Phys.: Condens. Matter 22, 176001 (2010), eqs. 18 and 19 with scheme B.
M' is set to the length of the spin, a change of O(h²) that keeps the order: a potential sees spins of the right length only.
"""

import numpy as np
from numba import njit, prange

from spinmd.backend import BLOCK
from spinmd.integrators.baths import noisy_field
from spinmd.integrators.predictor_corrector import PredictorCorrector, bath_power
from spinmd.protocols import Aux
from spinmd.spin_laws import midpoint_map, mirror, scaled_to


@njit(cache=True, parallel=True)
def _predict(natoms, start, first, noise, alphas, gh, predicted, block):
    """M' with the length of S₀."""
    damped = alphas.shape[0] > 0
    for b in prange((natoms + block - 1) // block):
        for i in range(b * block, min((b + 1) * block, natoms)):
            x, y, z = start[i, 0], start[i, 1], start[i, 2]
            fx, fy, fz, alpha = noisy_field(i, first, noise, alphas)
            mx, my, mz = midpoint_map(x, y, z, x, y, z, fx, fy, fz, alpha, damped, gh, False)
            predicted[i, 0], predicted[i, 1], predicted[i, 2] = scaled_to(mx, my, mz, x, y, z)


@njit(cache=True, parallel=True)
def _correct(natoms, start, first, predicted, second, noise, alphas, gh, spins, block):
    """S₁."""
    damped = alphas.shape[0] > 0
    for b in prange((natoms + block - 1) // block):
        for i in range(b * block, min((b + 1) * block, natoms)):
            x, y, z = start[i, 0], start[i, 1], start[i, 2]
            fx, fy, fz, alpha = noisy_field(i, second, noise, alphas)
            mx, my, mz = predicted[i, 0], predicted[i, 1], predicted[i, 2]
            mx, my, mz = midpoint_map(x, y, z, mx, my, mz, fx, fy, fz, alpha, damped, gh, False)
            spins[i, 0], spins[i, 1], spins[i, 2] = mirror(x, y, z, mx, my, mz)


class SemiImplicit(PredictorCorrector):
    """S by Mentink's scheme B; two evaluations of the field, one after a kick with a live potential."""

    predict = staticmethod(_predict)
    correct = staticmethod(_correct)

    def take_heat(self, aux: Aux, gh: float, noise: np.ndarray, alphas: np.ndarray) -> None:
        """The power at M' (midpoint rule)."""
        n, m, field = len(self._start), self._predicted, self._second
        bath_power(n, m, field, m, field, noise, alphas, self._sums, BLOCK)
        aux.globals["spin_heat"][0] += gh * float(self._sums.sum())
