"""The explicit two-stage spin solvers (S) on the GPU: Depondt-Mertens, semi-implicit and Heun; equations in their host modules."""

from typing import Any

from numba import cuda

from spinmd.cuda.arrays import zeros
from spinmd.cuda.launch import Kernel, array, f8, i8, kernel
from spinmd.integrators.cuda.fields import DeviceSpinField
from spinmd.integrators.cuda.spin_flow import DeviceSpinFlow, bath_power, noisy_field
from spinmd.spin_laws import midpoint_map, mirror, rotate, scaled_to, spin_torque, turning_field

PREDICT = (array(f8, 2), array(f8, 2), array(f8, 2), array(f8, 1), f8, array(f8, 2))
CORRECT = (*[array(f8, 2)] * 5, array(f8, 1), f8, array(f8, 2))


@kernel(*PREDICT)
def _rotate_once(start, first, noise, alphas, gh, predicted):
    """S' = Rot[(g/ħ) h B(S₀)] S₀."""
    i = cuda.grid(1)
    if i < start.shape[0]:
        x, y, z = start[i, 0], start[i, 1], start[i, 2]
        fx, fy, fz, alpha = noisy_field(i, first, noise, alphas)
        bx, by, bz = turning_field(x, y, z, fx, fy, fz, alpha)
        predicted[i, 0], predicted[i, 1], predicted[i, 2] = rotate(x, y, z, bx, by, bz, gh)


@kernel(*CORRECT)
def _rotate_again(start, first, predicted, second, noise, alphas, gh, spins):
    """S₁ = Rot[(g/ħ) h (B(S₀) + B(S'))/2] S₀."""
    i = cuda.grid(1)
    if i < start.shape[0]:
        x, y, z = start[i, 0], start[i, 1], start[i, 2]
        fx, fy, fz, alpha = noisy_field(i, first, noise, alphas)
        ax, ay, az = turning_field(x, y, z, fx, fy, fz, alpha)
        fx, fy, fz, alpha = noisy_field(i, second, noise, alphas)
        bx, by, bz = turning_field(predicted[i, 0], predicted[i, 1], predicted[i, 2], fx, fy, fz, alpha)
        x, y, z = rotate(x, y, z, 0.5 * (ax + bx), 0.5 * (ay + by), 0.5 * (az + bz), gh)
        spins[i, 0], spins[i, 1], spins[i, 2] = x, y, z


@kernel(*PREDICT)
def _cayley_once(start, first, noise, alphas, gh, predicted):
    """M' with the length of S₀."""
    i = cuda.grid(1)
    if i < start.shape[0]:
        x, y, z = start[i, 0], start[i, 1], start[i, 2]
        fx, fy, fz, alpha = noisy_field(i, first, noise, alphas)
        mx, my, mz = midpoint_map(x, y, z, x, y, z, fx, fy, fz, alpha, alphas.shape[0] > 0, gh, False)
        predicted[i, 0], predicted[i, 1], predicted[i, 2] = scaled_to(mx, my, mz, x, y, z)


@kernel(*CORRECT)
def _cayley_again(start, first, predicted, second, noise, alphas, gh, spins):
    """S₁ from the field at M'."""
    i = cuda.grid(1)
    if i < start.shape[0]:
        x, y, z = start[i, 0], start[i, 1], start[i, 2]
        fx, fy, fz, alpha = noisy_field(i, second, noise, alphas)
        mx, my, mz = predicted[i, 0], predicted[i, 1], predicted[i, 2]
        mx, my, mz = midpoint_map(x, y, z, mx, my, mz, fx, fy, fz, alpha, alphas.shape[0] > 0, gh, False)
        spins[i, 0], spins[i, 1], spins[i, 2] = mirror(x, y, z, mx, my, mz)


@kernel(*PREDICT)
def _euler(start, first, noise, alphas, gh, predicted):
    """S' = P[S₀ + h T(S₀)]."""
    i = cuda.grid(1)
    if i < start.shape[0]:
        x, y, z = start[i, 0], start[i, 1], start[i, 2]
        fx, fy, fz, alpha = noisy_field(i, first, noise, alphas)
        tx, ty, tz = spin_torque(x, y, z, fx, fy, fz, alpha)
        tx, ty, tz = scaled_to(x + gh * tx, y + gh * ty, z + gh * tz, x, y, z)
        predicted[i, 0], predicted[i, 1], predicted[i, 2] = tx, ty, tz


@kernel(*CORRECT)
def _trapezoid(start, first, predicted, second, noise, alphas, gh, spins):
    """S₁ = P[S₀ + h (T(S₀) + T(S'))/2]."""
    i = cuda.grid(1)
    if i < start.shape[0]:
        x, y, z = start[i, 0], start[i, 1], start[i, 2]
        fx, fy, fz, alpha = noisy_field(i, first, noise, alphas)
        ax, ay, az = spin_torque(x, y, z, fx, fy, fz, alpha)
        fx, fy, fz, alpha = noisy_field(i, second, noise, alphas)
        bx, by, bz = spin_torque(predicted[i, 0], predicted[i, 1], predicted[i, 2], fx, fy, fz, alpha)
        half = 0.5 * gh
        ax, ay, az = x + half * (ax + bx), y + half * (ay + by), z + half * (az + bz)
        spins[i, 0], spins[i, 1], spins[i, 2] = scaled_to(ax, ay, az, x, y, z)


@kernel(*[array(f8, 2)] * 5, array(f8, 1), f8, i8, array(f8, 1))
def _take_heat(start, first, predicted, second, noise, alphas, gh, corrector_only, heat):
    """What the bath has taken: the trapezoidal rule of the power, or its value at the predicted midpoint, eV."""
    i = cuda.grid(1)
    if i < heat.shape[0]:
        late = bath_power(i, predicted, second, noise, alphas)
        early = late if corrector_only != 0 else bath_power(i, start, first, noise, alphas)
        heat[i] += 0.5 * gh * (early + late)


STAGES: dict[str, tuple[Kernel, Kernel]] = {
    "DepondtMertens": (_rotate_once, _rotate_again),
    "SemiImplicit": (_cayley_once, _cayley_again),
    "Heun": (_euler, _trapezoid),
}  # by the name of the host's solver


class DevicePredictorCorrector(DeviceSpinFlow):
    """S by two stages, each with one evaluation of the field."""

    def __init__(self, host: Any, state: Any, aux: Any, turns: int):
        super().__init__(host, state, aux, turns)
        self._predict, self._correct = STAGES[type(host).__name__]
        self._midpoint = int(type(host).__name__ == "SemiImplicit")
        self._field = DeviceSpinField(self, normal=True)
        self._start, self._predicted, self._first, self._second = (zeros((state.natoms, 3)) for _ in range(4))

    def turn_spins(self, model: Any, gh: float, turn: int) -> None:
        """Predictor and corrector."""
        n, state, start, predicted, first, second = (
            self.state.natoms, self.state, self._start, self._predicted, self._first, self._second,
        )  # fmt: skip
        start.copy_from(state.spins)
        self._field.at_start(model, first, turn in self.host.after_kick)
        self._predict(n, start, first, self.noise, self.alphas, gh, predicted)
        self._field.at(model, predicted, second)
        self._correct(n, start, first, predicted, second, self.noise, self.alphas, gh, state.spins)
        if len(self.heat):
            _take_heat(n, start, first, predicted, second, self.noise, self.alphas, gh, self._midpoint, self.heat)
