"""Parallel tempering: each temperature keeps its own distribution, replicas travel, and files and restarts keep all of it."""

from functools import partial

import numpy as np
import pytest
from scipy.integrate import quad
from support.interrupted import assert_same, run_with_stops, whole_run
from support.live import live_terms
from support.systems import bcc, every_spin_term, exchange, model, morse

import spinmd
from spinmd.errors import InputError
from spinmd.integrators.build import build_integrator
from spinmd.integrators.held import Held
from spinmd.integrators.monte_carlo import MonteCarlo
from spinmd.integrators.parallel_tempering import ParallelTempering
from spinmd.integrators.parameters import IntegratorParameters
from spinmd.model import Model
from spinmd.potentials.anisotropy import UniaxialAnisotropy
from spinmd.protocols import Need
from spinmd.units import BOLTZMANN


def means(rows, blocks=20):
    """(mean, standard error) over the rows, from blocks of neighbours."""
    parts = np.array([part.mean(axis=0) for part in np.array_split(np.asarray(rows), blocks)])
    return parts.mean(axis=0), parts.std(axis=0, ddof=1) / np.sqrt(blocks)


def tempered(state, system, mover, steps, skip, seed=1):
    """aux, and of each temperature (rows, temperatures): energies, eV, and |m|, µB; and the replicas at the temperatures."""
    aux = mover.init(state, seed)
    energies, lengths, replicas = [], [], []
    for step in range(steps):
        assert mover.step(state, aux, system).ok
        if step >= skip:
            energies.append(aux.globals["replica_energies"].copy())
            lengths.append(np.linalg.norm(aux.globals["replica_magnetisations"], axis=1))
            replicas.append(aux.globals["replicas"].copy())
    return aux, np.array(energies), np.array(lengths), np.array(replicas)


def boltzmann(k, z):
    return np.exp(k * (z * z - 1.0))


