"""The frozen spin Hamiltonian, the spin temperature and what is kept of evaluations on the device, against the host's."""

import numpy as np
import pytest
from support.device_terms import TERMS, assert_close, on_both

from spinmd.potentials.biquadratic import Biquadratic
from spinmd.protocols import Need

SPIN_TERMS = [name for name in TERMS if name.split(",")[0] not in ("lennard-jones", "morse")]
CASES = {
    "everything": SPIN_TERMS,
    "one exchange": ["exchange"],
    "exchange and fields": ["zeeman", "exchange, shells", "zeeman, driven", "morse"],
    "linear": ["dmi, bond", "exchange", "uniaxial", "exchange, second"],
    "cubic only": ["cubic"],
    "no spins": ["morse"],
}


def make(case):
    return on_both([TERMS[name](name=name) for name in CASES[case]])


def rows(state, seed=5):
    """Spins that a solver may try, (N, 4), and their copy on the device."""
    from spinmd.cuda.arrays import on_device

    w = np.zeros((state.natoms, 4))
    w[:, :3] = np.random.default_rng(seed).normal(size=(state.natoms, 3))
    return w, on_device(w)


@pytest.mark.parametrize("case", CASES)
def test_fields_are_those_of_the_host(case):
    from spinmd.cuda.arrays import full, on_device, zeros

    host, state, model = make(case)
    theirs, mine = host.couplings(), model.couplings()
    assert mine.only_leading == theirs.only_leading and mine.nonlinear == theirs.nonlinear
    assert (mine.constant is None) == (theirs.constant is None)
    if mine.constant is not None:
        assert_close(mine.constant.host(), theirs.constant)
    w, w_device = rows(state)
    for name in ("add_linear_rest", "add_nonlinear"):
        expected = np.ones((state.natoms, 3))
        getattr(theirs, name)(w, expected)
        external = full((state.natoms, 3), 1.0)
        getattr(mine, name)(w_device, external)
        assert_close(external.host(), expected, name)
    external = zeros((state.natoms, 3))
    mine.add_all(w_device, external)
    assert_close(external.host(), theirs.field(w), "all")
    count, atoms, coupling = (one.host() for one in mine.leading())
    assert len(count) == (0 if not theirs.isotropic else state.natoms) and atoms.shape == coupling.shape
    done = on_device(np.array([0.0, 0.0, 0.0, 1.0] + 12 * [0.0]))
    before = external.host()
    mine.add_all(w_device, external, done)
    assert (external.host() == before).all()


def test_couplings_follow_positions_and_time_in_the_same_arrays():
    from spinmd.cuda.arrays import transfers, zeros

    host, state, model = make("everything")
    first = model.couplings()
    assert model.couplings() is first
    w, w_device = rows(state)
    external = zeros((state.natoms, 3))
    for what in ("positions", "time"):
        if what == "positions":
            host.state.positions[:] += 0.02 * np.random.default_rng(2).normal(size=host.state.positions.shape)
            state.positions.set(host.state.positions)
            host.moved(positions=True)
            model.moved(positions=True)
        else:
            host.state.clock.time = state.clock.time = 0.07
            state.time.fill(0.07)
        external.fill(0.0)
        before = (transfers.to_host, transfers.to_device)
        assert model.couplings() is first
        first.add_all(w_device, external)
        assert (transfers.to_host, transfers.to_device) == before
        assert_close(external.host(), host.couplings().field(w), what)


def test_couplings_after_lists_have_grown_have_new_arrays():
    from spinmd.cuda.arrays import zeros
    from spinmd.cuda.lists import DeviceList

    host, state, model = make("linear")
    w, w_device = rows(state)
    radius = model.lists.radii[0]
    model.couplings()
    wide = DeviceList(radius, state.natoms, model.lists.lists[radius].neighbours.shape[0] + 3, model.lists)
    model.lists.lists[radius] = wide
    model.lists.demand()
    host.state.positions[:] += 0.02
    host.state.positions[:6] -= 0.05
    state.positions.set(host.state.positions)
    host.moved(positions=True)
    model.moved()
    external = zeros((state.natoms, 3))
    model.couplings().add_all(w_device, external)
    assert_close(external.host(), host.couplings().field(w))


