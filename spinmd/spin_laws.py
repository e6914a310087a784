"""Scalar laws of the spin Hamiltonian: fields and energies of on-site terms, and the rotations that move one spin.

All work on e = S/m; H = −∂E/∂e in eV. Written once; CPU loops and device kernels call them.
"""

import math

import spinmd.backend  # noqa: F401  (the cache folder, before kernels are defined)
from numba import njit


@njit(cache=True)
def quadratic_field(ex, ey, ez, q):
    """H = 2 Q e of E = −eᵀ Q e, Q symmetric (3, 3) in eV (uniaxial anisotropy: Q = K n nᵀ)."""
    return (
        2.0 * (q[0, 0] * ex + q[0, 1] * ey + q[0, 2] * ez),
        2.0 * (q[1, 0] * ex + q[1, 1] * ey + q[1, 2] * ez),
        2.0 * (q[2, 0] * ex + q[2, 1] * ey + q[2, 2] * ez),
    )


@njit(cache=True)
def cubic_energy(x, y, z, k1, k2):
    """E = K1 (x²y² + y²z² + z²x²) + K2 x²y²z², eV; x, y, z along the cubic axes."""
    x2, y2, z2 = x * x, y * y, z * z
    return k1 * (x2 * y2 + y2 * z2 + z2 * x2) + k2 * x2 * y2 * z2


@njit(cache=True)
def cubic_field(x, y, z, k1, k2):
    """H = −∂E/∂(x, y, z) of ``cubic_energy``, eV."""
    x2, y2, z2 = x * x, y * y, z * z
    return (
        -2.0 * x * (k1 * (y2 + z2) + k2 * y2 * z2),
        -2.0 * y * (k1 * (z2 + x2) + k2 * z2 * x2),
        -2.0 * z * (k1 * (x2 + y2) + k2 * x2 * y2),
    )


@njit(cache=True)
def cayley(wx, wy, wz, ox, oy, oz):
    """w₁ of w₁ − w₀ = Ω × (w₀ + w₁): a rotation about Ω by 2 atan|Ω|, exact in |w|.

    w₁ = [(1 − Ω²) w₀ + 2 Ω × w₀ + 2 Ω (Ω·w₀)] / (1 + Ω²)
    """
    o2 = ox * ox + oy * oy + oz * oz
    dot = 2.0 * (ox * wx + oy * wy + oz * wz)
    scale = 1.0 / (1.0 + o2)
    rest = 1.0 - o2
    return (
        scale * (rest * wx + 2.0 * (oy * wz - oz * wy) + dot * ox),
        scale * (rest * wy + 2.0 * (oz * wx - ox * wz) + dot * oy),
        scale * (rest * wz + 2.0 * (ox * wy - oy * wx) + dot * oz),
    )


@njit(cache=True)
def damped_field(ux, uy, uz, fx, fy, fz, alpha):
    """(F + α u × F)/(1 + α²): precession about it is Landau-Lifshitz-Gilbert motion of the unit vector u.

    dS/dt = −(g/ħ) S × (F + α u × F)/(1 + α²); Gilbert, IEEE Trans. Magn. 40, 3443 (2004).
    """
    scale = 1.0 / (1.0 + alpha * alpha)
    return (
        scale * (fx + alpha * (uy * fz - uz * fy)),
        scale * (fy + alpha * (uz * fx - ux * fz)),
        scale * (fz + alpha * (ux * fy - uy * fx)),
    )


@njit(cache=True)
def midpoint_rotation(wx, wy, wz, mx, my, mz, fx, fy, fz, alpha, gh):
    """One evaluation of the spherical midpoint map for one spin. Returns w₁ and the new midpoint |w| u.

    w₁ − w₀ = −(g/ħ) h |w| u × B, with B = F + α u × F over (1 + α²) at the midpoint, u = (w₀ + w₁)/|w₀ + w₁|;
    w = (wx, wy, wz) is w₀, m the last iterate of the midpoint (length |w₀|), F the field there in eV/µB, gh = (g/ħ) h.
    McLachlan, Modin, Verdier, Phys. Rev. E 89, 061301 (2014), eq. 3.
    """
    w2 = wx * wx + wy * wy + wz * wz
    if w2 == 0.0:
        return 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    norm = math.sqrt(w2)
    bx, by, bz = fx, fy, fz
    if alpha != 0.0:
        bx, by, bz = damped_field(mx / norm, my / norm, mz / norm, fx, fy, fz, alpha)
    # |w0 + w1| = 2 m·(w0 + w1)/(2|m|) = 2 (m·w0)/|m| because m is parallel to w0 + w1 and |w0| = |w1|
    along = 2.0 * (mx * wx + my * wy + mz * wz) / norm
    a = gh * norm / max(along, 0.1 * norm)
    x, y, z = cayley(wx, wy, wz, a * bx, a * by, a * bz)
    sx, sy, sz = wx + x, wy + y, wz + z
    scale = norm / math.sqrt(max(sx * sx + sy * sy + sz * sz, 1.0e-4 * w2))
    return x, y, z, sx * scale, sy * scale, sz * scale


@njit(cache=True)
def rotate(wx, wy, wz, bx, by, bz, angle):
    """w turned about the direction of B by ``angle`` |B| (radians), right-handed: the exact solution of dw/dt = B × w."""
    length = math.sqrt(bx * bx + by * by + bz * bz)
    if length == 0.0:
        return wx, wy, wz
    c, s = math.cos(angle * length), math.sin(angle * length)
    nx, ny, nz = bx / length, by / length, bz / length
    d = (nx * wx + ny * wy + nz * wz) * (1.0 - c)
    return (
        c * wx + s * (ny * wz - nz * wy) + d * nx,
        c * wy + s * (nz * wx - nx * wz) + d * ny,
        c * wz + s * (nx * wy - ny * wx) + d * nz,
    )
