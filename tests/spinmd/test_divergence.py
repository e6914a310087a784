"""Runs that go wrong end with step, atom and term; runs that are only hot do not. The last good checkpoint stays."""

import warnings

import numpy as np
import pytest
from support.deepspin_models import make_random_model
from support.systems import bcc, exchange, morse

import spinmd
from spinmd.cli import main
from spinmd.divergence import EVERY, Limits
from spinmd.errors import DivergedError, InputError, SpinmdError
from spinmd.h5md import read_checkpoint, read_thermo
from spinmd.integrators.build import build_integrator
from spinmd.integrators.parameters import IntegratorParameters
from spinmd.model import Model
from spinmd.potentials.deepspin.potential import DeepSpin
from spinmd.potentials.zeeman import Zeeman
from spinmd.protocols import OK, Need, SpinTerm
from spinmd.run import run

ATOM = 7


class Faulty:
    """A term that does something wrong to one atom from a step on: forces, fields, energy or couplings."""

    cutoff = 0.0
    provides = Need.ALL
    Parameters = dict

    def __init__(self, what, step=30, pump=0.0):
        self.what, self.step, self.pump, self.name = what, step, pump, f"faulty {what}"
        self.magnetic = what in ("fields", "couplings")

    def prepare(self, state, backend):
        self.on = np.zeros((state.natoms, 3))

    def margin(self, state):
        return 0.0

    def bad(self, state):
        return np.flatnonzero(state.ids == ATOM) if state.clock.step >= self.step else []

    def freeze(self, state, pairs):
        if self.what != "couplings":
            return None
        field = np.zeros((state.natoms, 3))
        field[self.bad(state)] = np.nan
        return SpinTerm(field=field)

    def add(self, state, pairs, out, need):
        if self.what == "forces" and Need.FORCE in need:
            out.forces += self.pump * state.velocities
            if not self.pump:
                out.forces[self.bad(state), 1] = np.nan
        if self.magnetic and Need.FIELD in need:
            out.fields[self.bad(state), 1] = np.nan
        if self.what == "energy" and len(self.bad(state)):
            out.energy[0] = np.nan
        return OK


class Meddler:
    """Writes into the state at a step, as a faulty mover would."""

    every, needs, stores = 1, Need.NONE, False

    def __init__(self, step, change):
        self.step, self.change = step, change

    def report(self, frame):
        if frame.step == self.step:
            self.change(frame.state, int(np.flatnonzero(frame.state.ids == ATOM)[0]))
            frame.model.moved()


class Recorder:
    """Stands for whatever stores: it must never see a state that is worth nothing."""

    needs = Need.NONE

    def __init__(self, every=1):
        self.every, self.steps, self.reasons = every, [], []

    def report(self, frame):
        self.reasons.append(frame.reason)
        if frame.reason != "diverged":
            self.steps.append(frame.step)
            for name in ("positions", "velocities", "spins"):
                assert np.isfinite(getattr(frame.state, name)).all()


def go(*terms, steps=200, reporters=(), limits=None, state=None, dt=0.001, **integrator):
    state = bcc(cells=3) if state is None else state
    model = Model(state, list(terms) or [morse(), exchange()], threads=1)
    mover = build_integrator(IntegratorParameters(timestep=dt, **integrator), state, model)
    return run(state, model, mover, mover.init(state, 1), steps, reporters, limits=limits)


