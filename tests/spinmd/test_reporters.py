"""The thermo table, the reporters that write, the progress bar and the summary, on a made-up run with known numbers."""

import io
import json
import math

import numpy as np
import pytest

from spinmd.h5md import TrajectoryWriter, read_checkpoint, read_thermo
from spinmd.output import OutputParameters
from spinmd.protocols import Aux, Evaluation, Frame, Need
from spinmd.reporters import (
    COLUMNS,
    FILE_COLUMNS,
    CheckpointReporter,
    ProgressReporter,
    ThermoReporter,
    TrajectoryReporter,
    screen_interval,
    summary,
    summary_text,
    write_summary,
)
from spinmd.state import State

NATOMS = 4
VIRIAL = np.array([[3.0, 0.4, 0.0], [0.1, 5.0, 0.0], [0.0, 0.0, 1.0]])


class Term:
    def __init__(self, provides=Need.ALL):
        self.provides = provides


class Model:
    """Two lattice terms and one of the spins, whose energies depend on the step; it counts what it is asked."""

    def __init__(self, state, provides=Need.ALL):
        self.state = state
        self.terms = [Term(), Term(), Term(provides)]
        self.magnetic_terms = np.array([False, True, False])
        self.rebuilds = 3
        self.asked = []

    def evaluate(self, need):
        self.asked.append(need)
        step = self.state.clock.step
        energies = np.array([-10.0 - step, -2.0 + 0.5 * step, -0.25])
        zeros = np.zeros((NATOMS, 3))
        return Evaluation(("eam", "exchange", "morse"), energies, zeros, zeros, VIRIAL)

    def spin_temperature(self, fixed=None):
        return 77.0


class Integrator:
    def conserved(self, state, aux, evaluation):
        return state.kinetic_energy() + evaluation.energy + float(aux.globals["heat"])

    def degrees_of_freedom(self, state, aux=None):
        return 3 * state.natoms


def make_state():
    rng = np.random.default_rng(2)
    spins = [[0, 0, 2.0], [0.6, 0, 0.8], [0, 0, 0], [0, 1.0, 0]]
    cell = np.diag([3.0, 4.0, 5.0])
    return State.create(
        cell,
        rng.normal(size=(NATOMS, 3)),
        ["Fe"] * 4,
        [55.845] * 4,
        velocities=rng.normal(size=(NATOMS, 3)),
        spins=spins,
    )


def frame_at(step, reason="step", stage="", state=None, model=None, integrator=None):
    state = make_state() if state is None else state
    state.clock.step, state.clock.time = step, 0.002 * step
    return Frame(
        state, Aux({}, {"heat": np.array(0.5)}), model or Model(state), integrator or Integrator(), reason, stage
    )


def test_columns_hold_what_the_design_lists():
    thermo = ThermoReporter(1, screen_every=0)
    frame = frame_at(10)
    thermo.report(frame)
    row = {name: values[0] for name, values in thermo.table().items()}
    velocities = frame.state.velocities
    # ½ m v² in SI and back, with constants written here: amu, Å/ps, eV
    kinetic = 0.5 * 55.845 * 1.66053906892e-27 * (velocities**2).sum() * 1e4 / 1.602176634e-19
    assert row["step"] == 10 and row["time"] == pytest.approx(0.02)
    assert row["kinetic_energy"] == pytest.approx(kinetic, rel=1e-9)
    assert row["lattice_temperature"] == pytest.approx(2 * kinetic / (12 * 8.617333262e-5), rel=1e-9)
    assert row["spin_temperature"] == 77.0
    assert row["lattice_potential_energy"] == pytest.approx(-20.25)
    assert row["spin_energy"] == pytest.approx(3.0)
    assert row["total_energy"] == pytest.approx(kinetic - 17.25)
    assert row["conserved"] == pytest.approx(kinetic - 17.25 + 0.5)
    mean = np.array([0.6, 1.0, 2.8]) / 3  # per magnetic atom
    assert [row[f"magnetisation_{x}"] for x in "xyz"] == pytest.approx(mean)
    assert row["magnetisation"] == pytest.approx(np.sqrt(mean @ mean))
    # eV/Å³ in GPa: 1.602176634e-19 J / 1e-30 m³
    assert row["pressure"] == pytest.approx((2 * kinetic + 9.0) / (3 * 60.0) * 160.2176634, rel=1e-9)
    assert len({column.name for column in COLUMNS}) == len(COLUMNS) == 14
    assert dict(FILE_COLUMNS)["pressure"] == "GPa" and dict(FILE_COLUMNS)["magnetisation"] == "muB"
    assert Need.VIRIAL in thermo.needs and frame.model.asked[0] == Need.ENERGY | Need.FIELD | Need.VIRIAL


