"""Output that cannot be written, files that cannot be read, and the [output] table."""

import errno
import runpy
import shutil
from pathlib import Path
from types import SimpleNamespace

import h5py
import pytest
from pydantic import ValidationError

from spinmd import output, segments
from spinmd.checkpoint import read_checkpoint
from spinmd.errors import DiskError, InputError, SpinmdError
from spinmd.h5md import TrajectoryWriter, read_deck, read_thermo
from spinmd.output import OutputParameters, check_output, check_stages

run = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("analytic_run.py"))))


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch):
    """No waiting for the disk: a killed process loses nothing that it wrote. test_h5md.py checks the calls."""
    monkeypatch.setattr(segments.os, "fsync", lambda descriptor: None)


# ------------------------------------------------------------------------------------------------ errors


def test_nothing_is_written_before_the_first_row(tmp_path):
    TrajectoryWriter(run.parameters_for(tmp_path / "fe.h5"), run.COLUMNS).close()
    assert list(tmp_path.iterdir()) == []


def test_output_that_cannot_be_written_is_refused(tmp_path, monkeypatch):
    def refused(path, match, **options):
        with pytest.raises(InputError, match=match) as caught:
            check_output(run.parameters_for(path), **options)
        assert caught.value.place == "output.file" and caught.value.exit_code == 2
        with pytest.raises(InputError, match=match):
            TrajectoryWriter(run.parameters_for(path), run.COLUMNS, **options)

    refused(tmp_path / "none" / "fe.h5", "does not exist")
    refused(tmp_path, "is a folder")
    refused(tmp_path / "fe.h5", "no file .* to resume", resume=True)
    (tmp_path / "old.h5").write_text("precious")
    refused(tmp_path / "old.h5", "--force")
    check_output(run.parameters_for(tmp_path / "old.h5"), force=True)
    check_output(run.parameters_for(tmp_path / "fe.h5"))
    monkeypatch.setattr(output.os, "access", lambda path, mode: False)
    refused(tmp_path / "fe.h5", "no permission")
    assert [p.name for p in tmp_path.iterdir()] == ["old.h5"] and (tmp_path / "old.h5").read_text() == "precious"


@pytest.mark.skipif(segments.fcntl is None, reason="needs file locks")
def test_two_runs_do_not_write_one_file(tmp_path):
    path = tmp_path / "fe.h5"
    early = TrajectoryWriter(run.parameters_for(path), run.COLUMNS)  # made before the other has written anything
    writer = run.write_run(path, range(0, 21, 5), close=False)
    with pytest.raises(InputError, match="another run is writing"):
        check_output(run.parameters_for(path), force=True)
    with pytest.raises(InputError, match="another run is writing"):
        early.append_frame(run.frame_of(run.make_state(), 0))
    early.close()
    writer.close()
    run.assert_content(path, 20)
    check_output(run.parameters_for(path), force=True)


def test_a_full_disk_is_one_sentence_and_keeps_the_last_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "fe.h5"
    state = run.make_state()
    writer = run.write_run(path, range(0, 21, 5), state=state, close=False)
    with monkeypatch.context() as patch:

        def full(descriptor):
            raise OSError(errno.ENOSPC, "No space left on device")

        patch.setattr(segments.os, "fsync", full)
        frame = run.frame_of(state, 30)
        writer.append_frame(frame)
        with pytest.raises(SpinmdError, match="the disk is full; everything up to the last checkpoint") as caught:
            writer.checkpoint(frame)
        assert type(caught.value) is DiskError and caught.value.exit_code == 3
        writer.close()
    run.assert_content(path, 20)
    run.write_run(path, range(20, 41, 5), state=read_checkpoint(path)[0], resume=True)
    run.assert_content(path, 40)


def test_files_that_are_not_runs_are_refused(tmp_path):
    text, foreign = tmp_path / "notes.h5", tmp_path / "foreign.h5"
    text.write_text("not HDF5")
    h5py.File(foreign, "w").close()
    for path, match in (
        (tmp_path / "no.h5", "no such file"),
        (text, "not an HDF5 file"),
        (foreign, "not a file that spinmd"),
    ):
        for read in (read_checkpoint, read_thermo, read_deck):
            with pytest.raises(InputError, match=match):
                read(path)


def test_a_file_without_its_hidden_folder_says_so(tmp_path):
    path = tmp_path / "fe.h5"
    writer = run.write_run(path, range(0, 21, 5), close=False)
    copy = tmp_path / "elsewhere"
    copy.mkdir()
    shutil.copy(path, copy / "fe.h5")
    with pytest.raises(InputError, match="hidden folder"):
        read_thermo(copy / "fe.h5")
    writer.close()


def test_parameters_are_strict(tmp_path):
    good = run.parameters_for("fe.h5", quantities=["spins"])
    assert good.quantities == ("spins",)
    for wrong in (
        {"thermo": -1},
        {"quantities": ["spin"]},
        {"quantities": ["spins", "spins"]},
        {"precision": "half"},
        {"x": 1},
    ):
        with pytest.raises(ValidationError):
            run.parameters_for("fe.h5", **wrong)
    for name, field in OutputParameters.model_fields.items():
        assert field.description, name
    check_stages([run.parameters_for("fe.h5"), run.parameters_for("fe.h5", trajectory=7)])
    with pytest.raises(InputError, match="set precision in") as caught:
        check_stages([good, good, run.parameters_for("fe.h5", quantities=["spins"], precision="float32")])
    assert caught.value.place == "stage.1.output.precision"


def test_git_commit_is_read_without_git(tmp_path, monkeypatch):
    git = tmp_path / ".git"
    (git / "refs/heads").mkdir(parents=True)
    monkeypatch.setattr(output, "__file__", str(tmp_path / "spinmd" / "output.py"))
    assert output.git_commit() == "unknown"
    (git / "HEAD").write_text("ref: refs/heads/main\n")
    assert output.git_commit() == "unknown"
    (git / "packed-refs").write_text("# pack-refs\n0123 refs/heads/main\n")
    assert output.git_commit() == "0123"
    (git / "refs/heads/main").write_text("abcd\n")
    assert output.git_commit() == "abcd"
    (git / "HEAD").write_text("4567\n")
    assert output.git_commit() == "4567"
