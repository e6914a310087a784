"""Runs that go on from their file: bitwise what they would have been, wherever they were stopped."""

import shutil

import numpy as np
import pytest
from support.deepspin_models import make_random_model
from support.interrupted import DECK, assert_same, contents, run_with_stops, same_bits, stop_at, whole_run

import spinmd
from spinmd import building, neighbors, segments
from spinmd.checkpoint import read_checkpoint
from spinmd.integrators.build import build_integrator
from spinmd.model import Model
from spinmd.potentials.deepspin.model_file import write_model
from spinmd.potentials.deepspin.potential import DeepSpin
from spinmd.protocols import OK, Need
from spinmd.state import State

STAGES = """
[[stage]]
name = "damped"
run = { steps = 8 }
integrator = { spin_damping = 0.3 }
output = { thermo = 2, trajectory = 0 }

[[stage]]
run = { steps = 6, seed = 5 }
output = { checkpoint = 0 }

[[stage.potential]]
kind = "lennard-jones"
parameters = { epsilon = 0.4, sigma = 2.2, cutoff = 4.0 }

[[stage.potential]]
kind = "exchange"
parameters = { form = "bethe-slater", a = 0.02726, b = 0.2171, d = 1.841, cutoff = 3.4 }

[[stage]]
run = { steps = 4 }
integrator = { spin_solver = "suzuki-trotter", splitting = "S R V R S" }
"""
LIVE = """
[[potential]]
kind = "lennard-jones"
parameters = { epsilon = 0.4, sigma = 2.2, cutoff = 4.0 }

[[potential]]
kind = "deepspin"
parameters = { model = "model.h5" }

[integrator]
"""


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch):
    """No waiting for the disk; test_h5md.py checks the calls."""
    monkeypatch.setattr(segments.os, "fsync", lambda descriptor: None)


@pytest.fixture
def folder(tmp_path, monkeypatch, root):
    """An empty present folder with a potential in it."""
    place = tmp_path / "work"
    place.mkdir()
    monkeypatch.chdir(place)
    shutil.copy(root / "inputs" / "potentials" / "Fe_mm.eam.fs", place)
    return place


@pytest.fixture
def deck(folder):
    """Writes a deck and returns its path."""

    def write(text=DECK):
        (folder / "deck.toml").write_text(text)
        return folder / "deck.toml"

    return write


# ------------------------------------------------------------------------------------------------ the same bits


class Noise:
    """A bath of a kind: random kicks by (seed, step, atom), filtered by an array that is kept from step to step."""

    def __init__(self, splitting):
        self.inner = splitting

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def init(self, state, seed):
        aux = self.inner.init(state, seed)
        aux.per_atom["noise memory"] = np.zeros((state.natoms, 3))
        aux.globals["noise seed"] = np.array(seed, dtype=np.uint64)
        aux.globals["noise/heat"] = np.zeros(())
        return aux

    def step(self, state, aux, model):
        status = self.inner.step(state, aux, model)
        kicks = np.random.default_rng([int(aux.globals["noise seed"]), state.clock.step]).normal(size=(state.natoms, 3))
        aux.per_atom["noise memory"] *= 0.9
        aux.per_atom["noise memory"] += 0.01 * kicks[state.ids]
        state.velocities += aux.per_atom["noise memory"]
        aux.globals["noise/heat"] += (state.velocities * aux.per_atom["noise memory"]).sum()
        return status if not status.ok else OK

    def conserved(self, state, aux, evaluation):
        return self.inner.conserved(state, aux, evaluation) - float(aux.globals["noise/heat"])


CASES = {
    # negative steps are kills: what came after the last checkpoint is done again
    "coupled": (DECK, {}, [1, 2, 6, 7, -8, 12, 13, -20, 20, 25]),
    "positions last": (DECK, {"integrator.splitting": "R V S V R"}, [1, 4, 7, 9, -15, 18, 19, 22]),
    "stages": (DECK + STAGES, {"run.steps": 6}, [3, -6, 6, 7, -9, 14, -14, 15, -19, 20, 21, -23]),
    "live": (DECK, {"run.steps": 20}, [1, 2, 3, 7, -12, 12, 15, -19]),
    "noise": (DECK, {}, [1, 6, 7, -12, 19]),
    "sorted, two threads": (DECK, {"structure.supercell": [6, 6, 6], "run.steps": 14}, [1, 5, 7, -10, 12]),
}


@pytest.mark.parametrize("case", CASES)
def test_a_run_stopped_anywhere_is_bitwise_the_run_that_never_stopped(deck, folder, monkeypatch, case):
    text, overrides, stops = CASES[case]
    resuming = {}
    if case == "live":
        write_model(make_random_model(("Fe",), (True,), cutoff=3.6, cutoff_smooth=2.8, sel=60, scale=0.2), "model.h5")
        before, _, after = text.partition("[[potential]]")
        text = before.replace("2000", "600") + LIVE + after.partition("[integrator]")[2]
    if case == "noise":
        monkeypatch.setattr(building, "build_integrator", lambda *given: Noise(build_integrator(*given)))
    if case.startswith("sorted"):
        monkeypatch.setattr(neighbors, "SORT_FROM", 100)
        monkeypatch.setattr(neighbors, "SORT_EVERY", 2)
        resuming = {"threads": 2}
    path = deck(text)
    whole = whole_run(path, {**overrides, "run.threads": 1})
    summary = run_with_stops(path, "run.h5", stops, overrides, **resuming)
    assert whole["list_rebuilds"] >= 2
    if case.startswith("sorted"):
        assert not np.array_equal(contents("run.h5")["spinmd/checkpoint/state/ids"], np.arange(432))
    assert_same("run.h5", "whole.h5")
    timing = ("seconds_loop", "us_per_atom_step", "output", "threads")
    assert {k: v for k, v in summary.items() if k not in timing} == {k: v for k, v in whole.items() if k not in timing}
    assert not (folder / ".run.h5.parts").exists()


