"""Parallel tempering: replicas of the spins at a ladder of temperatures, which they exchange.

One step of the run is one sweep of every replica (``spinmd.integrators.monte_carlo``). After every ``exchange``-th sweep,
replicas at neighbouring temperatures T_a < T_b change places with the probability

    min(1, exp[(1/k_B T_a − 1/k_B T_b) (E_a − E_b)])

by which each temperature keeps its Boltzmann distribution, while replicas walk up to where barriers and slow modes are none, and
back: Swendsen, Wang, Phys. Rev. Lett. 57, 2607 (1986); Hukushima, Nemoto, J. Phys. Soc. Jpn. 65, 1604 (1996). The pairs are
(0, 1), (2, 3), ... in one attempt and (1, 2), (3, 4), ... in the next. The run's state is the replica that is at the lowest
temperature.
"""

import math

import numpy as np

from spinmd.errors import InputError
from spinmd.integrators.held import Held
from spinmd.integrators.monte_carlo import FIRST_WIDTH, Sweeps
from spinmd.protocols import OK, Aux, Evaluation, Frame, Need, RowArray, Status
from spinmd.rng import EXCHANGE_CHANNEL, GLOBAL_CHANNEL, MONTE_CARLO_CHANNEL, random_integers, uniform_of
from spinmd.state import State
from spinmd.units import BOLTZMANN


def row_arrays(count: int) -> tuple[RowArray, ...]:
    """What each thermo row of a run with ``count`` temperatures also holds."""
    return (
        RowArray("temperature", "K", (count,)),
        RowArray("spin_energy", "eV", (count,)),
        RowArray("magnetisation", "muB", (count, 3)),
        RowArray("replica", "1", (count,), "int64"),
        RowArray("exchange_acceptance", "1", (count - 1,)),
    )


