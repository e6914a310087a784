"""Disks that refuse, files that are damaged, in use, or not ours: one sentence, and what was there stays as it was."""

import errno
import json
import os
import runpy
import shutil
from pathlib import Path
from types import SimpleNamespace

import h5py
import pytest
from support.faults import EVERYTHING, NO_ROOM, REFUSE, SYNCS, Server, assert_same, build_shim, content

from spinmd import segments
from spinmd.checkpoint import read_checkpoint
from spinmd.cli import main
from spinmd.errors import DiskError, InputError
from spinmd.h5md import TrajectoryWriter, read_thermo
from spinmd.output import check_output, parts_folder

run = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("analytic_run.py"))))
LAST = 40


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = Server(build_shim(tmp_path_factory.mktemp("shim")))
    yield server
    server.close()


@pytest.fixture(scope="module")
def example(server, tmp_path_factory):
    """Content of an undisturbed run, its calls, and its bytes."""
    folder = tmp_path_factory.mktemp("whole")
    log = folder.parent / "calls"
    assert server.do("start", folder / "fe.h5", arguments={"last": LAST}, log=str(log))["status"] == 0
    calls = [line.split()[1:] for line in log.read_text().splitlines()]
    return content(folder / "fe.h5"), calls, (folder / "fe.h5").read_bytes()


def tree(folder):
    """Every file below a folder and its bytes; the lock is not data."""
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != "lock"}


@pytest.mark.parametrize(
    ("number", "kinds", "words"),
    [
        (errno.ENOSPC, NO_ROOM, "the disk is full"),
        (errno.EIO, EVERYTHING, "Input/output error"),
        (errno.EIO, SYNCS, "Input/output error"),
        (errno.EROFS, EVERYTHING, "Read-only file system"),
    ],
    ids=["full", "broken", "broken at fsync", "read-only"],
)
def test_a_disk_that_refuses_from_some_moment_on(server, example, tmp_path, number, kinds, words):
    """At a few writes of each file, at each fsync and each rename; later on the disk is well again, and the run resumed."""
    expected, calls, _ = example
    seen = set()
    for at in range(1, len(calls) + 1, 53):
        path = tmp_path / str(at) / "fe.h5"
        path.parent.mkdir()
        end = at + 9 if at % 2 else -1  # a file system that recovers at once must not hide what was lost
        answer = server.do(
            "start", path, REFUSE, at=at, end=end, errno=number, kinds=kinds, arguments={"last": LAST}, exit="ordinary"
        )
        if answer["error"] is None:  # none of the calls that followed was of these kinds
            assert answer["status"] == 0 and end > 0 or kinds in (NO_ROOM, SYNCS)
            assert_same(path, expected)
            continue
        name, sentence, code = answer["error"]
        assert (name, code, answer["status"]) == ("DiskError", 3, 3) and words in sentence and "\n" not in sentence
        seen.add(sentence.split("; ")[1].split(" /")[0])
        if path.exists():
            step = read_checkpoint(path)[3]["step"]
            assert step >= max(answer["checkpoints"], default=0)
            assert_same(path, expected, steps=step)
        else:
            assert answer["checkpoints"] == []
        if kinds != EVERYTHING:
            assert not [*parts_folder(path).glob("*.tmp")]  # room is given back
        if at % 3 == 0:
            continue
        again = server.do("resume" if path.exists() else "start", path, arguments={"last": LAST})
        assert again["status"] == 0, again
        assert_same(path, expected)
    rescue = "everything up to the last checkpoint is safe: mend that, then go on with spinmd resume"
    assert seen == {"nothing was saved", rescue}
    assert "Traceback" not in server.complaints() and "HDF5" not in server.complaints()


