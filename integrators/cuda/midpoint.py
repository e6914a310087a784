"""Implicit midpoint for spins on the GPU: equations and iteration of ``spinmd.integrators.midpoint``, decided on the device.

A solve is a fixed sequence of launches: start, then ``launched`` times (field, map and decision; mixing), then finish. The block
that is the last to finish a pass sums the changes of all and sets the flag that lets all later iterations leave at once; so the
host asks nothing. What the iteration came to (changes, counts of solves that did not converge) stays in ``control`` until somebody
looks. Where solves needed more iterations than were launched, the run goes back to its last look and launches more; where far fewer
would do, fewer are launched from then on (``grow``). Neither changes a result.
"""

import math
from typing import Any

import numpy as np
from numba import cuda

from spinmd.cuda.arrays import DeviceArray, on_device, zeros
from spinmd.cuda.hamiltonian import DONE
from spinmd.cuda.launch import array, blocks, f8, i4, i8, kernel, strided
from spinmd.cuda.sums import FLOAT, THREADS, block_sum, is_last_block
from spinmd.errors import InputError
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
from spinmd.integrators.midpoint import HISTORY, SLOW, first_midpoint, normal_part, turned_by, undamped
from spinmd.spin_laws import midpoint_map, mirror

# further entries of ``control``: the newest slot of the history, and how many fields are known
NEWEST, KNOWN = 9, 10
LAUNCHED = 12  # iterations that a solve launches at first; those after the one that converges cost a launch each
SPARE, TOO_MANY = (
    2,
    4,
)  # launched beyond the most that solves needed between two looks, if they would leave more than that


@kernel(
    array(f8, 2), array(f8, 1), array(f8, 3), array(f8, 2), array(f8, 1), f8, i8, array(f8, 2), array(f8, 2), array(f8, 1)
)  # fmt: skip
def _start(spins, inverse_moments, history, noise, alphas, gh, spherical, w0, middle, control):
    """w₀ = S/m and a first midpoint from the fields of the last solves, extrapolated."""
    i = cuda.grid(1)
    if i < spins.shape[0]:
        s = inverse_moments[i]
        x, y, z = spins[i, 0] * s, spins[i, 1] * s, spins[i, 2] * s
        w0[i, 0], w0[i, 1], w0[i, 2] = x, y, z
        known, newest = int(control[KNOWN]), int(control[NEWEST])
        fx, fy, fz = 0.0, 0.0, 0.0
        weight = 1.0
        for k in range(known):  # binomial weights: known, −known (known − 1)/2, ... of the last, the one before, ...
            weight = known * 1.0 if k == 0 else -weight * (known - k) / (k + 1.0)
            slot = (newest - k) % HISTORY
            fx += weight * history[slot, i, 0]
            fy += weight * history[slot, i, 1]
            fz += weight * history[slot, i, 2]
        noisy = noise.shape[0] > 0
        if noisy:
            fx += noise[i, 0]
            fy += noise[i, 1]
            fz += noise[i, 2]
        damped = alphas.shape[0] > 0
        alpha = alphas[i] if damped else 0.0
        mx, my, mz = first_midpoint(x, y, z, fx, fy, fz, known > 0 or noisy, alpha, damped, gh, spherical != 0)
        middle[i, 0], middle[i, 1], middle[i, 2] = mx, my, mz


@kernel(array(f8, 1), array(f8, 1))
def _begin(known, control):
    """One thread: a new solve. ``known``: the newest slot of this turn's history, and how many fields it holds."""
    if cuda.grid(1) == 0:
        control[NEWEST], control[KNOWN] = known[0], known[1]
        control[CHANGE], control[RATE], control[THETA] = 1.0, 0.5, 0.0
        control[DONE], control[ITERATION] = 0.0, 0.0


@cuda.jit(device=True)
def _decide(change, a, c, magnetic, tolerance, acceleration, last, control):
    """One thread: whether the solve is done after this iteration, and the weight of Anderson's step."""
    before, iteration = control[CHANGE], int(control[ITERATION])
    now = math.sqrt(change / magnetic)
    rate = control[RATE]
    if iteration > 0:
        rate = min(now / before, 0.5) if before > 0.0 else 0.0
    theta = 0.0
    if acceleration != 0 and iteration > 0 and rate > SLOW and a > 0.0:
        theta = min(max(c / a, -1.0), 1.0)
    control[CHANGE], control[RATE], control[THETA] = now, rate, theta
    control[ITERATION] = iteration + 1.0
    if now * rate <= tolerance:
        control[DONE] = 1.0
    elif last != 0:
        control[UNSOLVED] += 1.0
        control[DONE] = 2.0
    if control[DONE] != 0.0:
        control[MOST] = max(control[MOST], control[ITERATION])
        control[SOLVES] += 1.0
        control[TOTAL] += control[ITERATION]


