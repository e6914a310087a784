"""Monte Carlo of the spins at fixed positions: Metropolis, heat bath and over-relaxation, in parallel by colours.

One step of the run is one sweep over all spins, followed by sweeps of over-relaxation. The distribution is Boltzmann's,
exp(−E/k_B T), of directions at fixed lengths |S|; there is no time. One spin w = S/m has the energy of
``spinmd.integrators.sites``.

metropolis       w' = P[w + σ g], g Gaussian: symmetric; accepted with min(1, exp(−ΔE/k_B T)): Metropolis et al., J. Chem. Phys.
                 21, 1087 (1953). σ is adapted to accept half of the moves, by ever smaller steps (Robbins and Monro, Ann. Math.
                 Stat. 22, 400 (1951)), so that the limit is exact.
heat-bath        the direction drawn anew from exp(w·b/k_B T): cos θ = 1 + ln(u + (1 − u) e^(−2k))/k, k = |w||b|/k_B T, uniform
                 about b: Miyatake, Yamamoto, Kim, Toyonaga, Nagai, J. Phys. C 19, 2539 (1986). Terms that are not linear in w
                 accept or refuse it by their own ΔE.
over-relaxation  w' = 2 (w·b) b/b² − w, of the same w·b: Creutz, Phys. Rev. D 36, 515 (1987); other terms accept or refuse it.

Colours: atoms of one colour are not coupled with each other, so that they move at the same time, each on noise of its own: the
result does not depend on the number of threads.
"""

import math

import numpy as np
from numba import njit, prange

from spinmd.backend import BLOCK, block_count
from spinmd.errors import InputError
from spinmd.integrators.baths import Temperatures
from spinmd.integrators.held import Held, fixed_spins
from spinmd.integrators.sites import Sites, collect_matrix, linear_field, nonlinear_energy, sites_of
from spinmd.protocols import OK, Aux, Evaluation, Status
from spinmd.rng import MONTE_CARLO_CHANNEL, cos_sin_turn, normal4, random_integers, uniform_of
from spinmd.spin_laws import scaled_to
from spinmd.state import State
from spinmd.units import BOLTZMANN

METROPOLIS, HEAT_BATH, OVER_RELAXATION = range(3)
MOVES = {"metropolis": METROPOLIS, "heat-bath": HEAT_BATH}
FOLLOWED = 9  # sweeps: while a temperature changes, the width of Metropolis moves adapts as after so few
FIRST_WIDTH, LARGEST_WIDTH = 0.5, 10.0  # of a Metropolis move; the largest is any direction


@njit(cache=True)
def _greedy_colours(start, count, atoms, colours):
    """The smallest colour that no neighbour with a smaller index has; returns the number of colours."""
    n = colours.shape[0]
    used = np.full(n + 1, -1, np.int64)
    most = 0
    for i in range(n):
        for k in range(start[i], start[i] + count[i]):
            j = atoms[k]
            if j < i:
                used[colours[j]] = i
        colour = 0
        while used[colour] == i:
            colour += 1
        colours[i] = colour
        most = max(most, colour + 1)
    return most


def coloured(sites: Sites, natoms: int) -> list[np.ndarray]:
    """Atoms of each colour, ascending: no two atoms of one colour are coupled."""
    owners, atoms = [], []
    for kind, values in (("iso", sites.isotropic), ("tensor", sites.tensor), ("bi", sites.biquadratic)):
        start, count, neighbours = (getattr(sites, f"{kind}_{name}") for name in ("start", "count", "atoms"))
        if len(neighbours):
            owner = np.repeat(np.arange(natoms), count)
            entries = np.concatenate([np.arange(s, s + c) for s, c in zip(start[:natoms], count, strict=True)])
            real = np.any(np.atleast_2d(values[entries].T) != 0.0, axis=0)  # padding couples nobody
            owners.append(owner[real])
            atoms.append(neighbours[entries][real])
    return colours_of(coupled_pairs(owners, atoms), natoms)


def coupled_pairs(owners: list[np.ndarray], atoms: list[np.ndarray]) -> np.ndarray:
    """(2, pairs) different atoms that are coupled, each pair once in either order, sorted, from lists of both."""
    if not owners:
        return np.zeros((2, 0), np.int64)
    pairs = np.unique(np.stack([np.concatenate(owners), np.concatenate(atoms)]), axis=1)
    return pairs[:, pairs[0] != pairs[1]]


def colours_of(pairs: np.ndarray, natoms: int) -> list[np.ndarray]:
    """Atoms of each colour, ascending, from ``coupled_pairs``."""
    counts = np.bincount(pairs[0], minlength=natoms)
    colours = np.zeros(natoms, np.int64)
    number = _greedy_colours(np.concatenate([[0], np.cumsum(counts)[:-1]]), counts, pairs[1], colours)
    return [np.flatnonzero(colours == colour) for colour in range(number)]


