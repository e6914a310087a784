"""The real engine and the real command line: killed, interrupted, resumed, and bitwise the run that was left alone."""

import os
import random
import shutil
import signal
import time

import h5py
import numpy as np
import pytest
from support.faults import KILL, TORN, Server, assert_same, build_shim, content

import spinmd
from spinmd.checkpoint import read_checkpoint
from spinmd.errors import InputError
from spinmd.protocols import Need

DECK = """
[structure]
prototype = "bcc"
element = "Fe"
lattice_constant = 2.8665
supercell = [3, 3, 3]
temperature = "600 K"
[structure.spins]
moments = { Fe = 2.2 }
texture = "random"
[[potential]]
kind = "morse"
parameters = { depth = 0.4174, alpha = 1.3885, r0 = 2.845, cutoff = 4.0 }
[[potential]]
kind = "exchange"
parameters = { form = "bethe-slater", a = 0.02726, b = 0.2171, d = 1.841, cutoff = 3.4, smoothing = 0.2 }
[integrator]
ensemble = "nve"
timestep = "1 fs"
[run]
steps = 60
[output]
file = "fe.h5"
thermo = 5
trajectory = 10
checkpoint = 25
"""
RUN = ["run", "fe.toml", "--quiet", "--threads", "1"]
RESUME = ["resume", "fe.h5", "--quiet", "--threads", "1"]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("warm")
    server = Server(build_shim(folder))
    (folder / "fe.toml").write_text(DECK)
    server.do("warm", folder / "fe.h5", arguments={"words": RUN})
    yield server
    server.close()


def command(server, folder, words, *more, **options):
    return server.do("command", folder / "fe.h5", *more, arguments={"words": words}, **options)


def fresh(folder, deck=DECK):
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (folder / "fe.toml").write_text(deck)


def whole(server, folder, *settings):
    """Content of the file of a run that nobody disturbs, its duration, and the number of its calls."""
    fresh(folder)
    answer = command(server, folder, [*RUN, *settings])
    assert answer["status"] == 0, server.complaints()
    return content(folder / "fe.h5"), answer["seconds"], answer["calls"]


def survivors(path, expected):
    """The step that a killed run can be resumed from, None before its first publication; what is there is right."""
    if not path.exists():
        return None
    with h5py.File(path, "r") as file:
        step = int(file["spinmd/checkpoint"].attrs["step"])
    assert_same(path, expected, steps=step)
    return step


def go_on(server, folder, expected, *settings):
    path = folder / "fe.h5"
    if not path.exists():
        answer = command(server, folder, [*RUN, *settings])
    elif (folder / ".fe.h5.parts").exists():
        answer = command(server, folder, RESUME)
    else:
        answer = {"status": 0}  # killed after the very last call
    assert answer["status"] == 0, server.complaints()
    assert_same(path, expected)
    assert sorted(p.name for p in folder.iterdir()) == ["fe.h5", "fe.toml"]


def random_moments(server, tmp_path, count, *settings):
    """Kill a run, and the run that goes on, at moments that nobody chose; steps at which it was killed."""
    expected, seconds, _ = whole(server, tmp_path / "whole", *settings)
    folder = tmp_path / "killed"
    clock = random.Random(4)
    fresh(folder)
    steps, words = [], [*RUN, *settings]
    while len(steps) < count:
        answer = command(server, folder, words, signals=[(clock.uniform(0.0, 1.02 * seconds), signal.SIGKILL)])
        if answer["status"] == 0:  # it was quicker
            assert_same(folder / "fe.h5", expected)
            fresh(folder)
            words = [*RUN, *settings]
            continue
        assert answer["status"] == -signal.SIGKILL
        steps.append(survivors(folder / "fe.h5", expected))
        if len(steps) % 2:  # every second time the resumed run is killed too
            words = [*RUN, *settings] if steps[-1] is None else RESUME
        else:
            go_on(server, folder, expected, *settings)
            fresh(folder)
            words = [*RUN, *settings]
    return steps


def test_killed_at_random_moments(server, tmp_path):
    random_moments(server, tmp_path, 10)


@pytest.mark.slow
def test_killed_at_200_random_moments_of_a_longer_run(server, tmp_path):
    steps = random_moments(server, tmp_path, 200, "--set", "run.steps=1200", "--set", "output.checkpoint=50")
    print("killed after", {str(step): steps.count(step) for step in dict.fromkeys(steps)})
    assert len({step for step in steps if step}) > 10


@pytest.mark.slow
def test_killed_at_every_call(server, tmp_path):
    expected, _, calls = whole(server, tmp_path / "whole")
    folder = tmp_path / "killed"
    for mode in (KILL, TORN):
        for number in range(1, calls + 1):
            fresh(folder)
            assert command(server, folder, RUN, mode, at=number)["status"] == -signal.SIGKILL
            survivors(folder / "fe.h5", expected)
            go_on(server, folder, expected)
    print("killed at", 2 * calls, "calls")


