"""Thermostats that act on the kinetic energy of the whole lattice (O): Nosé-Hoover chain and stochastic velocity rescaling.

Both multiply all velocities, relative to that of the centre of mass, by one number, so that the total momentum stays what it
is: n_f = 3N − 3 degrees of freedom; where some atoms are held, 3 for each of the others. K in eV, times in ps, T in K.
"""

import math
import warnings

import numpy as np
from numba import njit, prange

from spinmd.backend import BLOCK
from spinmd.errors import InputError
from spinmd.integrators.baths import Ramp
from spinmd.integrators.held import degrees_of_freedom, thermal_motion
from spinmd.protocols import OK, Aux, Status
from spinmd.rng import GLOBAL_CHANNEL, gamma, normal4
from spinmd.state import State
from spinmd.units import BOLTZMANN

AT_REST = 1.0e-3  # of the kinetic energy that a thermostat aims at
CHAIN = 3  # thermostats in a Nosé-Hoover chain
OUTER = 1.0 / (2.0 - 2.0 ** (1.0 / 3.0))
WEIGHTS = (OUTER, 1.0 - 2.0 * OUTER, OUTER)  # of Suzuki and Yoshida, fourth order


@njit(cache=True)
def new_kinetic_energy(kinetic, thermal, freedom, relaxation, seed, channel, step):
    """K(h) of stochastic velocity rescaling (see ``VelocityRescaling``), eV, and the factor of the velocities.

    kinetic K(0) above zero and thermal k_B T in eV;  freedom n_f;  relaxation h/τ;  the rest names the noise
    """
    g, _, _, _ = normal4(seed, channel, step, 0)
    chi2 = 2.0 * gamma(0.5 * (freedom - 1), seed, channel, step) if freedom > 1 else 0.0
    c = math.exp(-relaxation)
    share = 0.5 * thermal * (1.0 - c)  # K̄ (1 − c)/n_f
    along = math.sqrt(c * kinetic) + g * math.sqrt(
        share
    )  # the new velocities' part along the old ones: its sign counts
    new = along * along + share * chi2
    return new, math.copysign(math.sqrt(new / kinetic), along)


@njit(cache=True)
def _pushed(omega, slower, step, surplus, mass):
    """ω after half of ``step``, driven by the ``surplus`` (eV) of what it controls and slowed by the next in the chain."""
    slowed = math.exp(-0.25 * step * slower)
    return (omega * slowed + 0.5 * step * surplus / mass) * slowed


@njit(cache=True)
def chain_step(kinetic, thermal, freedom, outer, inner, step, w0, w1, w2, e0, e1, e2, stored):
    """One of the three steps of Suzuki and Yoshida, of ``step`` ps, of a Nosé-Hoover chain (see ``NoseHooverChain``).

    kinetic, thermal  K and k_B T in eV;  outer, inner  Q_1 and Q_2 = Q_3, eV ps²;  w0 ... w2  ω in 1/ps;  e0 ... e2  η;
    stored  Σ ∫ n k_B T dη, eV. Returns kinetic, w0 ... w2, e0 ... e2 and stored.
    """
    w2 = _pushed(w2, 0.0, step, inner * w1 * w1 - thermal, inner)
    w1 = _pushed(w1, w2, step, outer * w0 * w0 - thermal, inner)
    w0 = _pushed(w0, w1, step, 2.0 * kinetic - freedom * thermal, outer)
    kinetic *= math.exp(-2.0 * step * w0)
    e0, e1, e2 = e0 + step * w0, e1 + step * w1, e2 + step * w2
    stored += thermal * step * (freedom * w0 + w1 + w2)
    w0 = _pushed(w0, w1, step, 2.0 * kinetic - freedom * thermal, outer)
    w1 = _pushed(w1, w2, step, outer * w0 * w0 - thermal, inner)
    w2 = _pushed(w2, 0.0, step, inner * w1 * w1 - thermal, inner)
    return kinetic, w0, w1, w2, e0, e1, e2, stored


@njit(cache=True)
def chain_energy(outer, inner, w0, w1, w2, stored):
    """Σ Q ω²/2 + Σ ∫ n k_B T dη, eV; arguments as for ``chain_step``."""
    return 0.5 * (outer * w0 * w0 + inner * (w1 * w1 + w2 * w2)) + stored