@njit(cache=True)
def heat_bath_direction(wx, wy, wz, bx, by, bz, thermal, u, g, h):
    """A direction from exp(w·b/k_B T), of the length of w; u uniform, g and h cosine and sine of a uniform angle about b."""
    length = math.sqrt(wx * wx + wy * wy + wz * wz)
    field = math.sqrt(bx * bx + by * by + bz * bz)
    k = length * field / thermal if thermal > 0.0 else 0.0
    if thermal == 0.0 and field > 0.0:  # along the field
        cosine = 1.0
    elif k > 1.0e-9:
        cosine = max(1.0 + math.log(u + (1.0 - u) * math.exp(-2.0 * k)) / k, -1.0)
    else:
        cosine = 2.0 * u - 1.0
    nx, ny, nz = (bx / field, by / field, bz / field) if field > 0.0 else (0.0, 0.0, 1.0)
    sine = math.sqrt(max(1.0 - cosine * cosine, 0.0))
    ax, ay, az = (0.0, nz, -ny) if abs(nx) < 0.6 else (-nz, 0.0, nx)  # across n
    scale = 1.0 / math.sqrt(ax * ax + ay * ay + az * az)
    ax, ay, az = ax * scale, ay * scale, az * scale
    cx, cy, cz = ny * az - nz * ay, nz * ax - nx * az, nx * ay - ny * ax
    p, q = sine * g, sine * h
    return (
        length * (cosine * nx + p * ax + q * cx),
        length * (cosine * ny + p * ay + q * cy),
        length * (cosine * nz + p * az + q * cz),
    )


@njit(cache=True, parallel=True)
def _sweep(move, atoms, w, mobile, sites, on_site, thermal, width, seed, channel, step, ids, accepted, block):
    """One move of each of ``atoms``, all of one colour; ``thermal`` = k_B T, eV; per block, how many moves were accepted."""
    count = atoms.shape[0]
    for b in prange(accepted.shape[0]):
        taken = 0
        matrix = np.zeros((3, 3))
        for index in range(b * block, min((b + 1) * block, count)):
            i = atoms[index]
            if not mobile[i]:
                continue
            wx, wy, wz = w[i, 0], w[i, 1], w[i, 2]
            bx, by, bz = linear_field(i, w, sites)
            if on_site:
                collect_matrix(i, w, sites, matrix)
            x, y, z = wx, wy, wz
            if move == METROPOLIS:
                gx, gy, gz, _ = normal4(seed, channel, step, ids[i])
                length = math.sqrt(wx * wx + wy * wy + wz * wz)
                s = width * length
                x, y, z = scaled_to(wx + s * gx, wy + s * gy, wz + s * gz, wx, wy, wz)
            elif move == HEAT_BATH:
                r = random_integers(seed, channel, step, ids[i])
                g, h = cos_sin_turn(r[2] >> 8)
                x, y, z = heat_bath_direction(wx, wy, wz, bx, by, bz, thermal, uniform_of(r[0], r[1]), g, h)
            else:
                b2 = bx * bx + by * by + bz * bz
                if b2 == 0.0:
                    continue
                c = 2.0 * (wx * bx + wy * by + wz * bz) / b2
                x, y, z = scaled_to(c * bx - wx, c * by - wy, c * bz - wz, wx, wy, wz)
            change = 0.0
            if move == METROPOLIS:
                change = -((x - wx) * bx + (y - wy) * by + (z - wz) * bz)
            if on_site:
                change += nonlinear_energy(i, x, y, z, sites, matrix) - nonlinear_energy(i, wx, wy, wz, sites, matrix)
            if change > 0.0:
                r = random_integers(seed, channel + 1, step, ids[i])
                if thermal == 0.0 or uniform_of(r[0], r[1]) >= math.exp(-change / thermal):
                    continue
            taken += 1
            w[i, 0], w[i, 1], w[i, 2] = x, y, z
        accepted[b] = taken


