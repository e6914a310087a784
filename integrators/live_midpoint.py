"""Spherical midpoint for live potentials (S): few evaluations of the field, since each costs as much as one of the forces.

The equation is that of ``spinmd.integrators.midpoint``, S₁ − S₀ = −(g/ħ) h |S| u × F(|S| u), u = (S₀ + S₁)/|S₀ + S₁|;
F becomes (F + α u × F)/(1 + α²) with damping. The solution x = |S| u is iterated as there, with three differences:

Prediction. The field at x is linear in the fields of the last steps with coefficients that are the same for all atoms
and change slowly: a field that is a sum of a few frequencies obeys such a recurrence exactly. With the backward
differences ∇ʲF of n past fields

    F_k = Σ_{j<n} (1 + c_j) ∇ʲF_{k−1},

where c = 0 is the extrapolation by a polynomial. The c_j are least squares of the part normal to the spins over all
atoms and the last steps (the weight of a step falls by ``FORGETTING`` with each step). Least squares from past solutions
for a start are those of Arias, Payne, Joannopoulos, Phys. Rev. B 45, 1538 (1992), linear prediction is as old as Makhoul,
Proc. IEEE 63, 561 (1975). It starts more than 100 times closer than a polynomial of four fields (bcc iron, 1 fs).

Response of the own spin. u × F is the same for F and for F − χS: what a spin does to its own field along itself is no
torque. Turning S about F(x) − χx, χ = ∂F_i/∂S_i averaged over the atoms of an element, converges 3 to 5 times faster
where potentials hold |S| by strong fields along S. χ comes from the iterates: Σ Δx·ΔF/Σ Δx·Δx.

Remembered rate. An iteration multiplies the error by ``rate``; the rate of past solves tells the error after the first
evaluation already, so that one evaluation may do. At least every ``REFRESH`` solves there are two, which measure it.
"""

import math
from math import comb

import numpy as np
from numba import njit, prange

from spinmd.backend import BLOCK, block_count
from spinmd.integrators.baths import SpinBath
from spinmd.integrators.fields import SpinField
from spinmd.integrators.held import fixed_spins
from spinmd.integrators.spin_flow import SpinFlow
from spinmd.protocols import OK, Aux, Code, Status
from spinmd.spin_laws import TINY, midpoint_map, mirror
from spinmd.state import State

HISTORY = 8  # past fields that the prediction uses
FORGETTING = 0.7  # weight of a step's equations in the least squares, relative to that of the next step
SMALLEST = 1.0e-13  # eigenvalues of the scaled normal equations, relative to the largest, that still count
RESPONSE_MEMORY = 0.9  # weight of the past in the mean of χ
REFRESH = 32  # solves after which the rate is measured again
SLOW = 0.1  # rate of convergence from which on Anderson acceleration is used
SMALL_CHANGE = 1.0e-11  # relative changes below this are too close to rounding to measure χ or the rate
DIFFERENCES = np.array(
    [[(-1.0) ** i * comb(j, i) for i in range(HISTORY)] for j in range(HISTORY)]
)  # ∇ʲ of past fields


