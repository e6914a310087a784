"""Zeeman energy on the GPU.

A field that changes in time is evaluated there, at the clock of the device, from numbers uploaded once.
"""

import numpy as np
from numba import cuda

from spinmd.cuda.arrays import on_device, zeros
from spinmd.cuda.launch import array, f8, i4, i8, kernel
from spinmd.cuda.spins import DeviceSpinTerm
from spinmd.potentials.drive_laws import between, carrier, pulse_size, ramp_share, repeated
from spinmd.potentials.drives import PulseField, RampField, RotatingField, SineField
from spinmd.protocols import Need
from spinmd.units import BOHR_MAGNETON

# forms; a file is points
RAMP, POINTS, SINE, PULSE, ROTATING = range(5)


@kernel(i8, array(f8, 1), array(f8, 2), array(f8, 2), array(f8, 1), array(f8, 1))
def _drive(form, numbers, vectors, points, time, field):
    """One thread: µB B(t), eV/µB, to ``field`` (3,).

    numbers, vectors  constants of the form, the latter (3, 3) in T: see ``_uploaded``;  points (n, 4) ps and T
    """
    if cuda.grid(1) == 0:
        t = time[0]
        if form == POINTS:
            n = points.shape[0]
            if numbers[0] != 0.0:
                t = repeated(t, points[0, 0], points[n - 1, 0])
            low, high = 0, n - 1  # the last point that is not later than t
            while low < high:
                middle = (low + high + 1) // 2
                if points[middle, 0] <= t:
                    low = middle
                else:
                    high = middle - 1
            after = min(low + 1, n - 1)
            for a in range(3):
                value = between(t, points[low, 0], points[after, 0], points[low, a + 1], points[after, a + 1])
                field[a] = BOHR_MAGNETON * value
        else:
            p, q = 1.0, 0.0
            if form == RAMP:
                q = ramp_share(t, numbers[0], numbers[1])
                p = 1.0 - q
            elif form == SINE:
                _, q = carrier(t, numbers[0], numbers[1], numbers[2])
            elif form == PULSE:
                q = pulse_size(t, numbers[0], numbers[1], int(numbers[2]), numbers[3], numbers[4])
            else:
                p, q = carrier(t, numbers[0], numbers[1], numbers[2])
            for a in range(3):
                field[a] = BOHR_MAGNETON * (vectors[0, a] + p * vectors[1, a] + q * vectors[2, a])


@kernel(array(i4, 1), array(f8, 1), array(f8, 2))
def _spread(active, field, fields):
    """The field on the atoms on which the term acts, zero on the others."""
    i = cuda.grid(1)
    if i < active.shape[0]:
        for a in range(3):
            fields[i, a] = field[a] if active[i] != 0 else 0.0


@kernel(array(f8, 2), array(i4, 1), array(f8, 1), i8, i8, array(f8, 1), array(f8, 2))
def _evaluate(spins, active, field, want_energy, want_field, energies, fields):
    """E_i = −S_i·(µB B), eV, and the field µB B, eV/µB."""
    i = cuda.grid(1)
    if i < active.shape[0] and active[i] != 0:
        if want_energy != 0:
            energies[i] -= spins[i, 0] * field[0] + spins[i, 1] * field[1] + spins[i, 2] * field[2]
        if want_field != 0:
            for a in range(3):
                fields[i, a] += field[a]


def _uploaded(given) -> tuple[int, np.ndarray, np.ndarray, np.ndarray]:
    """Form, numbers, vectors (3, 3) and points of a drive: B = v₀ + p v₁ + q v₂ with p and q of the form, or B between points."""
    numbers, vectors, points = np.zeros(0), np.zeros((3, 3)), np.zeros((0, 4))
    if isinstance(given, RampField):
        return RAMP, np.array([given.begin, given.time]), np.array([(0.0, 0.0, 0.0), given.start, given.end]), points
    if isinstance(given, SineField):
        vectors[0], vectors[2] = given.offset, given.amplitude
        return SINE, np.array([given.frequency, given.phase, given.begin]), vectors, points
    if isinstance(given, PulseField):
        vectors[0], vectors[2] = given.offset, given.amplitude
        return PULSE, np.array([given.centre, given.width, given.shape, given.frequency, given.phase]), vectors, points
    if isinstance(given, RotatingField):
        vectors[:] = given.vectors()
        return ROTATING, np.array([given.frequency, given.phase, given.begin]), vectors, points
    numbers = np.array([1.0 if given.repeat else 0.0])
    return POINTS, numbers, vectors, np.ascontiguousarray(given.rows())


class DeviceZeeman:
    """``term``: a prepared ``spinmd.potentials.zeeman.Zeeman``."""

    kind = "zeeman"
    magnetic = True

    def __init__(self, term, state):
        self.driven = term.driven
        self._active = on_device(term._active.astype(np.int32))
        self._field = on_device(BOHR_MAGNETON * term.field_at(0.0))
        self._fields = zeros((state.natoms, 3))
        if self.driven:
            form, *arrays = _uploaded(term.parameters.field)
            self._form, self._arrays = form, [on_device(one) for one in arrays]
        else:
            _spread(state.natoms, self._active, self._field, self._fields)

    def _update(self, state) -> None:
        """The field at the present time of the device."""
        if self.driven:
            _drive(1, self._form, *self._arrays, state.time, self._field)

    def add(self, state, pairs, out, need) -> None:
        want_energy, want_field = int(Need.ENERGY in need), int(Need.FIELD in need)
        if want_energy or want_field:
            self._update(state)
            _evaluate(
                state.natoms, state.spins, self._active, self._field, want_energy, want_field, out.energies, out.fields
            )  # fmt: skip

    def freeze(self, state, pairs) -> DeviceSpinTerm:
        if self.driven:
            self._update(state)
            _spread(state.natoms, self._active, self._field, self._fields)
        return DeviceSpinTerm(field=self._fields)