@pytest.mark.parametrize("what", ["forces", "fields", "energy", "couplings"])
def test_a_term_that_gives_no_number_is_named(what):
    recorder = Recorder()
    with pytest.raises(DivergedError) as caught:
        go(morse(), exchange(), Faulty(what), reporters=[recorder])
    error = caught.value
    assert error.term == f"faulty {what}" and f"faulty {what}" in str(error)
    assert error.atom == (-1 if what == "energy" else ATOM)  # an energy alone does not say whose it is
    assert 30 <= error.step <= 31 + EVERY * 2 and str(error).startswith(f"step {error.step}: ")
    assert recorder.reasons[-1] == "diverged" and recorder.steps[-1] in (error.step - 1, error.step)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s, i: s.positions.__setitem__((i, 0), 1e9), r"atom 7 \(Fe\) is lost"),
        (lambda s, i: s.positions.__setitem__((i, 0), np.nan), r"atom 7 \(Fe\) is lost"),
        (lambda s, i: s.velocities.__setitem__((i, 2), np.inf), r"atom 7 \(Fe\) is lost"),
        (lambda s, i: s.velocities.__setitem__((i, 2), 2e4), r"atom [78] \(Fe\)"),
        (lambda s, i: s.velocities.__imul__(30.0), r"K \(run.limits.temperature"),
        (lambda s, i: s.spins.__setitem__((i, 1), np.nan), r"the spin of atom 7 \(Fe\) is not a number"),
        (lambda s, i: s.spins.__imul__(1.01), "the spin of atom .* µB long, at the start it was 2.2 µB"),
        (lambda s, i: s.positions.__setitem__(i, s.positions[i - 1] + 0.02), r"the force of morse on atom (6|7) "),
    ],
)
def test_what_becomes_of_a_state_that_was_spoilt(change, message):
    recorder = Recorder(every=10)
    with pytest.raises(DivergedError, match=message) as caught:
        go(reporters=[Meddler(69, change), recorder], limits=Limits(displacement=0.2, temperature=5e4))
    assert 69 < caught.value.step <= 169 and caught.value.atom >= 0
    assert caught.value.term in ("morse", "exchange"), str(caught.value)
    assert recorder.steps[-1] == 60


def test_energy_that_comes_from_nowhere():
    with pytest.raises(DivergedError, match=r"conserved quantity changed by .* eV per atom") as caught:
        go(morse(), Faulty("forces", pump=0.15), steps=1000)
    assert caught.value.step % 100 == 0 and caught.value.step <= 200 and caught.value.term == "morse"


def test_temperature_runaway_of_a_run_without_a_conserved_quantity():
    state = bcc(cells=2)
    model = Model(state, [morse(), Faulty("forces", pump=0.1)], threads=1)
    mover = build_integrator(IntegratorParameters(timestep=0.001), state, model)
    mover.conserved = None
    with pytest.raises(DivergedError, match="the lattice is at .* K") as caught:
        run(state, model, mover, mover.init(state, 1), 5000, limits=Limits(temperature=3000.0))
    assert caught.value.step % EVERY == 0 and state.temperature() < 30000.0


def test_a_spin_solver_that_never_converges():
    with pytest.raises(DivergedError, match=r"not converged in 100 steps in a row .* larger integrator.tolerance") as e:
        go(steps=150, max_iterations=2)
    assert e.value.step == 100 and e.value.term == "exchange"
    assert go(steps=120, max_iterations=2, limits=Limits(unsolved=0)).not_converged == 120


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dt": 1e300}, r"atom \d+ \(Fe\) moves .* Å in one step"),
        ({"dt": 1000.0}, r"atom \d+ \(Fe\) moves .* Å in one step"),
        ({"dt": 0.05}, r"force of morse on atom \d+ \(Fe\) is .* eV/Å, more than this timestep can follow"),
        (
            {"dt": 1.0, "lattice": "frozen"},
            r"spin of atom \d+ .* turns in one step of 1e\+03 fs; take a timestep below",
        ),
    ],
)
def test_a_timestep_that_leads_anywhere(settings, message):
    recorder = Recorder()
    state = bcc(3, temperature=300.0)
    state.positions[3] += 0.6
    with pytest.raises(DivergedError, match=message) as caught:
        go(reporters=[recorder], state=state, **settings)
    assert caught.value.step == 0 and recorder.reasons == ["step", "diverged"]
    recorder = Recorder()
    go(reporters=[recorder], state=bcc(3), steps=0, **settings)
    assert recorder.reasons == ["step", "end"]


@pytest.mark.parametrize("change", [(lambda s: s.velocities.__imul__(1e3)), (lambda s: s.spins.__setitem__(3, np.nan))])
def test_a_start_from_which_nothing_can_come(change):
    recorder, state = Recorder(), bcc(2)
    change(state)
    with pytest.raises(InputError, match="the run cannot start: ") as caught:
        go(reporters=[recorder], state=state)
    assert caught.value.place in ("structure", "structure.temperature") and not recorder.reasons