class Sweeps:
    """Sweeps over the spins of a state, for movers that choose the temperature: ``move``, then ``over_relaxation`` sweeps more.

    Raises InputError for an unknown move.
    """

    def __init__(self, move: str = "heat-bath", over_relaxation: int = 1, held: Held | None = None):
        if move not in MOVES:
            raise InputError(f"unknown move {move!r}; known are {', '.join(MOVES)}", "integrator.move")
        self.moves = [MOVES[move], *[OVER_RELAXATION] * int(over_relaxation)]
        self.held = held or Held()

    def begin(self, state: State, aux: Aux) -> None:
        """Put what is held into ``aux``, and forget the couplings of an earlier run."""
        self.held.begin(state, aux)
        self._couplings = None
        self._w = np.zeros((state.natoms, 4))

    def prepare(self, state: State, aux: Aux, model) -> None:
        """Take the couplings at the present positions, unless they are those of the step before."""
        couplings = model.couplings()
        if self._couplings is couplings:
            return
        self._couplings, self._sites = couplings, sites_of(couplings)
        self._colours = coloured(self._sites, state.natoms)
        self._mobile = (state.moments > 0.0) & (np.abs(state.spins).max(axis=1) > 0.0)
        if len(fixed := fixed_spins(aux)):
            self._mobile &= fixed == 0
        self._tried = max(int(self._mobile.sum()), 1)

    def sweep(self, state: State, thermal: float, record: np.ndarray, done: int, seed: int, channel: int) -> None:
        """Move the state's spins at ``thermal`` = k_B T, eV.

        record   (3,) of Metropolis moves at this temperature: width, moves tried, moves accepted; brought up to date
        done     sweeps at this temperature, this one included
        channel  of the noise; the next ``channels`` numbers are used
        """
        inverse = np.divide(1.0, state.moments, out=np.zeros(state.natoms), where=state.moments > 0.0)
        np.multiply(state.spins, inverse[:, None], out=self._w[:, :3])
        for turn, move in enumerate(self.moves):
            taken = self._one(move, state, thermal, float(record[0]), seed, channel + 2 * turn)
            if move == METROPOLIS:
                record[0] = min(record[0] * math.exp((taken / self._tried - 0.5) / math.sqrt(done)), LARGEST_WIDTH)
                record[1] += self._tried
                record[2] += taken
        np.multiply(self._w[:, :3], state.moments[:, None], out=state.spins, where=self._mobile[:, None])

    @property
    def channels(self) -> int:
        """Noise channels that one sweep may use."""
        return 2 * len(self.moves)

    def _one(self, move: int, state: State, thermal: float, width: float, seed: int, channel: int) -> int:
        taken = 0
        for atoms in self._colours:
            accepted = np.zeros(block_count(len(atoms)), np.int64)
            _sweep(
                move, atoms, self._w, self._mobile, self._sites, self._sites.on_site, thermal, width, seed, channel,
                state.clock.step, state.ids, accepted, BLOCK,
            )  # fmt: skip
            taken += int(accepted.sum())
        return taken


class MonteCarlo:
    """A mover: one step is one sweep of ``move`` and ``over_relaxation`` sweeps more, at a temperature in K or a ramp over steps.

    ``width`` is that of the first Metropolis moves. Raises InputError for an unknown move.
    """

    dt = 0.0
    order = 0
    moves_lattice = False

    def __init__(
        self, temperature, move: str = "heat-bath", over_relaxation: int = 1, width: float = FIRST_WIDTH,
        held: Held | None = None,
    ):  # fmt: skip
        self.temperatures = temperature if isinstance(temperature, Temperatures) else Temperatures(temperature)
        self.sweeps = Sweeps(move, over_relaxation, held)
        self.width = float(width)

    def init(self, state: State, seed: int) -> Aux:
        """The seed, where the stage started, and the width of Metropolis moves."""
        aux = Aux()
        self.sweeps.begin(state, aux)
        aux.globals["monte_carlo"] = np.array([seed, state.clock.step], np.int64)
        aux.globals["metropolis"] = np.array([self.width, 0.0, 0.0])  # width, moves tried, moves accepted
        return aux

    def step(self, state: State, aux: Aux, model) -> Status:
        """One sweep and its over-relaxation; the clock's step goes on, its time stays."""
        self.sweeps.prepare(state, aux, model)
        seed, first = (int(v) for v in aux.globals["monte_carlo"])
        done = state.clock.step - first
        kelvin = float(self.temperatures.at(float(done))[0])
        changes = kelvin != float(self.temperatures.at(float(done) + 1.0)[0])  # then the width must keep up
        sweeps = min(done + 1, FOLLOWED) if changes else done + 1
        record = aux.globals["metropolis"]
        self.sweeps.sweep(state, BOLTZMANN * kelvin, record, sweeps, seed, MONTE_CARLO_CHANNEL)
        model.moved(spins=True)
        state.clock.step += 1
        return OK

    def conserved(self, state: State, aux: Aux, evaluation: Evaluation) -> float:
        """Not a number: Monte Carlo conserves nothing."""
        return math.nan

    def degrees_of_freedom(self, state: State, aux: Aux | None = None) -> int:
        """0: the lattice stands still and has no temperature."""
        return 0
