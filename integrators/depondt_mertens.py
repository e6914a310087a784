"""Depondt-Mertens rotations for spins (S): explicit, two evaluations of the field, |S| constant to rounding, second order.

    B(S) = (F(S) + α u × F(S))/(1 + α²),    u = S/|S|,    F = −∂E/∂S
    predictor  S' = Rot[(g/ħ) h B(S₀)] S₀
    corrector  S₁ = Rot[(g/ħ) h (B(S₀) + B(S'))/2] S₀

Rot[v] turns by the angle |v| about v, right-handed: the exact solution of dS/dt = (g/ħ) B × S for constant B
(``spin_laws.rotate``, Rodrigues' formula). S₀ → ``start``, F(S₀) → ``first``, S' → ``predicted``, F(S') → ``second``,
S₁ → ``spins``, all (N, 3), spins in µB and fields in eV/µB; α of each atom → ``alphas`` (N,) or empty; the noise, which is
added to both F → ``noise`` (N, 3) or empty; (g/ħ) h → ``gh``, µB/eV.

Source: Depondt, Mertens, J. Phys.: Condens. Matter 21, 336005 (2009). Neither symplectic nor reversible: the energy
drifts, by O(h³) in a given time.
"""

from numba import njit, prange

from spinmd.integrators.baths import noisy_field
from spinmd.integrators.predictor_corrector import PredictorCorrector
from spinmd.spin_laws import rotate, turning_field


@njit(cache=True, parallel=True)
def _predict(natoms, start, first, noise, alphas, gh, predicted, block):
    """S' = Rot[(g/ħ) h B(S₀)] S₀."""
    for b in prange((natoms + block - 1) // block):
        for i in range(b * block, min((b + 1) * block, natoms)):
            x, y, z = start[i, 0], start[i, 1], start[i, 2]
            fx, fy, fz, alpha = noisy_field(i, first, noise, alphas)
            bx, by, bz = turning_field(x, y, z, fx, fy, fz, alpha)
            predicted[i, 0], predicted[i, 1], predicted[i, 2] = rotate(x, y, z, bx, by, bz, gh)


@njit(cache=True, parallel=True)
def _correct(natoms, start, first, predicted, second, noise, alphas, gh, spins, block):
    """S₁ = Rot[(g/ħ) h (B(S₀) + B(S'))/2] S₀."""
    for b in prange((natoms + block - 1) // block):
        for i in range(b * block, min((b + 1) * block, natoms)):
            x, y, z = start[i, 0], start[i, 1], start[i, 2]
            fx, fy, fz, alpha = noisy_field(i, first, noise, alphas)
            ax, ay, az = turning_field(x, y, z, fx, fy, fz, alpha)
            fx, fy, fz, alpha = noisy_field(i, second, noise, alphas)
            bx, by, bz = turning_field(predicted[i, 0], predicted[i, 1], predicted[i, 2], fx, fy, fz, alpha)
            spins[i, 0], spins[i, 1], spins[i, 2] = rotate(
                x, y, z, 0.5 * (ax + bx), 0.5 * (ay + by), 0.5 * (az + bz), gh
            )


class DepondtMertens(PredictorCorrector):
    """S by a predicted and a corrected rotation; two evaluations of the field, one after a kick with a live potential."""

    predict = staticmethod(_predict)
    correct = staticmethod(_correct)