@pytest.mark.parametrize("exchange_every", [1, 3])
def test_a_double_well_has_the_exact_energy_at_every_temperature(exchange_every):
    """Two spins in K z²: ⟨E⟩ by quadrature; small moves alone would hardly cross the barrier of 10 k_B T at the lowest."""
    temperatures, K = [120.0, 220.0, 400.0, 700.0], 0.1
    state = bcc(1)
    system = model(state, [UniaxialAnisotropy(K=K, axis=[0, 0, 1])])
    mover = ParallelTempering(temperatures, exchange_every, "metropolis", 0)
    aux, energies, _, replicas = tempered(state, system, mover, 9000, 500)
    mean, error = means(energies)
    for k, kelvin in enumerate(temperatures):
        weight = partial(boltzmann, K / (BOLTZMANN * kelvin))
        exact = -2.0 * K * quad(lambda z, p=weight: z * z * p(z), 0, 1)[0] / quad(weight, 0, 1)[0]
        assert abs(mean[k] - exact) < 3.5 * error[k], (kelvin, mean[k], exact, error[k])
        assert error[k] < 0.02 * K
    assert (np.diff(replicas[:, 0]) != 0).sum() > 500 / exchange_every  # somebody else comes to the lowest temperature
    tried, accepted = aux.globals["exchanges"].T
    assert (tried == 9000 // exchange_every // 2).all()
    assert (accepted > 0.2 * tried).all() and (accepted < tried).all()


def test_every_temperature_agrees_with_monte_carlo():
    """All terms together: energy and |m| at each temperature are those of Monte Carlo at that temperature alone."""
    temperatures = [300.0, 500.0, 800.0]
    state = bcc(2, aligned=0.5)
    _, energies, lengths, replicas = tempered(
        state, model(state, every_spin_term()), ParallelTempering(temperatures), 2500, 200
    )
    for k, kelvin in enumerate(temperatures):
        alone = bcc(2, aligned=0.5)
        system = model(alone, every_spin_term())
        mover = MonteCarlo(kelvin)
        aux = mover.init(alone, 7)
        rows = []
        for step in range(2500):
            mover.step(alone, aux, system)
            if step >= 200:
                rows.append([system.evaluate(Need.ENERGY).energy, np.linalg.norm(alone.magnetisation())])
        (here, error), (there, other) = means(np.stack([energies[:, k], lengths[:, k]], axis=1)), means(rows)
        assert (np.abs(here - there) < 3.5 * np.hypot(error, other)).all(), (kelvin, here, there, error, other)
        assert error[0] < 0.05 and error[1] < 0.03
    # every replica has been at every temperature
    assert all(len(np.unique(replicas[:, k])) == 3 for k in range(3))


def test_the_state_is_the_replica_at_the_lowest_temperature():
    """Energies, magnetisations and spins belong together after exchanges; a state changed by a script is taken."""
    state = bcc(2, aligned=0.5)
    system = model(state, every_spin_term())
    mover = ParallelTempering([400.0, 440.0, 480.0])
    aux = mover.init(state, 3)
    seen = set()
    for _ in range(30):
        mover.step(state, aux, system)
        kept = aux.globals
        at = kept["replicas"]
        seen.add(int(at[0]))
        assert sorted(at) == [0, 1, 2]
        np.testing.assert_array_equal(aux.per_atom["replica_spins"][:, at[0]], state.spins)
        assert system.evaluate(Need.ENERGY).energy == kept["replica_energies"][0]
        for k in range(3):
            mean = aux.per_atom["replica_spins"][:, at[k]].sum(axis=0) / state.natoms
            np.testing.assert_allclose(kept["replica_magnetisations"][k], mean, rtol=1e-12)
    assert len(seen) == 3
    state.spins[:] = [0.0, 0.0, 2.2]
    system.moved(spins=True)
    mover.temperatures[0], mover.exchange = 1e-3, 100
    mover.step(state, aux, system)
    assert state.magnetisation()[2] > 2.1


def test_threads_and_fixed_spins():
    """Bitwise the same with two threads; what is fixed stays in every replica."""
    results = []
    for threads in (1, 2):
        state = bcc(7, aligned=0.5)
        held = Held(fixed_spins=["some"], groups={"some": np.arange(state.natoms) % 7 == 0})
        before = state.original_order(state.spins)
        system = Model(state, [exchange()], threads=threads)
        mover = ParallelTempering([500.0, 510.0, 520.0], move="metropolis", held=held)
        aux, *_ = tempered(state, system, mover, 6, 0)
        assert aux.globals["exchanges"][:, 1].any()
        spins = state.original_order(aux.per_atom["replica_spins"])
        np.testing.assert_array_equal(spins[::7], np.repeat(before[::7, None], 3, axis=1))
        results.append([spins, aux.globals["replica_energies"], aux.globals["metropolis"]])
    for one, other in zip(*results, strict=True):
        np.testing.assert_array_equal(one, other)


TEMPERING = {"ensemble": "parallel-tempering", "lattice": "frozen", "temperatures": [100.0, 150.0, 225.0]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"temperatures": None}, "needs temperatures, for example"),
        ({"temperatures": [100.0]}, "give at least two"),
        ({"temperatures": [100.0, 300.0, 200.0]}, "must ascend, and 200 K follows 300 K"),
        ({"temperatures": [100.0, 100.0]}, "must ascend"),
        ({"temperatures": [0.0, 100.0]}, "above 0 K, got 0"),
        ({"temperatures": {"start": 300.0, "end": 100.0, "count": 3}}, "must ascend"),
        ({"temperature": 300.0}, "several temperatures"),
        ({"spin_temperature": 300.0}, "several temperatures"),
        ({"spin_rescaling": {"critical_temperature": 1000.0, "exponent": 2.0}}, "leave this out"),
        ({"lattice": "moving"}, "spins only"),
        ({"spins": "frozen"}, "nothing moves"),
        ({"timestep": 1e-3}, "leave it out"),
        ({"spin_damping": 0.1}, "leave it out"),
        ({"lattice_friction": 1.0}, "leave it out"),
        ({"ensemble": "monte-carlo", "temperature": 300.0}, "only ensemble"),
        ({"over_relaxation": 20_000}, "too many"),
    ],
)
def test_decks_that_make_no_sense_are_refused(change, message):
    state = bcc(2)
    with pytest.raises(InputError, match=message):
        build_integrator(IntegratorParameters(**TEMPERING | change), state, model(state, [morse(), exchange()]))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (300, "expected a list, or a table such as"),
        ([100, "hot"], "number 1: "),
        ([100, -5], "number 1: must be at least 0, got -5"),
        ({"start": 100, "end": 200}, "a ladder needs count"),
        ({"start": 100, "end": 200, "count": 3, "step": 5}, "step is unknown in a ladder of temperatures; known are start, end"),
        ({"start": 0, "end": 200, "count": 3}, "start: must be above 0, got 0"),
        ({"start": 100, "end": 200, "count": 1}, "count: must be at least 2, got 1"),
        ({"start": 100, "end": 200, "count": 3, "spacing": "log"}, 'spacing: expected "geometric" or "linear"'),
    ],
)  # fmt: skip
def test_ladders_are_read_strictly(value, message):
    with pytest.raises(ValueError, match=message):
        IntegratorParameters(**TEMPERING | {"temperatures": value})


def test_ladders():
    def ladder(value):
        return IntegratorParameters(**TEMPERING | {"temperatures": value}).temperatures

    assert ladder(["100 K", 200]) == (100.0, 200.0)
    assert ladder({"start": "100 K", "end": 400, "count": 3}) == pytest.approx((100.0, 200.0, 400.0))
    assert ladder({"start": 100, "end": 400, "count": 3, "spacing": "linear"}) == pytest.approx((100.0, 250.0, 400.0))


