"""Spherical midpoint for live potentials (S) on the GPU: prediction, response and rate as in ``integrators.live_midpoint``.

All decisions are taken on the device. What cannot leave early is the evaluation of a live potential (matrix products), and it is
what costs. So as many evaluations are launched as solves have lately needed: every look of the host at the run brings that number
down to the most of the solves since the last look, and those that fall short are repeated from there with twice as many. One
evaluation a solve is then enough where it is on the host; the solves that measure the rate (every ``REFRESH``) get two.
"""

import math
from typing import Any

import numpy as np
from numba import cuda

from spinmd.cuda.arrays import DeviceArray, on_device, zeros
from spinmd.cuda.hamiltonian import DONE
from spinmd.cuda.launch import array, blocks, f8, i4, i8, kernel
from spinmd.cuda.sums import FLOAT, THREADS, block_sum
from spinmd.integrators.cuda.extrapolation import SUMS, _normal_equations, _predict, _update_equations
from spinmd.integrators.cuda.fields import DeviceSpinField
from spinmd.integrators.cuda.spin_flow import (
    CHANGE,
    ITERATION,
    MOST,
    RATE,
    SOLVES,
    THETA,
    TOTAL,
    UNSOLVED,
    DeviceIteration,
)
from spinmd.integrators.live_midpoint import DIFFERENCES, HISTORY, REFRESH, RESPONSE_MEMORY, SLOW, SMALL_CHANGE
from spinmd.spin_laws import TINY, midpoint_map, mirror

# a further entry of ``control``: whether the rate has been measured; entries of ``history``
MEASURED = 9
NEWEST, KNOWN, AGE = range(3)
LAUNCHED = 12  # evaluations that a solve launches at first
PATIENCE = 20  # looks, after solves have fallen short, until fewer than two evaluations are tried again


@kernel(array(f8, 1), array(f8, 1))
def _begin(rates, control):
    """One thread: a new solve."""
    if cuda.grid(1) == 0:
        control[CHANGE], control[RATE], control[THETA] = 1.0, rates[0], 0.0
        control[DONE], control[ITERATION], control[MEASURED] = 0.0, 0.0, 0.0


@kernel(
    array(f8, 2), array(f8, 3), array(f8, 1), array(f8, 1), array(f8, 2), array(f8, 1), f8, array(f8, 2), array(f8, 2)
)  # fmt: skip
def _start(spins, fields, weights, history, noise, alphas, gh, s0, x):
    """s₀ = S and the midpoint in the predicted field plus noise; s₀ itself without known fields."""
    i = cuda.grid(1)
    if i < spins.shape[0]:
        known, newest = int(history[KNOWN]), int(history[NEWEST])
        sx, sy, sz = spins[i, 0], spins[i, 1], spins[i, 2]
        s0[i, 0], s0[i, 1], s0[i, 2] = sx, sy, sz
        mx, my, mz = sx, sy, sz
        if known > 0:
            fx, fy, fz = 0.0, 0.0, 0.0
            if noise.shape[0] > 0:
                fx, fy, fz = noise[i, 0], noise[i, 1], noise[i, 2]
            damped = alphas.shape[0] > 0
            alpha = alphas[i] if damped else 0.0
            for k in range(known):
                slot = (newest - k) % HISTORY
                fx += weights[k] * fields[slot, i, 0]
                fy += weights[k] * fields[slot, i, 1]
                fz += weights[k] * fields[slot, i, 2]
            for _ in range(3):
                mx, my, mz = midpoint_map(sx, sy, sz, mx, my, mz, fx, fy, fz, alpha, damped, gh, True)
        x[i, 0], x[i, 1], x[i, 2] = mx, my, mz


@kernel(array(f8, 2), array(f8, 2), array(f8, 2), array(f8, 2), array(i4, 1), array(f8, 1), array(f8, 3))
def _secants(x, old_x, trial, field, species, control, sums):
    """Per block and element, Σ Δx·ΔF and Σ Δx·Δx of the last two evaluations."""
    room = cuda.shared.array(THREADS, FLOAT)
    i = cuda.grid(1)
    if control[DONE] == 0.0 and control[ITERATION] > 0.0:
        df, dd, own = 0.0, 0.0, -1
        if i < x.shape[0]:
            own = species[i]
            for k in range(3):
                d = x[i, k] - old_x[i, k]
                df += d * (trial[i, k] - field[i, k])
                dd += d * d
        for s in range(sums.shape[1]):
            above = block_sum(df if own == s else 0.0, room)
            below = block_sum(dd if own == s else 0.0, room)
            if cuda.threadIdx.x == 0:
                sums[cuda.blockIdx.x, s, 0], sums[cuda.blockIdx.x, s, 1] = above, below