def test_force_on_a_full_disk_leaves_the_old_file(server, example, tmp_path):
    path = tmp_path / "fe.h5"
    path.write_bytes(example[2])
    published = [
        number for number, (name, file) in enumerate(example[1], 1) if (name, file[-6:]) == ("rename", "/fe.h5")
    ]
    for at in (2, published[0] // 2, published[0] - 6):
        answer = server.do(
            "start", path, REFUSE, at=at, errno=errno.ENOSPC, kinds=NO_ROOM, arguments={"last": LAST, "force": True}
        )
        assert answer["status"] == 3 and "the disk is full; the earlier file is untouched" in answer["error"][1]
        assert path.read_bytes() == example[2]
    assert read_checkpoint(path)[3]["step"] == LAST


def test_a_copy_where_there_are_no_hard_links(server, example, tmp_path, monkeypatch):
    """A finished file that is resumed gets a second name, or a copy that is safe before the file refers to it."""
    path = tmp_path / "fe.h5"
    run.write_run(path, range(0, 41, 5))
    calls = []
    monkeypatch.setattr(segments.os, "link", lambda *names: (_ for _ in ()).throw(OSError(errno.EPERM, "no links")))
    original = segments.commit
    monkeypatch.setattr(segments, "commit", lambda old, new: (calls.append(new.name), original(old, new)))
    run.write_run(path, range(40, 61, 5), state=read_checkpoint(path)[0], resume=True)
    assert calls[0].startswith("segment-")
    run.assert_content(path, 60)


def test_an_interrupt_in_the_middle_of_writing_keeps_the_last_checkpoint(tmp_path, monkeypatch):
    """Ctrl-C in a script, at each third write of a checkpoint: no part of it counts, and nothing is written after it."""
    path = tmp_path / "fe.h5"
    pwrite, failed = os.pwrite, 0
    for at in range(1, 60, 5):
        state = run.make_state()
        writer = run.write_run(path, range(0, 21, 5), state=state, close=False, force=True)
        count = [0]

        def interrupted(*arguments, count=count, at=at):
            count[0] += 1
            if count[0] == at:
                raise KeyboardInterrupt
            return pwrite(*arguments)

        frame = run.frame_of(state, 30)
        writer.append_frame(frame)
        with monkeypatch.context() as patch:
            patch.setattr(segments.os, "pwrite", interrupted)
            try:
                writer.checkpoint(frame)
            except KeyboardInterrupt:
                failed += 1
                with pytest.raises(DiskError, match="cut short before; everything up to the last checkpoint is safe"):
                    writer.append_frame(run.frame_of(state, 40))
                writer.close()
                run.assert_content(path, 20)
                assert read_checkpoint(path)[3]["step"] == 20
                continue
        writer.close()
        break
    assert failed > 5


# ------------------------------------------------------------------------------------------------ in use, existing


def killed_run(path, last=33):
    """What a run leaves that is killed after ``last``: a file over segments, half a segment, no lock."""
    writer = run.write_run(path, range(0, last, 5), close=False)
    writer._flush("frames")
    writer._lock.release()


@pytest.mark.skipif(segments.fcntl is None, reason="needs file locks")
def test_a_file_in_use_is_noticed_under_any_name(tmp_path, monkeypatch):
    (tmp_path / "runs").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "runs")
    path = tmp_path / "runs/fe.h5"
    (tmp_path / "other.h5").symlink_to(path)
    writer = run.write_run(path, range(0, 21, 5), close=False)
    before = tree(tmp_path)
    monkeypatch.chdir(tmp_path / "runs")
    for name in (path, Path("fe.h5"), Path("../runs/fe.h5"), tmp_path / "link/fe.h5", tmp_path / "other.h5"):
        for options in ({"force": True}, {"resume": True}, {}):
            with pytest.raises(InputError, match="another run is writing"):
                check_output(run.parameters_for(name), **options)
    assert tree(tmp_path) == before
    writer.close()
    run.assert_content(tmp_path / "other.h5", 20)
    run.write_run(tmp_path / "other.h5", range(20, 41, 5), state=read_checkpoint(path)[0], resume=True)
    run.assert_content(path, 40)  # the link still is one
    assert (tmp_path / "other.h5").is_symlink()