@kernel(
    array(f8, 2), array(f8, 2), array(f8, 2), array(f8, 2), array(i4, 1), array(i4, 2), array(f8, 2), array(f8, 2), array(f8, 2),
    array(f8, 1), array(f8, 1), f8, i8, f8, f8, i8, i8, array(f8, 1), array(f8, 2), array(i8, 1),
)  # fmt: skip
def _iterate(
    w0, x, g, residual, count, atoms, coupling, constant, noise, response, alphas, gh, spherical, magnetic, tolerance,
    acceleration, last, control, sums, ticket,
):  # fmt: skip
    """The field at the midpoints ``x``, the new ones to ``g``; Σ |g − x|²/|x|² and the sums of Anderson's step, per block and then
    over all blocks; whether the solve is done, and the weight of Anderson's step."""
    room = cuda.shared.array(THREADS, FLOAT)
    change, a, c = 0.0, 0.0, 0.0
    if control[DONE] == 0.0:
        for i in range(cuda.grid(1), w0.shape[0], cuda.gridsize(1)):
            hx, hy, hz = 0.0, 0.0, 0.0
            if count.shape[0] > 0:
                for k in range(count[i]):
                    j = atoms[k, i]
                    strength = coupling[k, i]
                    hx += strength * x[j, 0]
                    hy += strength * x[j, 1]
                    hz += strength * x[j, 2]
            if constant.shape[0] > 0:
                hx += constant[i, 0]
                hy += constant[i, 1]
                hz += constant[i, 2]
            s = response[i]
            fx, fy, fz = hx * s, hy * s, hz * s
            if noise.shape[0] > 0 and s != 0.0:
                fx += noise[i, 0]
                fy += noise[i, 1]
                fz += noise[i, 2]
            damped = alphas.shape[0] > 0
            alpha = alphas[i] if damped else 0.0
            mx, my, mz = x[i, 0], x[i, 1], x[i, 2]
            nx, ny, nz = midpoint_map(
                w0[i, 0], w0[i, 1], w0[i, 2], mx, my, mz, fx, fy, fz, alpha, damped, gh, spherical != 0
            )
            g[i, 0], g[i, 1], g[i, 2] = nx, ny, nz
            dx, dy, dz = nx - mx, ny - my, nz - mz
            change += (dx * dx + dy * dy + dz * dz) / (mx * mx + my * my + mz * mz + 1.0e-300)
            ux, uy, uz = dx - residual[i, 0], dy - residual[i, 1], dz - residual[i, 2]
            a += ux * ux + uy * uy + uz * uz
            c += ux * dx + uy * dy + uz * dz
            residual[i, 0], residual[i, 1], residual[i, 2] = dx, dy, dz
        change = block_sum(change, room)
        a = block_sum(a, room)
        c = block_sum(c, room)
        if cuda.threadIdx.x == 0:
            b = cuda.blockIdx.x
            sums[b, 0], sums[b, 1], sums[b, 2] = change, a, c
        if is_last_block(ticket, room):
            change, a, c = 0.0, 0.0, 0.0
            for b in range(cuda.threadIdx.x, sums.shape[0], THREADS):
                change += sums[b, 0]
                a += sums[b, 1]
                c += sums[b, 2]
            change = block_sum(change, room)
            a = block_sum(a, room)
            c = block_sum(c, room)
            if cuda.threadIdx.x == 0:
                _decide(change, a, c, magnetic, tolerance, acceleration, last, control)


@kernel(array(f8, 2), array(f8, 2), array(f8, 2), array(f8, 2), i8, array(f8, 1))
def _mix(w0, x, g, old_g, spherical, control):
    """The next midpoints: (1 − θ) g + θ g', set to the length of w₀ where the midpoint has it; g becomes g'."""
    i = cuda.grid(1)
    if control[DONE] == 0.0 and i < w0.shape[0]:
        theta = control[THETA]
        gx, gy, gz = g[i, 0], g[i, 1], g[i, 2]
        nx, ny, nz = gx, gy, gz
        if theta != 0.0:  # in a first iteration g' is of another solve, perhaps of one that has been taken back
            nx = gx + theta * (old_g[i, 0] - gx)
            ny = gy + theta * (old_g[i, 1] - gy)
            nz = gz + theta * (old_g[i, 2] - gz)
        if theta != 0.0 and spherical != 0:
            w2 = w0[i, 0] * w0[i, 0] + w0[i, 1] * w0[i, 1] + w0[i, 2] * w0[i, 2]
            n2 = nx * nx + ny * ny + nz * nz
            scale = math.sqrt(w2 / n2) if n2 > 0.0 else 0.0
            nx, ny, nz = nx * scale, ny * scale, nz * scale
        x[i, 0], x[i, 1], x[i, 2] = nx, ny, nz
        old_g[i, 0], old_g[i, 1], old_g[i, 2] = gx, gy, gz