class Onlooker:
    """Asks for everything after every step."""

    needs, every = Need.ALL, 1

    def report(self, frame):
        frame.evaluation(Need.ALL)


def test_looking_on_does_not_change_a_run(deck):
    """Where positions move last, lists would otherwise be rebuilt at other moments, depending on who evaluates when."""
    looked_at, alone = (spinmd.build(deck(), {"integrator.splitting": "R V S V R"}, output=False) for _ in range(2))
    looked_at.run(26, reporters=[Onlooker()])
    alone.run(26)
    assert alone.summary["list_rebuilds"] >= 4
    for name in ("positions", "velocities", "spins", "images"):
        assert same_bits(getattr(looked_at.state, name), getattr(alone.state, name)), name


def test_margins_of_the_lists_are_those_of_the_run_and_not_of_the_present_spins(folder):
    """A term's margin depends on the spins that it met first; a longer spin in a resumed run must not change the lists."""
    deepspin = DeepSpin.of(make_random_model(("Fe",), (True,), cutoff=3.6, cutoff_smooth=2.8, sel=60))
    positions = 2.87 * np.array([[x, y, z] for x in range(3) for y in range(3) for z in range(3)], dtype=float)
    spins = np.tile([0.0, 0.0, 2.0], (27, 1))
    state = State.create(np.eye(3) * 8.61, positions, ["Fe"] * 27, np.full(27, 55.8), spins=spins)
    model = Model(state, [deepspin], threads=1)
    forces = model.evaluate(Need.FORCE).forces.copy()
    history = model.list_history()
    state.spins *= 1.01
    fresh = Model(state, [deepspin], threads=1)
    assert fresh.lists.radii != model.lists.radii
    again = Model(state, [deepspin], threads=1, history=history)
    assert again.lists.radii == model.lists.radii and deepspin._reach == history["margins"][0]
    assert all(part is None or getattr(part, "_reach", deepspin._reach) == deepspin._reach for part in deepspin.parts)
    state.spins /= 1.01
    again.moved()
    np.testing.assert_allclose(again.evaluate(Need.FORCE).forces, forces, atol=1e-12)
    with pytest.raises(spinmd.InputError, match="no margins"):
        Model(state, [deepspin], threads=1, history={})


# ------------------------------------------------------------------------------------------------ how many steps


def test_a_finished_run_is_extended_as_if_it_had_been_longer(deck):
    """26 is no multiple of the intervals: the rows that closed the shorter run are not in the longer one."""
    path = deck()
    spinmd_run(path)
    with pytest.raises(spinmd.InputError, match="the run is finished: all its 26 steps"):
        spinmd.resume("run.h5").run()
    with spinmd.resume("run.h5", steps=9) as simulation:
        simulation.run()
    stop_at(spinmd.resume("run.h5", steps=10), 40)
    with spinmd.resume("run.h5") as simulation:
        assert simulation.run()["steps"] == 45
    whole_run(path, {"run.steps": 45})
    assert_same("run.h5", "whole.h5")


def spinmd_run(path):
    with spinmd.build(path) as simulation:
        simulation.run()


def test_steps_of_an_unfinished_run_count_all_further_steps(deck):
    """Fewer than are left stop short; more go on in the last stage."""
    path = deck(DECK + STAGES)
    stop_at(spinmd.build(path, {"run.steps": 6}), 4)
    for steps, clock, left in (
        (1, 5, [1, 8, 6, 4]),
        (1, 6, [0, 8, 6, 4]),
        (10, 16, [0, 0, 4, 4]),
        (12, 28, [0, 0, 0, 0]),
    ):
        with spinmd.resume("run.h5", steps=steps) as simulation:
            simulation.run()
            assert simulation.state.clock.step == clock
        assert read_checkpoint("run.h5")[3]["extra"]["steps_left"] == left
    whole_run(path, {"run.steps": 6, "stage.2.run.steps": 8})
    assert_same("run.h5", "whole.h5")


def test_an_extension_that_is_killed_at_once_is_not_forgotten(deck):
    path = deck(DECK.replace("steps = 26", "steps = 7"))
    spinmd_run(path)
    stop_at(spinmd.resume("run.h5", steps=5), 8, kill=True)
    with spinmd.resume("run.h5") as simulation:
        assert simulation.run()["steps"] == 12


@pytest.mark.parametrize("steps", [0, -1, 2.5, True])
def test_wrong_numbers_of_steps(steps):
    with pytest.raises(spinmd.InputError, match="--steps: expected a whole number"):
        spinmd.resume("run.h5", steps=steps)