@njit(cache=True, parallel=True)
def _rescale(natoms, velocities, drift, factor, block):
    """v ← V + factor (v − V), with V = ``drift`` (3,)."""
    for b in prange((natoms + block - 1) // block):
        for i in range(b * block, min((b + 1) * block, natoms)):
            for k in range(3):
                velocities[i, k] = drift[k] + factor * (velocities[i, k] - drift[k])


class Thermostat:
    """Base: ``temperature`` K or a Ramp, ``time`` ps in which the kinetic energy relaxes."""

    letter = "O"
    moves = "lattice"

    def __init__(self, temperature: float | Ramp, time: float):
        self.ramp = temperature if isinstance(temperature, Ramp) else Ramp.constant(temperature)
        self.time = float(time)
        if not self.time > 0.0:
            raise InputError(f"must be positive, got {time} ps", "integrator.thermostat_time")
        if not max(kelvin for _, kelvin in self.ramp.points) > 0.0:
            raise InputError(
                "a thermostat of the kinetic energy needs a temperature above zero", "integrator.temperature"
            )

    def init(self, state: State, aux: Aux, seed: int, turns: int = 1) -> None:
        """Start of the stage, and the heat that the thermostat takes."""
        aux.globals["lattice_bath_start"] = np.array([state.clock.time])
        aux.globals.setdefault("lattice_heat", np.zeros(1))

    def thermal(self, state: State, aux: Aux) -> float:
        """k_B T now, eV."""
        return BOLTZMANN * self.ramp.at(state.clock.time - float(aux.globals["lattice_bath_start"][0]))


class VelocityRescaling(Thermostat):
    """Stochastic velocity rescaling: K follows its canonical distribution, by the exact solution of

        dK = (K̄ − K) dt/τ + 2 √(K K̄/n_f) dW/√τ,    K̄ = n_f k_B T/2

    K(h) = (√(c K) + g √s)² + s χ², s = (K̄/n_f)(1 − c), c = exp(−h/τ), g Gaussian, χ² the sum of n_f − 1 squared
    Gaussians: Bussi, Donadio, Parrinello, J. Chem. Phys. 126, 014101 (2007), eq. A7. Their conserved quantity, K + E plus the heat
    that the thermostat takes, is the account that every run keeps.
    """

    def init(self, state: State, aux: Aux, seed: int, turns: int = 1) -> None:
        """The seed, the start of the stage and the heat."""
        super().init(state, aux, seed, turns)
        aux.globals["lattice_noise"] = np.array([seed], np.int64)

    def flow(self, state: State, aux: Aux, model, h: float, turn: int = 0) -> Status:
        """Rescale for ``h`` ps."""
        kinetic, drift = thermal_motion(state, aux)
        freedom = degrees_of_freedom(state, aux)
        if kinetic == 0.0:  # a lattice at rest has no direction to go; it starts to move by its forces
            return OK
        seed, channel = int(aux.globals["lattice_noise"][0]), GLOBAL_CHANNEL + turn
        thermal = self.thermal(state, aux)
        new, factor = new_kinetic_energy(kinetic, thermal, freedom, h / self.time, seed, channel, state.clock.step)
        _rescale(state.natoms, state.velocities, drift, factor, BLOCK)
        aux.globals["lattice_heat"][0] += kinetic - new
        return OK


class NoseHooverChain(Thermostat):
    """A chain of three Nosé-Hoover thermostats, deterministic and reversible. Extended energy (conserved)

        K + E + Σ_k Q_k ω_k²/2 + n_f k_B T η_1 + k_B T (η_2 + η_3),    Q_1 = n_f k_B T τ², Q_2 = Q_3 = k_B T τ²

    Martyna, Klein, Tuckerman, J. Chem. Phys. 97, 2635 (1992); integrated as in Martyna, Tuckerman, Tobias, Klein, Mol. Phys. 87,
    1117 (1996) with three steps of Suzuki and Yoshida. ω in 1/ps, η without unit. With a ramp the Q belong to its highest
    temperature, and the integral of k_B T dη takes the place of k_B T η.
    """

    def init(self, state: State, aux: Aux, seed: int, turns: int = 1) -> None:
        """η and ω of the chain. Warns of a lattice at rest, which the chain may take long to set in motion."""
        super().init(state, aux, seed, turns)
        if thermal_motion(state, aux)[0] < AT_REST * 0.5 * degrees_of_freedom(state, aux) * self.thermal(state, aux):
            warnings.warn(
                "integrator.thermostat: the lattice is at rest, which a Nosé-Hoover chain may not set in motion for long; give a "
                'temperature in [structure], or use thermostat = "velocity-rescaling"',
                stacklevel=2,
            )
        aux.globals["chain_velocity"] = np.zeros(CHAIN)
        aux.globals["chain_energy"] = np.zeros(1)  # Σ ∫ n k_B T dη
        aux.globals["chain_position"] = np.zeros(CHAIN)

    def flow(self, state: State, aux: Aux, model, h: float, turn: int = 0) -> Status:
        """The chain and the velocities for ``h`` ps."""
        freedom, thermal = degrees_of_freedom(state, aux), self.thermal(state, aux)
        outer, inner = self.masses(freedom)
        omega, eta, energy = (aux.globals[f"chain_{name}"] for name in ("velocity", "position", "energy"))
        before, drift = thermal_motion(state, aux)
        kinetic, stored = before, chain_energy(outer, inner, *omega, energy[0])
        for weight in WEIGHTS:
            kinetic, *moved = chain_step(kinetic, thermal, freedom, outer, inner, weight * h, *omega, *eta, energy[0])
            omega[:], eta[:], energy[0] = moved[:3], moved[3:6], moved[6]
        if before > 0.0:
            _rescale(state.natoms, state.velocities, drift, math.sqrt(kinetic / before), BLOCK)
        # the account takes the extended energy, so that ``conserved`` shows the chain's own error too
        aux.globals["lattice_heat"][0] += chain_energy(outer, inner, *omega, energy[0]) - stored
        return OK

    def masses(self, freedom: int) -> tuple[float, float]:
        """Q_1, and Q_2 = Q_3, eV ps²."""
        inner = BOLTZMANN * max(kelvin for _, kelvin in self.ramp.points) * self.time**2
        return freedom * inner, inner