@kernel(
    array(f8, 2), array(f8, 2), array(f8, 1), array(f8, 2), array(f8, 1), f8, array(f8, 2), array(f8, 3), array(f8, 1),
    array(f8, 1), array(f8, 1),
)  # fmt: skip
def _finish(w0, middle, moments, noise, alphas, gh, spins, history, heat, control, known):
    """S₁ = m w₁; the field, without noise, that turned the spin to the history; heat (N,) += F·(S₁ − S₀), eV, where damped."""
    i = cuda.grid(1)
    if i == 0:  # nobody reads ``known`` here
        known[0], known[1] = (control[NEWEST] + 1.0) % HISTORY, min(control[KNOWN] + 1.0, HISTORY)
    if i < w0.shape[0]:
        wx, wy, wz = w0[i, 0], w0[i, 1], w0[i, 2]
        mx, my, mz = middle[i, 0], middle[i, 1], middle[i, 2]
        x, y, z = mirror(wx, wy, wz, mx, my, mz)
        dx, dy, dz = x - wx, y - wy, z - wz
        fx, fy, fz = turned_by(dx, dy, dz, mx, my, mz, gh)
        if alphas.shape[0] > 0:
            fx, fy, fz = undamped(fx, fy, fz, mx, my, mz, alphas[i])
        if noise.shape[0] > 0:
            nx, ny, nz = normal_part(noise[i, 0], noise[i, 1], noise[i, 2], mx, my, mz)
            fx, fy, fz = fx - nx, fy - ny, fz - nz
        slot = (int(control[NEWEST]) + 1) % HISTORY
        history[slot, i, 0], history[slot, i, 1], history[slot, i, 2] = fx, fy, fz
        m = moments[i]
        if heat.shape[0] > 0:
            heat[i] += m * (fx * dx + fy * dy + fz * dz)
        spins[i, 0], spins[i, 1], spins[i, 2] = x * m, y * m, z * m


@kernel(
    array(f8, 2), array(f8, 2), array(f8, 2), i8, array(f8, 2), array(f8, 2), array(f8, 2), array(f8, 2), array(f8, 1)
)
def _prepare(constant, w0, x, ends, external, middle, end, end_field, control):
    """External field of an iteration: what is constant. Where ``ends`` is set, the other end 2x − w₀ of the chord, and no field yet
    there and in the middle, for Simpson's rule."""
    i = cuda.grid(1)
    if control[DONE] == 0.0 and i < w0.shape[0]:
        for a in range(3):
            external[i, a] = constant[i, a] if constant.shape[0] > 0 else 0.0
            if ends != 0:
                end[i, a] = 2.0 * x[i, a] - w0[i, a]
                middle[i, a] = 0.0
                end_field[i, a] = 0.0


@kernel(array(f8, 2), array(f8, 2), array(f8, 2), array(f8, 2), array(f8, 1))
def _simpson(start, middle, end, external, control):
    """H += [H(w₀) + 4 H(x) + H(2x − w₀)]/6."""
    i = cuda.grid(1)
    if control[DONE] == 0.0 and i < external.shape[0]:
        for a in range(3):
            external[i, a] += (start[i, a] + 4.0 * middle[i, a] + end[i, a]) * (1.0 / 6.0)