@kernel(array(f8, 3), array(f8, 1), array(f8, 2))
def _learn(sums, control, memory):
    """One thread per element: χ of the last two evaluations into its running mean; ``memory``: weighted sum of χ and of weights."""
    s = cuda.grid(1)
    if s < memory.shape[0] and control[DONE] == 0.0 and control[ITERATION] > 0.0 and control[CHANGE] > SMALL_CHANGE:
        above, below = 0.0, 0.0
        for b in range(sums.shape[0]):
            above += sums[b, s, 0]
            below += sums[b, s, 1]
        if below > 0.0:
            memory[s, 0] = memory[s, 0] * RESPONSE_MEMORY + above / below
            memory[s, 1] = memory[s, 1] * RESPONSE_MEMORY + 1.0


@cuda.jit(device=True)
def _response(memory, s):
    """χ of an element, eV/µB²."""
    chi = 0.0
    if memory[s, 1] > 0.0:
        chi = memory[s, 0] / memory[s, 1]
    return chi


@kernel(
    array(f8, 2), array(f8, 2), array(f8, 2), array(f8, 2), array(f8, 2), array(f8, 2), array(i4, 1), array(f8, 2), array(f8, 1),
    f8, array(f8, 2), array(f8, 1), array(f8, 2),
)  # fmt: skip
def _iterate(s0, x, trial, field, residual, memory, species, noise, alphas, gh, g, control, sums):
    """The new midpoint in the field F(x) − χx + ξ, F(x) = ``trial``, which becomes ``field``; per block, Σ |g − x|²/|x|² and the
    sums of Anderson's step."""
    room = cuda.shared.array(THREADS, FLOAT)
    i = cuda.grid(1)
    change, a, c = 0.0, 0.0, 0.0
    if control[DONE] == 0.0:
        if i < s0.shape[0]:
            chi = _response(memory, species[i])
            sx, sy, sz = s0[i, 0], s0[i, 1], s0[i, 2]
            mx, my, mz = x[i, 0], x[i, 1], x[i, 2]
            fx, fy, fz = trial[i, 0], trial[i, 1], trial[i, 2]
            field[i, 0], field[i, 1], field[i, 2] = fx, fy, fz
            fx, fy, fz = fx - chi * mx, fy - chi * my, fz - chi * mz
            if noise.shape[0] > 0:
                fx, fy, fz = fx + noise[i, 0], fy + noise[i, 1], fz + noise[i, 2]
            damped = alphas.shape[0] > 0
            alpha = alphas[i] if damped else 0.0
            gx, gy, gz = midpoint_map(sx, sy, sz, mx, my, mz, fx, fy, fz, alpha, damped, gh, True)
            gx, gy, gz = midpoint_map(sx, sy, sz, gx, gy, gz, fx, fy, fz, alpha, damped, gh, True)
            g[i, 0], g[i, 1], g[i, 2] = gx, gy, gz
            dx, dy, dz = gx - mx, gy - my, gz - mz
            change = (dx * dx + dy * dy + dz * dz) / (mx * mx + my * my + mz * mz + TINY)
            ux, uy, uz = dx - residual[i, 0], dy - residual[i, 1], dz - residual[i, 2]
            a = ux * ux + uy * uy + uz * uz
            c = ux * dx + uy * dy + uz * dz
            residual[i, 0], residual[i, 1], residual[i, 2] = dx, dy, dz
        change = block_sum(change, room)
        a = block_sum(a, room)
        c = block_sum(c, room)
        if cuda.threadIdx.x == 0:
            b = cuda.blockIdx.x
            sums[b, 0], sums[b, 1], sums[b, 2] = change, a, c


@kernel(array(f8, 2), f8, f8, i8, i8, array(f8, 1), array(f8, 1), array(f8, 1))
def _decide(sums, magnetic, tolerance, acceleration, last, history, rates, control):
    """One block: whether the solve is done, by the remembered rate or the measured one, and the weight of Anderson's step."""
    room = cuda.shared.array(THREADS, FLOAT)
    t = cuda.threadIdx.x
    if control[DONE] == 0.0:
        change, a, c = 0.0, 0.0, 0.0
        for b in range(t, sums.shape[0], THREADS):
            change += sums[b, 0]
            a += sums[b, 1]
            c += sums[b, 2]
        change = block_sum(change, room)
        a = block_sum(a, room)
        c = block_sum(c, room)
        if t == 0:
            before, iteration, rate = control[CHANGE], int(control[ITERATION]), control[RATE]
            now = math.sqrt(change / magnetic)
            if iteration > 0 and before > SMALL_CHANGE:
                rate = min(now / before, 0.5)
                if control[MEASURED] == 0.0:
                    rates[0] = rate
                    control[MEASURED] = 1.0
            theta = 0.0
            if acceleration != 0 and iteration > 0 and rate > SLOW and a > 0.0:
                theta = min(max(c / a, -1.0), 1.0)
            control[CHANGE], control[RATE], control[THETA] = now, rate, theta
            control[ITERATION] = iteration + 1.0
            due = history[AGE] >= REFRESH
            if now * rate <= tolerance and (iteration > 0 or not due):
                control[DONE] = 1.0
                if not due:
                    control[MOST] = max(control[MOST], iteration + 1.0)
            elif last != 0:
                control[UNSOLVED] += 1.0
                control[DONE] = 2.0
            if control[DONE] != 0.0:
                control[SOLVES] += 1.0
                control[TOTAL] += control[ITERATION]


