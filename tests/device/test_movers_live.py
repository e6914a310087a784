"""The live midpoint on the device: solves and prediction of the host, with as few evaluations launched as are needed."""

from copy import deepcopy

import numpy as np
import pytest
from support.device_movers import BETHE, OPEN, Both, deck
from support.live import Live

from spinmd.integrators.live_midpoint import DIFFERENCES, FORGETTING, HISTORY, LiveMidpoint, coefficients
from spinmd.integrators.live_midpoint import _normal_equations as host_equations
from spinmd.model import Model
from spinmd.potentials.biquadratic import Biquadratic
from spinmd.potentials.exchange import Exchange
from spinmd.potentials.zeeman import Zeeman


class LiveOnDevice:
    """A device term that does not show its couplings."""

    def __init__(self, term):
        self.term, self.magnetic, self.kind = term, True, "live"

    def add(self, state, pairs, out, need):
        self.term.add(state, pairs, out, need)

    def freeze(self, state, pairs):
        return None


class LiveBoth(Both):
    """Live exchange and biquadratic exchange, and a frozen field, on host and device."""

    def __init__(self, **integrator):
        from spinmd.cuda.model import DeviceModel
        from spinmd.cuda.state import DeviceState
        from spinmd.integrators.build import build_integrator
        from spinmd.integrators.cuda import device_mover
        from spinmd.integrators.parameters import IntegratorParameters

        super().__init__(deck([{"kind": "exchange", "parameters": BETHE}], OPEN))
        parameters = IntegratorParameters(timestep=0.001, **integrator)
        self.simulation.model = model = self.other_model(self.host)
        self.integrator = build_integrator(parameters, self.host, model, 20)
        self.aux = self.integrator.init(self.host, 11)
        self.state = DeviceState(self.host)
        self.model = DeviceModel(self.state, model, self.made)
        self.mover = device_mover(self.integrator, self.state, self.aux)
        self.mover.flows["S"].launched = 9
        assert isinstance(self.integrator.spin_solver, LiveMidpoint)

    @staticmethod
    def other_model(state):
        """The terms on the host."""
        live = [Live(Exchange(**BETHE)), Live(Biquadratic(**{**BETHE, "a": 0.006}))]
        model = Model(state, [*live, Zeeman(field=[5.0, -3.0, 10.0])], threads=1)
        model.update_lists()
        return model

    @staticmethod
    def made(term, state):
        """A term on the device."""
        from spinmd.potentials.cuda import device_term

        return LiveOnDevice(device_term(term.term, state)) if isinstance(term, Live) else device_term(term, state)


@pytest.mark.parametrize(
    "bath", [{}, {"ensemble": "langevin", "spin_damping": 0.1, "temperature": 200}], ids=["nve", "noise"]
)
def test_live_terms(bath):
    pair = LiveBoth(tolerance=1e-8, **bath)
    pair.step(2)
    pair.compare(1e-10)


def test_live_terms_as_long_as_it_takes_to_predict(monkeypatch):
    """A whole run that begins with one evaluation a solve finds out how many it needs."""
    from spinmd.cuda.run import run_on_device
    from spinmd.integrators.cuda import device_mover, live_midpoint

    pair = LiveBoth(lattice="frozen", tolerance=1e-5)
    monkeypatch.setattr(live_midpoint, "LAUNCHED", 1)
    movers = []

    def make(*arguments):
        movers.append(device_mover(*arguments))
        return movers[-1]

    state, aux = pair.host.copy(), deepcopy(pair.aux)
    steps = HISTORY + 2
    result = run_on_device(
        state, pair.other_model(state), pair.integrator, aux, steps, device_term=pair.made, device_mover=make
    )  # fmt: skip
    for _ in range(steps):
        assert pair.integrator.step(pair.host, pair.aux, pair.simulation.model).ok
    assert result.not_converged == 0 and result.steps == steps
    assert np.abs(state.spins - pair.host.spins).max() < 1e-9
    assert (aux.globals["live_history_0"] == pair.aux.globals["live_history_0"]).all()
    assert movers[0].flows["S"].launched == 2


def test_prediction():
    """Least squares of the past as ``coefficients`` has them; polynomials before there are enough fields."""
    from spinmd.cuda.arrays import on_device, zeros
    from spinmd.integrators.cuda.extrapolation import SUMS, _normal_equations, _predict, _update_equations

    rng = np.random.default_rng(5)
    n = 18
    slots, new, x = rng.normal(size=(HISTORY, n, 3)), rng.normal(size=(n, 3)), rng.normal(size=(n, 3))
    newest = 5
    past = np.stack([slots[(newest - k) % HISTORY] for k in range(HISTORY)])
    sums = np.zeros((1, HISTORY + 1, HISTORY + 1))
    host_equations(n, past, new, x, DIFFERENCES, sums, 256)
    expected = np.tril(sums[0]) + np.tril(sums[0], -1).T
    history, differences, weights = on_device(np.array([newest, HISTORY, 0.0])), on_device(DIFFERENCES), zeros(HISTORY)
    equations, parts = zeros((HISTORY + 1, HISTORY + 1)), zeros((2, SUMS))
    for _ in range(2):  # the second time the first ones count FORGETTING
        _normal_equations(n, on_device(slots), history, on_device(new), on_device(x), differences, parts)
        _update_equations(1, parts, history, equations)
    expected *= 1.0 + FORGETTING
    assert np.abs(equations.host() - expected).max() < 1e-12 * np.abs(expected).max()
    _predict(1, equations, history, differences, weights)
    fitted = (1.0 + coefficients(expected)) @ DIFFERENCES
    assert np.abs(weights.host() - fitted).max() < 1e-9 * np.abs(fitted).max()
    for known in (1, 3, 6):
        history.set(np.array([newest, known, 0.0]))
        _predict(1, equations, history, differences, weights)
        assert weights.host() == pytest.approx(DIFFERENCES[: min(known, 4)].sum(axis=0))