# ------------------------------------------------------------------------------------------------ signals


CHECKPOINTS = ["--set", "run.steps=120", "--set", "output.checkpoint=4"]  # most of the time one is being written
SLOW = """
import time
from spinmd.potentials.base import Term
from spinmd.protocols import OK

class Slow(Term):
    selects = ""
    default_name = "slow"

    def add(self, state, pairs, out, need):
        if state.clock.step >= 5:
            time.sleep(10.0)
        return OK
"""


@pytest.fixture(scope="module")
def many_checkpoints(server, tmp_path_factory):
    """Content of the undisturbed run with CHECKPOINTS."""
    return whole(server, tmp_path_factory.mktemp("many") / "whole", *CHECKPOINTS)[0]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_a_run_after_a_checkpoint(server, many_checkpoints, tmp_path, number, status):
    expected = many_checkpoints
    folder = tmp_path / "stopped"
    fresh(folder)
    path = folder / "fe.h5"
    answer = command(server, folder, [*RUN, *CHECKPOINTS], when=str(path), signals=[(0.1, number)])
    assert answer["status"] == status, server.complaints()
    said = server.complaints().splitlines()[-2:]
    assert "a second signal stops at once" in said[0] and f"spinmd resume {path}" in said[1]
    assert [p.name for p in folder.glob("*.h5")] == ["fe.h5"] and not (folder / ".fe.h5.parts").exists()
    step = survivors(path, expected)
    assert 0 < step < 120
    running = str(folder / ".fe.h5.parts/lock")
    assert command(server, folder, RESUME, when=running, signals=[(0.02, number)])["status"] in (status, 0)
    if survivors(path, expected) < 120:
        assert command(server, folder, RESUME)["status"] == 0
    assert_same(path, expected)


def test_a_second_signal_stops_at_once(server, many_checkpoints, tmp_path):
    """In the middle of a step that takes for ever, and while a checkpoint is being written."""
    folder = tmp_path / "slow"
    fresh(folder, DECK.replace("[integrator]", '[[potential]]\nkind = "slow_term:Slow"\n[integrator]'))
    (folder / "slow_term.py").write_text(SLOW)
    signals = [(0.4, signal.SIGTERM), (0.8, signal.SIGTERM)]
    answer = command(server, folder, RUN, when=str(folder / "fe.h5"), signals=signals)
    assert answer["status"] == -signal.SIGTERM and answer["seconds"] < 8.0
    with h5py.File(folder / "fe.h5", "r") as file:
        assert file["spinmd/checkpoint"].attrs["step"] == 0
    expected, folder = many_checkpoints, tmp_path / "stopped"
    fresh(folder)
    signals = [(0.1, signal.SIGINT), (0.101, signal.SIGINT)]
    answer = command(server, folder, [*RUN, *CHECKPOINTS], when=str(folder / "fe.h5"), signals=signals)
    assert answer["status"] in (-signal.SIGINT, 130)  # 130 where the run was quicker
    survivors(folder / "fe.h5", expected)
    assert command(server, folder, RESUME)["status"] == 0
    assert_same(folder / "fe.h5", expected)


class Interrupting:
    """A reporter that presses Ctrl-C, once, or twice."""

    needs = Need.NONE
    every = 7

    def __init__(self, times):
        self.times = times

    def report(self, frame):
        if frame.step == 7 and frame.reason == "step":
            for _ in range(self.times):
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(0.01)

    def close(self):
        pass


@pytest.fixture
def ctrl_c_interrupts():
    """As at a terminal: a shell lets what it starts in the background ignore Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_in_a_script_stops_between_two_steps(tmp_path, ctrl_c_interrupts):
    fresh(tmp_path / "a")
    settings = ["run.steps=20"]
    with spinmd.build(tmp_path / "a/fe.toml", [*settings, "output.file=whole.h5"]) as simulation:
        simulation.run()
    with spinmd.build(tmp_path / "a/fe.toml", settings) as simulation:
        with pytest.raises(KeyboardInterrupt):
            simulation.run(reporters=[Interrupting(1)])
        assert simulation.state.clock.step == 7
        assert read_checkpoint(tmp_path / "a/fe.h5")[3]["step"] == 7
        simulation.run()  # it can go on
    ends = [read_checkpoint(tmp_path / "a" / name)[0] for name in ("whole.h5", "fe.h5")]
    assert ends[0].clock.step == ends[1].clock.step == 20
    np.testing.assert_array_equal(ends[0].velocities, ends[1].velocities)
    with spinmd.build(tmp_path / "a/fe.toml", settings, force=True) as simulation:
        with pytest.raises(KeyboardInterrupt):
            simulation.run(reporters=[Interrupting(2)])
        with pytest.raises(InputError, match="build another one from the deck, or resume it"):
            simulation.run()
    assert read_checkpoint(tmp_path / "a/fe.h5")[3]["step"] == 0