@kernel(array(f8, 2), array(f8, 2), array(f8, 2), array(f8, 2), array(f8, 2), array(f8, 1))
def _mix(s0, x, old_x, g, old_g, control):
    """The next midpoints: (1 − θ) g + θ g' set to the length of s₀, or g; x and g become x' and g'."""
    i = cuda.grid(1)
    if control[DONE] == 0.0 and i < s0.shape[0]:
        theta = control[THETA]
        gx, gy, gz = g[i, 0], g[i, 1], g[i, 2]
        nx, ny, nz = gx, gy, gz
        if theta != 0.0:
            nx = gx + theta * (old_g[i, 0] - gx)
            ny = gy + theta * (old_g[i, 1] - gy)
            nz = gz + theta * (old_g[i, 2] - gz)
            s2 = s0[i, 0] * s0[i, 0] + s0[i, 1] * s0[i, 1] + s0[i, 2] * s0[i, 2]
            n2 = nx * nx + ny * ny + nz * nz
            scale = math.sqrt(s2 / n2) if n2 > 0.0 else 0.0
            nx, ny, nz = nx * scale, ny * scale, nz * scale
        for a in range(3):
            old_x[i, a] = x[i, a]
        x[i, 0], x[i, 1], x[i, 2] = nx, ny, nz
        old_g[i, 0], old_g[i, 1], old_g[i, 2] = gx, gy, gz


@kernel(array(f8, 2), array(f8, 2), array(f8, 2), array(f8, 2), array(f8, 2), array(i4, 1), array(f8, 2), array(f8, 1))
def _finish(s0, x, g, field, memory, species, spins, heat):
    """S₁, s₀ mirrored at the midpoint g; the field becomes F(x) + χ(g − x); heat (N,) += F·(S₁ − S₀), eV."""
    i = cuda.grid(1)
    if i < s0.shape[0]:
        chi = _response(memory, species[i])
        sx, sy, sz = s0[i, 0], s0[i, 1], s0[i, 2]
        px, py, pz = mirror(sx, sy, sz, g[i, 0], g[i, 1], g[i, 2])
        for k in range(3):
            field[i, k] += chi * (g[i, k] - x[i, k])
        if heat.shape[0] > 0:
            heat[i] += field[i, 0] * (px - sx) + field[i, 1] * (py - sy) + field[i, 2] * (pz - sz)
        spins[i, 0], spins[i, 1], spins[i, 2] = px, py, pz


@kernel(array(f8, 2), array(f8, 1), array(f8, 3))
def _keep(field, history, fields):
    """The field of this solve to the place of the oldest one."""
    i = cuda.grid(1)
    if i < field.shape[0]:
        slot = (int(history[NEWEST]) + 1) % HISTORY
        for a in range(3):
            fields[slot, i, a] = field[i, a]


@kernel(array(f8, 1), array(f8, 1))
def _remember(control, history):
    """One thread: which fields are known, and how long ago the rate was measured."""
    if cuda.grid(1) == 0:
        history[NEWEST] = (history[NEWEST] + 1.0) % HISTORY
        history[KNOWN] = min(history[KNOWN] + 1.0, HISTORY)
        history[AGE] = 0.0 if control[MEASURED] != 0.0 else history[AGE] + 1.0