def test_two_atoms_in_one_place():
    state = bcc(cells=3)
    state.positions[ATOM] = state.positions[12]
    with pytest.raises(InputError, match=r"^structure: .*atom (7|12) \(Fe\).*nearest atom, (7|12) \(Fe\), is 0 Å away"):
        go(state=state)


def test_what_is_only_violent_goes_on():
    """A quench from random spins and 0 K, a lattice at 20000 K, and a mover that heats to 5000 K as a bath may."""
    go(state=bcc(3, temperature=0.0, seed=3), spin_damping=0.3)
    go(state=bcc(3, temperature=2.0e4), dt=0.0005)
    state = bcc(cells=3)
    model = Model(state, [morse(), exchange()], threads=1)
    mover = build_integrator(IntegratorParameters(timestep=0.001), state, model)
    step, mover.conserved = mover.step, None

    def heated(state, aux, model):
        status = step(state, aux, model)
        state.velocities *= 1.02 if state.temperature() < 5000.0 else 1.0
        return status

    mover.step = heated
    run(state, model, mover, mover.init(state, 1), 300)
    assert state.temperature() > 2500.0


DECK = """\
[structure]
prototype = "bcc"
element = "Fe"
lattice_constant = 2.8665
supercell = [3, 3, 3]
temperature = 300
[structure.spins]
moments = { Fe = 2.2 }
[[potential]]
kind = "morse"
parameters = { depth = 0.4174, alpha = 1.3885, r0 = 2.845, cutoff = 5.5 }
[[potential]]
kind = "nan_term_for_tests:Term"
[integrator]
timestep = "1 fs"
[run]
steps = 100
[output]
file = "run.h5"
thermo = 5
trajectory = 10
checkpoint = 20
"""
PLUGIN = """\
import numpy as np
from spinmd.parameters import Parameters
from spinmd.potentials.base import Term as Base
from spinmd.protocols import OK, Need
class Term(Base):
    class Parameters(Parameters):
        step: int = 47
    magnetic, selects = False, ""
    def add(self, state, pairs, out, need):
        if state.clock.step >= self.parameters.step and Need.FORCE in need:
            out.forces[np.flatnonzero(state.ids == 3), 0] = np.nan
        return OK
"""


def test_the_last_good_checkpoint_stays(tmp_path, capsys):
    (tmp_path / "deck.toml").write_text(DECK)
    (tmp_path / "nan_term_for_tests.py").write_text(PLUGIN)
    assert main(["run", str(tmp_path / "deck.toml"), "--quiet"]) == 3
    error = capsys.readouterr().err
    assert "step 48: the force of term on atom 3 (Fe) is not a number" in error
    assert f"the checkpoint of step 40 is kept in {tmp_path / 'run.h5'}" in error and error.count("\n") == 1
    state, *_, meta = read_checkpoint(tmp_path / "run.h5")
    assert meta["step"] == 40 and np.isfinite(state.velocities).all()
    assert read_thermo(tmp_path / "run.h5")["step"].tolist() == list(range(0, 46, 5))
    # from the first evaluation on: wrong input, and nothing is written
    assert main(["run", str(tmp_path / "deck.toml"), "--quiet", "--set", "potential.1.parameters.step=0",
                 "--set", "output.file=new.h5"]) == 2  # fmt: skip
    assert "structure: the run cannot start: the force of term on atom 3 (Fe)" in capsys.readouterr().err
    assert not (tmp_path / "new.h5").exists()


def test_limits_are_in_the_deck(tmp_path, capsys):
    (tmp_path / "deck.toml").write_text(DECK)
    (tmp_path / "nan_term_for_tests.py").write_text(PLUGIN)
    arguments = ["run", str(tmp_path / "deck.toml"), "--quiet", "--force", "--set", "run.steps=20"]
    assert main([*arguments, "--set", "run.limits.temperature=250"]) == 2
    assert "structure.temperature: the run cannot start: the lattice is at" in capsys.readouterr().err
    assert main([*arguments, "--set", "run.limits.temprature=250"]) == 2
    assert "run.limits.temprature (--set): unknown name; did you mean 'temperature'?" in capsys.readouterr().err
    assert main([*arguments, "--set", "run.limits.displacement=0"]) == 2
    assert main(arguments) == 0


