"""Parallel tempering on the GPU: replicas, their energies and exchanges stay there; see ``integrators.parallel_tempering``."""

import math
from typing import Any

from numba import cuda

from spinmd.cuda.arrays import DeviceArray, on_device, zeros
from spinmd.cuda.launch import array, f8, i8, kernel
from spinmd.integrators.cuda.monte_carlo import DeviceSweepMover, count_step
from spinmd.protocols import Aux, Need
from spinmd.rng import EXCHANGE_CHANNEL, MONTE_CARLO_CHANNEL, random_integers, uniform_of
from spinmd.units import BOLTZMANN


@kernel(array(f8, 3), array(i8, 1), i8, array(f8, 2))
def _load(replicas, order, place, spins):
    """S of the replica that is at the temperature ``place``."""
    i = cuda.grid(1)
    if i < spins.shape[0]:
        for a in range(3):
            spins[i, a] = replicas[i, order[place], a]


@kernel(array(f8, 2), array(i8, 1), i8, array(f8, 3))
def _store(spins, order, place, replicas):
    """S to the replica that is at the temperature ``place``."""
    i = cuda.grid(1)
    if i < spins.shape[0]:
        for a in range(3):
            replicas[i, order[place], a] = spins[i, a]


@kernel(
    i8, i8, i8, array(i8, 1), array(f8, 1), array(i8, 1), array(f8, 1), array(f8, 2), array(i8, 2)
)  # fmt: skip
def _exchange(every, first, seed, ticks, beta, order, energies, magnetisations, exchanges):
    """One thread: where an exchange is due, every second pair of neighbours: what belongs to a replica changes places."""
    done = ticks[0] - first + 1
    if cuda.grid(1) == 0 and done % every == 0:
        pairs = exchanges.shape[0]
        a = (done // every - 1) % 2 if pairs > 1 else 0
        while a < pairs:
            b = a + 1
            exponent = (beta[a] - beta[b]) * (energies[a] - energies[b])
            high, low, _, _ = random_integers(seed, EXCHANGE_CHANNEL, ticks[0], a)
            exchanges[a, 0] += 1
            if exponent >= 0.0 or uniform_of(high, low) < math.exp(exponent):
                exchanges[a, 1] += 1
                order[a], order[b] = order[b], order[a]
                energies[a], energies[b] = energies[b], energies[a]
                for k in range(3):
                    kept = magnetisations[a, k]
                    magnetisations[a, k] = magnetisations[b, k]
                    magnetisations[b, k] = kept
            a += 2


KEPT = (
    "metropolis",
    "replicas",
    "replica_energies",
    "replica_magnetisations",
    "exchanges",
)  # globals that a step changes


class DeviceParallelTempering(DeviceSweepMover):
    """The mover of ``host``, a ParallelTempering: a sweep of every replica in a step, and an exchange where one is due."""

    def __init__(self, host: Any, state: Any, aux: Aux):
        super().__init__(host, state, aux)
        self._seed, self._first = (int(value) for value in aux.globals["parallel_tempering"])
        self._spins = on_device(aux.per_atom["replica_spins"])
        self._kept = {name: on_device(aux.globals[name]) for name in KEPT}
        self._thermal = on_device(BOLTZMANN * host.temperatures)
        self._beta = on_device(1.0 / (BOLTZMANN * host.temperatures))
        self._steady = zeros(1)

    def launch(self, model: Any) -> None:
        """The launches of a step, which can be captured as a graph."""
        state, n, sweeps, spins = self.state, self.state.natoms, self._sweeps, self._spins
        order, energies = self._kept["replicas"], self._kept["replica_energies"]
        magnetisations, records = self._kept["replica_magnetisations"], self._kept["metropolis"]
        sweeps.prepare(model)
        _store(n, state.spins, order, 0, spins)  # which a script may have changed
        for place in range(len(self.host.temperatures)):
            _load(n, spins, order, place, state.spins)
            channel = MONTE_CARLO_CHANNEL + place * sweeps.host.channels
            sweeps.sweep(self._thermal, records, place, self._first, self._seed, channel, self._steady)
            _store(n, state.spins, order, place, spins)
            model.moved(spins=True)
            model.evaluate(Need.ENERGY)
            energies.tensor[place].fill_(0.0)
            for energy, magnetic in zip(model.energies, model.magnetic_terms, strict=True):
                if magnetic:
                    energies.tensor[place].add_(energy.tensor.sum())
            magnetisations.tensor[place].copy_(state.spins.tensor.sum(dim=0) / max(state.magnetic, 1))
        _exchange(
            1, self.host.exchange, self._first, self._seed, state.ticks, self._beta, order, energies, magnetisations,
            self._kept["exchanges"],
        )  # fmt: skip
        _load(n, spins, order, 0, state.spins)
        model.moved(spins=True)
        count_step(1, state.ticks)

    def download(self, aux: Aux) -> None:
        """All that is counted."""
        for name, kept in self._kept.items():
            aux.globals[name][:] = kept.host()

    def download_histories(self, aux: Aux) -> None:
        """The replicas."""
        aux.per_atom["replica_spins"][:] = self._spins.host()

    def memory(self) -> list[DeviceArray]:
        """What a step leaves for the next one, beside the state."""
        return [self._spins, *self._kept.values()]