@pytest.mark.skipif(segments.fcntl is None, reason="needs file locks")
def test_a_lock_whose_file_has_gone_is_none(tmp_path, monkeypatch):
    """A run that ends removes the folder of the lock; who opened it just before must not believe it has one."""
    first, second = segments.FolderLock(tmp_path), segments.FolderLock(tmp_path)
    assert first.acquire() and not second.acquire()
    flock = segments.fcntl.flock

    def ended_before(descriptor, operation):
        first.path.unlink()
        first.path.touch()  # a third one, which has not locked it yet
        first.release()
        flock(descriptor, operation)

    with monkeypatch.context() as patch:
        patch.setattr(segments.fcntl, "flock", ended_before)
        assert not second.acquire()
    assert second.acquire() and not first.acquire()


def test_an_unfinished_run_is_not_overwritten_without_force(tmp_path):
    path = tmp_path / "fe.h5"
    killed_run(path)
    before = tree(tmp_path)
    for make in (check_output, lambda parameters: TrajectoryWriter(parameters, run.COLUMNS)):
        with pytest.raises(InputError, match=rf"\(spinmd resume {path}\), replace it with --force"):
            make(run.parameters_for(path))
    path.rename(tmp_path / "away.h5")
    with pytest.raises(InputError, match="hidden folder .* put the file back and go on with it .* --force"):
        check_output(run.parameters_for(path))
    (tmp_path / "away.h5").rename(path)
    assert tree(tmp_path) == before
    run.write_run(path, range(20, 41, 5), state=read_checkpoint(path)[0], resume=True)
    run.assert_content(path, 40)
    with pytest.raises(InputError, match=r"spinmd resume .* --force"):
        check_output(run.parameters_for(path))
    foreign = tmp_path / "notes.h5"
    foreign.write_text("precious")
    with pytest.raises(InputError, match="exists already; choose another name, or overwrite it with --force"):
        check_output(run.parameters_for(foreign))


# ------------------------------------------------------------------------------------------------ damaged files


def truncate(path, fraction=0.6):
    os.truncate(path, int(fraction * path.stat().st_size))


def newer(path):
    with h5py.File(path, "r+") as file:
        name, group, _ = json.loads(file["spinmd"].attrs["checkpoint"])
        with h5py.File(path.parent / name, "r+") as piece:
            piece[group].attrs["checkpoint_version"] = 99
        file["spinmd"].attrs["checkpoint"] = json.dumps([name, group, (path.parent / name).stat().st_size])


def first_of(path, pattern):
    return sorted(parts_folder(path).glob(pattern))[0]


def last_of(path, pattern):
    return sorted(parts_folder(path).glob(pattern))[-1]


DAMAGES = {
    "truncated": (truncate, "not an HDF5 file, or is damaged"),
    "empty": (lambda path: os.truncate(path, 0), "not an HDF5 file, or is damaged"),
    "text": (lambda path: path.write_text("hello"), "not an HDF5 file, or is damaged"),
    "foreign": (lambda path: (path.unlink(), h5py.File(path, "w").close()), "not a file that spinmd wrote"),
    "segment truncated": (lambda path: truncate(first_of(path, "segment*.h5")), "segment.*damaged: it should have"),
    "segment gone": (lambda path: first_of(path, "segment*.h5").unlink(), "segment.*missing"),
    "checkpoint truncated": (lambda path: truncate(last_of(path, "checkpoint*")), "checkpoint.*damaged: it should"),
    "folder gone": (lambda path: shutil.rmtree(parts_folder(path)), "hidden folder"),
    "newer": (newer, "newer spinmd"),
    "a folder": (lambda path: (path.unlink(), path.mkdir()), "no such file|is a folder"),
    "gone": (lambda path: path.unlink(), "no such file"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_run_is_one_sentence_and_stays_as_it_is(tmp_path, capsys, damage):
    path = tmp_path / "fe.h5"
    killed_run(path)
    spoil, match = DAMAGES[damage]
    spoil(path)
    before = tree(tmp_path)
    assert main(["resume", str(path)]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "Traceback" not in said
    with pytest.raises(InputError, match=match):
        raise InputError(said)
    with pytest.raises(InputError, match=match):
        read_checkpoint(path)
    if damage != "newer":  # its rows are as they always were
        with pytest.raises(InputError, match=match):
            read_thermo(path)
    assert tree(tmp_path) == before
