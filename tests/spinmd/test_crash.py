"""A run is killed at each call that changes its files, resumed, and is bitwise the run that was left alone."""

import json
import shutil
import signal

import pytest
from support.faults import COUNT, KILL, TORN, Server, assert_same, build_shim, content

from spinmd.checkpoint import read_checkpoint

LAST = 40  # two checkpoint cycles of the analytic run: at 0, 20 and 40; then everything is merged
LATER = 60


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = Server(build_shim(tmp_path_factory.mktemp("shim")))
    yield server
    server.close()


def uninterrupted(server, folder, last):
    """Content of the file of a run that nobody disturbs, and the calls it makes."""
    folder.mkdir()
    log = folder.parent / f"log-{last}"
    answer = server.do("start", folder / "fe.h5", COUNT, arguments={"last": last}, log=str(log))
    assert answer["status"] == 0 and sorted(path.name for path in folder.iterdir()) == ["fe.h5"]
    return content(folder / "fe.h5"), [line.split()[1:] for line in log.read_text().splitlines()]


def moments(calls, every):
    """Numbers of the calls to die at: all, or those that change names, and a write in the middle of each file."""
    for number, (name, path) in enumerate(calls, 1):
        changes = name in ("rename", "link", "unlink", "mkdir", "rmdir")
        if (
            every
            or (changes and number % 2)
            or (name == "pwrite" and calls[number + 4 : number + 5] == [["fsync", path]])
        ):
            yield number


def inspect(path, answer, expected):
    """What anybody finds after a kill: everything up to the last checkpoint, or nothing before the first one."""
    assert answer["status"] == -signal.SIGKILL
    done = max(answer["checkpoints"], default=None)
    if not path.exists():
        assert done is None
        return None
    step = read_checkpoint(path)[3]["step"]
    assert step >= (0 if done is None else done)
    assert_same(path, expected, steps=step)
    return step


def go_on(server, path, step, last, expected):
    job = "start" if step is None else "resume"  # killed before anything was there, the deck simply runs again
    answer = server.do(job, path, arguments={"last": last})
    assert answer["status"] == 0, answer
    assert_same(path, expected)
    assert [path.name for path in path.parent.iterdir()] == ["fe.h5"]


def kill_everywhere(server, folder, origin, job, last, expected, mode, every):
    """Kill ``job`` at each of its calls; ``origin``: what the folder holds before. (kills, calls)."""
    shutil.copytree(origin, folder) if origin else folder.mkdir()
    path, log = folder / "fe.h5", folder.parent / "log"
    assert server.do(job, path, COUNT, arguments={"last": last}, log=str(log))["status"] == 0
    calls = [line.split()[1:] for line in log.read_text().splitlines()]
    count = 0
    for number in moments(calls, every):
        shutil.rmtree(folder)
        shutil.copytree(origin, folder) if origin else folder.mkdir()
        step = inspect(path, server.do(job, path, mode, at=number, arguments={"last": last}), expected)
        if every or count % 4 == 0:
            go_on(server, path, step, last, expected)
        count += 1
    return count, len(calls)


def everything(server, tmp_path, every, modes):
    expected, calls = uninterrupted(server, tmp_path / "one", LAST)
    longer, _ = uninterrupted(server, tmp_path / "two", LATER)
    counts = {}
    killed = tmp_path / "three/fe.h5"  # all of step 40 is there but its publication
    killed.parent.mkdir()
    published = [number for number, (name, file) in enumerate(calls, 1) if name == "rename" and file.endswith("fe.h5")]
    answer = server.do("start", killed, KILL, at=published[2], arguments={"last": LAST})
    assert answer["checkpoints"] == [0, 20]
    for mode in modes:
        name = {KILL: "before", TORN: "in the middle"}[mode]
        counts["run", name] = kill_everywhere(
            server, tmp_path / f"run-{mode}", None, "start", LAST, expected, mode, every
        )
        counts["resumed from segments", name] = kill_everywhere(
            server, tmp_path / f"killed-{mode}", killed.parent, "resume", LAST, expected, mode, every
        )
        counts["resumed from a finished file", name] = kill_everywhere(
            server, tmp_path / f"finished-{mode}", tmp_path / "one", "resume",
            LATER, longer, mode, every,
        )  # fmt: skip
    return counts


def test_killed_at_every_change_of_a_name_and_at_some_writes(server, tmp_path):
    counts = everything(server, tmp_path, False, [TORN])
    assert all(kills > 10 for kills, _ in counts.values())


@pytest.mark.slow
def test_killed_at_every_call(server, tmp_path):
    counts = everything(server, tmp_path, True, [KILL, TORN])
    print(json.dumps({" ".join(key): value for key, value in counts.items()}))
    assert all(kills == calls > 150 for kills, calls in counts.values())