class DeviceLiveMidpoint(DeviceIteration):
    """S by the spherical midpoint of ``host``, a LiveMidpoint (its tolerance, acceleration and bath).

    launched  evaluations that a solve launches
    """

    def __init__(self, host: Any, state: Any, aux: Any, turns: int):
        super().__init__(host, state, aux, turns)
        n, elements = state.natoms, len(state.symbols)
        self.launched = min(LAUNCHED, host.iterations)
        self._magnetic = float(max(state.magnetic, 1))
        self._field = DeviceSpinField(self, normal=False)
        self._s0, self._x, self._old_x, self._g, self._old_g, self._residual, self._value, self._trial = (
            zeros((n, 3)) for _ in range(8)
        )
        self._past, self._history, self._equations, self._rates = [], [], [], []
        for turn in range(turns):
            fields = [aux.per_atom[f"live_field_{turn}_{slot}"] for slot in range(HISTORY)]
            self._past.append(on_device(np.stack(fields)))
            self._history.append(on_device(aux.globals[f"live_history_{turn}"].astype(float)))
            self._equations.append(on_device(aux.globals[f"live_equations_{turn}"]))
            self._rates.append(on_device(aux.globals[f"live_rate_{turn}"]))
        self._ages = [int(aux.globals[f"live_history_{turn}"][AGE]) for turn in range(turns)]
        self._memory = on_device(aux.globals["live_response"])
        self._differences, self._weights = on_device(DIFFERENCES), zeros(HISTORY)
        self._sums = zeros((blocks(n), 3))
        self._species_sums, self._gram_sums = zeros((blocks(n), elements, 2)), zeros((blocks(n), SUMS))
        self._seen = self._waiting = 0

    def turn_spins(self, model: Any, gh: float, turn: int) -> None:
        """Prediction, as many evaluations as are launched, and finish."""
        state, n, host, control = self.state, self.state.natoms, self.host, self.control
        past, history, equations, rates = (
            one[turn] for one in (self._past, self._history, self._equations, self._rates)
        )
        s0, x, g, memory, species = self._s0, self._x, self._g, self._memory, state.species
        _predict(1, equations, history, self._differences, self._weights)
        _begin(1, rates, control)
        _start(n, state.spins, past, self._weights, history, self.noise, self.alphas, gh, s0, x)
        launched = max(self.launched, min(2, host.iterations)) if self._ages[turn] >= REFRESH else self.launched
        self._ages[turn] = 0 if self._ages[turn] >= REFRESH else self._ages[turn] + 1
        for k in range(launched):
            self._field.at(model, x, self._trial)
            if k > 0:
                _secants(n, x, self._old_x, self._trial, self._value, species, control, self._species_sums)
                _learn(self._memory.shape[0], self._species_sums, control, memory)
            _iterate(
                n, s0, x, self._trial, self._value, self._residual, memory, species, self.noise, self.alphas, gh, g, control,
                self._sums,
            )  # fmt: skip
            last = int(k == launched - 1)
            _decide(
                1, self._sums, self._magnetic, host.tolerance, int(host.acceleration), last, history, rates, control
            )
            if not last:
                _mix(n, s0, x, self._old_x, g, self._old_g, control)
        _finish(n, s0, x, g, self._value, memory, species, state.spins, self.heat)
        _normal_equations(n, past, history, self._value, g, self._differences, self._gram_sums)
        _update_equations(1, self._gram_sums, history, equations)
        _keep(n, self._value, history, past)
        _remember(1, control, history)

    @property
    def plan(self) -> Any:
        """Evaluations that a solve launches; None where some launch one and those that measure the rate two."""
        return self.launched if self.launched >= min(2, self.host.iterations) else None

    def download_histories(self, aux: Any) -> None:
        """The fields of the past."""
        for turn in range(self.turns):
            for slot, values in enumerate(self._past[turn].host()):
                aux.per_atom[f"live_field_{turn}_{slot}"][:] = values

    def download(self, aux: Any) -> None:
        """What is known of them, and what was learned."""
        for turn in range(self.turns):
            aux.globals[f"live_history_{turn}"][:] = self._history[turn].host().astype(np.int64)
            aux.globals[f"live_equations_{turn}"][:] = self._equations[turn].host()
            aux.globals[f"live_rate_{turn}"][:] = self._rates[turn].host()
        aux.globals["live_response"][:] = self._memory.host()

    def memory(self) -> list[DeviceArray]:
        """What a step leaves for the next one."""
        kept = [*self._past, *self._history, *self._equations, *self._rates]
        return [*super().memory(), *kept, self._memory]

    def grow(self) -> bool:
        """See above; transfers."""
        control = self.control.host()
        unsolved, most = int(control[UNSOLVED]), int(control[MOST])
        short = unsolved != self._seen and self.launched < self.host.iterations
        self._ages = [int(history.host()[AGE]) for history in self._history]
        if short:
            self.launched, self._waiting = min(2 * self.launched, self.host.iterations), PATIENCE
            # from the snapshot, where the rate may be older than it is now
            self._ages = [REFRESH] * self.turns
            return True
        self._seen = unsolved
        self._waiting = max(self._waiting - 1, 0)
        if most:
            self.launched = min(max(most, 2 if self._waiting else 1), self.host.iterations)
            self.control.tensor[MOST] = 0.0
        return False
