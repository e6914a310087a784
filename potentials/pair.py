"""Pair potentials that do not know spins: Lennard-Jones and Morse.

    E = ½ Σ_{i≠j} [φ(r_ij) − φ(cutoff)] inside the cutoff, the constant only with ``shift``

``shift`` makes the energy continuous at the cutoff, ``smoothing`` the force too. Different parameters for different
pairs of elements are several terms with ``pairs``. Å, eV. The laws are those of LAMMPS's lj/cut and morse.
"""

from typing import ClassVar

from pydantic import Field, model_validator

from spinmd.errors import InputError
from spinmd.parameters import Energy, Length, Parameters
from spinmd.potentials.pair_laws import LENNARD_JONES, MORSE, lennard_jones, morse
from spinmd.potentials.pair_loops import PairTerm
from spinmd.protocols import Need


class _PairParameters(Parameters):
    cutoff: Length = Field(gt=0.0, description="no interaction beyond this distance")
    shift: bool = Field(True, description="subtract the energy at the cutoff, so that it is continuous there")
    smoothing: Length = Field(0.0, ge=0.0, description="width of a smooth end at the cutoff; 0: none")

    @model_validator(mode="after")
    def _smoothing_inside(self):
        if self.smoothing >= self.cutoff:
            raise InputError(
                f"smoothing ({self.smoothing:g} Å) must be less than the cutoff ({self.cutoff:g} Å)", "smoothing"
            )
        return self


class LennardJonesParameters(_PairParameters):
    """4ε[(σ/r)¹² − (σ/r)⁶]"""

    epsilon: Energy = Field(description="depth of the well")
    sigma: Length = Field(gt=0.0, description="distance of zero energy")


class MorseParameters(_PairParameters):
    """D[e^(−2α(r − r0)) − 2e^(−α(r − r0))]"""

    depth: Energy = Field(description="depth D of the well")
    alpha: float = Field(gt=0.0, description="α, 1/Å")
    r0: Length = Field(gt=0.0, description="distance of the minimum")


class _Plain(PairTerm):
    magnetic = False
    provides = Need.ENERGY | Need.FORCE | Need.VIRIAL

    def _set(self, law, values, at_cutoff):
        p = self.parameters
        self.law, self.cutoff = law, p.cutoff
        self.constants[: len(values)] = values
        self.constants[3:] = at_cutoff if p.shift else 0.0, p.cutoff, p.smoothing


class LennardJones(_Plain):
    """``LennardJones(epsilon=0.4, sigma=2.3, cutoff=6.0, shift=True, pairs=["Fe-Fe"])``"""

    Parameters = LennardJonesParameters
    default_name: ClassVar[str] = "lennard-jones"

    def __init__(self, parameters=None, **keywords):
        super().__init__(parameters, **keywords)
        p = self.parameters
        self._set(LENNARD_JONES, (p.epsilon, p.sigma), lennard_jones(p.cutoff, p.epsilon, p.sigma)[0])


class Morse(_Plain):
    """``Morse(depth=0.4174, alpha=1.3885, r0=2.845, cutoff=6.0, shift=True, pairs=["Fe-Fe"])``"""

    Parameters = MorseParameters
    default_name: ClassVar[str] = "morse"

    def __init__(self, parameters=None, **keywords):
        super().__init__(parameters, **keywords)
        p = self.parameters
        self._set(MORSE, (p.depth, p.alpha, p.r0), morse(p.cutoff, p.depth, p.alpha, p.r0)[0])
