"""spinmd sweep: the grid, the folder, the table; going on, adding values, and points that fail."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import h5py
import numpy as np
import pytest

import spinmd
from spinmd.cli import main
from spinmd.drift import mean_and_error
from spinmd.errors import InputError
from spinmd.h5md import read_thermo
from spinmd.sweeping import driver
from spinmd.sweeping.plan import adopt, make_plan

# two atoms in a field: nothing to compile but the spin solver; the kind beside the deck fails as it is told
DECK = """\
[structure]
prototype = "bcc"
element = "Fe"
lattice_constant = 2.87

[structure.spins]
moments = { Fe = 2.2 }
texture = "random"

[[potential]]
kind = "zeeman"
parameters = { field = [0, 0, "100 T"] }

[[potential]]
kind = "faulty_for_sweeps:Faulty"

[integrator]
timestep = "1 fs"
lattice = "frozen"
spin_damping = 0.1

[run]
steps = 30
seed = 5

[output]
file = "run.h5"
thermo = 5
trajectory = 0
checkpoint = 10

[[stage]]
run = { steps = 50 }
"""
FAULTY = '''\
import os
import signal
import time

from spinmd.errors import DivergedError
from spinmd.parameters import Parameters
from spinmd.protocols import OK, Need, SpinTerm


class Faulty:
    """No energy; at the second thermo row it fails in the way that `how` says, and every row takes some seconds."""

    class Parameters(Parameters):
        how: str = "not"
        seconds: float = 0.0

    cutoff, provides, magnetic = 0.0, Need.ALL, True

    def __init__(self, parameters, name="faulty"):
        self.parameters, self.name, self.count = parameters, name, 0

    def prepare(self, state, backend):
        pass

    def margin(self, state):
        return 0.0

    def freeze(self, state, pairs):
        return SpinTerm()

    def add(self, state, pairs, out, need):
        self.count += 1
        time.sleep(self.parameters.seconds)
        if self.count < 3:
            return OK
        if self.parameters.how == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.parameters.how == "hangs":
            open(__file__ + ".hangs", "w").close()
            time.sleep(1000.0)
        if self.parameters.how == "error":
            raise RuntimeError("a bug in a plug-in")
        if self.parameters.how == "diverged":
            raise DivergedError("step 7: atom 0 went astray")
        return OK
'''
HOW = "potential.1.parameters.how"
SECONDS = "potential.1.parameters.seconds"
ALPHA = "integrator.spin_damping"


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with the deck and its plug-in."""
    folder = tmp_path_factory.mktemp("sweep")
    (folder / "deck.toml").write_text(DECK)
    (folder / "faulty_for_sweeps.py").write_text(FAULTY)
    return folder


@pytest.fixture(scope="module")
def swept(place) -> spinmd.sweeping.table.Sweep:
    """Two values, two seeds."""
    return driver.sweep(place / "deck.toml", {ALPHA: [0.1, 0.3]}, seeds=2, jobs=2)


def files(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("*=*.h5")}


def test_points_are_the_runs_of_their_decks(place, swept):
    folder = place / "deck-sweep"
    assert swept.path == folder / "sweep.h5" and swept.finished and not swept.failed
    assert swept.shape == (2,) and swept.points["seed"].tolist() == [[5, 6], [5, 6]]
    names = [f"spin_damping={a}_seed={s}.h5" for a in (0.1, 0.3) for s in (5, 6)]
    assert swept.points["file"].ravel().tolist() == names and sorted(files(folder)) == sorted(names)
    assert list((folder / ".sweep").glob("*.log")) == []
    tables = [read_thermo(folder / name) for name in names]
    assert len({table["magnetisation_z"][-1] for table in tables}) == 4
    with spinmd.build(place / "deck.toml", {ALPHA: 0.3, "run.seed": 6}, output=False) as simulation:
        simulation.run()
    for name, values in simulation.thermo.items():
        np.testing.assert_array_equal(tables[3][name], values, err_msg=name)


