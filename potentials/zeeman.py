"""Zeeman energy of the moments in a field that is constant or changes in time.

    E = −µB Σ_i S_i·B(t),      −∂E/∂S_i = µB B(t)

S in µB, B in tesla, µB = 5.788e-5 eV/T; the moment already contains g. (LAMMPS multiplies by g = 2 once more.) B(t) is that of
``potentials.drives`` at the clock of the run.
"""

from typing import ClassVar

import numpy as np
from pydantic import Field

from spinmd.parameters import Parameters
from spinmd.potentials.base import Term
from spinmd.potentials.drives import FieldInTime
from spinmd.protocols import OK, Need, SpinTerm, Status
from spinmd.state import State
from spinmd.units import BOHR_MAGNETON


class ZeemanParameters(Parameters):
    """E = −µB S·B"""

    field: FieldInTime = Field(
        description="B; three numbers, or a table with a `form` for a field that changes in time"
    )


class Zeeman(Term):
    """``Zeeman(field=[0, 0, "10 T"])``, ``Zeeman(field={"form": "sine", "amplitude": [0, 0, 1], "frequency": "1 THz"})``

    driven  whether the field depends on the clock of the state
    """

    Parameters = ZeemanParameters
    default_name: ClassVar[str] = "zeeman"
    selects = "elements"

    def __init__(self, parameters=None, **keywords):
        super().__init__(parameters, **keywords)
        self.driven = not isinstance(self.parameters.field, tuple)

    def prepare(self, state, backend=None):
        super().prepare(state, backend)
        self._active = self.mask[state.species] & (state.moments > 0.0)
        self._field = np.zeros((state.natoms, 3))  # eV/µB, zero where the term does not act
        self._spin_term = SpinTerm(field=self._field)
        self._time: float | None = None
        self._update(state)

    def field_at(self, time: float) -> np.ndarray:
        """B (3,) in T at ``time`` ps."""
        given = self.parameters.field
        return given.at(time) if self.driven else np.array(given)

    def _update(self, state: State) -> None:
        time = state.clock.time if self.driven else 0.0
        if time != self._time:
            np.multiply(self._active[:, None], BOHR_MAGNETON * self.field_at(time), out=self._field)
            self._time = time

    def add(self, state, pairs, out, need) -> Status:
        self._update(state)
        np.multiply(state.spins, self._field, out=self.directions)
        out.energy[0] -= self.directions.sum()
        if Need.FIELD in need:
            out.fields += self._field
        return OK

    def freeze(self, state, pairs) -> SpinTerm:
        self._update(state)
        return self._spin_term
