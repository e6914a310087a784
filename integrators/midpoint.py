"""Implicit midpoint for spins (S), in two forms: |S| constant, time-reversible, second order; solved by iteration.

Energy-conserving (``spherical=False``): d'Aquino, Serpico, Miano, J. Comput. Phys. 209, 730 (2005)

    S₁ − S₀ = −(g/ħ) h M × F̄,    M = (S₀ + S₁)/2,    F̄ = ∫₀¹ F(S₀ + τ(S₁ − S₀)) dτ

F̄ is a discrete gradient (McLachlan, Quispel, Robidoux, Phil. Trans. R. Soc. A 357, 1021 (1999)): (S₁ − S₀)·F̄ = E(S₀)
− E(S₁), so that the energy of frozen couplings is conserved to the tolerance whatever the step. For terms up to second
order in the spins F̄ = F(M); biquadratic and cubic terms take Simpson's rule, [F(S₀) + 4F(M) + F(S₁)]/6, which is
exact up to fourth order. It needs fields at shortened spins |M| < |S|: for frozen couplings only.

Spherical (``spherical=True``): McLachlan, Modin, Verdier, Phys. Rev. E 89, 061301 (2014)

    S₁ − S₀ = −(g/ħ) h |S| u × F(|S| u),    u = (S₀ + S₁)/|S₀ + S₁|

Symplectic, any potential; the energy fluctuates by O(h²). Both conserve the total spin for isotropic exchange, to the
tolerance. With damping F becomes (F + α u × F)/(1 + α²).

Solution: fixed-point iteration of the midpoints. Given the field, each spin's equation is solved exactly in |S|
(Cayley rotation, ``spin_laws.midpoint_map``); the field comes from the frozen couplings, one pass per iteration. The
start extrapolates the fields of the last steps (without noise), and Anderson acceleration of depth one (Walker and Ni,
SIAM J. Numer. Anal. 49, 1715 (2011)) combines the last two iterates where it converges slowly. The iteration ends when the
root mean square change of the midpoints (relative to |S|), times the rate at which the changes fall, is no more than
``tolerance``: an estimate of the error that is left, which does not depend on the number of atoms. Ending too early
shows as a drift of the energy: an error of 2e-9 costs 5e-5 meV/atom/ps near the ferromagnet of iron at 1 fs, the
default of 3e-10 nothing that can be measured.
"""

import math

import numpy as np
from numba import njit, prange

from spinmd.backend import BLOCK, aligned_zeros, block_count
from spinmd.integrators.baths import SpinBath
from spinmd.integrators.held import fixed_spins
from spinmd.integrators.live_midpoint import LiveMidpoint, anderson_sums
from spinmd.integrators.spin_flow import SpinFlow
from spinmd.protocols import OK, Aux, Code, Status
from spinmd.simd import (
    hsum,
    load,
    load_rows3,
    load_rows4,
    root,
    splat,
    store_rows3,
    store_rows4,
    weighted_rows4,
    weighted_rows4_of8,
)
from spinmd.spin_laws import TINY, midpoint_map, mirror
from spinmd.state import State

SLOW = 0.1  # rate of convergence from which on Anderson acceleration is worth its cost
HISTORY = 4  # fields of past steps that the start extrapolates
EXTRAPOLATION = np.array(
    [[1.0, 0.0, 0.0, 0.0], [2.0, -1.0, 0.0, 0.0], [3.0, -3.0, 1.0, 0.0], [4.0, -6.0, 4.0, -1.0]]
)  # row k: weights of the last, second last, ... of k + 1 equally spaced values


@njit(cache=True)
def _extrapolated(f1, f2, f3, f4, weights):
    """Weighted sum of four fields, component by component, for numbers and vectors alike."""
    return (
        weights[0] * f1[0] + weights[1] * f2[0] + weights[2] * f3[0] + weights[3] * f4[0],
        weights[0] * f1[1] + weights[1] * f2[1] + weights[2] * f3[1] + weights[3] * f4[1],
        weights[0] * f1[2] + weights[1] * f2[2] + weights[2] * f3[2] + weights[3] * f4[2],
    )


