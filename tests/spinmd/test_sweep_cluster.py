"""spinmd sweep --scheduler: the points as tasks of a Dask cluster, one worker of which is killed on the way."""

import importlib.util
import os
import signal
import socket
import threading
import time
from pathlib import Path

import pytest

import spinmd
from spinmd.cli import main
from spinmd.errors import InputError
from spinmd.sweeping import cluster

specification = importlib.util.spec_from_file_location("sweep_decks", Path(__file__).with_name("test_sweep.py"))
decks = importlib.util.module_from_spec(specification)
specification.loader.exec_module(decks)


@pytest.fixture
def place(tmp_path) -> Path:
    (tmp_path / "deck.toml").write_text(decks.DECK)
    (tmp_path / "faulty_for_sweeps.py").write_text(decks.FAULTY)
    return tmp_path


def test_a_worker_dies_and_all_points_finish(place, capsys):
    distributed = pytest.importorskip("distributed")
    folder = place / "deck-sweep"
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0", silence_logs=50
    ) as workers:
        killed = []

        def kill_one():
            """A worker whose point has a checkpoint already."""
            decks.until(lambda: len(list(folder.glob("*=*.h5"))) == 2)
            with distributed.Client(workers.scheduler_address) as client:
                pid = next(pid for pid in client.run(os.getpid).values() if decks.children(pid))
                killed.extend(decks.children(pid))
                os.kill(pid, signal.SIGKILL)

        thread = threading.Thread(target=kill_one)
        thread.start()
        over = ["--over", f"{decks.ALPHA}=0.1,0.2", "--set", f"{decks.SECONDS}=0.2"]
        code = main(["sweep", str(place / "deck.toml"), *over, "--scheduler", workers.scheduler_address])
        thread.join()
    shown = capsys.readouterr()
    assert code == 0, shown.err
    assert len(killed) == 1
    assert shown.out.count(": finished, 80 steps") == 2
    result = spinmd.read_sweep(folder)
    assert result.finished and result.points["steps"].tolist() == [[80]] * 2
    for path in folder.glob("*=*.h5"):
        alpha = float(path.name.split("=")[1].split("_")[0])
        again = place / "again.h5"
        with spinmd.build(
            place / "deck.toml", {decks.ALPHA: alpha, "output.file": str(again)}, force=True
        ) as simulation:
            simulation.run()
        decks.same_run(path, again)


def test_nobody_listens(place, capsys, monkeypatch):
    pytest.importorskip("distributed")
    monkeypatch.setattr(cluster, "PATIENCE", 1.0)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    begin = time.monotonic()
    command = ["sweep", str(place / "deck.toml"), "--over", f"{decks.ALPHA}=0.1,0.2", "--scheduler", address]
    assert main(command) == 2
    error = capsys.readouterr().err
    assert f"--scheduler: no Dask scheduler answers at tcp://{address}" in error and error.count("\n") == 1
    assert time.monotonic() - begin < 10.0
    assert not (place / "deck-sweep").exists()


def test_without_the_package(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "distributed", None)
    with pytest.raises(InputError, match=r'pip install "spinmd\[cluster\]"') as caught:
        cluster.connect("tcp://127.0.0.1:1")
    assert caught.value.place == "--scheduler"


def test_addresses(tmp_path):
    file = tmp_path / "scheduler.json"
    file.write_text('{"address": "tcp://10.0.0.1:8786", "id": "x"}')
    read = cluster._address
    assert read(str(file)) == read("tcp://10.0.0.1:8786") == read("10.0.0.1:8786") == "tcp://10.0.0.1:8786"
    assert read("tls://head.cluster:8786") == "tls://head.cluster:8786"
    file.write_text("[]")
    for wrong, message in (
        (str(file), "is no scheduler file"),
        ("8786", "cannot read"),
        ("no-such-file.json", "cannot read"),
    ):
        with pytest.raises(InputError, match=message):
            read(wrong)