def test_table_holds_statistics_of_the_last_stage(swept):
    folder = swept.path.parent
    for index, name in np.ndenumerate(swept.points["file"]):
        thermo = read_thermo(folder / name)
        rows = thermo["step"] >= 30 + 0.2 * 50
        for column in ("spin_energy", "magnetisation_z"):
            values = thermo[column][rows]
            assert rows.sum() == 9
            found = {statistic: numbers[index] for statistic, numbers in swept.thermo[column].items()}
            assert found["mean"] == pytest.approx(values.mean(), rel=1e-12)
            assert found["standard_deviation"] == pytest.approx(values.std(ddof=1), rel=1e-12)
            assert found["standard_error"] == mean_and_error(values)[1] > 0.0
            assert found["final"] == values[-1]
    runs = swept.thermo["spin_energy"]["mean"]
    np.testing.assert_allclose(swept["spin_energy"], runs.mean(axis=1), rtol=1e-12)
    assert (swept.error["spin_energy"] >= runs.std(axis=1, ddof=1) / np.sqrt(2) * (1 - 1e-12)).all()
    assert swept["spin_damping"].tolist() == swept[ALPHA].tolist() == [0.1, 0.3]
    assert swept.units["spin_energy"] == "eV" and swept.points["steps"].tolist() == [[80, 80], [80, 80]]
    with pytest.raises(KeyError, match="neither a key of the sweep"):
        swept["nonsense"]


def test_every_dataset_has_a_unit_and_axes_have_labels(swept):
    with h5py.File(swept.path) as file:
        lacking = []
        file.visititems(
            lambda n, o: lacking.append(n) if isinstance(o, h5py.Dataset) and "unit" not in o.attrs else None
        )
        assert lacking == []
        assert [d.label for d in file["thermo/spin_energy/mean"].dims] == [ALPHA, "seed"]
        assert file[f"points/values/{ALPHA}"][()].tolist() == [[0.1, 0.1], [0.3, 0.3]]
        assert file["averages/seeds"][()].tolist() == [2, 2]
        assert json.loads(file["deck/settings"].asstr()[()])["run"] == {"steps": 30, "seed": 5}
        assert file["deck/text"].asstr()[()] == DECK


def test_finished_points_are_kept_and_values_are_added(place, swept, monkeypatch):
    started = []

    def instead(task, report):
        started.append(Path(task["file"]).name)
        return run_point(task, report)

    run_point = driver.point.run_point
    monkeypatch.setattr(driver.point, "run_point", instead)
    before = files(swept.path.parent)
    again = driver.sweep(place / "deck.toml", {ALPHA: [0.1, 0.3]}, seeds=2)
    assert started == [] and files(swept.path.parent) == before
    assert again.points["seconds"].tolist() == swept.points["seconds"].tolist()
    # one value more, and one seed: the grid is that of both commands together
    more = driver.sweep(place / "deck.toml", {ALPHA: [0.2, 0.1]}, seeds=1)
    assert started == ["spin_damping=0.2_seed=5.h5"]
    assert more[ALPHA].tolist() == [0.1, 0.3, 0.2] and more.shape == (3,)
    assert more.points["status"].tolist() == [["finished"] * 2, ["finished"] * 2, ["finished", "absent"]]
    assert np.isnan(more.thermo["spin_energy"]["mean"][2, 1]) and np.isfinite(more.mean["spin_energy"]).all()
    np.testing.assert_array_equal(more.mean["spin_energy"][:2], swept.mean["spin_energy"])
    assert {name: files(swept.path.parent)[name] for name in before} == before


