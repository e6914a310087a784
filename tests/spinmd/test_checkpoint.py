"""Checkpoints: bitwise states, resumed runs, and what is left of runs that were killed at any moment."""

import os
import runpy
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest

from spinmd import segments
from spinmd.checkpoint import read_checkpoint
from spinmd.errors import InputError
from spinmd.h5md import TrajectoryWriter, read_thermo
from spinmd.output import check_output, parts_folder
from spinmd.state import State

run = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("analytic_run.py"))))


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch):
    """No waiting for the disk: a killed process loses nothing that it wrote. test_h5md.py checks the calls."""
    monkeypatch.setattr(segments.os, "fsync", lambda descriptor: None)


# ------------------------------------------------------------------------------------------------ checkpoint


@pytest.mark.parametrize("close", [True, False], ids=["finished", "going on"])
def test_checkpoint_is_bitwise_the_state(tmp_path, close):
    path = tmp_path / "fe.h5"
    writer = run.write_run(path, close=close)
    state, aux, history, meta = read_checkpoint(path)
    expected = run.frame_of(run.make_state(), 100)
    for name in ("cell", "pbc", *State.PER_ATOM):
        value, reference = getattr(state, name), getattr(expected.state, name)
        assert value.dtype == reference.dtype and value.flags.c_contiguous
        np.testing.assert_array_equal(value, reference)
    assert state.symbols == ("Fe", "O") and (state.clock.step, state.clock.time) == (100, 0.001 * 100)
    for mine, theirs in ((aux.per_atom, expected.aux.per_atom), (aux.globals, expected.aux.globals)):
        assert mine.keys() == theirs.keys()
        for name in mine:
            assert mine[name].dtype == theirs[name].dtype and mine[name].shape == theirs[name].shape
            np.testing.assert_array_equal(mine[name], theirs[name])
    np.testing.assert_array_equal(history["positions"], expected.state.positions + 1.0)
    assert history["builds"] == 7
    assert meta["stage"] == "stage one" and meta["extra"] == {"seed": 4} and meta["deck"] == 'title = "a µ"\n'
    assert meta["step"] == 100 and meta["natoms"] == run.NATOMS and meta["settings"] == {"run": {"steps": 100}}
    writer.close()


@pytest.mark.parametrize("first_close", [True, False], ids=["finished", "killed"])
def test_resumed_file_is_the_file_of_one_run(tmp_path, first_close):
    """The first part writes rows after its last checkpoint; they are dropped and written again."""
    path = tmp_path / "fe.h5"
    state = run.make_state()
    first = run.write_run(path, range(0, 41, 5), state=state, close=False)
    for step in (45, 50, 55):
        frame = run.frame_of(state, step)
        frame.state.spins[:] = 99.0
        first.append_thermo(frame, {"step": step, "time": frame.time, "energy": 99.0})
        first.append_frame(frame)
    if first_close:
        first.close()
    else:
        first._lock.release()  # what the end of a process does
        first._file = None
    state, _, _, meta = read_checkpoint(path)
    assert meta["step"] == 40
    run.write_run(path, range(meta["step"], 101, 5), state=state, resume=True)
    run.assert_content(path, 100)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["fe.h5"]
    run.write_run(path, range(100, 151, 5), state=read_checkpoint(path)[0], resume=True, checkpoint=10)
    run.assert_content(path, 150)


def test_resuming_with_other_quantities_or_without_checkpoint_is_refused(tmp_path):
    path = tmp_path / "fe.h5"
    run.write_run(path)
    before = path.read_bytes()
    with pytest.raises(InputError, match="settings of the first run"):
        run.write_run(path, [105], resume=True, quantities=["positions", "forces"])
    with pytest.raises(InputError, match="settings of the first run"):
        run.write_run(path, [105], resume=True, precision="float32")
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["fe.h5"]
    bare = tmp_path / "bare.h5"
    run.write_run(bare, [5], checkpoint=1000)
    with pytest.raises(InputError, match="no checkpoint"):
        run.write_run(bare, [10], resume=True)
    with pytest.raises(InputError, match="no checkpoint"):
        read_checkpoint(bare)


def test_publish_after_divergence_keeps_the_checkpoint(tmp_path):
    path = tmp_path / "fe.h5"
    writer = run.write_run(path, range(0, 56, 5), close=False)
    writer.publish()
    run.assert_content(path, 55)
    writer.close()
    run.assert_content(path, 55)
    assert read_checkpoint(path)[3]["step"] == 40


# ------------------------------------------------------------------------------------------------ kills


KILL_STEPS = range(0, 51, 5)


