"""``spinmd convert``: what a file holds decides what can be made of it.

Models go between spinmd and DeePMD-kit (``spinmd.interop.deepmd``); trajectories, here, to files that ASE writes. Extended XYZ
and ASE's .traj hold any number of frames and are written frame by frame; other formats take one frame.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from spinmd.errors import InputError
from spinmd.segments import open_file
from spinmd.selection import as_slice
from spinmd.trajectory import Trajectory

if TYPE_CHECKING:
    from ase import Atoms

STREAMED = {".extxyz": "extxyz", ".xyz": "extxyz", ".traj": "traj"}
OF_A_RUN = "extended XYZ (.extxyz, .xyz), ASE's .traj, or one frame in any format that ASE writes (.vasp, .cif, ...)"
FORMATS = f"a trajectory of spinmd becomes {OF_A_RUN}; a DeepSPIN model becomes .h5 (spinmd) or .dp (DeePMD-kit)"
NOT_FILES = ("db", "json", "postgresql", "mysql", "mariadb")  # ASE's data bases: it would add to them


def convert(
    source: str | Path,
    target: str | Path,
    *,
    every: int = 1,
    frames: str | None = None,
    wrap: bool = False,
    force: bool = False,
    progress: bool = False,
) -> str:
    """Convert a file; returns one line on what was made. InputError for what cannot be read or written.

    ``every``, ``frames`` (``"a:b:c"`` or one number, as in Python) and ``wrap`` are for trajectories. ``target`` appears
    whole or not at all, and is replaced only with ``force``.
    """
    source, target = Path(source), Path(target)
    if is_run(source):
        return convert_trajectory(source, target, every, frames, wrap, force, progress)
    from spinmd.interop import deepmd
    from spinmd.potentials.deepspin.model_file import is_model_file

    if not source.exists():
        raise InputError("there is no such file", str(source))
    if target.suffix.lower() in STREAMED:
        if not is_model_file(source):
            Trajectory(source).close()  # says what is wrong with the file
        raise InputError(f"this is no trajectory that a run of spinmd wrote; {FORMATS}", str(source))
    if every != 1 or frames is not None or wrap:
        raise InputError("--every, --frames and --wrap are for trajectories, and this is none", str(source))
    return deepmd.convert(source, target, force=force)


def is_run(path: Path) -> bool:
    """Whether a file is HDF5 with a run of spinmd in it; False for anything else, or nothing."""
    try:
        with open_file(path) as file:
            return isinstance(file.get("spinmd"), h5py.Group)
    except (OSError, RuntimeError, KeyError):
        return False


def check_target(source: Path, target: Path, force: bool) -> None:
    """InputError, at ``OUT``, if ``target`` cannot be written or would replace something; writes nothing."""
    place = f"OUT {target}"
    if target.is_dir():
        raise InputError("this is a folder; name a file", place)
    if target.exists():
        if os.path.samefile(source, target):
            raise InputError("source and target are the same file; name another target", place)
        if not force:
            raise InputError("the file exists; name another one or say --force", place)
    folder = target.absolute().parent
    if not folder.is_dir():
        raise InputError("its folder does not exist; make it first", place)
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(f"no permission to write in the folder {folder}; name a file in another one", place)


def convert_trajectory(
    source: Path, target: Path, every: int, frames: str | None, wrap: bool, force: bool, progress: bool
) -> str:
    """The chosen frames of a run as a file of ASE's; see ``convert``."""
    format_, streamed = _format(target)
    check_target(source, target, force)
    with Trajectory(source) as trajectory:
        chosen = _choose(trajectory, every, frames)
        if "positions" not in trajectory.quantities:
            trajectory.array("positions")  # says what is stored, and how to store them
        if not streamed and len(chosen) > 1:
            raise InputError(
                f"this format takes one frame, and {len(chosen)} are chosen; say --frames -1 for the last one, or write "
                "extended XYZ (.extxyz)",
                f"OUT {target}",
            )
        with _whole(target) as temporary:
            if streamed:
                _stream(chosen, temporary, format_, wrap, progress)
            else:
                _write_one(chosen[0].atoms(wrap), temporary, format_, target)
        plural = "s" if len(chosen) != 1 else ""
        return f"{source} -> {target}: {len(chosen)} frame{plural} of {chosen.natoms} atoms"


