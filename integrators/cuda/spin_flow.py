"""What all spin solvers (S) on the GPU share: moments, what is held, the bath and its noise in a sub-step."""

import math
from typing import Any

import torch
from numba import cuda

from spinmd.cuda.arrays import DeviceArray, on_device, zeros
from spinmd.cuda.hamiltonian import CONTROL
from spinmd.cuda.launch import array, f8, i8, kernel
from spinmd.integrators.cuda.temperatures import DeviceTemperatures
from spinmd.protocols import FIXED
from spinmd.rng import SPIN_CHANNEL, normal4
from spinmd.spin_laws import heat_power
from spinmd.units import BOLTZMANN, HBAR


@kernel(array(f8, 2), array(f8, 1), array(i8, 1), array(f8, 1), array(i8, 1), f8, i8, i8, array(i8, 1), array(f8, 2))
def spin_noise(spins, damping, kinds, temperatures, ids, scale, seed, channel, ticks, noise):
    """ξ = g √(2 α k_B T ħ/(g |S| h)), eV/µB, with the noise of the host's counters; ``scale`` = 2 k_B ħ/(g h)."""
    i = cuda.grid(1)
    if i < spins.shape[0]:
        length = math.sqrt(spins[i, 0] * spins[i, 0] + spins[i, 1] * spins[i, 1] + spins[i, 2] * spins[i, 2])
        sigma = 0.0
        if length > 0.0 and kinds[i] >= 0:
            sigma = math.sqrt(scale * damping[i] * temperatures[kinds[i]] / length)
        x, y, z, _ = normal4(seed, channel, ticks[0], ids[i])
        noise[i, 0] = sigma * x
        noise[i, 1] = sigma * y
        noise[i, 2] = sigma * z


@kernel(array(f8, 2), array(i8, 1), array(f8, 2))
def _hold(kept, fixed, spins):
    """Spins that do not turn, bit for bit what they were."""
    i = cuda.grid(1)
    if i < spins.shape[0] and fixed[i] != 0:
        for a in range(3):
            spins[i, a] = kept[i, a]


@cuda.jit(device=True)
def noisy_field(i, field, noise, alphas):
    """F + ξ and α of atom i; empty arrays stand for no noise and no damping."""
    fx, fy, fz = field[i, 0], field[i, 1], field[i, 2]
    if noise.shape[0] > 0:
        fx, fy, fz = fx + noise[i, 0], fy + noise[i, 1], fz + noise[i, 2]
    alpha = 0.0
    if alphas.shape[0] > 0:
        alpha = alphas[i]
    return fx, fy, fz, alpha


@cuda.jit(device=True)
def bath_power(i, spins, field, noise, alphas):
    """ħ/g times the power that the bath takes from atom i, eV²/µB (see ``integrators.predictor_corrector``)."""
    nx, ny, nz = 0.0, 0.0, 0.0
    if noise.shape[0] > 0:
        nx, ny, nz = noise[i, 0], noise[i, 1], noise[i, 2]
    alpha = alphas[i]
    power = heat_power(
        spins[i, 0], spins[i, 1], spins[i, 2], field[i, 0], field[i, 1], field[i, 2], nx, ny, nz, alpha
    )  # fmt: skip
    return power / (1.0 + alpha * alpha)


# entries of the ``control`` of solvers that iterate, beside DONE (3): the last change, its rate, Anderson's weight, the present
# iteration, solves that have not converged, most iterations since the last look, solves and iterations so far
CHANGE, RATE, THETA, ITERATION, UNSOLVED, MOST, SOLVES, TOTAL = 0, 1, 2, 4, 5, 6, 7, 8


