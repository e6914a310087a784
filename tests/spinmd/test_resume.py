"""Runs that go on from their file: bitwise what they would have been, wherever they were stopped."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from support.deepspin_models import make_random_model
from support.interrupted import assert_same, contents, run_with_stops, same_bits, stop_at

import spinmd
from spinmd import building, neighbors, segments
from spinmd.checkpoint import read_checkpoint
from spinmd.cli import main
from spinmd.h5md import read_thermo
from spinmd.integrators.splitting import build_integrator
from spinmd.model import Model
from spinmd.potentials.deepspin.model_file import write_model
from spinmd.potentials.deepspin.potential import DeepSpin
from spinmd.protocols import OK, Need
from spinmd.state import State

# hot, sheared and with a thin skin: lists are rebuilt and atoms cross the boundary while it runs
DECK = """\
[structure]
prototype = "bcc"
element = "Fe"
lattice_constant = 2.8665
supercell = [4, 4, 4]
displacement = 0.05
temperature = 2000
strain = [[0.01, 0.05, 0.0], [0.0, 0.0, 0.03], [0.02, 0.0, -0.01]]

[structure.spins]
moments = { Fe = 2.2 }
texture = "random"

[neighbours]
skin = 0.1

[[potential]]
kind = "eam"
parameters = { file = "Fe_mm.eam.fs" }

[[potential]]
kind = "exchange"
parameters = { form = "bethe-slater", a = 0.02726, b = 0.2171, d = 1.841, cutoff = 3.4 }

[integrator]
timestep = "1 fs"

[run]
steps = 26

[output]
file = "run.h5"
thermo = 3
trajectory = 4
checkpoint = 7
quantities = ["positions", "velocities", "spins", "forces", "fields"]
"""
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


def whole_run(deck, overrides=(), name="whole.h5"):
    with spinmd.build(deck, {**dict(overrides), "output.file": name}) as simulation:
        return simulation.run()


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


# ------------------------------------------------------------------------------------------------ files


def test_a_run_that_was_moved_goes_on_where_it_is(deck, folder, tmp_path):
    """File, hidden folder, deck and potential, all to another place; and the run's file alone with its folder."""
    whole_run(deck(), {"run.steps": 12})
    stop_at(spinmd.build(folder / "deck.toml", {"run.steps": 12}), 9, kill=True)
    shutil.copytree(folder, tmp_path / "alone")
    (tmp_path / "alone" / "Fe_mm.eam.fs").unlink()
    with spinmd.resume(tmp_path / "alone" / "run.h5") as simulation:
        simulation.run()
    assert_same(tmp_path / "alone" / "run.h5", "whole.h5")
    target = tmp_path / "elsewhere"
    folder.rename(target)
    with spinmd.resume(target / "run.h5") as simulation:
        simulation.run()
    assert_same(target / "run.h5", target / "whole.h5")
    assert read_checkpoint(target / "run.h5")[3]["extra"]["folder"] == str(target)


def test_files_that_have_changed_or_gone(deck, folder):
    stop_at(spinmd.build(deck(), {"run.steps": 12}), 9)
    before = Path("run.h5").read_bytes()
    potential = folder / "Fe_mm.eam.fs"
    lines = potential.read_text().splitlines()
    potential.write_text("\n".join(["another comment", *lines[1:]]) + "\n")
    with pytest.raises(spinmd.InputError, match=r"Fe_mm.eam.fs has changed since the run began; .* --force"):
        spinmd.resume("run.h5")
    with spinmd.resume("run.h5", force=True, steps=1) as simulation:
        simulation.run()
    Path("run.h5").write_bytes(before)
    (folder / "kept").mkdir()
    potential.write_text("\n".join(lines) + "\n")
    potential.rename(folder / "kept" / potential.name)
    with pytest.raises(spinmd.InputError, match=r"Fe_mm.eam.fs is gone, which the run reads; .* --folder"):
        spinmd.resume("run.h5")
    assert Path("run.h5").read_bytes() == before and not (folder / ".run.h5.parts").exists()
    with spinmd.resume("run.h5", folder="kept") as simulation:
        assert simulation.run()["steps"] == 12