class ParallelTempering:
    """A mover: one step is a sweep of every replica, and every ``exchange`` steps an attempt to exchange neighbours.

    temperatures           K, ascending, at least two, above zero
    move, over_relaxation  of each sweep, as for MonteCarlo

    Raises InputError for temperatures that are not such a ladder, and for an unknown move.
    """

    dt = 0.0
    order = 0
    moves_lattice = False

    def __init__(
        self, temperatures, exchange: int = 1, move: str = "heat-bath", over_relaxation: int = 1, width: float = FIRST_WIDTH,
        held: Held | None = None,
    ):  # fmt: skip
        self.temperatures = np.array(temperatures, dtype=np.float64)
        check_ladder(self.temperatures)
        self.exchange = int(exchange)
        self.sweeps = Sweeps(move, over_relaxation, held)
        self.width = float(width)
        if len(self.temperatures) * self.sweeps.channels > GLOBAL_CHANNEL - MONTE_CARLO_CHANNEL:
            raise InputError("too many temperatures and sweeps of over-relaxation", "integrator.temperatures")

    def init(self, state: State, seed: int) -> Aux:
        """Every replica begins with the spins of the state.

        per_atom  replica_spins (N, R, 3) µB
        globals   replicas (R,), which replica is at each temperature; of each temperature replica_energies (R,) eV (NaN before
                  the first sweep), replica_magnetisations (R, 3) µB and metropolis (R, 3); of each pair exchanges (R − 1, 2),
                  tried and accepted
        """
        aux = Aux()
        self.sweeps.begin(state, aux)
        count = len(self.temperatures)
        aux.per_atom["replica_spins"] = np.repeat(state.spins[:, None, :], count, axis=1)
        aux.globals["parallel_tempering"] = np.array([seed, state.clock.step], np.int64)
        aux.globals["metropolis"] = np.tile([self.width, 0.0, 0.0], (count, 1))
        aux.globals["replicas"] = np.arange(count)
        aux.globals["replica_energies"] = np.full(count, np.nan)
        aux.globals["replica_magnetisations"] = np.tile(state.magnetisation(), (count, 1))
        aux.globals["exchanges"] = np.zeros((count - 1, 2), np.int64)
        return aux

    def step(self, state: State, aux: Aux, model) -> Status:
        """A sweep of every replica, and an exchange where one is due; the clock's step goes on, its time stays."""
        self.sweeps.prepare(state, aux, model)
        seed, first = (int(v) for v in aux.globals["parallel_tempering"])
        done = state.clock.step - first + 1
        spins, replicas, energies = (
            aux.per_atom["replica_spins"],
            aux.globals["replicas"],
            aux.globals["replica_energies"],
        )
        magnetisations, metropolis = aux.globals["replica_magnetisations"], aux.globals["metropolis"]
        spins[:, replicas[0]] = state.spins  # which a script may have changed
        for k, kelvin in enumerate(self.temperatures):
            np.copyto(state.spins, spins[:, replicas[k]])
            channel = MONTE_CARLO_CHANNEL + k * self.sweeps.channels
            self.sweeps.sweep(state, BOLTZMANN * float(kelvin), metropolis[k], done, seed, channel)
            spins[:, replicas[k]] = state.spins
            energies[k] = self._energy(model)
            magnetisations[k] = state.magnetisation()
        if done % self.exchange == 0:
            self._exchange(aux, seed, state.clock.step, done // self.exchange)
        np.copyto(state.spins, spins[:, replicas[0]])
        model.moved(spins=True)
        state.clock.step += 1
        return OK

    @staticmethod
    def _energy(model) -> float:
        """Of all magnetic terms at the state's spins, eV."""
        model.moved(spins=True)
        return float(model.evaluate(Need.ENERGY).energies[model.magnetic_terms].sum())

    def _exchange(self, aux: Aux, seed: int, step: int, attempt: int) -> None:
        """Every second pair of neighbours: what belongs to a replica changes places, what belongs to a temperature stays."""
        moving = [aux.globals[name] for name in ("replicas", "replica_energies", "replica_magnetisations")]
        energies, exchanges = aux.globals["replica_energies"], aux.globals["exchanges"]
        pairs = len(self.temperatures) - 1
        beta = 1.0 / (BOLTZMANN * self.temperatures)
        for a in range((attempt - 1) % 2 if pairs > 1 else 0, pairs, 2):
            b = a + 1
            exponent = (beta[a] - beta[b]) * (energies[a] - energies[b])
            r = random_integers(seed, EXCHANGE_CHANNEL, step, a)
            accepted = exponent >= 0.0 or uniform_of(r[0], r[1]) < math.exp(exponent)
            exchanges[a] += (1, accepted)
            if accepted:
                for array in moving:
                    array[[a, b]] = array[[b, a]]

    # ------------------------------------------------------------------ for reporters

    def row(self, frame: Frame) -> dict[str, np.ndarray]:
        """The ``row_arrays`` at this moment; acceptance is that of the stage so far, NaN before the first attempt."""
        kept = frame.aux.globals
        energies = kept["replica_energies"]
        if np.isnan(energies).any():  # before the first step, where all replicas are the state
            magnetic = frame.evaluation(Need.ENERGY).energies[frame.model.magnetic_terms].sum()
            energies = np.full(len(energies), float(magnetic))
        return {
            "temperature": self.temperatures,
            "spin_energy": energies,
            "magnetisation": kept["replica_magnetisations"],
            "replica": kept["replicas"],
            "exchange_acceptance": acceptance(kept["exchanges"]),
        }

    def closing(self, aux: Aux) -> str:
        """A table of the pairs of temperatures for the screen."""
        lines = ["exchanges between temperatures (K), accepted fraction:"]
        for k, fraction in enumerate(acceptance(aux.globals["exchanges"])):
            share = "-" if math.isnan(fraction) else f"{fraction:.3f}"
            lines.append(f"{self.temperatures[k]:12.6g} {self.temperatures[k + 1]:12.6g} {share:>8}")
        return "\n".join(lines)

    def conserved(self, state: State, aux: Aux, evaluation: Evaluation) -> float:
        """Not a number: Monte Carlo conserves nothing."""
        return math.nan

    def degrees_of_freedom(self, state: State, aux: Aux | None = None) -> int:
        """0: the lattice stands still and has no temperature."""
        return 0


def acceptance(exchanges: np.ndarray) -> np.ndarray:
    """(R − 1,) accepted fraction of the exchanges tried, NaN where none was; ``exchanges`` (R − 1, 2) tried and accepted."""
    tried, accepted = exchanges.T.astype(np.float64)
    return np.divide(accepted, tried, out=np.full(len(tried), np.nan), where=tried > 0.0)


def check_ladder(temperatures: np.ndarray) -> None:
    """InputError unless these are at least two temperatures, above zero and ascending."""
    place = "integrator.temperatures"
    if temperatures.ndim != 1 or len(temperatures) < 2:
        raise InputError(
            "parallel tempering exchanges replicas between temperatures: give at least two, or use ensemble = "
            '"monte-carlo" for one',
            place,
        )
    if not (np.isfinite(temperatures) & (temperatures > 0.0)).all():
        bad = temperatures[~(np.isfinite(temperatures) & (temperatures > 0.0))][0]
        raise InputError(f"temperatures must be above 0 K, got {bad:g}", place)
    falls = np.diff(temperatures) <= 0.0
    if falls.any():
        k = int(np.argmax(falls))
        raise InputError(
            f"temperatures must ascend, and {temperatures[k + 1]:g} K follows {temperatures[k]:g} K", place
        )