def _format(target: Path) -> tuple[str, bool]:
    """ASE's name of the format that a file name asks for, and whether it is written frame by frame."""
    from ase.io.formats import UnknownFileTypeError, filetype, ioformats

    suffix = target.suffix.lower()
    if suffix in STREAMED:
        return STREAMED[suffix], True
    try:
        name = filetype(target.name, read=False)
    except UnknownFileTypeError:
        name = ""
    if name not in ioformats or not ioformats[name].can_write or name in NOT_FILES:
        raise InputError(f"a trajectory of spinmd becomes {OF_A_RUN}; name such a file", f"OUT {target}")
    return name, False


def _choose(trajectory: Trajectory, every: int, frames: str | None) -> Trajectory:
    if every < 1:
        raise InputError(f"expected a whole number of frames, at least 1, got {every}", "--every")
    part = trajectory
    if frames is not None:
        try:
            one = int(frames)
        except ValueError:
            piece = as_slice(frames)
            if piece is None:
                raise InputError(
                    f"expected a:b:c as in Python, such as 100::10, or one number, got {frames!r}", "--frames"
                ) from None
        else:
            if not -len(trajectory) <= one < len(trajectory):
                raise InputError(f"there is no frame {one}; there are {len(trajectory)}, counted from 0", "--frames")
            piece = slice(one, one + 1 or None)
        part = trajectory[piece]
    part = part[::every]
    if len(part) == 0:
        raise InputError(f"no frames are chosen of the {len(trajectory)} in {trajectory.path.name}", "--frames")
    return part


@contextmanager
def _whole(target: Path) -> Iterator[Path]:
    """A temporary name beside ``target``, renamed when all went well and removed otherwise."""
    temporary = target.absolute().with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        os.replace(temporary, target)
    except OSError as error:
        raise InputError(f"cannot be written: {error.strerror or error}", f"OUT {target}") from None
    finally:
        temporary.unlink(missing_ok=True)


def _stream(chosen: Trajectory, path: Path, format_: str, wrap: bool, progress: bool) -> None:
    from tqdm import tqdm

    bar = tqdm(
        chosen,
        total=len(chosen),
        unit=" frames",
        leave=False,
        dynamic_ncols=True,
        disable=not (progress and sys.stderr.isatty()),
    )
    if format_ == "extxyz":
        with open(path, "w", encoding="utf-8") as file:
            for frame in bar:
                write_extxyz_frame(file, frame.atoms(wrap))
        return
    from ase.io.trajectory import TrajectoryWriter

    with TrajectoryWriter(path, "w") as writer:
        for frame in bar:
            writer.write(frame.atoms(wrap))


def write_extxyz_frame(file: Any, atoms: "Atoms") -> None:
    """Append a frame to an open text file, through ASE's writer.

    Spins are two columns: ``initial_magmoms``, which ASE reads as such, and ``dipoles``, which OVITO reads as its vector property
    Dipole Orientation and shows as arrows (``initial_magmoms`` is a plain vector property there, without arrows).
    """
    from ase.io.extxyz import write_extxyz

    calculator, atoms.calc = atoms.calc, None
    results = {} if calculator is None else dict(calculator.results)
    results.pop("magmoms", None)  # the same numbers as the initial ones
    if results:
        from ase.calculators.singlepoint import SinglePointCalculator

        atoms.calc = SinglePointCalculator(atoms, **results)
    if atoms.has("initial_magmoms"):
        atoms.set_array("dipoles", np.array(atoms.get_initial_magnetic_moments()))
    write_extxyz(file, [atoms])


def _write_one(atoms: "Atoms", path: Path, format_: str, target: Path) -> None:
    from ase.io import write

    try:
        write(path, atoms, format=format_)
    except OSError:
        raise
    except Exception as error:  # ASE's writers raise anything
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"ASE cannot write the frame as {format_} ({reason}); try .extxyz", f"OUT {target}") from None
