"""The conformance kit for integrators finds what it should; that for potentials is tested in tests/potentials."""

import pytest

from spinmd.integrators.flows import Drift, Kick
from spinmd.integrators.midpoint import Midpoint
from spinmd.integrators.splitting import Splitting
from spinmd.potentials.anisotropy import UniaxialAnisotropy
from spinmd.potentials.exchange import Exchange
from spinmd.potentials.pair import Morse
from spinmd.protocols import OK
from spinmd.testing import check_integrator

TERMS = [
    Morse(depth=0.4174, alpha=1.3885, r0=2.845, cutoff=4.5, smoothing=1.0),
    Exchange(form="polynomial", J0=0.9, cutoff=3.75),
    UniaxialAnisotropy(K=0.002),
]


class Planted(Splitting):
    """A splitting with one planted error."""

    error = ""

    def step(self, state, aux, model):
        if self.error == "order":
            for letter in "RVS":
                self.flows[letter].flow(state, aux, model, self.dt)
            state.clock.step += 1
            state.clock.time += self.dt
            return OK
        status = super().step(state, aux, model)
        if self.error == "length":
            state.spins *= 1.0 + 1e3 * self.dt**3
        if self.error == "clock":
            state.clock.time += 1e-6 * self.dt
        return status


def make(dt):
    return Planted("V R S R V", dt, {"R": Drift(), "V": Kick(), "S": Midpoint(tolerance=1e-13)})


def test_second_order_is_measured():
    report = check_integrator(make, TERMS, timestep=1e-3)
    for quantity in ("positions", "velocities", "spins", "conserved"):
        assert report.deviations["order", quantity] == pytest.approx(2.0, abs=0.1)


@pytest.mark.parametrize(
    ("error", "message"),
    [("order", "expected order 2"), ("length", "lengths of the spins"), ("clock", "moved the clock")],
)
def test_planted_errors_are_found(error, message, monkeypatch):
    monkeypatch.setattr(Planted, "error", error)
    with pytest.raises(AssertionError, match=message):
        check_integrator(make, TERMS, timestep=1e-3)


def test_an_integrator_may_claim_less():
    report = check_integrator(make, TERMS, timestep=1e-3, order=1)
    assert report.deviations["order", "spins"] > 1.5