class DeviceMidpoint(DeviceIteration):
    """S by the implicit midpoint of ``host``, a ``Midpoint`` (its tolerance, form, acceleration and bath)."""

    def __init__(self, host: Any, state: Any, aux: Any, turns: int):
        super().__init__(host, state, aux, turns)
        n = state.natoms
        self.launched = min(LAUNCHED, host.iterations)
        self._magnetic = float(max(state.magnetic, 1))
        # only x is read by neighbours: its rows are whole sectors of memory, those of the others need not be
        self._x = zeros((n, 4))
        self._w0, self._g, self._old_g, self._residual = (zeros((n, 3)) for _ in range(4))
        self._external: DeviceArray | None = None  # made for couplings that need them
        self._ends: tuple[DeviceArray, ...] = ()
        self.history = [
            on_device(np.stack([aux.per_atom[f"midpoint_field_{turn}_{slot}"] for slot in range(HISTORY)]))
            for turn in range(turns)
        ]
        self.known = [on_device(aux.globals[f"midpoint_history_{turn}"].astype(float)) for turn in range(turns)]
        self._sums, self._ticket = zeros((blocks(strided(n)), 3)), zeros(1, "int64")
        self._seen = 0

    def turn_spins(self, model: Any, gh: float, turn: int) -> None:
        """Start, a fixed number of iterations of which the last ones may leave at once, and finish."""
        if model.live_terms():
            raise InputError(
                f"{model.names[model.live_terms()[0]]} has no frozen couplings, for which this midpoint is made; use LiveMidpoint",
                "integrator.spin_solver",
            )
        state, n, couplings = self.state, self.state.natoms, model.couplings()
        spherical, control, alphas, noise = int(self.host.spherical), self.control, self.alphas, self.noise
        constant = self.none[2] if couplings.constant is None else couplings.constant
        external = constant
        if not couplings.only_leading:
            external = self._reserve(n, couplings)
        _begin(1, self.known[turn], control)
        _start(
            n, state.spins, self.inverse, self.history[turn], noise, alphas, gh, spherical, self._w0, self._x, control
        )
        for k in range(self.launched):
            if external is not constant:
                self._collect(couplings, constant, external, k == 0)
            acceleration, last = int(self.host.acceleration), int(k == self.launched - 1)
            _iterate(
                strided(n), self._w0, self._x, self._g, self._residual, *couplings.leading(), external, noise, self.response,
                alphas, gh, spherical, self._magnetic, self.host.tolerance, acceleration, last, control, self._sums,
                self._ticket,
            )  # fmt: skip
            if not last:
                _mix(n, self._w0, self._x, self._g, self._old_g, spherical, control)
        _finish(
            n, self._w0, self._g, state.moments, noise, alphas, gh, state.spins, self.history[turn], self.heat, control,
            self.known[turn],
        )  # fmt: skip

    def _reserve(self, n: int, couplings: Any) -> DeviceArray:
        if self._external is None:
            self._external = zeros((n, 3))
        if couplings.nonlinear and not self.host.spherical and not self._ends:
            self._ends = (zeros((n, 4)), *(zeros((n, 3)) for _ in range(3)))
        return self._external

    def _collect(self, couplings: Any, constant: DeviceArray, external: DeviceArray, first: bool) -> None:
        """H (eV) of everything that the iteration itself does not read: constant fields, further terms."""
        n, control, x = self.state.natoms, self.control, self._x
        simpson = couplings.nonlinear and not self.host.spherical
        end, end_field, start, middle = self._ends if simpson else (self.none[2],) * 4
        _prepare(n, constant, self._w0, x, int(simpson), external, middle, end, end_field, control)
        couplings.add_linear_rest(x, external, control)
        if not couplings.nonlinear:
            return
        if not simpson:
            couplings.add_nonlinear(x, external, control)
            return
        if first:
            start.fill(0.0)
            couplings.add_nonlinear(self._w0, start, control)
        couplings.add_nonlinear(x, middle, control)
        couplings.add_nonlinear(end, end_field, control)
        _simpson(n, start, middle, end_field, external, control)

    @property
    def plan(self) -> Any:
        """Iterations that a solve launches."""
        return self.launched

    def download(self, aux: Any) -> None:
        """How many fields are known."""
        for turn, known in enumerate(self.known):
            aux.globals[f"midpoint_history_{turn}"][:] = known.host().astype(np.int64)

    def download_histories(self, aux: Any) -> None:
        """The fields."""
        for turn, history in enumerate(self.history):
            for slot, values in enumerate(history.host()):
                aux.per_atom[f"midpoint_field_{turn}_{slot}"][:] = values

    def memory(self) -> list[DeviceArray]:
        """What a step leaves for the next one."""
        return [*super().memory(), *self.history, *self.known]

    def grow(self) -> bool:
        """Twice as many iterations, up to the host's limit, where a solve has not converged since the last look; fewer from now on
        where all have needed far fewer. A transfer."""
        control = self.control.host()
        unsolved, most = int(control[UNSOLVED]), int(control[MOST])
        if unsolved != self._seen and self.launched < self.host.iterations:
            self.launched = min(2 * self.launched, self.host.iterations)
            return True
        self._seen = unsolved
        if most and self.launched > most + TOO_MANY:
            self.launched = most + SPARE
        self.control.tensor[MOST] = 0.0
        return False
