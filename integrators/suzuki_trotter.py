"""Sequential Suzuki-Trotter sweep for spins (S): one spin after the other, forwards for h/2 and backwards for h/2.

    exp(hL) ≈ Π_{i=1..N} exp(h L_i/2) Π_{i=N..1} exp(h L_i/2),      L_i: spin i turns, all others stand still

Omelyan, Mryglod, Folk, Phys. Rev. Lett. 86, 898 (2001); Ma, Woo, Dudarev, Phys. Rev. B 78, 024434 (2008). Second
order, |S| constant. With all others standing still, the energy of spin i is −w·b − wᵀ A w + cubic terms. Where only b
is there, the spin turns about it exactly. Where terms are quadratic in the one spin (anisotropy, biquadratic), turning
it about the field of its *old* direction would lose energy steadily; here the one-spin equation is solved by the
implicit spherical midpoint to rounding, which is symplectic, so that the energy does not drift. Gilbert damping is
solved the same way. Serial: the order of the sweep is the order of the atoms.
"""

import numpy as np
from numba import njit

from spinmd.integrators.held import fixed_spins
from spinmd.integrators.sites import collect_matrix, linear_field, nonlinear_field, sites_of
from spinmd.integrators.spin_flow import SpinFlow
from spinmd.protocols import OK, Aux, Status
from spinmd.spin_laws import midpoint_map, mirror, rotate
from spinmd.state import State

LOCAL_ITERATIONS = 60
LOCAL_TOLERANCE = 1.0e-30  # squared change of the one-spin midpoint


@njit(cache=True)
def _local_solution(i, wx, wy, wz, bx, by, bz, sites, matrix, inverse_moment, alpha, gh):
    """w₁ of spin i in b and its own quadratic and cubic terms, and F at its midpoint; by fixed-point iteration."""
    mx, my, mz = wx, wy, wz
    fx, fy, fz = 0.0, 0.0, 0.0
    for _ in range(LOCAL_ITERATIONS):
        hx, hy, hz = nonlinear_field(i, mx, my, mz, sites, matrix)
        fx, fy, fz = (bx + hx) * inverse_moment, (by + hy) * inverse_moment, (bz + hz) * inverse_moment
        px, py, pz = midpoint_map(wx, wy, wz, mx, my, mz, fx, fy, fz, alpha, alpha > 0.0, gh, True)
        change = (px - mx) ** 2 + (py - my) ** 2 + (pz - mz) ** 2
        mx, my, mz = px, py, pz
        if change <= LOCAL_TOLERANCE * (wx * wx + wy * wy + wz * wz):
            break
    x, y, z = mirror(wx, wy, wz, mx, my, mz)
    return x, y, z, fx, fy, fz


@njit(cache=True)
def _sweep(backwards, w, moments, sites, on_site, noise, alphas, gh):
    """Turn every spin with a moment for gh = (g/ħ) h, in order or backwards. Returns Σ F·ΔS, eV, F without noise."""
    natoms = moments.shape[0]
    work = 0.0
    noisy = noise.shape[0] > 0
    damped = alphas.shape[0] > 0
    matrix = np.zeros((3, 3))
    for step in range(natoms):
        i = natoms - 1 - step if backwards else step
        moment = moments[i]
        if moment == 0.0 or (w[i, 0] == 0.0 and w[i, 1] == 0.0 and w[i, 2] == 0.0):
            continue
        alpha = alphas[i] if damped else 0.0
        wx, wy, wz = w[i, 0], w[i, 1], w[i, 2]
        bx, by, bz = linear_field(i, w, sites)
        if on_site:
            collect_matrix(i, w, sites, matrix)
        nx, ny, nz = 0.0, 0.0, 0.0
        if noisy:
            nx, ny, nz = noise[i, 0], noise[i, 1], noise[i, 2]
            bx, by, bz = bx + moment * nx, by + moment * ny, bz + moment * nz
        if on_site or alpha != 0.0:
            x, y, z, fx, fy, fz = _local_solution(i, wx, wy, wz, bx, by, bz, sites, matrix, 1.0 / moment, alpha, gh)
            work += moment * ((fx - nx) * (x - wx) + (fy - ny) * (y - wy) + (fz - nz) * (z - wz))
        else:
            x, y, z = rotate(wx, wy, wz, bx, by, bz, gh / moment)
        w[i, 0], w[i, 1], w[i, 2] = x, y, z
    return work


class SuzukiTrotter(SpinFlow):
    """S by the sequential sweep. Needs frozen couplings of every magnetic term. Arguments: see ``SpinFlow``.

    The noise of a solve is the same in both directions of the sweep.
    """

    def init(self, state: State, aux: Aux, seed: int, turns: int = 1) -> None:
        """What the bath keeps; the sweep keeps nothing else."""
        super().init(state, aux, seed, turns)
        self._w = np.zeros((state.natoms, 4))

    def flow(self, state: State, aux: Aux, model, h: float, turn: int = 0) -> Status:
        """Turn the spins for ``h`` ps in the field of the couplings at the present positions."""
        sites = sites_of(model.couplings())
        gh, alphas, noise = self.start(state, aux, h, turn)
        moments, fixed = state.moments, fixed_spins(aux)
        turning = np.where(fixed == 0, moments, 0.0) if len(fixed) else moments
        w = self._w
        magnetic = (moments > 0.0)[:, None]
        w[:, :3] = np.divide(state.spins, moments[:, None], out=np.zeros((state.natoms, 3)), where=magnetic)
        work = 0.0
        for backwards in (False, True):
            work += _sweep(backwards, w, turning, sites, sites.on_site, noise, alphas, 0.5 * gh)
        self.evaluations += 2
        self.solves += 1
        if self.bath.damped:
            aux.globals["spin_heat"][0] += work
        np.multiply(w[:, :3], moments[:, None], out=state.spins)
        model.moved(spins=True)
        return OK
