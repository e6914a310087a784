"""What baths share: temperatures in time, values per element or group, and the noise of the spin bath.

Stochastic Landau-Lifshitz-Gilbert equation (Stratonovich)

    dS/dt = −(g/ħ)/(1 + α²) [S × (F + ξ) + (α/|S|) S × (S × (F + ξ))],    ⟨ξ_a(t) ξ_b(t')⟩ = 2 α k_B T ħ/(g |S|) δ_ab δ(t − t')

whose stationary distribution of the directions is Boltzmann's at T: Brown, Phys. Rev. 130, 1677 (1963); García-Palacios,
Lázaro, Phys. Rev. B 58, 14937 (1998). S in µB, F in eV/µB. The noise acts on precession and damping. A solver takes ξ as constant
over one sub-step of duration h, with variance 2 α k_B T ħ/(g |S| h) per component.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numba import njit, prange

from spinmd.backend import BLOCK, block_count
from spinmd.errors import InputError
from spinmd.protocols import FIXED, Aux
from spinmd.rng import SPIN_CHANNEL, fill_normals
from spinmd.state import State
from spinmd.units import BOLTZMANN, HBAR


@njit(cache=True)
def rescaled_temperature(kelvin, critical, exponent):
    """K of the bath of classical spins that stands for ``kelvin`` of quantum ones: T_c (T/T_c)^exponent below T_c, T above."""
    share = kelvin / critical
    return critical * share**exponent if share < 1.0 else kelvin


@dataclass(frozen=True)
class Ramp:
    """A temperature in time: ``points`` (time since the start of the stage in ps, K), straight in between, constant outside."""

    points: tuple[tuple[float, float], ...]

    @classmethod
    def constant(cls, temperature: float) -> "Ramp":
        return cls(((0.0, float(temperature)),))

    def at(self, time: float) -> float:
        """K at ``time`` ps after the start of the stage."""
        times, values = zip(*self.points, strict=True)
        return float(np.interp(time, times, values))


def per_atom(
    value: float | Mapping[str, float], state: State, groups: Mapping[str, np.ndarray], place: str
) -> np.ndarray:
    """(N,) values in the present order of the atoms, from a number for all or a number per element or group.

    Atoms that no name covers get 0; where several do, the last named counts, groups after elements. ``groups``: name -> (N,) bool
    in the original order. Raises InputError for names that are neither.
    """
    if not isinstance(value, Mapping):
        return np.full(state.natoms, float(value))
    result = np.zeros(state.natoms)
    for name in sorted(value, key=lambda name: name in groups):
        result[mask_of(name, state, groups, place)] = value[name]
    return result


def mask_of(name: str, state: State, groups: Mapping[str, np.ndarray], place: str) -> np.ndarray:
    """(N,) bool: the atoms of an element or a group, in the present order. InputError if there is neither of that name."""
    if name in groups:
        return groups[name][state.ids]
    if name in state.symbols:
        return state.species == state.symbols.index(name)
    known = ", ".join([*state.symbols, *groups])
    raise InputError(f"{name!r} is neither an element of the structure nor a group; known are {known}", place)


class Temperatures:
    """One temperature, or one per element or group; each constant or a ``Ramp``.

    value      K, a Ramp, or a mapping of those by element or group. Atoms that no name covers have no bath.
    rescaling  function of K that turns given temperatures into those of the bath; None: they are the same
    """

    def __init__(
        self, value: float | Ramp | Mapping[str, float | Ramp], place: str = "integrator.temperature",
        rescaling: Callable[[float], float] | None = None,
    ):  # fmt: skip
        named = value if isinstance(value, Mapping) else {"": value}
        self.names = list(named)
        self.ramps = [one if isinstance(one, Ramp) else Ramp.constant(one) for one in named.values()]
        self.place = place
        self.rescaling = rescaling

    def kinds(self, state: State, groups: Mapping[str, np.ndarray]) -> np.ndarray:
        """(N,) int64: which of the temperatures an atom has; −1 for none."""
        if self.names == [""]:
            return np.zeros(state.natoms, np.int64)
        result = np.full(state.natoms, -1, np.int64)
        for name in sorted(self.names, key=lambda name: name in groups):
            result[mask_of(name, state, groups, self.place)] = self.names.index(name)
        return result

    def at(self, time: float) -> np.ndarray:
        """(kinds + 1,) K at ``time`` ps after the start of the stage; the last is that of atoms without a bath, 0."""
        values = [ramp.at(time) for ramp in self.ramps]
        return np.array([*(values if self.rescaling is None else map(self.rescaling, values)), 0.0])

    @property
    def cold(self) -> bool:
        """True if all are zero at all times."""
        return all(kelvin == 0.0 for ramp in self.ramps for _, kelvin in ramp.points)


@njit(cache=True, parallel=True)
def _scale_noise(natoms, spins, damping, kinds, temperatures, scale, noise, block):
    """ξ = g √(2 α k_B T ħ/(g |S| h)); ``scale`` = 2 k_B ħ/(g h)."""
    for b in prange((natoms + block - 1) // block):
        for i in range(b * block, min((b + 1) * block, natoms)):
            length = math.sqrt(spins[i, 0] ** 2 + spins[i, 1] ** 2 + spins[i, 2] ** 2)
            sigma = math.sqrt(scale * damping[i] * temperatures[kinds[i]] / length) if length > 0.0 else 0.0
            noise[i, 0] *= sigma
            noise[i, 1] *= sigma
            noise[i, 2] *= sigma


@njit(cache=True)
def noisy_field(i, field, noise, alphas):
    """F + ξ and α of atom i; empty arrays stand for no noise and no damping."""
    fx, fy, fz = field[i, 0], field[i, 1], field[i, 2]
    if noise.shape[0] > 0:
        fx, fy, fz = fx + noise[i, 0], fy + noise[i, 1], fz + noise[i, 2]
    return fx, fy, fz, alphas[i] if alphas.shape[0] > 0 else 0.0


class SpinBath:
    """Gilbert damping and thermal noise of the spins.

    damping       α, a number or one per element or group
    temperatures  K; None for damping only
    g_factor      g
    groups        name -> (N,) bool, original order
    """

    def __init__(
        self, damping: float | Mapping[str, float] = 0.0, temperatures: Temperatures | None = None, g_factor: float = 2.0,
        groups: Mapping[str, np.ndarray] | None = None,
    ):  # fmt: skip
        self.damping = dict(damping) if isinstance(damping, Mapping) else float(damping)
        values = list(self.damping.values()) if isinstance(damping, Mapping) else [self.damping]
        if any(not value >= 0.0 for value in values):
            raise InputError(f"must not be negative, got {min(values)}", "integrator.spin_damping")
        self.temperatures = temperatures
        self.g_factor = float(g_factor)
        self.groups = dict(groups or {})
        self.damped = any(value > 0.0 for value in values)
        self.noisy = self.damped and temperatures is not None and not temperatures.cold

    def init(self, state: State, aux: Aux, seed: int) -> None:
        """α of each atom, its temperature, the seed, the start of the stage, and the heat that the bath takes."""
        aux.globals.setdefault("spin_heat", np.zeros(1))
        if not self.damped:
            return
        damping = per_atom(self.damping, state, self.groups, "integrator.spin_damping")
        if FIXED in aux.per_atom:  # no noise for what does not turn
            damping[aux.per_atom[FIXED] != 0] = 0.0
        if self.temperatures is not None:
            kinds = self.temperatures.kinds(state, self.groups)
            damping[kinds < 0] = 0.0  # no temperature, no bath, as for the lattice
        aux.per_atom["spin_damping"] = damping
        if self.noisy:
            aux.per_atom["spin_bath"] = kinds
            aux.globals["spin_noise"] = np.array([seed], np.int64)
            aux.globals["spin_bath_start"] = np.array([state.clock.time])

    def alphas(self, aux: Aux, natoms: int) -> np.ndarray:
        """(N,) α in the present order; an empty array without damping."""
        return aux.per_atom["spin_damping"] if self.damped else NOTHING

    def noise(self, state: State, aux: Aux, h: float, turn: int, result: np.ndarray) -> bool:
        """ξ (N, 3) eV/µB of this sub-step of ``h`` ps to ``result``; False, and nothing, if there is no noise."""
        if not self.noisy:
            return False
        n = state.natoms
        seed, start = int(aux.globals["spin_noise"][0]), float(aux.globals["spin_bath_start"][0])
        fill_normals(n, state.ids, seed, SPIN_CHANNEL + turn, state.clock.step, result, BLOCK)
        temperatures = self.temperatures.at(state.clock.time - start)
        scale = 2.0 * BOLTZMANN * HBAR / (self.g_factor * h)
        kinds, alphas = aux.per_atom["spin_bath"], aux.per_atom["spin_damping"]
        _scale_noise(n, state.spins, alphas, kinds, temperatures, scale, result, BLOCK)
        return True


NOTHING = np.zeros(0)  # α of an undamped solver
NO_NOISE = np.zeros((0, 3))


def block_sums(natoms: int) -> np.ndarray:
    """A buffer of one number per block of atoms."""
    return np.zeros(block_count(natoms))
