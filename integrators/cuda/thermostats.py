"""Thermostats of the whole lattice (O) on the GPU: laws of ``integrators.thermostats``; sums and chain stay on the device."""

import math
from typing import Any

import numpy as np
from numba import cuda

from spinmd.cuda.arrays import DeviceArray, on_device, zeros
from spinmd.cuda.launch import array, blocks, f8, i8, kernel
from spinmd.cuda.sums import FLOAT, THREADS, block_sum
from spinmd.integrators.baths import Temperatures
from spinmd.integrators.cuda.temperatures import DeviceTemperatures
from spinmd.integrators.thermostats import (
    CHAIN,
    WEIGHTS,
    NoseHooverChain,
    chain_energy,
    chain_step,
    new_kinetic_energy,
)
from spinmd.rng import GLOBAL_CHANNEL
from spinmd.units import AMU, BOLTZMANN

OUTER, INNER, MIDDLE = WEIGHTS[0], WEIGHTS[2], WEIGHTS[1]
KINETIC, DRIFT, FACTOR, HEAT = 0, 1, 4, 5  # entries of ``motion``; DRIFT has three
MOTION = 8


@kernel(array(f8, 2), array(f8, 1), array(f8, 2))
def _motion_sums(velocities, masses, sums):
    """Per block, Σ m v² and Σ m v."""
    room = cuda.shared.array(THREADS, FLOAT)
    i = cuda.grid(1)
    m, x, y, z = 0.0, 0.0, 0.0, 0.0
    if i < velocities.shape[0]:
        m, x, y, z = masses[i], velocities[i, 0], velocities[i, 1], velocities[i, 2]
    square = block_sum(m * (x * x + y * y + z * z), room)
    x = block_sum(m * x, room)
    y = block_sum(m * y, room)
    z = block_sum(m * z, room)
    if cuda.threadIdx.x == 0:
        b = cuda.blockIdx.x
        sums[b, 0], sums[b, 1], sums[b, 2], sums[b, 3] = square, x, y, z


@kernel(array(f8, 2), f8, i8, array(f8, 1))
def _motion(sums, mass, held, motion):
    """One block: kinetic energy (eV) about the centre of mass and its velocity; about rest where some atoms are ``held``."""
    room = cuda.shared.array(THREADS, FLOAT)
    t = cuda.threadIdx.x
    square, x, y, z = 0.0, 0.0, 0.0, 0.0
    for b in range(t, sums.shape[0], THREADS):
        square += sums[b, 0]
        x += sums[b, 1]
        y += sums[b, 2]
        z += sums[b, 3]
    square = block_sum(square, room)
    x = block_sum(x, room)
    y = block_sum(y, room)
    z = block_sum(z, room)
    if t == 0:
        x, y, z = x / mass, y / mass, z / mass
        if held != 0:
            x, y, z = 0.0, 0.0, 0.0
        motion[KINETIC] = max(0.5 * AMU * square - 0.5 * AMU * mass * (x * x + y * y + z * z), 0.0)
        motion[DRIFT], motion[DRIFT + 1], motion[DRIFT + 2] = x, y, z


@kernel(array(f8, 1), array(f8, 1), f8, f8, i8, i8, array(i8, 1))
def _draw(motion, thermal, freedom, relaxation, seed, channel, ticks):
    """One thread: the new kinetic energy of stochastic velocity rescaling, as factor of the velocities, and what it takes."""
    if cuda.grid(1) == 0:
        motion[FACTOR] = 1.0
        kinetic = motion[KINETIC]
        if kinetic != 0.0:  # a lattice at rest has no direction to go
            new, factor = new_kinetic_energy(kinetic, thermal[0], freedom, relaxation, seed, channel, ticks[0])
            motion[FACTOR] = factor
            motion[HEAT] += kinetic - new


