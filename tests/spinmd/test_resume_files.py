"""Resuming and the files it needs: moved, changed, gone, damaged, in use; the command; signals."""

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
from support.interrupted import DECK, assert_same, same_bits, stop_at, whole_run

import spinmd
from spinmd import segments
from spinmd.checkpoint import read_checkpoint
from spinmd.cli import main
from spinmd.h5md import read_thermo
from spinmd.integrity import seal
from spinmd.protocols import Need


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
    with pytest.raises(
        spinmd.InputError, match=r"Fe_mm.eam.fs is not what the run read when it last went on; .* --force"
    ):
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
    with pytest.raises(spinmd.InputError, match=r"pull_apart.py is not what the run read when it last went on"):
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
            if "checkpoint" in file["spinmd"]:  # somebody who knows the checksum
                seal(file["spinmd/checkpoint"])
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
        seal(file["spinmd/checkpoint"])
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
    assert not list(Path.cwd().glob(".run.h5*"))  # a refusal keeps nothing: neither a lock nor a folder
    second.close()
    assert read_checkpoint("run.h5")[3]["step"] == 6
    with spinmd.resume("run.h5", steps=1) as third:
        third.run()
    assert read_checkpoint("run.h5")[3]["step"] == 7


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
        (["--device", "tpu"], 2, "--device: "),
        (["--threads", "100000"], 2, "--threads: 100000 threads asked for"),
        (["--steps", "1", "--folder", "nowhere"], 2, "--folder: there is no folder nowhere"),
        (["--steps", "1", "--folder", ".."], 2, "Fe_mm.eam.fs"),
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