def test_another_sweep_in_the_folder_is_refused(place, swept, capsys):
    before = {path: path.read_bytes() for path in swept.path.parent.iterdir() if path.is_file()}
    over = ["--over", f"{ALPHA}=0.1,0.3", "--quiet"]
    cases = [
        (
            [*over, "--set", "stage.0.run.steps=60"],
            "stage.0.run.steps (--set): stage.0.run.steps differs from what the",
        ),
        ([*over, "--set", "run.seed=6"], "run.seed differs"),
        ([*over, "--over", "run.steps=30,40"], f"holds a sweep over {ALPHA};"),
        (["--over", "run.steps=30", "--quiet"], f"holds a sweep over {ALPHA};"),
    ]
    for arguments, message in cases:
        assert main(["sweep", str(place / "deck.toml"), *arguments]) == 2
        error = capsys.readouterr().err
        assert message in error and "--force" in error and "-o" in error and error.count("\n") == 1
    assert {path: path.read_bytes() for path in swept.path.parent.iterdir() if path.is_file()} == before
    changed = make_plan(place / "deck.toml", {ALPHA: [0.3]}, {"integrator.g_factor": 2.1})
    with pytest.raises(InputError, match="integrator.g_factor differs"):
        adopt(changed, json.loads((swept.path.parent / "sweep.json").read_text()), swept.path.parent)


def test_wrong_input_writes_nothing(place, tmp_path, capsys):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").touch()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "sweep.json").write_text('{"spinmd_sweep": 1, "deck": {')
    (tmp_path / "newer").mkdir()
    (tmp_path / "newer" / "sweep.json").write_text('{"spinmd_sweep": 99}')
    good = ["--over", f"{ALPHA}=0.1,0.2", "-o", str(tmp_path / "new")]
    cases = [
        (["--over", "integrator.spin_dampin=1,2"], "integrator.spin_dampin (--over): unknown name; did you mean"),
        (["--over", f"{ALPHA}=0.1,-1,x"], f"{ALPHA} (--over): must be at least 0, got -1"),
        (["--over", "integrator.timestep=1 fs,1 mile"], "integrator.timestep (--over): 'mile' is not a unit of time"),
        (["--over", "potential.7.kind=eam"], "there is no entry '7'"),
        # this one is valid by itself and does not fit the rest: found by building it
        (["--over", "structure.spins.moments.Fe=2,0"], "(with structure.spins.moments.Fe = 0)"),
        (["--over", "output.file=a,b"], "a sweep names the files of its runs itself"),
        (["--over", "run.seed=1,2", "--seeds", "2"], "run.seed is varied by --over and by --seeds"),
        ([], "give what to vary"),
        (["--seeds", "0"], "--seeds: expected a whole number"),
        ([*good, "--set", f"{ALPHA}=0.3"], "is set by --set, too"),
        ([*good, "--jobs", "0"], "--jobs: expected a whole number"),
        ([*good, "--threads", "4096"], "--threads: 4096 threads asked for"),
        ([*good, "--discard", "1"], "--discard: expected a part of the run"),
        ([*good[:2], "-o", str(tmp_path / "full")], "holds no sweep"),
        ([*good[:2], "-o", str(tmp_path / "full" / "notes.txt")], "is a file, a folder is expected"),
        ([*good[:2], "-o", str(tmp_path / "no" / "folder")], "does not exist"),
        ([*good[:2], "-o", str(tmp_path / "broken")], "is damaged"),
        ([*good[:2], "-o", str(tmp_path / "newer")], "written by a newer spinmd"),
        ([*good, "--scheduler", "nonsense"], "--scheduler: cannot read 'nonsense'"),
    ]
    before = sorted(map(str, [*tmp_path.rglob("*"), *place.rglob("*")]))
    for arguments, message in cases:
        arguments = arguments if "-o" in arguments else [*arguments, "-o", str(tmp_path / "new")]
        assert main(["sweep", str(place / "deck.toml"), *arguments]) == 2, arguments
        error = capsys.readouterr().err
        assert message in error and "Traceback" not in error, error
        assert all(line.startswith("spinmd: error: ") for line in error.splitlines())
    assert sorted(map(str, [*tmp_path.rglob("*"), *place.rglob("*")])) == before


