"""Temperatures of baths on the device: ramps are read from uploaded points at the device's own clock, with Evans' rescaling."""

from typing import Any

import numpy as np
from numba import cuda

from spinmd.cuda.arrays import DeviceArray, on_device
from spinmd.cuda.launch import array, f8, i8, kernel
from spinmd.errors import InputError
from spinmd.integrators.baths import rescaled_temperature
from spinmd.integrators.temperatures import QuantumRescaling


@cuda.jit(device=True)
def kelvin_at(kind, t, first, times, values, critical, exponent):
    """K of one kind of atoms at ``t``, straight between its points first[kind] ... first[kind + 1] − 1, constant outside."""
    a, b = first[kind], first[kind + 1] - 1
    if t <= times[a]:
        kelvin = values[a]
    elif t >= times[b]:
        kelvin = values[b]
    else:
        while t >= times[a + 1]:
            a += 1
        kelvin = (values[a + 1] - values[a]) / (times[a + 1] - times[a]) * (t - times[a]) + values[a]
    return rescaled_temperature(kelvin, critical, exponent) if critical > 0.0 else kelvin


@kernel(array(f8, 1), f8, array(i8, 1), array(f8, 1), array(f8, 1), f8, f8, f8, array(f8, 1))
def _follow(time, start, first, times, values, critical, exponent, factor, result):
    """One thread per kind: ``factor`` times its temperature now; the last entry, of atoms without a bath, stays 0."""
    kind = cuda.grid(1)
    if kind < first.shape[0] - 1:
        result[kind] = factor * kelvin_at(kind, time[0] - start, first, times, values, critical, exponent)


class DeviceTemperatures:
    """``given``: a host's Temperatures. ``result`` (kinds + 1,): ``factor`` times the present ones in K, 0 last.

    start  the clock's time when the stage began, ps

    Raises InputError for a rescaling that is a function of the user's own.
    """

    def __init__(self, given: Any, start: float, factor: float = 1.0):
        rescaling = given.rescaling
        if rescaling is not None and not isinstance(rescaling, QuantumRescaling):
            raise InputError(
                "a rescaling of temperatures by a function has no version for the GPU; compute on the CPU with --device cpu",
                "integrator.spin_rescaling",
            )
        self.critical = 0.0 if rescaling is None else rescaling.critical_temperature
        self.exponent = 1.0 if rescaling is None else rescaling.exponent
        points = [ramp.points for ramp in given.ramps]
        self.first = on_device(np.cumsum([0, *map(len, points)]))
        self.times, self.values = (
            on_device(np.array([p[k] for one in points for p in one], dtype=float)) for k in (0, 1)
        )
        self.changes = any(len({kelvin for _, kelvin in one}) > 1 for one in points)
        self.start, self.factor = float(start), float(factor)
        self.result = on_device(given.at(0.0) * factor)

    def now(self, time: DeviceArray) -> DeviceArray:
        """(kinds + 1,) at the clock ``time`` (1,) of the device; launches only where they change."""
        if self.changes:
            _follow(
                len(self.first) - 1, time, self.start, self.first, self.times, self.values, self.critical, self.exponent,
                self.factor, self.result,
            )  # fmt: skip
        return self.result