@kernel(array(f8, 1), array(f8, 1), f8, f8, f8, f8, array(f8, 1))
def _push_chain(motion, thermal, freedom, outer, inner, h, chain):
    """One thread: the Nosé-Hoover chain for ``h`` ps, the factor of the velocities, and what the chain takes.

    ``chain``: ω of its three thermostats, their η, Σ ∫ n k_B T dη.
    """
    if cuda.grid(1) == 0:
        w0, w1, w2, e0, e1, e2, stored = chain[0], chain[1], chain[2], chain[3], chain[4], chain[5], chain[6]
        before = motion[KINETIC]
        kinetic = before
        energy = chain_energy(outer, inner, w0, w1, w2, stored)
        for k in range(3):
            weight = MIDDLE if k == 1 else OUTER
            kinetic, w0, w1, w2, e0, e1, e2, stored = chain_step(
                kinetic, thermal[0], freedom, outer, inner, weight * h, w0, w1, w2, e0, e1, e2, stored
            )
        chain[0], chain[1], chain[2], chain[3], chain[4], chain[5], chain[6] = w0, w1, w2, e0, e1, e2, stored
        motion[FACTOR] = math.sqrt(kinetic / before) if before > 0.0 else 1.0
        motion[HEAT] += chain_energy(outer, inner, w0, w1, w2, stored) - energy


@kernel(array(f8, 2), array(f8, 1))
def _rescale(velocities, motion):
    """v ← V + factor (v − V)."""
    i = cuda.grid(1)
    if i < velocities.shape[0]:
        factor = motion[FACTOR]
        for a in range(3):
            v = motion[DRIFT + a]
            velocities[i, a] = v + factor * (velocities[i, a] - v)


class DeviceThermostat:
    """O by ``host``, a Nosé-Hoover chain or stochastic velocity rescaling of the lattice.

    freedom  degrees of freedom;  held  whether some atoms stand still
    """

    def __init__(self, host: Any, state: Any, aux: Any, freedom: int, held: bool):
        self.host, self.state, self.freedom, self.held = host, state, float(freedom), int(held)
        self._mass = float(state.masses.tensor.sum())
        start = float(aux.globals["lattice_bath_start"][0])
        self._thermal = DeviceTemperatures(Temperatures(host.ramp), start, BOLTZMANN)
        self._sums, self._motion = zeros((blocks(state.natoms), 4)), zeros(MOTION)
        self._heat = float(aux.globals["lattice_heat"][0])
        self._chained = isinstance(host, NoseHooverChain)
        self._chain = zeros(MOTION)
        if self._chained:
            parts = [aux.globals[f"chain_{name}"] for name in ("velocity", "position", "energy")]
            self._chain = on_device(np.concatenate([*parts, np.zeros(1)]))
        else:
            self._seed = int(aux.globals["lattice_noise"][0])

    @property
    def follows_time(self) -> bool:
        """Whether it looks at the clock."""
        return self._thermal.changes

    def flow(self, model: Any, h: float, turn: int) -> None:
        """Launch the flow for ``h`` ps."""
        state, n = self.state, self.state.natoms
        thermal = self._thermal.now(state.time)
        _motion_sums(n, state.velocities, state.masses, self._sums)
        _motion(1, self._sums, self._mass, self.held, self._motion)
        if self._chained:
            _push_chain(1, self._motion, thermal, self.freedom, *self.host.masses(self.freedom), h, self._chain)
        else:
            channel = GLOBAL_CHANNEL + turn
            _draw(1, self._motion, thermal, self.freedom, h / self.host.time, self._seed, channel, state.ticks)
        _rescale(n, state.velocities, self._motion)

    def download(self, aux: Any) -> None:
        """The chain."""
        if self._chained:
            chain = self._chain.host()
            for k, name in enumerate(("velocity", "position")):
                aux.globals[f"chain_{name}"][:] = chain[k * CHAIN : (k + 1) * CHAIN]
            aux.globals["chain_energy"][0] = chain[2 * CHAIN]

    def download_account(self, aux: Any) -> None:
        """The heat that the thermostat has taken, eV."""
        aux.globals["lattice_heat"][0] = self._heat + float(self._motion.host()[HEAT])

    def memory(self) -> list[DeviceArray]:
        """What a step leaves for the next one."""
        return [self._motion, self._chain]