def test_the_structure_is_not_read_again_and_a_plug_in_is_watched(folder, deck):
    (folder / "pull_apart.py").write_text(PLUG_IN)
    spinmd.build(deck(), output=False)  # to have a structure in a file
    with spinmd.build(deck(), {"run.steps": 0}) as simulation:
        simulation.run()
    shutil.move("run.h5", "start.h5")
    text = (
        "[structure]\nfile = 'start.h5'\n[[potential]]\nkind = 'pull_apart:Pull'\n" + DECK[DECK.index("[integrator]") :]
    )
    whole_run(deck(text), {"run.steps": 9})
    stop_at(spinmd.build(folder / "deck.toml", {"run.steps": 9}), 4)
    (folder / "start.h5").unlink()
    with spinmd.resume("run.h5") as simulation:
        simulation.run()
    assert_same("run.h5", "whole.h5")
    (folder / "pull_apart.py").write_text(PLUG_IN + "# changed\n")
    with pytest.raises(spinmd.InputError, match=r"pull_apart.py has changed"):
        spinmd.resume("run.h5", steps=1)


PLUG_IN = '''
from spinmd.parameters import Parameters
from spinmd.protocols import OK, Need


class Pull:
    """Every atom is pulled to its site."""

    Parameters, cutoff, provides, magnetic = Parameters, 0.0, Need.ENERGY | Need.FORCE, False

    def __init__(self, parameters, name="pull"):
        self.name = name

    def prepare(self, state, backend):
        pass

    def margin(self, state):
        return 0.0

    def add(self, state, pairs, out, need):
        away = state.unwrapped() - state.reference
        out.energy[0] += (away**2).sum()
        if Need.FORCE in need:
            out.forces -= 2.0 * away
        return OK

    def freeze(self, state, pairs):
        return None
'''


def refused(path, match):
    before = {p: p.read_bytes() for p in Path(path).parent.rglob("*") if p.is_file()}
    with pytest.raises(spinmd.InputError, match=match) as caught:
        spinmd.resume(path)
    assert str(path) in str(caught.value)
    assert {p: p.read_bytes() for p in Path(path).parent.rglob("*") if p.is_file()} == before


