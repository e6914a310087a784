"""Reads damaged files one after the other in a process of its own, with bounded memory.

    python -m support.fuzz_worker FOLDER < jobs.json

Jobs are lists of number, kind, source and seed of the damage (0: none). Before a job ``? NUMBER`` goes to stdout, after it
``[NUMBER, CODE, DIGEST, SENTENCE]``: the exit code that the command line would have, -1 with the traceback for an exception
that nobody expected, and a digest of what was read. A crash or a hang shows as a ``?`` without an answer.
"""

import contextlib
import hashlib
import io
import json
import resource
import shutil
import sys
import traceback
import warnings
from pathlib import Path

import numpy as np
from support.damage import damage_bytes, damage_text

from spinmd.errors import SpinmdError

MEMORY = 6 * 1024**3


def digest(*parts) -> str:
    """Of arrays, dictionaries and plain values, with types and shapes."""
    result = hashlib.sha256()

    def add(value) -> None:
        if isinstance(value, dict):
            for key in sorted(value, key=str):
                result.update(f"{key}:".encode())
                add(value[key])
        elif isinstance(value, (list, tuple)):
            for item in value:
                add(item)
        elif isinstance(value, np.ndarray):
            result.update(f"{value.dtype.str}{value.shape}".encode() + np.ascontiguousarray(value).tobytes())
        else:
            result.update(repr(value).encode())

    add(parts)
    return result.hexdigest()[:16]


def command(*arguments: str) -> str:
    """The command line, in this process; its error comes out as an exception with the same code."""
    from spinmd.cli import main

    heard = io.StringIO()
    with contextlib.redirect_stderr(heard), contextlib.redirect_stdout(io.StringIO()):
        code = main(list(arguments))
    if code:
        raise Answered(code, heard.getvalue().strip())
    return ""


class Answered(Exception):
    def __init__(self, code: int, message: str):
        self.code = code
        super().__init__(message)


def read_deck(path: Path) -> str:
    import tomllib

    command("check", str(path))
    # what is to be run is short, whatever the damage says
    try:
        stages = tomllib.loads(path.read_text()).get("stage", [])
    except (UnicodeDecodeError, tomllib.TOMLDecodeError):
        stages = []
    short = [word for k in range(len(stages)) for word in ("--set", f"stage.{k}.run.steps=2")]
    command("run", str(path), "--quiet", "--force", "--set", "run.steps=2", *short)
    return ""


def read_eam(path: Path) -> str:
    from spinmd.model import Model
    from spinmd.potentials.eam import EAM
    from spinmd.protocols import Need
    from spinmd.state import State

    term = EAM(file=path)
    tables = term.tables
    for name in ("embedding", "density", "rphi", "masses"):
        assert np.isfinite(getattr(tables, name)).all(), name
    assert tables.embedding.shape == (len(tables.elements), tables.nrho) and tables.cutoff > 0.0
    if tables.cutoff < 8.0:  # a longer one is right and takes long
        grid = np.stack(np.meshgrid(*[np.arange(2.0)] * 3, indexing="ij"), -1).reshape(-1, 3) * 2.4
        elements = [tables.elements[k % len(tables.elements)] for k in range(8)]
        Model(State.create(np.eye(3) * 4.8, grid, elements, np.ones(8)), [term], threads=1).evaluate(Need.ALL)
    return digest(vars(tables))


def describe(model) -> str:
    from spinmd.potentials.deepspin.model_file import _pack

    return digest(*_pack(model))


def read_model(path: Path) -> str:
    from spinmd.learning.evaluation import load_potential

    return describe(load_potential(path).model)


def read_deepmd(path: Path) -> str:
    from spinmd.interop.deepmd import convert
    from spinmd.potentials.deepspin.model_file import read_model

    out = path.with_name("converted.h5")
    convert(path, out, force=True)
    model = read_model(out)
    model.provenance = {}
    return describe(model)


def read_run(path: Path) -> str:
    """Everything that the readers of a run's file give."""
    from spinmd import h5md
    from spinmd.trajectory import Trajectory

    state, aux, history, meta = h5md.read_checkpoint(path)
    thermo = h5md.read_thermo(path)
    deck = h5md.read_deck(path)
    arrays = {name: getattr(state, name) for name in ("cell", "pbc", *state.PER_ATOM)}
    with Trajectory(path) as run:
        frames = [run.steps, run.times, run.cells, run.masses, run.moments, run.ids, run.pbc, list(run.symbols)]
        frames += [np.asarray(getattr(run, name)) for name in ("positions", "velocities", "spins")]
    return digest(arrays, state.symbols, vars(state.clock), vars(aux), history or {}, meta, thermo, deck, frames)


def resume_run(path: Path) -> str:
    """What a run's file holds after two more steps; its conversion; a structure made of it."""
    from spinmd.h5md import read_checkpoint

    before = path.read_bytes()
    try:
        command("convert", str(path), str(path.with_suffix(".extxyz")), "--force")
        command("resume", str(path), "--steps", "2", "--quiet")
    except Answered:
        assert path.read_bytes() == before, "a file that cannot be resumed was changed"
        raise
    state, *_ = read_checkpoint(path)
    text = path.with_suffix(".extxyz").read_text()
    return digest(state.positions, state.velocities, state.spins, state.clock.step, text, read_thermo(path))


def read_thermo(path: Path) -> dict:
    from spinmd.h5md import read_thermo

    return read_thermo(path)


READERS = {
    "deck": read_deck,
    "eam": read_eam,
    "model": read_model,
    "deepmd": read_deepmd,
    "run": read_run,
    "resume": resume_run,
}
TEXT = ("deck", "eam")


def damaged(kind: str, source: Path, folder: Path, seed: int) -> Path:
    """A copy of ``source`` (a run: with its hidden folder) with the damage of this number; 0 is none."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    target = folder / source.name
    shutil.copyfile(source, target)
    victims = [target]
    parts = source.parent / f".{source.name}.parts"
    if parts.is_dir():
        shutil.copytree(parts, folder / parts.name)
        victims += sorted(p for p in (folder / parts.name).iterdir() if p.stat().st_size)
    if kind == "deck":
        for other in source.parent.iterdir():
            if other.is_file() and other != source:
                (folder / other.name).symlink_to(other.resolve())
    if seed:
        victim = victims[seed % len(victims)]
        text = kind in TEXT or victim.suffix == ".yaml"
        victim.write_bytes((damage_text if text else damage_bytes)(victim.read_bytes(), seed))
    return target


def answer(kind: str, path: Path) -> tuple[int, str, str]:
    """Exit code, digest, sentence."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return 0, READERS[kind](path), ""
    except Answered as error:
        return error.code, "-", str(error)
    except SpinmdError as error:
        return error.exit_code, "-", str(error)
    except BaseException:
        return -1, "-", traceback.format_exc()


def main() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    for number, kind, source, seed in json.load(sys.stdin):
        path = damaged(kind, Path(source), Path(sys.argv[1]), seed)
        print(f"? {number}", flush=True)
        print(json.dumps([number, *answer(kind, path)]), flush=True)


if __name__ == "__main__":
    main()