def patch_kill_points(count_to: int | None, counter: list[int]) -> None:
    """Every call that touches the disk counts; the process dies, without any clean-up, before call ``count_to``."""

    def counted(function):
        def wrapper(*args, **kwargs):
            counter[0] += 1
            if counter[0] == count_to:
                os._exit(9)
            return function(*args, **kwargs)

        return wrapper

    for owner, names in (
        (os, ("replace", "fsync", "unlink", "link", "mkdir", "rmdir")),
        (h5py.Dataset, ("__setitem__", "resize")),
        (h5py.Group, ("create_dataset", "create_virtual_dataset", "copy", "__setitem__")),
        (h5py.File, ("close",)),
    ):
        for name in names:
            setattr(owner, name, counted(getattr(owner, name)))


def child_run(path: Path, log: Path, kill_at: int | None) -> int:
    """Run in a forked process; its exit status. Completed checkpoints are written to ``log``."""
    process = os.fork()
    if process:
        return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    code = 1
    try:
        counter = [0]
        state = run.make_state()
        writer = TrajectoryWriter(run.parameters_for(path), run.COLUMNS)
        patch_kill_points(kill_at, counter)
        for step in KILL_STEPS:
            frame = run.frame_of(state, step)
            writer.append_thermo(frame, {"step": step, "time": frame.time, "energy": -(float(step) ** 2)})
            if step % 10 == 0:
                writer.append_frame(frame)
            if step % 20 == 0:
                writer.checkpoint(frame)
                with open(log, "a") as stream:
                    stream.write(f"{step}\n")
        writer.close()
        with open(log, "a") as stream:
            stream.write(f"calls {counter[0]}\n")
        code = 0
    finally:
        os._exit(code)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_at_any_write_everything_up_to_the_last_checkpoint_is_there(tmp_path, monkeypatch):
    # compaction at every second checkpoint, so that it is killed too
    monkeypatch.setattr("spinmd.h5md.COMPACT_COUNT", 2)
    log = tmp_path / "log"
    whole = tmp_path / "whole"
    whole.mkdir()
    assert child_run(whole / "fe.h5", log, None) == 0
    run.assert_content(whole / "fe.h5", 50)
    calls = int(log.read_text().split()[-1])
    assert calls > 150
    resumed = 0
    for number, kill_at in enumerate(range(1, calls + 1, max(calls // 30, 1))):
        folder = tmp_path / f"kill-{kill_at}"
        folder.mkdir()
        path, log = folder / "fe.h5", tmp_path / f"log-{kill_at}"
        assert child_run(path, log, kill_at) == 9
        done = [int(line) for line in log.read_text().split()] if log.exists() else []
        if not path.exists():
            assert done == []
            continue
        step = read_checkpoint(path)[3]["step"]
        assert step in (0, 20, 40) and step >= max(done, default=0)
        last = int(read_thermo(path)["step"][-1])
        assert last == step or (step == 40 and last == 50)  # after the merge, before the parts are gone
        run.assert_content(path, last)
        with h5py.File(path, "r") as file:
            assert not np.isnan(file[f"{run.FRAMES}/spin/value"][:]).any()
        if number % 4 == 0:
            run.write_run(path, range(step, 71, 5), state=read_checkpoint(path)[0], resume=True)
            run.assert_content(path, 70)
            assert [p.name for p in folder.iterdir()] == ["fe.h5"]
            resumed += 1
        shutil.rmtree(folder)
    assert resumed > 5


def test_a_new_run_over_a_killed_one_replaces_it_only_at_its_first_checkpoint(tmp_path):
    path = tmp_path / "fe.h5"
    killed = run.write_run(path, range(0, 48, 5), close=False)
    killed._lock.release()
    state = run.make_state()
    writer = TrajectoryWriter(run.parameters_for(path), run.COLUMNS, force=True)
    frame = run.frame_of(state, 0)
    writer.append_thermo(frame, {"step": 0, "time": 0.0, "energy": 0.0})
    writer.append_frame(frame)
    run.assert_content(path, 40)
    writer.checkpoint(frame)
    run.assert_content(path, 0)
    assert len(list(parts_folder(path).glob("segment*.h5"))) == 1
    writer.close()
    run.assert_content(path, 0)


def test_a_signal_in_the_middle_leaves_a_readable_file(tmp_path):
    """SIGKILL of a real process, between checkpoints, read by another."""
    path = tmp_path / "fe.h5"
    process = os.fork() if hasattr(os, "fork") else pytest.skip("needs fork")
    if process == 0:
        try:
            run.write_run(path, range(0, 48, 5), close=False)
            os.kill(os.getpid(), signal.SIGKILL)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == -signal.SIGKILL
    run.assert_content(path, 40)
    check_output(run.parameters_for(path), resume=True)  # the lock has gone with the process
