"""Projected Heun for spins (S): explicit, two evaluations of the field, |S| restored by scaling, second order.

    T(S) = −(g/ħ) S × B(S),    B = (F + α u × F)/(1 + α²),    u = S/|S|,    F = −∂E/∂S
    predictor  S' = P[S₀ + h T(S₀)]
    corrector  S₁ = P[S₀ + h (T(S₀) + T(S'))/2]

P[·] scales to the length |S₀|. S₀ → ``start``, F(S₀) → ``first``, S' → ``predicted``, F(S') → ``second``, S₁ → ``spins``,
all (N, 3), spins in µB and fields in eV/µB; α → ``alpha``; (g/ħ) h → ``gh``, µB/eV.

Source: the scheme of García-Palacios, Lázaro, Phys. Rev. B 58, 14937 (1998), scaled as in Evans et al., J. Phys.: Condens.
Matter 26, 103202 (2014). S' is scaled as well, so that a potential sees spins of the right length only. Neither
symplectic nor reversible: the energy drifts, by O(h³) in a given time. It is the solver of other codes, here for
comparison with them.
"""

import math

from numba import njit, prange

from spinmd.integrators.predictor_corrector import PredictorCorrector
from spinmd.spin_laws import turning_field


@njit(cache=True)
def _scaled(x, y, z, sx, sy, sz):
    """(x, y, z) with the length of s."""
    n2 = x * x + y * y + z * z
    scale = math.sqrt((sx * sx + sy * sy + sz * sz) / n2) if n2 > 0.0 else 0.0
    return x * scale, y * scale, z * scale


@njit(cache=True)
def _torque(x, y, z, fx, fy, fz, alpha):
    """B × S."""
    bx, by, bz = turning_field(x, y, z, fx, fy, fz, alpha)
    return by * z - bz * y, bz * x - bx * z, bx * y - by * x


@njit(cache=True, parallel=True)
def _predict(natoms, start, first, alpha, gh, predicted, block):
    """S' = P[S₀ + h T(S₀)]."""
    for b in prange((natoms + block - 1) // block):
        for i in range(b * block, min((b + 1) * block, natoms)):
            x, y, z = start[i, 0], start[i, 1], start[i, 2]
            tx, ty, tz = _torque(x, y, z, first[i, 0], first[i, 1], first[i, 2], alpha)
            predicted[i, 0], predicted[i, 1], predicted[i, 2] = _scaled(x + gh * tx, y + gh * ty, z + gh * tz, x, y, z)


@njit(cache=True, parallel=True)
def _correct(natoms, start, first, predicted, second, alpha, gh, spins, block):
    """S₁ = P[S₀ + h (T(S₀) + T(S'))/2]."""
    for b in prange((natoms + block - 1) // block):
        for i in range(b * block, min((b + 1) * block, natoms)):
            x, y, z = start[i, 0], start[i, 1], start[i, 2]
            ax, ay, az = _torque(x, y, z, first[i, 0], first[i, 1], first[i, 2], alpha)
            px, py, pz = predicted[i, 0], predicted[i, 1], predicted[i, 2]
            bx, by, bz = _torque(px, py, pz, second[i, 0], second[i, 1], second[i, 2], alpha)
            half = 0.5 * gh
            spins[i, 0], spins[i, 1], spins[i, 2] = _scaled(
                x + half * (ax + bx), y + half * (ay + by), z + half * (az + bz), x, y, z
            )


class Heun(PredictorCorrector):
    """S by Heun's method, scaled to |S|; two evaluations of the field, one after a kick with a live potential."""

    predict = staticmethod(_predict)
    correct = staticmethod(_correct)
