"""Drift (R), kick (V), the Langevin bath of the lattice (O) and the clock on the GPU; laws as in ``integrators``."""

import math
from typing import Any

from numba import cuda

from spinmd.cuda.arrays import DeviceArray, on_device, zeros
from spinmd.cuda.launch import array, f8, i8, kernel
from spinmd.integrators.cuda.temperatures import DeviceTemperatures
from spinmd.protocols import FROZEN, Need
from spinmd.rng import LATTICE_CHANNEL, normal4
from spinmd.units import AMU, BOLTZMANN


@kernel(array(f8, 2), array(f8, 2), array(f8, 1), array(i8, 1), f8)
def kick(velocities, forces, masses, frozen, step):
    """v += h F/m."""
    i = cuda.grid(1)
    if i < velocities.shape[0] and (frozen.shape[0] == 0 or frozen[i] == 0):
        scale = step / masses[i]
        for a in range(3):
            velocities[i, a] += scale * forces[i, a]


@kernel(array(f8, 2), array(f8, 2), array(i8, 1), f8)
def drift(positions, velocities, frozen, step):
    """R += h v."""
    i = cuda.grid(1)
    if i < positions.shape[0] and (frozen.shape[0] == 0 or frozen[i] == 0):
        for a in range(3):
            positions[i, a] += step * velocities[i, a]


@kernel(
    array(f8, 2), array(f8, 1), array(i8, 1), array(f8, 1), array(i8, 1), array(f8, 1), f8, i8, i8, array(i8, 1), array(f8, 1),
    array(f8, 2), array(i8, 1), f8,
)  # fmt: skip
def langevin(
    velocities, masses, ids, friction, kinds, temperatures, h, seed, channel, ticks, heat, positions, frozen, half
):  # fmt: skip
    """v ← c v + √(k_B T (1 − c²)/m) g with the noise of the host's counters; heat (N,) += m (v₀² − v₁²)/2, amu Å²/ps². Before and
    after it R += v · ``half``, unless that is zero."""
    i = cuda.grid(1)
    moves = half != 0.0 and i < velocities.shape[0] and (frozen.shape[0] == 0 or frozen[i] == 0)
    if moves:
        for a in range(3):
            positions[i, a] += half * velocities[i, a]
    if i < velocities.shape[0] and friction[i] != 0.0 and kinds[i] >= 0:
        c = math.exp(-friction[i] * h)
        sigma = math.sqrt(temperatures[kinds[i]] * (1.0 - c * c) / masses[i])
        x, y, z, _ = normal4(seed, channel, ticks[0], ids[i])
        lost = 0.0
        for a in range(3):
            g = x if a == 0 else (y if a == 1 else z)
            before = velocities[i, a]
            after = c * before + sigma * g
            velocities[i, a] = after
            lost += before * before - after * after
        heat[i] += 0.5 * masses[i] * lost
    if moves:
        for a in range(3):
            positions[i, a] += half * velocities[i, a]


@kernel(array(f8, 1), f8, array(f8, 1))
def go_to(start, passed, time):
    """One thread: the clock stands ``passed`` ps after the start of the step."""
    if cuda.grid(1) == 0:
        time[0] = start[0] + passed


@kernel(array(i8, 1), array(f8, 1), array(f8, 1), f8)
def tick(ticks, start, time, dt):
    """One thread: the clock of the device goes on to the next step."""
    if cuda.grid(1) == 0:
        ticks[0] += 1
        start[0] += dt
        time[0] = start[0]


def held_atoms(aux: Any) -> DeviceArray:
    """(N,) int64, nonzero for atoms that stand still; empty if there are none."""
    return on_device(aux.per_atom[FROZEN]) if FROZEN in aux.per_atom else zeros(0, "int64")


class DeviceDrift:
    """R."""

    follows_time = False

    def __init__(self, state: Any, frozen: DeviceArray):
        self.state, self.frozen = state, frozen

    def flow(self, model: Any, h: float, turn: int) -> None:
        """Move by ``h`` ps."""
        drift(self.state.natoms, self.state.positions, self.state.velocities, self.frozen, h)
        model.moved(positions=True)

    def download(self, aux: Any) -> None:
        """Nothing to tell."""

    def download_account(self, aux: Any) -> None:
        """Nothing to tell."""

    def memory(self) -> list[DeviceArray]:
        """Nothing."""
        return []


class DeviceKick(DeviceDrift):
    """V; ``fields``: as for ``integrators.flows.Kick``."""

    def __init__(self, state: Any, frozen: DeviceArray, fields: bool = False):
        super().__init__(state, frozen)
        self.fields = fields

    def flow(self, model: Any, h: float, turn: int) -> None:
        """Kick for ``h`` ps."""
        state = self.state
        model.evaluate(Need.FORCE | Need.FIELD if self.fields and model.live_terms() else Need.FORCE)
        kick(state.natoms, state.velocities, model.forces, state.masses, self.frozen, h / AMU)


class DeviceLangevin:
    """O by friction and noise; ``host``: a Langevin, whose arrays are in ``aux``."""

    def __init__(self, host: Any, state: Any, aux: Any, frozen: DeviceArray):
        self.state, self._frozen = state, frozen
        self._friction, self._kinds = (on_device(aux.per_atom[f"lattice_{name}"]) for name in ("friction", "bath"))
        start = float(aux.globals["lattice_bath_start"][0])
        self._thermal = DeviceTemperatures(host.temperatures, start, BOLTZMANN / AMU)
        self._seed = int(aux.globals["lattice_noise"][0])
        self._before, self._heat = float(aux.globals["lattice_heat"][0]), zeros(state.natoms)

    @property
    def follows_time(self) -> bool:
        """Whether it looks at the clock."""
        return self._thermal.changes

    def flow(self, model: Any, h: float, turn: int, drift: float = 0.0) -> None:
        """Friction and noise for ``h`` ps; with a drift of ``drift`` ps before and after, all three in one launch."""
        state = self.state
        langevin(
            state.natoms, state.velocities, state.masses, state.ids, self._friction, self._kinds, self._thermal.now(state.time),
            h, self._seed, LATTICE_CHANNEL + turn, state.ticks, self._heat, state.positions, self._frozen, drift,
        )  # fmt: skip
        if drift:
            model.moved(positions=True)

    def download(self, aux: Any) -> None:
        """Nothing but the heat."""

    def download_account(self, aux: Any) -> None:
        """The heat that the bath has taken, eV."""
        aux.globals["lattice_heat"][0] = self._before + AMU * float(self._heat.tensor.sum())

    def memory(self) -> list[DeviceArray]:
        """What a step leaves for the next one."""
        return [self._heat]
