"""Monte Carlo of the spins on the GPU: the moves, colours and random numbers of ``integrators.monte_carlo``.

Colours are found once, on the host, when the couplings are made; each colour is a launch. Temperature, acceptance and the width of
Metropolis moves stay on the device.
"""

import math
from typing import Any

import numpy as np
from numba import cuda

from spinmd.cuda.arrays import DeviceArray, on_device, zeros
from spinmd.cuda.launch import array, f8, i8, kernel
from spinmd.integrators.cuda.sites import SITES, DeviceSites, nonlinear_energy, surroundings
from spinmd.integrators.cuda.temperatures import DeviceTemperatures, kelvin_at
from spinmd.integrators.monte_carlo import (
    FOLLOWED,
    HEAT_BATH,
    LARGEST_WIDTH,
    METROPOLIS,
    Sweeps,
    colours_of,
    heat_bath_direction,
)
from spinmd.protocols import FIXED, Aux
from spinmd.rng import MONTE_CARLO_CHANNEL, cos_sin_turn, normal4, random_integers, uniform_of
from spinmd.spin_laws import scaled_to
from spinmd.units import BOLTZMANN

WIDTH, TRIED, ACCEPTED = range(3)  # of a record of Metropolis moves


@kernel(
    i8, i8, i8, i8, array(i8, 1), array(f8, 2), array(i8, 1), i8, array(f8, 1), array(f8, 2), i8, i8, array(i8, 1), array(i8, 1),
    array(f8, 1), *SITES,
)  # fmt: skip
def _move(
    move, first, last, place, order, w, mobile, on_site, thermal, records, seed, channel, ticks, ids, taken, count, atoms, coupling,
    t_count, t_atoms, tensor, b_count, b_atoms, biquadratic, constant, quadratic, cubic, axes,
):  # fmt: skip
    """One move of each atom of one colour, order[first] ... order[last − 1], at thermal[place] = k_B T, eV; ``taken`` 1 where it is
    accepted."""
    k = first + cuda.grid(1)
    if k < last and mobile[order[k]] != 0:
        i = order[k]
        sites = (
            count, atoms, coupling, t_count, t_atoms, tensor, b_count, b_atoms, biquadratic, constant, quadratic, cubic, axes,
        )  # fmt: skip
        step, kt = ticks[0], thermal[place]
        wx, wy, wz = w[i, 0], w[i, 1], w[i, 2]
        bx, by, bz, xx, xy, xz, yy, yz, zz = surroundings(i, w, sites)
        x, y, z = wx, wy, wz
        moved = True
        if move == METROPOLIS:
            gx, gy, gz, _ = normal4(seed, channel, step, ids[i])
            s = records[place, WIDTH] * math.sqrt(wx * wx + wy * wy + wz * wz)
            x, y, z = scaled_to(wx + s * gx, wy + s * gy, wz + s * gz, wx, wy, wz)
        elif move == HEAT_BATH:
            r0, r1, r2, _ = random_integers(seed, channel, step, ids[i])
            g, h = cos_sin_turn(r2 >> 8)
            x, y, z = heat_bath_direction(wx, wy, wz, bx, by, bz, kt, uniform_of(r0, r1), g, h)
        else:
            b2 = bx * bx + by * by + bz * bz
            if b2 == 0.0:
                moved = False
            else:
                c = 2.0 * (wx * bx + wy * by + wz * bz) / b2
                x, y, z = scaled_to(c * bx - wx, c * by - wy, c * bz - wz, wx, wy, wz)
        change = 0.0
        if move == METROPOLIS:
            change = -((x - wx) * bx + (y - wy) * by + (z - wz) * bz)
        if on_site != 0:
            change += nonlinear_energy(i, x, y, z, xx, xy, xz, yy, yz, zz, cubic, axes) - nonlinear_energy(
                i, wx, wy, wz, xx, xy, xz, yy, yz, zz, cubic, axes
            )
        if moved and change > 0.0:
            r0, r1, _, _ = random_integers(seed, channel + 1, step, ids[i])
            moved = kt != 0.0 and uniform_of(r0, r1) < math.exp(-change / kt)
        if moved:
            w[i, 0], w[i, 1], w[i, 2] = x, y, z
        if move == METROPOLIS:
            taken[i] = 1.0 if moved else 0.0


@kernel(array(f8, 1), f8, i8, i8, array(i8, 1), array(f8, 1), array(f8, 2))
def _adapt(accepted, tried, place, first, ticks, changing, records):
    """One thread: count what was accepted, and bring the width of Metropolis moves nearer to half of them."""
    if cuda.grid(1) == 0:
        done = ticks[0] - first + 1
        if changing[0] != 0.0:
            done = min(done, FOLLOWED)
        width = records[place, WIDTH] * math.exp((accepted[0] / tried - 0.5) / math.sqrt(done * 1.0))
        records[place, WIDTH] = min(width, LARGEST_WIDTH)
        records[place, TRIED] += tried
        records[place, ACCEPTED] += accepted[0]


@kernel(i8, array(i8, 1), array(i8, 1), array(f8, 1), array(f8, 1), f8, f8, array(f8, 1), array(f8, 1))
def _follow(first, ticks, points, times, values, critical, exponent, thermal, changing):
    """One thread: k_B T of this sweep, eV, and whether that of the next one differs."""
    if cuda.grid(1) == 0:
        done = 1.0 * (ticks[0] - first)
        kelvin = kelvin_at(0, done, points, times, values, critical, exponent)
        thermal[0] = BOLTZMANN * kelvin
        later = kelvin_at(0, done + 1.0, points, times, values, critical, exponent)
        changing[0] = 1.0 if later != kelvin else 0.0