class DeviceSpinFlow:
    """Base of the solvers; ``host``: that of the host, whose arrays are in ``aux``.

    inverse   (N,) 1/m, 0 for atoms without a moment;  response  the same, 0 for spins that do not turn too
    rigid     whether the lattice stands still, so that couplings stay what they are;  turns  how often it acts in a step
    fixed     (N,) int64 or empty;  alphas (N,), noise (N, 3) and heat (N,) eV, or empty
    """

    def __init__(self, host: Any, state: Any, aux: Any, turns: int):
        self.host, self.state, self.turns, self.rigid = host, state, turns, False
        self.none = {shape: zeros((0,) * shape) for shape in (1, 2)}
        moments = state.moments.tensor
        self.inverse = DeviceArray(torch.where(moments > 0.0, 1.0 / moments, torch.zeros_like(moments)))
        self.fixed, self._kept = zeros(0, "int64"), self.none[2]
        response = self.inverse.tensor.clone()
        if FIXED in aux.per_atom:
            self.fixed = on_device(aux.per_atom[FIXED])
            self._kept = DeviceArray(state.spins.tensor.clone())
            response[self.fixed.tensor != 0] = 0.0
        self.response = DeviceArray(response)
        bath = host.bath
        self.alphas = on_device(aux.per_atom["spin_damping"]) if bath.damped else self.none[1]
        self.heat = zeros(state.natoms) if bath.damped else self.none[1]
        self._before = float(aux.globals["spin_heat"][0])
        self.noise = self.none[2]
        self._kelvin: DeviceTemperatures | None = None
        if bath.noisy:
            self.noise = zeros((state.natoms, 3))
            self._kinds = on_device(aux.per_atom["spin_bath"])
            self._kelvin = DeviceTemperatures(bath.temperatures, float(aux.globals["spin_bath_start"][0]))
            self._seed = int(aux.globals["spin_noise"][0])

    @property
    def follows_time(self) -> bool:
        """Whether it looks at the clock, beside what the model does."""
        return self._kelvin is not None and self._kelvin.changes

    def flow(self, model: Any, h: float, turn: int) -> None:
        """Turn the spins for ``h`` ps; spins that do not turn stay bitwise what they are."""
        state, bath = self.state, self.host.bath
        if self._kelvin is not None:
            scale = 2.0 * BOLTZMANN * HBAR / (bath.g_factor * h)
            spin_noise(
                state.natoms, state.spins, self.alphas, self._kinds, self._kelvin.now(state.time), state.ids, scale, self._seed,
                SPIN_CHANNEL + turn, state.ticks, self.noise,
            )  # fmt: skip
        self.turn_spins(model, bath.g_factor / HBAR * h, turn)
        if len(self.fixed):
            _hold(state.natoms, self._kept, self.fixed, state.spins)
        model.moved(spins=True)

    def turn_spins(self, model: Any, gh: float, turn: int) -> None:
        """The solver's own launches; ``gh`` = (g/ħ) h, µB/eV."""
        raise TypeError("a solver says how it turns the spins")

    @property
    def plan(self) -> Any:
        """What the launches of a solve depend on beside the state; None where they change from solve to solve."""
        return 0

    def download(self, aux: Any) -> None:
        """Numbers that a solver keeps."""

    def download_histories(self, aux: Any) -> None:
        """What it keeps of each atom."""

    def download_account(self, aux: Any) -> None:
        """What the bath has taken, eV."""
        if len(self.heat):
            aux.globals["spin_heat"][0] = self._before + float(self.heat.tensor.sum())

    def memory(self) -> list[DeviceArray]:
        """What a step leaves for the next one."""
        return [self.heat]

    def grow(self) -> bool:
        """True if a solve since the last look needed more than was launched: more will be, and those steps are to be repeated."""
        return False

    def unsolved(self) -> int:
        """How many solves have not converged so far."""
        return 0

    def counts(self) -> tuple[int, int]:
        """Solves and evaluations of the field in them so far; zeros for solvers that do not iterate."""
        return 0, 0


class DeviceIteration(DeviceSpinFlow):
    """Base of the solvers that iterate, and decide on the device when they are done; ``control`` (CONTROL,)."""

    def __init__(self, host: Any, state: Any, aux: Any, turns: int):
        super().__init__(host, state, aux, turns)
        self.control = zeros(CONTROL)

    def memory(self) -> list[DeviceArray]:
        """What a step leaves for the next one."""
        return [*super().memory(), self.control]

    def unsolved(self) -> int:
        """How many solves have not converged so far; a transfer."""
        return int(self.control.host()[UNSOLVED])

    def counts(self) -> tuple[int, int]:
        """Solves and evaluations of the field in them so far, without those that were launched for nothing; a transfer."""
        control = self.control.host()
        return int(control[SOLVES]), int(control[TOTAL])