def test_live_potentials_are_refused():
    state = bcc(2)
    with pytest.raises(InputError, match="frozen couplings"):
        build_integrator(IntegratorParameters(**TEMPERING), state, model(state, live_terms()))


DECK = """\
[structure]
prototype = "bcc"
element = "Fe"
lattice_constant = 2.8665
supercell = [3, 3, 3]

[structure.spins]
moments = { Fe = 2.2 }
texture = "random"

[[potential]]
kind = "exchange"
parameters = { form = "bethe-slater", a = 0.02726, b = 0.2171, d = 1.841, cutoff = 3.4 }

[integrator]
ensemble = "parallel-tempering"
lattice = "frozen"
move = "metropolis"
temperatures = { start = 500, end = 700, count = 4 }
exchange = 2

[run]
steps = 26

[output]
file = "run.h5"
thermo = 3
trajectory = 4
checkpoint = 7
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty present folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("stops", [(5, 12), (-9, 13, -20)])
def test_a_run_that_was_stopped_is_the_same_bit_for_bit(folder, stops):
    """No row twice and none missing, after signals and after kills."""
    deck = folder / "deck.toml"
    deck.write_text(DECK)
    whole_run(deck)
    run_with_stops(deck, "run.h5", stops)
    assert_same("run.h5", "whole.h5")
    with spinmd.Trajectory("run.h5") as trajectory:
        rows = trajectory.row_arrays
        np.testing.assert_array_equal(trajectory.thermo["step"], [*range(0, 27, 3), 26])
    assert rows["spin_energy"].shape == (10, 4) and rows["magnetisation"].shape == (10, 4, 3)
    assert rows.units["spin_energy"] == "eV" and rows.units["temperature"] == "K"


def test_rows_go_on_with_more_steps(folder):
    """--steps after the end: the row of the end goes, and all others are those of a longer run; Python sees the same rows."""
    deck = folder / "deck.toml"
    deck.write_text(DECK)
    whole_run(deck, {"run.steps": 40})
    whole_run(deck, name="run.h5")
    with spinmd.resume("run.h5", steps=14) as simulation:
        simulation.run()
    for one in ("run.h5", "whole.h5"):
        with spinmd.Trajectory(one) as trajectory:
            steps, rows = trajectory.thermo["step"], dict(trajectory.row_arrays)
        np.testing.assert_array_equal(steps, [*range(0, 40, 3), 40])
        for name, values in simulation.row_arrays.items():
            np.testing.assert_array_equal(values, rows[name])
    np.testing.assert_array_equal(rows["spin_energy"][:, 0], simulation.thermo["spin_energy"])
    np.testing.assert_allclose(np.linalg.norm(rows["magnetisation"][:, 0], axis=1), simulation.thermo["magnetisation"])
    assert np.isnan(rows["exchange_acceptance"][0]).all() and (rows["replica"][0] == np.arange(4)).all()
    assert (rows["temperature"] == rows["temperature"][0]).all() and rows["temperature"][0, 3] == pytest.approx(700.0)
    done = rows["exchange_acceptance"][-1]
    assert ((done >= 0.0) & (done <= 1.0)).all()


def test_stages_share_the_rows(folder, capsys):
    """Rows of another ensemble are filled; the screen ends with the acceptance; ladders of different lengths are refused."""
    first = spinmd.load_deck(_written(folder, DECK)).tables
    stages = [
        {"integrator": {"ensemble": "monte-carlo", "temperature": 500.0}, "run": {"steps": 6}},
        {"integrator": {"ensemble": "parallel-tempering", "temperatures": [400.0, 420.0, 440.0, 460.0]}},
    ]
    with spinmd.build(first | {"stage": stages, "run": {"steps": 6}}) as simulation:
        simulation.run(progress=True)
    shown = capsys.readouterr().out.split("exchanges between temperatures")[1].splitlines()
    assert len(shown) == 4 and shown[1].split()[:2] == ["400", "420"]
    rows = simulation.row_arrays
    assert list(simulation.thermo["step"]) == [0, 3, 6, 9, 12, 15, 18]
    assert (rows["temperature"][[0, 2, 5], 0] == [500.0, 500.0, 400.0]).all()
    assert np.isnan(rows["spin_energy"][3:5]).all() and (rows["replica"][3:5] == -1).all()
    assert np.isfinite(rows["spin_energy"][[0, 1, 2, 5, 6]]).all()
    stages[1]["integrator"]["temperatures"] = [400.0, 420.0]
    with pytest.raises(
        InputError, match="as many temperatures in all stages: give each stage with parallel tempering 4"
    ):
        spinmd.build(first | {"stage": stages}, output=False)


def _written(folder, text):
    (folder / "deck.toml").write_text(text)
    return folder / "deck.toml"