def test_what_is_not_defined_is_nan_and_a_dash_on_the_screen():
    """A term without virial, a mover that conserves nothing, a frozen lattice."""

    class Frozen:
        def degrees_of_freedom(self, state, aux=None):
            return 0

    stream = io.StringIO()
    thermo = ThermoReporter(1, stream=stream)
    state = make_state()
    frame = frame_at(0, state=state, model=Model(state, Need.ENERGY | Need.FORCE), integrator=Frozen())
    thermo.report(frame)
    table = thermo.table()
    for name in ("pressure", "conserved", "lattice_temperature"):
        assert math.isnan(table[name][0])
    assert Need.VIRIAL not in frame.model.asked[0]
    assert stream.getvalue().splitlines()[-1].split().count("-") == 3


def test_screen_has_headings_units_few_rows_and_the_last_one():
    stream = io.StringIO()
    thermo = ThermoReporter(10, screen_every=screen_interval(1000, 10, 25), stream=stream)
    for step in range(0, 1000, 10):
        thermo.report(frame_at(step))
    thermo.report(frame_at(1000, "end"))
    thermo.close()
    lines = stream.getvalue().splitlines()
    assert lines[0].split()[:2] == ["step", "time"] and "pressure" in lines[0]
    assert lines[1].split() == ["ps", "K", "K", *["eV"] * 5, *["µB"] * 4, "GPa"]
    assert [int(line.split()[0]) for line in lines[2:]] == [*range(0, 1000, 40), 1000]
    assert len({len(line) for line in lines if line.strip()}) == 1  # columns stand under their headings
    assert thermo.rows == 101


@pytest.mark.parametrize(
    ("steps", "thermo", "expected"), [(1000, 10, 4), (100, 10, 1), (5, 0, 1), (0, 10, 1), (1001, 1, 41)]
)
def test_screen_interval(steps, thermo, expected):
    assert screen_interval(steps, thermo, 25) == expected


def test_no_row_twice_none_for_a_diverged_state_and_none_between_intervals_on_a_signal():
    thermo = ThermoReporter(10, screen_every=0)
    thermo.report(frame_at(0))
    thermo.report(frame_at(10, "step", "one"))
    thermo.report(frame_at(10, "stage", "one"))
    thermo.report(frame_at(13, "signal", "two"))
    thermo.report(frame_at(20, "signal", "two"))
    thermo.report(frame_at(25, "stage", "two"))
    thermo.report(frame_at(27, "diverged", "two"))
    assert thermo.table()["step"].tolist() == [0, 10, 20, 25]
    assert thermo.last_stage()["step"].tolist() == [20, 25]


def run_reporters(path, steps=50, last="end", **output):
    parameters = OutputParameters(file=path, **output)
    writer = TrajectoryWriter(parameters, FILE_COLUMNS)
    reporters = [
        ThermoReporter(parameters.thermo, writer=writer, screen_every=0),
        TrajectoryReporter(parameters.trajectory, writer),
        CheckpointReporter(parameters.checkpoint, writer, lambda frame: {"stage": 2}),
    ]
    state = make_state()
    for step in range(steps + 1):
        reason = "step" if step < steps else last
        frame = frame_at(step, reason, state=state)
        for reporter in reporters:
            if step == 0 or reason != "step" or (reporter.every and step % reporter.every == 0):
                reporter.report(frame)
        if step == 0:
            assert path.exists()  # from the first frame on
    for reporter in reporters:
        reporter.close()
    return reporters


@pytest.mark.parametrize(
    ("output", "frames", "rows"),
    [
        ({"thermo": 10, "trajectory": 20, "checkpoint": 30}, [0, 20, 40, 50], [0, 10, 20, 30, 40, 50]),
        ({"thermo": 0, "trajectory": 0, "checkpoint": 0}, [0, 50], [0, 50]),
    ],
    ids=["intervals", "first and last only"],
)
def test_reporters_write_the_file(tmp_path, output, frames, rows):
    import h5py

    path = tmp_path / "fe.h5"
    thermo = run_reporters(path, **output)[0]
    with h5py.File(path, "r") as file:
        assert file["particles/trajectory/spin/step"][:].tolist() == frames
    stored = read_thermo(path)
    assert stored["step"].tolist() == rows
    for name, values in thermo.table().items():  # file and Python agree, bit for bit
        np.testing.assert_array_equal(stored[name], values)
    assert set(stored) == {column.name for column in COLUMNS}
    meta = read_checkpoint(path)[3]
    assert meta["step"] == 50 and meta["extra"] == {"stage": 2} and meta["reason"] == "end"