# ------------------------------------------------------------------ trained potentials


def trained(closest=2.3, scale=1.0):
    model = make_random_model(elements=("Fe",), magnetic=(True,), seen=True, sel=60, scale=scale)
    model.seen.min_distance[:] = closest
    model.seen.spin_length[:] = 2.0, 2.3
    return DeepSpin.of(model)


def test_a_model_that_leaves_its_range_on_the_way_says_so_once():
    def approach(state, i):
        state.positions[i] += 0.3 * (state.positions[i + 1] - state.positions[i])

    def shrink(state, i):
        state.spins[i] *= 0.7

    with warnings.catch_warnings(record=True) as heard, pytest.raises(DivergedError, match="the spin of atom 7"):
        warnings.simplefilter("always")
        go(trained(), morse(), steps=120, reporters=[Meddler(20, approach), Meddler(90, shrink)], lattice="moving")
    messages = [str(one.message) for one in heard]
    assert len(messages) == 2, messages
    assert messages[0].startswith("deepspin: at step 2") and "training data is 2.3 Å" in messages[0]
    assert "atoms 7 and 8 are" in messages[0] or "atoms 8 and 7 are" in messages[0]
    assert messages[1].startswith("deepspin: at step 90 atom 7 (Fe) has a spin of 1.54 µB")


def test_the_closing_hint_blames_the_model_and_not_the_timestep():
    term = trained(closest=2.3)
    with pytest.warns(UserWarning, match="at step"), pytest.raises(DivergedError) as caught:
        go(
            term,
            Faulty("forces", step=40),
            reporters=[Meddler(20, lambda s, i: s.positions.__setitem__(i, s.positions[i + 1] - 1.2))],
        )
    assert "the model had left the range of its training data (at step 2" in str(caught.value)
    assert "shorter timestep" not in str(caught.value)
    with pytest.raises(DivergedError, match="try a shorter timestep"):
        go(trained(closest=1.0), Faulty("forces", step=40))


def test_the_second_call_of_the_calculator_warns():
    from ase.build import bulk

    atoms = bulk("Fe", "bcc", 2.8665, cubic=True).repeat(3)
    atoms.set_initial_magnetic_moments(np.full(len(atoms), 2.2))
    atoms.calc = spinmd.SpinmdCalculator(trained(closest=2.45))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        atoms.get_potential_energy()
    atoms.positions[3] += 0.1 * (atoms.positions[4] - atoms.positions[3])  # too little for a new list
    with pytest.warns(UserWarning, match=r"atoms \d+ and \d+ are 2.\d+ Å apart"):
        atoms.get_potential_energy()
    atoms.set_initial_magnetic_moments(np.full(len(atoms), 3.0))
    with pytest.warns(UserWarning, match=r"has a spin of 3 µB, the training data had 2 to 2.3"):
        atoms.get_potential_energy()


def test_spins_that_run_away_later_stop_within_a_hundred_steps():
    """A field that grows beyond what a step can follow changes no energy that is conserved, only what it is worth."""
    ramp = {"form": "ramp", "start": [0, 0, 0], "end": [1e7, 0, 0], "time": 0.04, "begin": 0.03}
    with pytest.raises(DivergedError, match="turns in one step") as caught:
        go(morse(), exchange(), Zeeman(field=ramp), steps=300)
    assert caught.value.step <= 200 and caught.value.atom >= 0
    slow = ramp | {"end": [10, 0, 0]}
    go(morse(), exchange(), Zeeman(field=slow), steps=120)


def test_a_potential_that_returns_something_else_is_told_what_to_return():
    class Wrong(Faulty):
        def add(self, state, pairs, out, need):
            return 7

    with pytest.raises(SpinmdError, match=r"add\(\) returned 7"):
        go(morse(), Wrong("forces"))