@njit(cache=True)
def first_midpoint(x, y, z, fx, fy, fz, known, alpha, damped, gh, spherical):
    """The midpoint in the extrapolated field; w₀ itself without history. The second pass has the right |w₀ + w₁| and, with
    damping, the right direction."""
    mx, my, mz = x, y, z
    if known:
        mx, my, mz = midpoint_map(x, y, z, mx, my, mz, fx, fy, fz, alpha, damped, gh, spherical)
        mx, my, mz = midpoint_map(x, y, z, mx, my, mz, fx, fy, fz, alpha, damped, gh, spherical)
    return mx, my, mz


@njit(cache=True, parallel=True)
def _start(
    natoms, spins, inverse_moments, f1, f2, f3, f4, weights, known, noise, alphas, gh, spherical, w0, middle, block
):
    """w₀ = S/m and a first midpoint; f1 ... f4 are the fields F of the last steps, normal to the spins and without noise."""
    damped, noisy = alphas.shape[0] > 0, noise.shape[0] > 0
    guess = known > 0 or noisy
    for b in prange((natoms + block - 1) // block):
        first, last = b * block, min((b + 1) * block, natoms)
        whole = first + (last - first) // 8 * 8
        for i in range(first, whole, 8):
            s = load(inverse_moments, i)
            x, y, z = load_rows3(spins, i)
            x, y, z = x * s, y * s, z * s
            store_rows4(w0, i, x, y, z, splat(0.0))
            fx, fy, fz = splat(0.0), splat(0.0), splat(0.0)
            if known > 0:
                fx, fy, fz = _extrapolated(
                    load_rows3(f1, i), load_rows3(f2, i), load_rows3(f3, i), load_rows3(f4, i), weights
                )
            if noisy:
                nx, ny, nz = load_rows3(noise, i)
                fx, fy, fz = fx + nx, fy + ny, fz + nz
            alpha = splat(0.0)
            if damped:
                alpha = load(alphas, i)
            mx, my, mz = first_midpoint(x, y, z, fx, fy, fz, guess, alpha, damped, gh, spherical)
            store_rows4(middle, i, mx, my, mz, splat(0.0))
        for i in range(whole, last):
            s = inverse_moments[i]
            x, y, z = spins[i, 0] * s, spins[i, 1] * s, spins[i, 2] * s
            w0[i, 0], w0[i, 1], w0[i, 2] = x, y, z
            fx, fy, fz = 0.0, 0.0, 0.0
            if known > 0:
                fx, fy, fz = _extrapolated(f1[i], f2[i], f3[i], f4[i], weights)
            if noisy:
                fx, fy, fz = fx + noise[i, 0], fy + noise[i, 1], fz + noise[i, 2]
            alpha = alphas[i] if damped else 0.0
            middle[i, 0], middle[i, 1], middle[i, 2] = first_midpoint(
                x, y, z, fx, fy, fz, guess, alpha, damped, gh, spherical
            )


@njit(cache=True, parallel=True)
def _iterate(
    natoms, w0, middle, result, start, count, atoms, coupling, external, inverse_moments, alphas, gh, spherical,
    changes, block,
):  # fmt: skip
    """One evaluation of the map: the field at ``middle``, the new midpoint to ``result``; per block, the sum of squared relative
    changes of the midpoints."""
    extra = external.shape[0] > 0
    coupled = coupling.shape[0] > 0
    damped = alphas.shape[0] > 0
    for b in prange(changes.shape[0]):
        first, last = b * block, min((b + 1) * block, natoms)
        whole = first + (last - first) // 8 * 8
        total = splat(0.0)
        for i in range(first, whole, 8):
            hx, hy, hz = splat(0.0), splat(0.0), splat(0.0)
            if coupled:
                hx, hy, hz, _ = weighted_rows4_of8(middle, atoms, coupling, start, count, i)
            if extra:
                ex, ey, ez = load_rows3(external, i)
                hx, hy, hz = hx + ex, hy + ey, hz + ez
            s = load(inverse_moments, i)
            hx, hy, hz = hx * s, hy * s, hz * s
            wx, wy, wz, _ = load_rows4(w0, i)
            mx, my, mz, _ = load_rows4(middle, i)
            alpha = splat(0.0)
            if damped:
                alpha = load(alphas, i)
            x, y, z = midpoint_map(wx, wy, wz, mx, my, mz, hx, hy, hz, alpha, damped, gh, spherical)
            store_rows4(result, i, x, y, z, splat(0.0))
            dx, dy, dz = x - mx, y - my, z - mz
            total = total + (dx * dx + dy * dy + dz * dz) / (mx * mx + my * my + mz * mz + TINY)
        change = hsum(total)
        for i in range(whole, last):
            hx, hy, hz = 0.0, 0.0, 0.0
            if coupled:
                hx, hy, hz, _ = weighted_rows4(middle, atoms, coupling, start[i], start[i] + count[i])
            if extra:
                hx, hy, hz = hx + external[i, 0], hy + external[i, 1], hz + external[i, 2]
            s = inverse_moments[i]
            hx, hy, hz = hx * s, hy * s, hz * s
            mx, my, mz = middle[i, 0], middle[i, 1], middle[i, 2]
            alpha = alphas[i] if damped else 0.0
            x, y, z = midpoint_map(w0[i, 0], w0[i, 1], w0[i, 2], mx, my, mz, hx, hy, hz, alpha, damped, gh, spherical)
            result[i, 0], result[i, 1], result[i, 2] = x, y, z
            dx, dy, dz = x - mx, y - my, z - mz
            change += (dx * dx + dy * dy + dz * dz) / (mx * mx + my * my + mz * mz + TINY)
        changes[b] = change


@njit(cache=True, parallel=True)
def _mix(natoms, g, old_g, theta, spherical, w0, result, block):
    """Anderson step of depth one: (1 − θ) g + θ g', set to the length of w₀ where the midpoint has it."""
    for b in prange((natoms + block - 1) // block):
        for i in range(b * block, min((b + 1) * block, natoms)):
            x = g[i, 0] + theta * (old_g[i, 0] - g[i, 0])
            y = g[i, 1] + theta * (old_g[i, 1] - g[i, 1])
            z = g[i, 2] + theta * (old_g[i, 2] - g[i, 2])
            scale = 1.0
            if spherical:
                w2 = w0[i, 0] ** 2 + w0[i, 1] ** 2 + w0[i, 2] ** 2
                n2 = x * x + y * y + z * z
                scale = np.sqrt(w2 / n2) if n2 > 0.0 else 0.0
            result[i, 0], result[i, 1], result[i, 2] = x * scale, y * scale, z * scale


@njit(cache=True)
def turned_by(dx, dy, dz, mx, my, mz, gh):
    """The field B, normal to the midpoint m, that turned a spin: w₁ − w₀ = (dx, dy, dz) = (g/ħ) h B × m."""
    scale = 1.0 / (gh * (mx * mx + my * my + mz * mz) + TINY)
    return scale * (my * dz - mz * dy), scale * (mz * dx - mx * dz), scale * (mx * dy - my * dx)


@njit(cache=True)
def undamped(bx, by, bz, mx, my, mz, alpha):
    """F = B − α u × B of B = (F + α u × F)/(1 + α²), both normal to u = m/|m|."""
    scale = alpha / root(mx * mx + my * my + mz * mz + TINY)
    return bx - scale * (my * bz - mz * by), by - scale * (mz * bx - mx * bz), bz - scale * (mx * by - my * bx)


@njit(cache=True)
def normal_part(x, y, z, mx, my, mz):
    """The part of (x, y, z) normal to m."""
    along = (x * mx + y * my + z * mz) / (mx * mx + my * my + mz * mz + TINY)
    return x - along * mx, y - along * my, z - along * mz


@njit(cache=True, parallel=True)
def _finish(natoms, w0, middle, moments, noise, alphas, gh, spins, field, sums, block):
    """S₁ = m w₁, w₁ the mirror image of w₀ at the midpoint; F, without noise, that turned it to ``field`` for the next start; per
    block, Σ F·(S₁ − S₀), F without noise: what the bath has taken, eV."""
    damped, noisy = alphas.shape[0] > 0, noise.shape[0] > 0
    for b in prange(sums.shape[0]):
        first, last = b * block, min((b + 1) * block, natoms)
        whole = first + (last - first) // 8 * 8
        total = splat(0.0)
        for i in range(first, whole, 8):
            wx, wy, wz, _ = load_rows4(w0, i)
            mx, my, mz, _ = load_rows4(middle, i)
            x, y, z = mirror(wx, wy, wz, mx, my, mz)
            dx, dy, dz = x - wx, y - wy, z - wz
            fx, fy, fz = turned_by(dx, dy, dz, mx, my, mz, gh)
            m = load(moments, i)
            if damped:
                fx, fy, fz = undamped(fx, fy, fz, mx, my, mz, load(alphas, i))
            if noisy:
                nx, ny, nz = load_rows3(noise, i)
                nx, ny, nz = normal_part(nx, ny, nz, mx, my, mz)
                fx, fy, fz = fx - nx, fy - ny, fz - nz
            store_rows3(field, i, fx, fy, fz)
            total = total + m * (fx * dx + fy * dy + fz * dz)
            store_rows3(spins, i, x * m, y * m, z * m)
        work = hsum(total)
        for i in range(whole, last):
            wx, wy, wz = w0[i, 0], w0[i, 1], w0[i, 2]
            mx, my, mz = middle[i, 0], middle[i, 1], middle[i, 2]
            x, y, z = mirror(wx, wy, wz, mx, my, mz)
            dx, dy, dz = x - wx, y - wy, z - wz
            fx, fy, fz = turned_by(dx, dy, dz, mx, my, mz, gh)
            m = moments[i]
            if damped:
                fx, fy, fz = undamped(fx, fy, fz, mx, my, mz, alphas[i])
            if noisy:
                nx, ny, nz = normal_part(noise[i, 0], noise[i, 1], noise[i, 2], mx, my, mz)
                fx, fy, fz = fx - nx, fy - ny, fz - nz
            field[i, 0], field[i, 1], field[i, 2] = fx, fy, fz
            work += m * (fx * dx + fy * dy + fz * dz)
            spins[i, 0], spins[i, 1], spins[i, 2] = x * m, y * m, z * m
        sums[b, 0] = work


class Midpoint(SpinFlow):
    """S by an implicit midpoint.

    spherical  the symplectic form; otherwise the energy-conserving one, except where a term has no frozen couplings
    damping, g_factor, bath  see ``SpinFlow``
    tolerance  estimated root mean square of the relative error of the midpoints
    iterations at most; more is "not converged", which the run reports
    """

    def __init__(
        self, damping: float = 0.0, g_factor: float = 2.0, tolerance: float = 3.0e-10, iterations: int = 60,
        acceleration: bool = True, spherical: bool = False, bath: SpinBath | None = None,
    ):  # fmt: skip
        super().__init__(damping, g_factor, bath)
        self.tolerance = float(tolerance)
        self.iterations = int(iterations)
        self.acceleration = acceleration
        self.spherical = spherical
        self._live: LiveMidpoint | None = None
        self._turns, self._seed = 1, 0

    def init(self, state: State, aux: Aux, seed: int, turns: int = 1) -> None:
        """Histories of fields for the extrapolated start, one for each of the ``turns`` in a step (these are equally spaced in
        time, with couplings that change smoothly), and what the bath keeps."""
        for turn in range(turns):
            for slot in range(HISTORY):
                aux.per_atom[f"midpoint_field_{turn}_{slot}"] = np.zeros((state.natoms, 3))
            aux.globals[f"midpoint_history_{turn}"] = np.zeros(2, dtype=np.int64)  # newest, known
        super().init(state, aux, seed, turns)
        self._turns, self._seed = turns, seed
        self._allocate(state.natoms)

    def _allocate(self, n: int) -> None:
        self._w0 = aligned_zeros((n, 4))
        # iterates of the midpoint and values of the map, in turn
        self._buffers = [aligned_zeros((n, 4)) for _ in range(5)]
        self._end = aligned_zeros((n, 4))
        self._external, self._constant, self._at_start, self._nonlinear = (np.zeros((n, 3)) for _ in range(4))
        self._changes = np.zeros(block_count(n))
        self._sums = np.zeros((block_count(n), 2))
        self._inverse = np.zeros(n)

    def flow(self, state: State, aux: Aux, model, h: float, turn: int = 0) -> Status:
        """Turn the spins for ``h`` ps in the field of the couplings at the present positions."""
        if model.live_terms():
            return self._flow_live(state, aux, model, h, turn)
        n = state.natoms
        couplings = model.couplings()
        spherical = self.spherical
        gh, alphas, noise = self.start(state, aux, h, turn)
        self._inverse[:] = 0.0
        magnetic = state.moments > 0.0
        np.divide(1.0, state.moments, out=self._inverse, where=magnetic)
        self._magnetic = max(np.count_nonzero(magnetic), 1)
        fixed, response = fixed_spins(aux), self._inverse
        if len(fixed):  # no field turns them
            response = np.where(fixed == 0, self._inverse, 0.0)
        slots = [aux.per_atom[f"midpoint_field_{turn}_{slot}"] for slot in range(HISTORY)]
        history = aux.globals[f"midpoint_history_{turn}"]
        newest, known = int(history[0]), int(history[1])
        past = [slots[(newest - k) % HISTORY] for k in range(HISTORY)]
        weights = EXTRAPOLATION[max(known - 1, 0)]
        arguments = (weights, known, noise, alphas, gh, spherical, self._w0, self._buffers[0], BLOCK)
        _start(n, state.spins, self._inverse, *past, *arguments)
        newest = (newest + 1) % HISTORY
        simple = couplings.only_leading and (couplings.constant is None or len(noise) > 0)
        external = self._external
        if len(noise):
            np.multiply(noise, state.moments[:, None], out=self._constant)
            if couplings.constant is not None:
                self._constant += couplings.constant
            if simple:
                external = self._constant
        elif simple:
            external = self._external[:0]
        buffers, x, old_x, old_g = self._buffers, self._buffers[0], None, None
        status, change, rate = OK, 1.0, 0.5
        for iteration in range(self.iterations):
            g = next(b for b in buffers if b is not x and b is not old_x and b is not old_g)
            if not simple:
                self._collect(couplings, self._constant if len(noise) else couplings.constant, x, iteration == 0)
            _iterate(
                n, self._w0, x, g, *couplings.leading(), external, response, alphas, gh, spherical,
                self._changes, BLOCK
            )  # fmt: skip
            self.evaluations += 1
            last, change = change, math.sqrt(self._changes.sum() / self._magnetic)
            if iteration > 0:
                rate = min(change / last, 0.5) if last > 0.0 else 0.0
            if change * rate <= self.tolerance:
                break
            if self.acceleration and iteration > 0 and rate > SLOW:
                anderson_sums(n, x, g, old_x, old_g, self._sums, BLOCK)
                a, c = self._sums.sum(axis=0)
                theta = min(max(c / a, -1.0), 1.0) if a > 0.0 else 0.0
                mixed = next(b for b in buffers if b is not x and b is not g and b is not old_x and b is not old_g)
                _mix(n, g, old_g, theta, spherical, self._w0, mixed, BLOCK)
                x, old_x, old_g = mixed, x, g
            else:
                x, old_x, old_g = g, x, g
        else:
            status = Status(Code.NOT_CONVERGED, message=f"spin midpoint not solved after {self.iterations} iterations")
        _finish(n, self._w0, g, state.moments, noise, alphas, gh, state.spins, slots[newest], self._sums, BLOCK)
        work = float(self._sums[:, 0].sum())
        if work != work:
            status = Status(Code.DIVERGED, message="a spin or its field is not a number")
        if self.bath.damped:
            aux.globals["spin_heat"][0] += work
        history[0], history[1] = newest, min(known + 1, HISTORY)
        self.solves += 1
        model.moved(spins=True)
        return status

    def _flow_live(self, state: State, aux: Aux, model, h: float, turn: int) -> Status:
        """A term without frozen couplings: the solver for live potentials takes over, with this one's settings."""
        if self._live is None:
            self._live = LiveMidpoint(
                tolerance=self.tolerance, iterations=self.iterations, acceleration=self.acceleration, bath=self.bath
            )
            self._live.allocate(state)
        if f"live_history_{turn}" not in aux.globals:
            self._live.init(state, aux, self._seed, self._turns)
        before = self._live.evaluations
        status = self._live.flow(state, aux, model, h, turn)
        self.evaluations += self._live.evaluations - before
        self.solves += 1
        return status

    def _collect(self, couplings, constant: np.ndarray | None, w: np.ndarray, first: bool) -> None:
        """H (eV) of everything that the iteration itself does not read: constant fields and noise, further terms."""
        external = self._external
        external[:] = 0.0 if constant is None else constant
        couplings.add_linear_rest(w, external)
        if not couplings.nonlinear:
            return
        if self.spherical:
            couplings.add_nonlinear(w, external)
            return
        if first:
            self._at_start[:] = 0.0
            couplings.add_nonlinear(self._w0, self._at_start)
        np.multiply(w, 2.0, out=self._end)
        self._end -= self._w0
        self._nonlinear[:] = 0.0
        couplings.add_nonlinear(w, self._nonlinear)
        self._nonlinear *= 4.0
        couplings.add_nonlinear(self._end, self._nonlinear)
        self._nonlinear += self._at_start
        self._nonlinear *= 1.0 / 6.0
        external += self._nonlinear
