"""Potentials that do not freeze, as a neural potential does not: the spin solve asks them for fields at every iterate."""

import numpy as np
from support.systems import morse

from spinmd.potentials.base import Term
from spinmd.potentials.biquadratic import Biquadratic
from spinmd.potentials.exchange import Exchange
from spinmd.protocols import OK, Need


class Live:
    """A term whose couplings nobody may see. ``calls`` counts evaluations, ``field_calls`` those without forces."""

    magnetic = True

    def __init__(self, term):
        self.term = term
        self.name = f"live {term.name}"
        self.cutoff, self.provides, self.parameters = term.cutoff, term.provides, term.parameters
        self.calls = self.field_calls = 0

    def prepare(self, state, backend=None):
        self.term.prepare(state, backend)

    def margin(self, state):
        return self.term.margin(state)

    def add(self, state, pairs, out, need):
        self.calls += 1
        self.field_calls += need == Need.FIELD
        return self.term.add(state, pairs, out, need)

    def freeze(self, state, pairs):
        return None


class LengthTerm(Term):
    """E = Σ_i a (|S_i|² − s²)² of a moment that wants a length: a strong field along S, and none across."""

    selects = ""
    default_name = "length"

    def __init__(self, a=0.02, s=2.0):
        super().__init__()
        self.a, self.s = a, s

    def add(self, state, pairs, out, need):
        excess = np.einsum("ia,ia->i", state.spins, state.spins) - self.s**2
        if Need.ENERGY in need:
            out.energy[0] += self.a * float(excess @ excess)
        if Need.FIELD in need:
            out.fields -= 4.0 * self.a * excess[:, None] * state.spins
        return OK


def live_terms():
    """Morse; exchange, biquadratic exchange and a length, all live: not quadratic in the spins."""
    return [
        morse(),
        Live(Exchange(form="bethe-slater", a=0.02726, b=0.2171, d=1.841, cutoff=3.4, smoothing=0.2)),
        Live(Biquadratic(form="bethe-slater", a=0.006, b=0.03, d=1.48, cutoff=3.4, smoothing=0.2)),
        Live(LengthTerm()),
    ]
