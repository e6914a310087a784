"""Scalar laws of the spin Hamiltonian: fields and energies of on-site terms, and the rotations that move one spin.

All work on e = S/m; H = −∂E/∂e in eV. Written once; CPU loops and device kernels call them.
"""

import math

from numba import njit

import spinmd.backend  # noqa: F401  (the cache folder, before kernels are defined)
from spinmd.simd import larger, root

TINY = 1.0e-300  # keeps a vanished spin, w = 0, from dividing by zero


@njit(cache=True)
def quadratic_law(ex, ey, ez, xx, xy, xz, yx, yy, yz, zx, zy, zz):
    """H = 2 Q e of E = −eᵀ Q e, Q symmetric in eV (uniaxial anisotropy: Q = K n nᵀ), here by rows."""
    return (
        2.0 * (xx * ex + xy * ey + xz * ez),
        2.0 * (yx * ex + yy * ey + yz * ez),
        2.0 * (zx * ex + zy * ey + zz * ez),
    )


@njit(cache=True)
def quadratic_field(ex, ey, ez, q):
    """``quadratic_law`` of an array q (3, 3)."""
    return quadratic_law(
        ex, ey, ez, q[0, 0], q[0, 1], q[0, 2], q[1, 0], q[1, 1], q[1, 2], q[2, 0], q[2, 1], q[2, 2]
    )  # fmt: skip


@njit(cache=True)
def uniaxial_law(ex, ey, ez, k, nx, ny, nz):
    """E = −K (e·n)² and H = −∂E/∂e = 2 K (e·n) n, eV: four numbers."""
    c = ex * nx + ey * ny + ez * nz
    h = 2.0 * k * c
    return -k * c * c, h * nx, h * ny, h * nz


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
def midpoint_map(wx, wy, wz, mx, my, mz, fx, fy, fz, alpha, damped, gh, spherical):
    """One evaluation of the implicit midpoint map for one spin: the new midpoint from the last one.

    spherical  w₁ − w₀ = −(g/ħ) h |w| u × B with u = (w₀ + w₁)/|w₀ + w₁|; the midpoint is |w| u
    otherwise  w₁ − w₀ = −(g/ħ) h m × B with the midpoint m = (w₀ + w₁)/2 of the chord
    where B = (F + α u × F)/(1 + α²). Either is a Cayley rotation, w₁ − w₀ = Ω × (w₀ + w₁), whose solution has
    w₀ + w₁ = 2 [w₀ + Ω × w₀ + Ω (Ω·w₀)]/(1 + Ω²); Ω = (g/ħ) h B |w|/|w₀ + w₁| with |w₀ + w₁| = 2 m·w₀/|w|, or Ω = (g/ħ) h B/2.
    (wx, wy, wz) = w₀, which may be zero; ``damped``: False if α is zero everywhere;
    m the last midpoint, (fx, fy, fz) = F there in eV/µB; gh = (g/ħ) h.
    McLachlan, Modin, Verdier, Phys. Rev. E 89, 061301 (2014), eq. 3; d'Aquino, Serpico, Miano, J. Comput. Phys. 209, 730 (2005).
    """
    w2 = wx * wx + wy * wy + wz * wz
    bx, by, bz = fx, fy, fz
    if damped:
        inverse = 1.0 / root(mx * mx + my * my + mz * mz + TINY)
        bx, by, bz = damped_field(mx * inverse, my * inverse, mz * inverse, fx, fy, fz, alpha)
    if spherical:
        a = gh * w2 / larger(2.0 * (mx * wx + my * wy + mz * wz), 0.1 * w2 + TINY)
    else:
        a = 0.0 * w2 + 0.5 * gh
    ox, oy, oz = a * bx, a * by, a * bz
    dot = ox * wx + oy * wy + oz * wz
    sx = wx + (oy * wz - oz * wy) + dot * ox
    sy = wy + (oz * wx - ox * wz) + dot * oy
    sz = wz + (ox * wy - oy * wx) + dot * oz
    if spherical:
        scale = root(w2 / (sx * sx + sy * sy + sz * sz + TINY))
    else:
        scale = 1.0 / (1.0 + ox * ox + oy * oy + oz * oz)
    return sx * scale, sy * scale, sz * scale


@njit(cache=True)
def mirror(wx, wy, wz, mx, my, mz):
    """w₁ of a midpoint m parallel to w₀ + w₁: w₀ reflected at m; the length of w₀ is kept."""
    c = 2.0 * (mx * wx + my * wy + mz * wz) / (mx * mx + my * my + mz * mz + TINY)
    return c * mx - wx, c * my - wy, c * mz - wz


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


@njit(cache=True)
def turning_field(x, y, z, fx, fy, fz, alpha):
    """B = (F + α u × F)/(1 + α²) of a spin S = (x, y, z), u = S/|S|, which turns by dS/dt = (g/ħ) B × S."""
    if alpha == 0.0:
        return fx, fy, fz
    inverse = 1.0 / math.sqrt(x * x + y * y + z * z + TINY)
    return damped_field(x * inverse, y * inverse, z * inverse, fx, fy, fz, alpha)


@njit(cache=True)
def heat_power(x, y, z, fx, fy, fz, nx, ny, nz, alpha):
    """(α/|S|) (S × F)·(S × (F + ξ)) − F·(S × ξ): (1 + α²) ħ/g times the power −dE/dt that leaves a spin S = (x, y, z), µB, in the
    field F with noise ξ = (nx, ny, nz), eV/µB. Zero for a vanished spin."""
    length = math.sqrt(x * x + y * y + z * z)
    if length == 0.0:
        return 0.0
    ax, ay, az = y * fz - z * fy, z * fx - x * fz, x * fy - y * fx
    bx, by, bz = y * nz - z * ny, z * nx - x * nz, x * ny - y * nx
    return (alpha / length) * (ax * (ax + bx) + ay * (ay + by) + az * (az + bz)) - (fx * bx + fy * by + fz * bz)


@njit(cache=True)
def scaled_to(x, y, z, sx, sy, sz):
    """(x, y, z) with the length of s."""
    n2 = x * x + y * y + z * z
    scale = math.sqrt((sx * sx + sy * sy + sz * sz) / n2) if n2 > 0.0 else 0.0
    return x * scale, y * scale, z * scale


@njit(cache=True)
def spin_torque(x, y, z, fx, fy, fz, alpha):
    """B × S with B = ``turning_field``: dS/dt divided by g/ħ."""
    bx, by, bz = turning_field(x, y, z, fx, fy, fz, alpha)
    return by * z - bz * y, bz * x - bx * z, bx * y - by * x