@njit(cache=True, parallel=True)
def _start(natoms, spins, fields, weights, known, noise, alphas, gh, s0, x, block):
    """s₀ = S and the midpoint in the predicted field Σ_k weights[k] fields[k] plus noise; s₀ itself without known fields."""
    damped, noisy = alphas.shape[0] > 0, noise.shape[0] > 0
    for b in prange((natoms + block - 1) // block):
        for i in range(b * block, min((b + 1) * block, natoms)):
            sx, sy, sz = spins[i, 0], spins[i, 1], spins[i, 2]
            s0[i, 0], s0[i, 1], s0[i, 2] = sx, sy, sz
            mx, my, mz = sx, sy, sz
            if known > 0:
                fx, fy, fz = 0.0, 0.0, 0.0
                if noisy:
                    fx, fy, fz = noise[i, 0], noise[i, 1], noise[i, 2]
                alpha = alphas[i] if damped else 0.0
                for k in range(known):
                    fx += weights[k] * fields[k, i, 0]
                    fy += weights[k] * fields[k, i, 1]
                    fz += weights[k] * fields[k, i, 2]
                # the later passes have the right |s₀ + s₁| and, with damping, the right direction
                for _ in range(3):
                    mx, my, mz = midpoint_map(sx, sy, sz, mx, my, mz, fx, fy, fz, alpha, damped, gh, True)
            x[i, 0], x[i, 1], x[i, 2] = mx, my, mz


@njit(cache=True, parallel=True)
def _iterate(natoms, s0, x, field, response, species, noise, alphas, gh, result, changes, block):
    """The new midpoint in the field F(x) − χx + ξ; per block, the sum of squared relative changes."""
    damped, noisy = alphas.shape[0] > 0, noise.shape[0] > 0
    for b in prange(changes.shape[0]):
        total = 0.0
        for i in range(b * block, min((b + 1) * block, natoms)):
            chi = response[species[i]]
            sx, sy, sz = s0[i, 0], s0[i, 1], s0[i, 2]
            mx, my, mz = x[i, 0], x[i, 1], x[i, 2]
            fx, fy, fz = field[i, 0] - chi * mx, field[i, 1] - chi * my, field[i, 2] - chi * mz
            if noisy:
                fx, fy, fz = fx + noise[i, 0], fy + noise[i, 1], fz + noise[i, 2]
            alpha = alphas[i] if damped else 0.0
            gx, gy, gz = midpoint_map(sx, sy, sz, mx, my, mz, fx, fy, fz, alpha, damped, gh, True)
            gx, gy, gz = midpoint_map(sx, sy, sz, gx, gy, gz, fx, fy, fz, alpha, damped, gh, True)
            result[i, 0], result[i, 1], result[i, 2] = gx, gy, gz
            dx, dy, dz = gx - mx, gy - my, gz - mz
            total += (dx * dx + dy * dy + dz * dz) / (mx * mx + my * my + mz * mz + TINY)
        changes[b] = total


@njit(cache=True, parallel=True)
def _secants(natoms, x, old_x, field, old_field, species, sums, block):
    """Per block and element, Σ Δx·ΔF and Σ Δx·Δx."""
    for b in prange(sums.shape[0]):
        for s in range(sums.shape[1]):
            sums[b, s, 0] = 0.0
            sums[b, s, 1] = 0.0
        for i in range(b * block, min((b + 1) * block, natoms)):
            for k in range(3):
                d = x[i, k] - old_x[i, k]
                sums[b, species[i], 0] += d * (field[i, k] - old_field[i, k])
                sums[b, species[i], 1] += d * d


@njit(cache=True, parallel=True)
def anderson_sums(natoms, x, g, old_x, old_g, sums, block):
    """Per block, for the residuals f = g − x and f' = g' − x': sums of (f − f')·(f − f') and f·(f − f')."""
    for b in prange(sums.shape[0]):
        a, c = 0.0, 0.0
        for i in range(b * block, min((b + 1) * block, natoms)):
            for k in range(3):
                f = g[i, k] - x[i, k]
                d = f - (old_g[i, k] - old_x[i, k])
                a += d * d
                c += f * d
        sums[b, 0] = a
        sums[b, 1] = c


@njit(cache=True, parallel=True)
def _anderson_mix(natoms, g, old_g, theta, s0, result, block):
    """(1 − θ) g + θ g', set to the length of s₀."""
    for b in prange((natoms + block - 1) // block):
        for i in range(b * block, min((b + 1) * block, natoms)):
            x = g[i, 0] + theta * (old_g[i, 0] - g[i, 0])
            y = g[i, 1] + theta * (old_g[i, 1] - g[i, 1])
            z = g[i, 2] + theta * (old_g[i, 2] - g[i, 2])
            n2 = x * x + y * y + z * z
            s2 = s0[i, 0] ** 2 + s0[i, 1] ** 2 + s0[i, 2] ** 2
            scale = math.sqrt(s2 / n2) if n2 > 0.0 else 0.0
            result[i, 0], result[i, 1], result[i, 2] = x * scale, y * scale, z * scale


@njit(cache=True, parallel=True)
def _finish(natoms, s0, x, g, field, response, species, spins, sums, block):
    """S₁, s₀ mirrored at the midpoint g; the field becomes F(x) + χ(g − x), nearly that at g; per block, Σ F·(S₁ − S₀), eV."""
    for b in prange(sums.shape[0]):
        total = 0.0
        for i in range(b * block, min((b + 1) * block, natoms)):
            chi = response[species[i]]
            px, py, pz = mirror(s0[i, 0], s0[i, 1], s0[i, 2], g[i, 0], g[i, 1], g[i, 2])
            for k in range(3):
                field[i, k] += chi * (g[i, k] - x[i, k])
            total += field[i, 0] * (px - s0[i, 0]) + field[i, 1] * (py - s0[i, 1]) + field[i, 2] * (pz - s0[i, 2])
            spins[i, 0], spins[i, 1], spins[i, 2] = px, py, pz
        sums[b, 0] = total


@njit(cache=True, parallel=True)
def _normal_equations(natoms, fields, new, x, differences, sums, block):
    """Per block, the Gram matrix of ∇⁰F_{k−1} ... ∇ⁿ⁻¹F_{k−1} and ∇ⁿF_k, each normal to the spin; lower triangle."""
    n = differences.shape[0]
    for b in prange(sums.shape[0]):
        basis = np.zeros((n + 1, 3))
        for j in range(n + 1):
            for m in range(n + 1):
                sums[b, j, m] = 0.0
        for i in range(b * block, min((b + 1) * block, natoms)):
            length2 = x[i, 0] ** 2 + x[i, 1] ** 2 + x[i, 2] ** 2
            if length2 == 0.0:
                continue
            for k in range(3):
                basis[n, k] = new[i, k]
                for j in range(n):
                    value = 0.0
                    for m in range(j + 1):
                        value += differences[j, m] * fields[m, i, k]
                    basis[j, k] = value
                    basis[n, k] -= value
            for j in range(n + 1):
                along = (basis[j, 0] * x[i, 0] + basis[j, 1] * x[i, 1] + basis[j, 2] * x[i, 2]) / length2
                for k in range(3):
                    basis[j, k] -= along * x[i, k]
                for m in range(j + 1):
                    dot = basis[j, 0] * basis[m, 0] + basis[j, 1] * basis[m, 1] + basis[j, 2] * basis[m, 2]
                    sums[b, j, m] += dot


def coefficients(gram: np.ndarray) -> np.ndarray:
    """c of ∇ⁿF_k ≈ Σ_j c_j ∇ʲF_{k−1} from the Gram matrix of all these, ∇ⁿF_k last; of least norm where undetermined."""
    n = len(gram) - 1
    scale = np.sqrt(np.diag(gram)[:n])
    scale[scale == 0.0] = 1.0
    matrix = gram[:n, :n] / np.outer(scale, scale)
    values, vectors = np.linalg.eigh(matrix)
    keep = values > SMALLEST * max(values[-1], TINY)
    return (vectors[:, keep] @ ((vectors[:, keep].T @ (gram[n, :n] / scale)) / values[keep])) / scale


class LiveMidpoint(SpinFlow):
    """S by the spherical midpoint, for potentials without frozen couplings.

    damping, g_factor, bath  see ``SpinFlow``
    tolerance  estimated root mean square of the relative error of the midpoints
    iterations at most; more is "not converged", which the run reports
    """

    def __init__(
        self, damping: float = 0.0, g_factor: float = 2.0, tolerance: float = 3.0e-10, iterations: int = 60,
        acceleration: bool = True, bath: SpinBath | None = None,
    ):  # fmt: skip
        super().__init__(damping, g_factor, bath)
        self.tolerance = float(tolerance)
        self.iterations = int(iterations)
        self.acceleration = acceleration

    def init(self, state: State, aux: Aux, seed: int, turns: int = 1) -> None:
        """For each of the ``turns`` in a step: fields of past solutions (N, 3) eV/µB, their normal equations, and what was
        learned about convergence; and what the bath keeps."""
        nspecies = len(state.symbols)
        for turn in range(turns):
            for slot in range(HISTORY):
                aux.per_atom[f"live_field_{turn}_{slot}"] = np.zeros((state.natoms, 3))
            aux.globals[f"live_history_{turn}"] = np.zeros(3, dtype=np.int64)  # newest, known, solves since the rate
            aux.globals[f"live_equations_{turn}"] = np.zeros((HISTORY + 1, HISTORY + 1))
            aux.globals[f"live_rate_{turn}"] = np.full(1, 0.5)
        aux.globals["live_response"] = np.zeros((nspecies, 2))  # weighted sum of χ, sum of weights
        super().init(state, aux, seed, turns)
        self.allocate(state)

    def allocate(self, state: State) -> None:
        """Buffers that nothing remembers."""
        n, nspecies = state.natoms, len(state.symbols)
        self._fields = SpinField(n)
        self._s0 = np.zeros((n, 3))
        self._iterates = [np.zeros((n, 3)) for _ in range(5)]
        self._values = [np.zeros((n, 3)) for _ in range(2)]
        self._past = np.zeros((HISTORY, n, 3))
        blocks = block_count(n)
        self._changes = np.zeros(blocks)
        self._sums = np.zeros((blocks, 2))
        self._species_sums = np.zeros((blocks, nspecies, 2))
        self._equations = np.zeros((blocks, HISTORY + 1, HISTORY + 1))

    def _weights(self, known: int, equations: np.ndarray) -> np.ndarray:
        """Weights of the last, second last, ... known field in the prediction of the next one."""
        if known < HISTORY:
            return DIFFERENCES[: min(known, 4)].sum(axis=0)
        if not equations[HISTORY, HISTORY] > 0.0:
            return DIFFERENCES[:4].sum(axis=0)
        return (1.0 + coefficients(equations)) @ DIFFERENCES

    def flow(self, state: State, aux: Aux, model, h: float, turn: int = 0) -> Status:
        """Turn the spins for ``h`` ps in the field of all terms at the present positions."""
        n = state.natoms
        gh, alphas, noise = self.start(state, aux, h, turn)
        self._fields.fixed = fixed_spins(aux)
        slots = [aux.per_atom[f"live_field_{turn}_{slot}"] for slot in range(HISTORY)]
        history = aux.globals[f"live_history_{turn}"]
        equations, rates = aux.globals[f"live_equations_{turn}"], aux.globals[f"live_rate_{turn}"]
        newest, known, age = (int(value) for value in history)
        for k in range(known):
            np.copyto(self._past[k], slots[(newest - k) % HISTORY])
        weights = self._weights(known, equations)
        magnetic = max(np.count_nonzero(state.moments > 0.0), 1)
        species = state.species
        buffers, x = self._iterates, self._iterates[0]
        _start(n, state.spins, self._past, weights, known, noise, alphas, gh, self._s0, x, BLOCK)
        old_x = old_g = old_field = None
        status, change, rate, measured = OK, 1.0, float(rates[0]), False
        for iteration in range(self.iterations):
            field = self._values[iteration % 2]
            self._fields.at(state, model, x, field)
            self.evaluations += 1
            if old_x is not None and change > SMALL_CHANGE:
                self._learn(aux, x, old_x, field, old_field, species)
            response = self._response(aux)
            g = next(b for b in buffers if b is not x and b is not old_x and b is not old_g)
            _iterate(n, self._s0, x, field, response, species, noise, alphas, gh, g, self._changes, BLOCK)
            last, change = change, math.sqrt(self._changes.sum() / magnetic)
            if iteration > 0 and last > SMALL_CHANGE:
                rate = min(change / last, 0.5)
                if not measured:
                    rates[0], measured = rate, True
            if change * rate <= self.tolerance and (iteration > 0 or age < REFRESH):
                break
            mixed = g
            if self.acceleration and iteration > 0 and rate > SLOW:
                anderson_sums(n, x, g, old_x, old_g, self._sums, BLOCK)
                a, c = self._sums.sum(axis=0)
                theta = min(max(c / a, -1.0), 1.0) if a > 0.0 else 0.0
                mixed = next(b for b in buffers if b is not x and b is not g and b is not old_x and b is not old_g)
                _anderson_mix(n, g, old_g, theta, self._s0, mixed, BLOCK)
            x, old_x, old_g, old_field = mixed, x, g, field
        else:
            status = Status(Code.NOT_CONVERGED, message=f"spin midpoint not solved after {self.iterations} iterations")
        _finish(n, self._s0, x, g, field, response, species, state.spins, self._sums, BLOCK)
        work = float(self._sums[:, 0].sum())
        if work != work:
            status = Status(Code.DIVERGED, message="a spin or its field is not a number")
        if self.bath.damped:
            aux.globals["spin_heat"][0] += work
        if known == HISTORY:
            _normal_equations(n, self._past, field, g, DIFFERENCES, self._equations, BLOCK)
            equations *= FORGETTING
            equations += self._equations.sum(axis=0)
            equations[:] = np.tril(equations) + np.tril(equations, -1).T
        newest = (newest + 1) % HISTORY
        np.copyto(slots[newest], field)
        history[:] = newest, min(known + 1, HISTORY), 0 if measured else age + 1
        self.solves += 1
        model.moved(spins=True)
        return status

    def _learn(self, aux: Aux, x, old_x, field, old_field, species) -> None:
        """χ of each element from the last two evaluations, into its running mean."""
        _secants(len(x), x, old_x, field, old_field, species, self._species_sums, BLOCK)
        sums = self._species_sums.sum(axis=0)
        seen = sums[:, 1] > 0.0
        memory = aux.globals["live_response"]
        memory[seen] *= RESPONSE_MEMORY
        memory[seen] += np.stack([sums[seen, 0] / sums[seen, 1], np.ones(seen.sum())], axis=1)

    def _response(self, aux: Aux) -> np.ndarray:
        """(nspecies,) χ in eV/µB²."""
        memory = aux.globals["live_response"]
        return np.divide(memory[:, 0], memory[:, 1], out=np.zeros(len(memory)), where=memory[:, 1] > 0.0)
