"""The classical method of Runge and Kutta for spins (S) on the GPU; equations in ``integrators.runge_kutta``."""

from typing import Any

from numba import cuda

from spinmd.cuda.arrays import zeros
from spinmd.cuda.launch import array, f8, i8, kernel
from spinmd.integrators.cuda.fields import DeviceSpinField
from spinmd.integrators.cuda.spin_flow import DeviceSpinFlow, bath_power, noisy_field
from spinmd.spin_laws import scaled_to, spin_torque

STAGES = (
    (0.5, 1.0 / 6.0),
    (0.5, 1.0 / 3.0),
    (1.0, 1.0 / 3.0),
    (0.0, 1.0 / 6.0),
)  # step to the next stage, weight of this one


@kernel(
    array(f8, 2), array(f8, 2), array(f8, 2), array(f8, 2), array(f8, 1), f8, f8, i8, i8, array(f8, 2), array(f8, 2), array(f8, 1)
)  # fmt: skip
def _stage(start, at, field, noise, alphas, step, weight, first, last, total, result, heat):
    """``total`` += weight T(S) and S = S₀ + step T(S) to ``result``, at the ``last`` stage P[S₀ + total]; Simpson's rule for the
    heat, eV."""
    i = cuda.grid(1)
    if i < start.shape[0]:
        fx, fy, fz, alpha = noisy_field(i, field, noise, alphas)
        tx, ty, tz = spin_torque(at[i, 0], at[i, 1], at[i, 2], fx, fy, fz, alpha)
        if heat.shape[0] > 0:
            heat[i] += weight * bath_power(i, at, field, noise, alphas)
        x, y, z = start[i, 0], start[i, 1], start[i, 2]
        sx, sy, sz = weight * tx, weight * ty, weight * tz
        if first == 0:
            sx, sy, sz = sx + total[i, 0], sy + total[i, 1], sz + total[i, 2]
        total[i, 0], total[i, 1], total[i, 2] = sx, sy, sz
        if last != 0:
            x, y, z = scaled_to(x + sx, y + sy, z + sz, x, y, z)
        else:
            x, y, z = x + step * tx, y + step * ty, z + step * tz
        result[i, 0], result[i, 1], result[i, 2] = x, y, z


class DeviceRungeKutta(DeviceSpinFlow):
    """S by four stages, each with one evaluation of the field."""

    def __init__(self, host: Any, state: Any, aux: Any, turns: int):
        super().__init__(host, state, aux, turns)
        self._field = DeviceSpinField(self, normal=True)
        self._start, self._at, self._force, self._total = (zeros((state.natoms, 3)) for _ in range(4))

    def turn_spins(self, model: Any, gh: float, turn: int) -> None:
        """All four stages."""
        n, spins, start, field = self.state.natoms, self.state.spins, self._start, self._force
        start.copy_from(spins)
        for k, (step, weight) in enumerate(STAGES):
            at, last = self._at if k else start, k == len(STAGES) - 1
            if k == 0:
                self._field.at_start(model, field, turn in self.host.after_kick)
            else:
                self._field.at(model, at, field)
            _stage(
                n, start, at, field, self.noise, self.alphas, gh * step, gh * weight, int(k == 0), int(last), self._total,
                spins if last else self._at, self.heat,
            )  # fmt: skip
