"""Projected Heun for spins (S): explicit, two evaluations of the field, |S| restored by scaling, second order.

    T(S) = −(g/ħ) S × B(S),    B = (F + α u × F)/(1 + α²),    u = S/|S|,    F = −∂E/∂S
    predictor  S' = P[S₀ + h T(S₀)]
    corrector  S₁ = P[S₀ + h (T(S₀) + T(S'))/2]

P[·] scales to the length |S₀|. S₀ → ``start``, F(S₀) → ``first``, S' → ``predicted``, F(S') → ``second``, S₁ → ``spins``,
all (N, 3), spins in µB and fields in eV/µB; α of each atom → ``alphas`` (N,) or empty; the noise, which is
added to both F → ``noise`` (N, 3) or empty; (g/ħ) h → ``gh``, µB/eV.

Source: the scheme of García-Palacios, Lázaro, Phys. Rev. B 58, 14937 (1998), scaled as in Evans et al., J. Phys.: Condens.
Matter 26, 103202 (2014). S' is scaled as well, so that a potential sees spins of the right length only. Neither
symplectic nor reversible: the energy drifts, by O(h³) in a given time. It is the solver of other codes, here for
comparison with them.
"""

from numba import njit, prange

from spinmd.integrators.baths import noisy_field
from spinmd.integrators.predictor_corrector import PredictorCorrector
from spinmd.spin_laws import scaled_to, spin_torque


@njit(cache=True, parallel=True)
def _predict(natoms, start, first, noise, alphas, gh, predicted, block):
    """S' = P[S₀ + h T(S₀)]."""
    for b in prange((natoms + block - 1) // block):
        for i in range(b * block, min((b + 1) * block, natoms)):
            x, y, z = start[i, 0], start[i, 1], start[i, 2]
            fx, fy, fz, alpha = noisy_field(i, first, noise, alphas)
            tx, ty, tz = spin_torque(x, y, z, fx, fy, fz, alpha)
            predicted[i, 0], predicted[i, 1], predicted[i, 2] = scaled_to(
                x + gh * tx, y + gh * ty, z + gh * tz, x, y, z
            )


@njit(cache=True, parallel=True)
def _correct(natoms, start, first, predicted, second, noise, alphas, gh, spins, block):
    """S₁ = P[S₀ + h (T(S₀) + T(S'))/2]."""
    for b in prange((natoms + block - 1) // block):
        for i in range(b * block, min((b + 1) * block, natoms)):
            x, y, z = start[i, 0], start[i, 1], start[i, 2]
            fx, fy, fz, alpha = noisy_field(i, first, noise, alphas)
            ax, ay, az = spin_torque(x, y, z, fx, fy, fz, alpha)
            fx, fy, fz, alpha = noisy_field(i, second, noise, alphas)
            bx, by, bz = spin_torque(predicted[i, 0], predicted[i, 1], predicted[i, 2], fx, fy, fz, alpha)
            half = 0.5 * gh
            spins[i, 0], spins[i, 1], spins[i, 2] = scaled_to(
                x + half * (ax + bx), y + half * (ay + by), z + half * (az + bz), x, y, z
            )


class Heun(PredictorCorrector):
    """S by Heun's method, scaled to |S|; two evaluations of the field, one after a kick with a live potential."""

    predict = staticmethod(_predict)
    correct = staticmethod(_correct)