@pytest.mark.parametrize(("last", "checkpoint", "frames"), [("signal", 47, [0, 20, 40]), ("diverged", 30, [0, 20, 40])])
def test_stopped_and_diverged_runs(tmp_path, last, checkpoint, frames):
    """A signal leaves a checkpoint of its step and evenly spaced rows; a divergence leaves the checkpoint before it."""
    import h5py

    path = tmp_path / "fe.h5"
    run_reporters(path, 47, last, thermo=10, trajectory=20, checkpoint=30)
    assert read_checkpoint(path)[3]["step"] == checkpoint
    assert read_thermo(path)["step"].tolist() == [0, 10, 20, 30, 40]
    with h5py.File(path, "r") as file:
        assert file["particles/trajectory/position/step"][:].tolist() == frames


def test_trajectory_asks_for_what_it_stores(tmp_path):
    parameters = OutputParameters(file=tmp_path / "fe.h5", quantities=["spins", "fields"])
    reporter = TrajectoryReporter(10, TrajectoryWriter(parameters, FILE_COLUMNS))
    assert reporter.needs == Need.FIELD


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_progress_shows_rate_time_left_and_cost_on_a_terminal_only(monkeypatch):
    def output_of(stream, **options):
        bar = ProgressReporter(2000, NATOMS, stream=stream, **options)
        assert bar.every == 2
        for step in range(0, 2001, 2):
            bar.report(frame_at(step, "step" if step < 2000 else "end", "measure"))
        bar.close()
        return stream.getvalue()

    monkeypatch.setenv("COLUMNS", "140")
    text = output_of(Terminal())
    assert (
        "steps/s" in text
        and "µs/atom-step" in text
        and "2000/2000" in text
        and "measure: 100%" in text
        and "<00:00" in text
    )
    assert output_of(Terminal(), quiet=True) == "" and output_of(io.StringIO()) == ""


def test_progress_of_a_resumed_run_counts_its_own_steps():
    stream = Terminal()
    bar = ProgressReporter(10, NATOMS, first_step=500, stream=stream)
    bar.report(frame_at(500))
    bar.report(frame_at(510, "end"))
    bar.close()
    assert "10/10" in stream.getvalue()


def test_summary_has_the_promised_keys_and_an_exact_drift(tmp_path):
    thermo = ThermoReporter(1, screen_every=0)
    for step in range(1501):
        thermo.report(frame_at(step))
    values = summary(
        thermo,
        atoms=NATOMS,
        steps=1500,
        device="cpu",
        threads=2,
        seconds_loop=3.0,
        list_rebuilds=3,
        output=tmp_path / "fe.h5",
    )
    # conserved: −0.5 eV per step of 0.002 ps over 4 atoms
    assert values["drift_mev_per_atom_per_ps"] == pytest.approx(-0.5 * 1000 / 0.002 / 4, rel=1e-9)
    assert values["drift_error"] < 1e-6
    assert values["us_per_atom_step"] == pytest.approx(500.0)
    assert values["energy_last"] - values["energy_first"] == pytest.approx(-750.0)
    assert set(values) == {
        "atoms", "steps", "device", "threads", "seconds_loop", "us_per_atom_step", "list_rebuilds", "energy_first",
        "energy_last", "drift_mev_per_atom_per_ps", "drift_error", "output", "device_name", "precision",
    }  # fmt: skip
    write_summary(values, tmp_path / "out.json")
    assert json.loads((tmp_path / "out.json").read_text()) == values
    text = summary_text(values)
    assert "500 µs per atom-step" in text and "-6.25e+04" in text and "2 threads" in text and "fe.h5" in text


def test_summary_of_nothing_is_json_too(tmp_path):
    values = summary(
        ThermoReporter(1),
        atoms=NATOMS,
        steps=0,
        device="cpu",
        threads=1,
        seconds_loop=0.0,
        list_rebuilds=0,
        output=None,
    )
    write_summary(values, tmp_path / "out.json")
    loaded = json.loads((tmp_path / "out.json").read_text())
    assert loaded["drift_error"] is None and loaded["energy_first"] is None and loaded["us_per_atom_step"] is None
    assert summary_text(values).startswith("0 steps of 4 atoms")


def test_drift_is_that_of_the_last_stage():
    thermo = ThermoReporter(1, screen_every=0)

    class Jumps(Integrator):
        def conserved(self, state, aux, evaluation):
            step = state.clock.step
            return 1000.0 if step <= 10 else 0.001 * step

    for step in range(31):
        thermo.report(frame_at(step, stage="" if step <= 10 else "measure", integrator=Jumps()))
    values = summary(thermo, atoms=1, steps=30, device="cpu", threads=1, seconds_loop=1.0, list_rebuilds=0, output=None)
    assert values["drift_mev_per_atom_per_ps"] == pytest.approx(1.0 / 0.002, rel=1e-9)