def test_what_cannot_be_resumed_is_refused_in_a_sentence_and_left_alone(deck, folder, tmp_path):
    stop_at(spinmd.build(deck(), {"run.steps": 9}), 4)
    good = (folder / "run.h5").read_bytes()
    path = tmp_path / "bad" / "run.h5"
    path.parent.mkdir()

    def edited(change):
        path.write_bytes(good)
        with h5py.File(path, "r+") as file:
            change(file["spinmd/checkpoint"])
        return path

    def meta(group, **changes):
        text = json.loads(group["meta"].asstr()[()])
        text["extra"] |= changes
        del group["meta"]
        group["meta"] = json.dumps(text)

    refused(edited(lambda group: group.attrs.modify("checkpoint_version", 3)), "version 3, written by a newer spinmd")
    refused(edited(lambda group: group.attrs.modify("checkpoint_version", 1)), "start a new one from it with")
    refused(edited(lambda group: group["state"].pop("spins")), "the checkpoint is damaged and cannot be read")
    refused(edited(lambda group: meta(group, steps_left=[1, 2])), "does not fit its own deck")
    refused(edited(lambda group: meta(group, stage=1)), "does not fit its own deck")
    refused(edited(lambda group: group.parent.pop("checkpoint")), "holds no checkpoint")
    refused(edited(lambda group: group.parent.pop("thermo/pressure")), "has no column pressure")
    path.write_bytes(good[: len(good) // 2])
    refused(path, "is not an HDF5 file, or is damaged")
    with h5py.File(path, "w") as file:
        file["x"] = 1
    refused(path, "is not a file that spinmd wrote")
    path.unlink()
    refused(path, "there is no such file")


def test_the_integrator_of_the_checkpoint_must_be_the_one_of_the_deck(deck, folder):
    stop_at(spinmd.build(deck(), {"run.steps": 9}), 4)
    with h5py.File("run.h5", "r+") as file:
        group = file["spinmd/checkpoint/aux/per_atom"]
        group.move("midpoint_field_0_1", "other")
    with pytest.raises(spinmd.InputError, match="does not hold the integrator's midpoint_field_0_1"):
        spinmd.resume("run.h5")


def test_two_that_go_on_with_one_run(deck):
    """The second finds out when it begins to write; a running one is refused at once."""
    stop_at(spinmd.build(deck(), {"run.steps": 12}), 4)
    first, second = spinmd.resume("run.h5", steps=2), spinmd.resume("run.h5", steps=3)
    first.run()
    with pytest.raises(spinmd.InputError, match="another run is writing"):
        spinmd.resume("run.h5")
    first.close()
    with pytest.raises(spinmd.InputError, match="another run has gone on from step 4 in the meantime, to step 6"):
        second.run()
    second.close()
    assert read_checkpoint("run.h5")[3]["step"] == 6


def test_a_renamed_file_of_an_unfinished_run(deck):
    stop_at(spinmd.build(deck(), {"run.steps": 12}), 9, kill=True)
    Path("run.h5").rename("other.h5")
    with pytest.raises(spinmd.InputError, match=r"was run.h5 when the run stopped"):
        spinmd.resume("other.h5")
    Path("other.h5").rename("run.h5")
    with spinmd.resume("run.h5") as simulation:
        simulation.run()
    Path("run.h5").rename("other.h5")  # it is whole now
    with spinmd.resume("other.h5", steps=1) as simulation:
        assert simulation.run()["output"].endswith("other.h5")


def test_the_python_interface_of_a_resumed_simulation(deck):
    stop_at(spinmd.build(deck(), {"run.steps": 12}), 4)
    with spinmd.resume("run.h5", threads=1) as simulation:
        assert simulation.thermo == {} and simulation.state.clock.step == 4 and simulation.stage == ""
        energy = simulation.evaluate(Need.ENERGY).energy
        simulation.run(2)
        assert list(simulation.thermo["step"]) == [0, 3, 6] and simulation.summary["steps"] == 6
        simulation.run()
        assert simulation.state.clock.step == 12
    assert same_bits(read_thermo("run.h5")["step"], simulation.thermo["step"])
    assert energy == pytest.approx(simulation.evaluate(Need.ENERGY).energy, rel=1e-2)


# ------------------------------------------------------------------------------------------------ the command


def test_the_command(deck, capsys):
    """Goes on, says from where, writes a summary of the whole run, and refuses in one sentence."""
    stop_at(spinmd.build(deck(), {"run.steps": 12}), 4)
    assert main(["resume", "run.h5", "--summary", "run.h5"]) == 2
    assert "choose another name" in capsys.readouterr().err
    assert main(["resume", "run.h5", "--steps", "3", "--quiet"]) == 0
    assert capsys.readouterr().out == ""
    assert main(["resume", "run.h5", "--summary", "summary.json", "--threads", "1", "--device", "cpu"]) == 0
    out = capsys.readouterr().out
    assert "going on from step 7, 0.007 ps" in out and "12 steps of 128 atoms" in out
    assert json.loads(Path("summary.json").read_text())["steps"] == 12
    assert list(read_thermo("run.h5")["step"]) == [0, 3, 6, 9, 12]
    for arguments, code, words in (
        ([], 2, "the run is finished: all its 12 steps have been done; say how many further ones"),
        (["--steps", "0"], 2, "--steps: expected a whole number"),
        (["--device", "cuda"], 2, "--device cuda"),
        (["--threads", "100000"], 2, "--threads: 100000 threads asked for"),
        (["--steps", "1", "--folder", "nowhere"], 2, "Fe_mm.eam.fs"),
    ):
        assert main(["resume", "run.h5", *arguments]) == code, arguments
        error = capsys.readouterr().err
        assert words in error and error.count("\n") == 1, error


def test_a_signal_stops_a_resumed_run_after_a_checkpoint(deck, folder, root):
    stop_at(spinmd.build(deck(), {"run.steps": 12}), 4)
    environment = {**os.environ, "PYTHONPATH": str(root)}
    command = [sys.executable, "-m", "spinmd", "resume", "run.h5", "--steps", "1000000", "--quiet"]
    process = subprocess.Popen(command, env=environment, text=True, stderr=subprocess.PIPE)
    limit = time.monotonic() + 120.0
    while time.monotonic() < limit and process.poll() is None:
        if read_checkpoint("run.h5")[3]["step"] > 20:  # its loop runs, and has written
            process.send_signal(signal.SIGTERM)
            break
        time.sleep(0.05)
    error = process.communicate(timeout=120)[1]
    assert process.returncode == 143 and "stopped by SIGTERM after step" in error, error
    assert f"go on with spinmd resume {folder / 'run.h5'}" in error
    state, *_, meta = read_checkpoint("run.h5")
    assert meta["reason"] == "signal" and not (folder / ".run.h5.parts").exists()
    steps = read_thermo("run.h5")["step"]
    np.testing.assert_array_equal(steps, np.arange(0, state.clock.step + 1, 3))