def test_failing_points_do_not_stop_the_others(place, tmp_path, capsys):
    folder = tmp_path / "failing"
    command = ["sweep", str(place / "deck.toml"), "--over", f"{HOW}=killed,error,diverged,not", "-o", str(folder)]
    assert main([*command, "--jobs", "2"]) == 3
    shown = capsys.readouterr()
    assert shown.err.startswith("spinmd: error: 3 of 4 points failed: how=killed_seed=5 (crashed: ended by SIGKILL")
    assert shown.err.count("\n") == 1 and "how=not_seed=5: finished, 80 steps" in shown.out
    result = spinmd.read_sweep(folder)
    assert result.points["status"].ravel().tolist() == ["crashed", "crashed", "diverged", "finished"]
    assert result.points["exit_code"].ravel().tolist() == [137, 1, 3, 0]
    messages = result.points["message"].ravel()
    assert "RuntimeError: a bug in a plug-in (see " in messages[1] and "step 7: atom 0 went astray" in messages[2]
    assert "Traceback" in (folder / ".sweep" / "how=error_seed=5.log").read_text()
    assert np.isnan(result.mean["spin_energy"]).tolist() == [True, True, True, False]
    assert result["how"].tolist() == ["killed", "error", "diverged", "not"]


def until(condition, seconds=60.0):
    """Wait until something is so."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited for too long"
        time.sleep(0.02)


def signal_when(condition, number):
    """Send this process a signal as soon as a condition holds."""

    def wait():
        until(condition)
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


def same_run(one: Path, other: Path) -> None:
    """Frames and thermo rows are equal bit for bit."""
    with h5py.File(one) as a, h5py.File(other) as b:
        for group in ("spinmd/thermo", "particles/trajectory/spin", "spinmd/checkpoint/state"):
            assert list(a[group]) == list(b[group]) != []
            for name in a[group]:
                np.testing.assert_array_equal(a[group][name][()], b[group][name][()], err_msg=f"{group}/{name}")


def test_an_interrupted_sweep_goes_on(place, swept, tmp_path, capsys, monkeypatch):
    folder, slow = tmp_path / "interrupted", f"{SECONDS}=0.1"
    command = [
        "sweep",
        str(place / "deck.toml"),
        "--over",
        f"{ALPHA}=0.1,0.3",
        "-o",
        str(folder),
        "--set",
        slow,
        "--jobs",
        "1",
    ]
    first, second = folder / "spin_damping=0.1_seed=5.h5", folder / "spin_damping=0.3_seed=5.h5"
    thread = signal_when(first.exists, signal.SIGINT)
    assert main(command) == 130
    thread.join()
    shown = capsys.readouterr()
    assert shown.err == f"spinmd: stopped by SIGINT; the same command goes on with {folder}\n"
    assert "spin_damping=0.1_seed=5: stopped" in shown.out
    result = spinmd.read_sweep(folder)
    assert result.points["status"].ravel().tolist() == ["stopped", "waiting"] and not result.finished
    reached = result.points["steps"][0, 0]
    assert 0 < reached < 80 and not second.exists()
    steps = []

    def instead(task, report):
        return run_point(task, lambda step: (steps.append(step), report(step)))

    run_point = driver.point.run_point
    monkeypatch.setattr(driver.point, "run_point", instead)
    assert main(command) == 0
    assert steps[0] == steps[1] == reached  # resumed, not run anew
    assert spinmd.read_sweep(folder).finished
    for path in (first, second):
        same_run(path, swept.path.parent / path.name)


def test_a_second_signal_stops_at_once(place, tmp_path):
    folder = tmp_path / "twice"
    command = [
        sys.executable,
        "-m",
        "spinmd",
        "sweep",
        str(place / "deck.toml"),
        "--over",
        f"{HOW}=hangs",
        "-o",
        str(folder),
    ]
    process = subprocess.Popen([*command, "--quiet"], stderr=subprocess.PIPE)
    try:
        until((place / "faulty_for_sweeps.py.hangs").exists)
        (child,) = children(process.pid)
        process.send_signal(signal.SIGTERM)
        time.sleep(1.0)
        assert running(child) and process.poll() is None  # both wait for a step that does not end
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=10) == -signal.SIGTERM
        until(lambda: not running(child), 5.0)
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


def children(pid: int) -> list[int]:
    """Processes that this one has started."""
    psutil = pytest.importorskip("psutil")
    return [child.pid for child in psutil.Process(pid).children()]


def running(pid: int) -> bool:
    psutil = pytest.importorskip("psutil")
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