@kernel(array(f8, 2), array(f8, 1), array(f8, 2))
def _take(spins, inverse, w):
    """w = S/m."""
    i = cuda.grid(1)
    if i < w.shape[0]:
        for a in range(3):
            w[i, a] = spins[i, a] * inverse[i]


@kernel(array(f8, 2), array(f8, 1), array(i8, 1), array(f8, 2))
def _give(w, moments, mobile, spins):
    """S = m w of the spins that may move."""
    i = cuda.grid(1)
    if i < w.shape[0] and mobile[i] != 0:
        for a in range(3):
            spins[i, a] = w[i, a] * moments[i]


class DeviceSweeps:
    """Sweeps of the spins of ``state``; ``host``: the Sweeps that say which moves."""

    def __init__(self, host: Sweeps, state: Any, aux: Aux):
        self.host, self.state = host, state
        n = state.natoms
        moments, spins = state.moments.tensor, state.spins.tensor
        mobile = (moments > 0.0) & (spins.abs().amax(dim=1) > 0.0)
        if FIXED in aux.per_atom:
            mobile &= on_device(aux.per_atom[FIXED]).tensor == 0
        self._mobile = DeviceArray(mobile.long())
        self._tried = float(max(int(mobile.sum()), 1))
        inverse = moments.clone()
        inverse[moments > 0.0] = 1.0 / moments[moments > 0.0]
        self._inverse = DeviceArray(inverse)
        self._w, self._taken, self._accepted = zeros((n, 4)), zeros(n), zeros(1)
        self._sites: DeviceSites | None = None

    def prepare(self, model: Any) -> None:
        """Take the couplings, unless they are those of the step before."""
        couplings = model.couplings()
        if self._sites is not None and self._sites.couplings is couplings:
            return
        self._sites = DeviceSites(couplings)
        colours = colours_of(self._sites.pairs(), self.state.natoms)
        ends = [0]
        for colour in colours:
            ends.append(ends[-1] + len(colour))
        self._colours = list(zip(ends, ends[1:], strict=False))
        self._order = on_device(np.concatenate(colours))

    def sweep(
        self, thermal: DeviceArray, records: DeviceArray, place: int, first: int, seed: int, channel: int, changing: DeviceArray
    ) -> None:  # fmt: skip
        """Move the state's spins at thermal[place] = k_B T, eV, with the record of Metropolis moves records[place].

        first  step at which the stage began;  changing (1,)  whether the temperature changes from sweep to sweep
        """
        state, n, sites = self.state, self.state.natoms, self._sites
        _take(n, state.spins, self._inverse, self._w)
        for turn, move in enumerate(self.host.moves):
            for begin, end in self._colours:
                _move(
                    end - begin, move, begin, end, place, self._order, self._w, self._mobile, int(sites.on_site), thermal, records,
                    seed, channel + 2 * turn, state.ticks, state.ids, self._taken, *sites.arrays,
                )  # fmt: skip
            if move == METROPOLIS:
                self._accepted.tensor.copy_(self._taken.tensor.sum())
                _adapt(1, self._accepted, self._tried, place, first, state.ticks, changing, records)
        _give(n, self._w, state.moments, self._mobile, state.spins)


@kernel(array(i8, 1))
def count_step(ticks):
    """One thread: the step goes on, the time stays."""
    if cuda.grid(1) == 0:
        ticks[0] += 1


class DeviceSweepMover:
    """Base of the movers that sweep over the spins: the step goes on, the time stays; there is no account of energies."""

    plan = 0  # launches are the same in every step

    def __init__(self, host: Any, state: Any, aux: Aux):
        self.host, self.state = host, state
        self._sweeps = DeviceSweeps(host.sweeps, state, aux)

    def step(self, model: Any) -> None:
        """One step of launches."""
        self.launch(model)
        self.stepped()

    def stepped(self) -> None:
        """The host's clock after a step."""
        self.state.clock.step += 1

    def launch(self, model: Any) -> None:
        """The launches of a step, which can be captured as a graph."""
        raise TypeError("a mover says what it launches")

    def download_histories(self, aux: Aux) -> None:
        """What is kept of each atom."""

    def download_account(self, aux: Aux) -> None:
        """There is none."""

    def grow(self) -> bool:
        """Nothing to make more of."""
        return False

    def unsolved(self) -> int:
        """0: there is nothing to solve."""
        return 0


class DeviceMonteCarlo(DeviceSweepMover):
    """The mover of ``host``, a MonteCarlo: one sweep and its over-relaxation in a step."""

    def __init__(self, host: Any, state: Any, aux: Aux):
        super().__init__(host, state, aux)
        self._seed, self._first = (int(value) for value in aux.globals["monte_carlo"])
        self._records = on_device(aux.globals["metropolis"][None])
        self._heat = DeviceTemperatures(host.temperatures, 0.0, BOLTZMANN)
        self._changing = zeros(1)

    def launch(self, model: Any) -> None:
        """The launches of a step, which can be captured as a graph."""
        state, heat = self.state, self._heat
        self._sweeps.prepare(model)
        if heat.changes:
            _follow(
                1, self._first, state.ticks, heat.first, heat.times, heat.values, heat.critical, heat.exponent, heat.result,
                self._changing,
            )  # fmt: skip
        self._sweeps.sweep(heat.result, self._records, 0, self._first, self._seed, MONTE_CARLO_CHANNEL, self._changing)
        model.moved(spins=True)
        count_step(1, state.ticks)

    def download(self, aux: Aux) -> None:
        """The record of Metropolis moves."""
        aux.globals["metropolis"][:] = self._records.host()[0]

    def memory(self) -> list[DeviceArray]:
        """What a step leaves for the next one, beside the state."""
        return [self._records]