def test_a_captured_step_that_is_repeated_leaves_no_couplings_behind():
    """The graph of a step that ends with a drift moves atoms without a word to the model."""
    from spinmd.cuda.arrays import zeros

    host, state, model = make("linear")
    w, w_device = rows(state)
    model.begin_capture()
    model.couplings()
    model.moved(positions=True)
    model.end_capture()
    host.state.positions[:6] += 0.03
    host.moved(positions=True)
    state.positions.set(host.state.positions)
    model.stepped()
    external = zeros((state.natoms, 3))
    model.couplings().add_all(w_device, external)
    assert_close(external.host(), host.couplings().field(w))


@pytest.mark.parametrize("held", [False, True], ids=["all", "some fixed"])
@pytest.mark.parametrize("case", ["everything", "one exchange", "cubic only", "no spins"])
def test_spin_temperature(case, held):
    host, state, model = make(case)
    fixed = (np.arange(state.natoms) % 3 == 0).astype(np.int64) if held else None
    expected = host.spin_temperature(fixed)
    assert model.spin_temperature(fixed) == pytest.approx(expected, rel=1e-11, nan_ok=True)
    assert np.isnan(expected) == (case == "no spins")


@pytest.mark.parametrize("held", [False, True], ids=["all", "some fixed"])
def test_spin_temperature_with_a_term_that_does_not_freeze(monkeypatch, held):
    from spinmd.cuda.arrays import zeros
    from spinmd.potentials.cuda.pairs import DevicePairs

    monkeypatch.setattr(Biquadratic, "freeze", lambda *arguments: None)
    monkeypatch.setattr(DevicePairs, "freeze", lambda *arguments: None)
    host, state, model = on_both([TERMS[name](name=name) for name in ("biquadratic", "exchange, shells", "cubic")])
    assert model.live_terms() == host.live_terms() == [0]
    fields, expected = zeros((state.natoms, 3)), np.zeros((state.natoms, 3))
    model.add_live_fields(fields)
    host.add_live_fields(expected)
    assert_close(fields.host(), expected)
    fixed = (np.arange(state.natoms) % 3 == 0).astype(np.int64) if held else None
    # a difference of fields, divided by a step of 1e-3: round-off of 1e-13 in it
    assert model.spin_temperature(fixed) == pytest.approx(host.spin_temperature(fixed), rel=1e-9)
    assert (state.spins.host() == host.state.spins).all()


def test_energies_of_driven_terms():
    from spinmd.cuda.arrays import zeros

    host, state, model = make("everything")
    assert model.driven == host.driven == ["zeeman, driven"]
    before, after = zeros(state.natoms), zeros(state.natoms)
    model.add_driven_energies(before)
    state.time.fill(0.3)
    model.moved(time=True)
    model.add_driven_energies(after)
    work = host.time_passes(0.3)
    assert abs(work) > 1e-6
    assert (after.tensor - before.tensor).sum().item() == pytest.approx(work, rel=1e-11)


def test_the_virial_of_all_terms_when_only_spins_have_moved():
    host, state, model = on_both([TERMS[name](name=name) for name in ("morse", "exchange", "dmi, bond")])
    for need in (Need.VIRIAL | Need.FORCE, Need.VIRIAL, Need.FIELD, Need.FIELD | Need.VIRIAL, Need.ALL):
        host.state.spins[:] *= -1.0
        host.state.spins[:6] += 0.1
        state.spins.set(host.state.spins)
        host.moved(spins=True)
        model.moved(spins=True)
        for ask in (need, Need.FIELD, need):
            model.evaluate(ask)
            expected = host.evaluate(ask)
            if Need.VIRIAL in ask:
                assert_close(model.virials.host().sum(axis=0).reshape(3, 3), expected.virial, str(need))
            if Need.FIELD in ask:
                assert_close(model.fields.host(), expected.fields, str(need))
            if Need.FORCE in ask:
                assert_close(model.forces.host(), expected.forces, str(need))
