"""What a run writes and whether it can: the deck's [output] table, and what every file states about itself.

Nothing here writes; ``spinmd.h5md`` does.
"""

import getpass
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field, field_validator

from spinmd.checkpoint import GROUP, open_run
from spinmd.errors import InputError
from spinmd.parameters import OutputFile, Parameters
from spinmd.protocols import Need
from spinmd.segments import locked, open_file
from spinmd.selection import Selection, selected
from spinmd.state import State

# quantity of the deck -> (name of the H5MD element, unit, what has to be evaluated). MDAnalysis reads position,
# velocity and force only, and refuses the unit eV Angstrom-1 in an element named "force"
QUANTITIES = {
    "positions": ("position", "Angstrom", Need.NONE),
    "velocities": ("velocity", "Angstrom ps-1", Need.NONE),
    "spins": ("spin", "muB", Need.NONE),
    "forces": ("atomic_force", "eV Angstrom-1", Need.FORCE),
    "fields": ("magnetic_field", "eV muB-1", Need.FIELD),
}
CONVENTIONS = {
    "units": "Angstrom, ps, eV, amu, K, muB",
    "cell": "rows of box/edges are the lattice vectors",
    "positions": "unwrapped: followed through the periodic boundaries; atoms in their original order",
    "spin": "S_i, a vector in muB: the atomic magnetic moment; zero for a non-magnetic atom",
    "reference_moment": "m_i, a constant per atom in muB; classical terms are polynomials in e_i = S_i/m_i, "
    "and derivatives hold m fixed",
    "field": "F_i = -dE/dS_i in eV/muB, unconstrained, all three components",
    "precession": "dS/dt = -(g/hbar) S x F: right-handed rotation about F with angular frequency g |F|/hbar",
    "damping": "Gilbert form: dS/dt = -(g/hbar)/(1 + alpha^2) [S x F + (alpha/|S|) S x (S x F)], "
    "with the prefactor also at T = 0",
    "spin_noise": "added to F in precession and damping; variance per component 2 alpha k_B T hbar/(g |S| dt), "
    "dt the duration of that spin sub-step; Stratonovich",
    "longitudinal_langevin": "dS = ... + Gamma F dt + xi, <xi xi> = 2 Gamma k_B T dt, no 1/|S|",
    "exchange": "E = -1/2 sum_{i != j} J_ij e_i.e_j: each pair once, J > 0 ferromagnetic, moments are not in J; "
    "with offset: (e_i.e_j - 1)",
    "dzyaloshinskii_moriya": "E = -1/2 sum_{i != j} D_ij.(e_i x e_j), D_ij = -D_ji",
    "tensor_exchange": "E = -1/2 sum_{i != j} e_i^T J_ij e_j",
    "biquadratic": "E = -1/2 sum_{i != j} K_ij (e_i.e_j)^2",
    "uniaxial_anisotropy": "E = -K (e.n)^2",
    "cubic_anisotropy": "E = +K1 (x^2 y^2 + y^2 z^2 + z^2 x^2) + K2 x^2 y^2 z^2",
    "zeeman": "E = -mu_B S.B",
    "dipole": "mu_0 mu_B^2/(4 pi) = 5.36815e-5 eV Angstrom^3 between the moments S",
    "virial": "W_ab = -dE/d(strain_ab) in eV at fixed S; not symmetric for DMI, dipole and tensor terms",
    "pressure": "P = (2 K + tr W)/(3 V), K of the lattice",
    "lattice_temperature": "2 K/(n_dof k_B)",
    "spin_temperature": "k_B T = <sum |S x F|^2>/<sum (2 S.F + |S|^2 tr H_ii - S.H_ii.S)>, H_ii = d2E/dS_i dS_i; "
    "with conserved total spin the ensemble is at fixed magnetisation",
}


class OutputParameters(Parameters):
    """The deck's [output] table."""

    file: OutputFile = Field(description="the HDF5 file (H5MD layout) that the run writes; its folder must exist")
    thermo: int = Field(
        10, strict=True, ge=0, description="steps between rows of the thermo table; 0: only the first and the last row"
    )
    trajectory: int = Field(
        100, strict=True, ge=0, description="steps between stored frames; 0: only the first and the last frame"
    )
    checkpoint: int = Field(
        1000,
        strict=True,
        ge=0,
        description="steps between checkpoints, from which a run is resumed; 0: only at the start and the end",
    )
    quantities: tuple[Literal["positions", "velocities", "spins", "forces", "fields"], ...] = Field(
        ("positions", "velocities", "spins"),
        description="what each frame holds per atom; the cell is always stored. Before compression each takes 24 bytes "
        "per atom and frame, in float32 12; `spinmd check` adds it up",
    )
    atoms: Selection | None = Field(
        None,
        description='the atoms that frames hold: elements, indices and ranges as in Python, such as `["Fe"]` or '
        '`["0:100:2", 117]`, counted from 0 in the original order; default: all. The thermo table and checkpoints are '
        "of all atoms in any case",
    )
    precision: Literal["float32", "float64"] = Field(
        "float64", description="numbers in frames; the thermo table and checkpoints are always float64"
    )
    compression: Literal["gzip", "lzf", "none"] = Field(
        "gzip", description="gzip (level 1, every HDF5 reader knows it), lzf (faster, but h5py only) or none"
    )

    @field_validator("quantities")
    @classmethod
    def _unique(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(value)) != len(value):
            raise ValueError("a quantity is named twice; name each once")
        return value

    @property
    def needs(self) -> Need:
        """What must be evaluated for a frame."""
        result = Need.NONE
        for name in self.quantities:
            result |= QUANTITIES[name][2]
        return result

    def chosen(self, state: State) -> np.ndarray | None:
        """Original indices, ascending, of the atoms that frames hold; None for all. InputError at ``output.atoms``."""
        if self.atoms is None:
            return None
        mask = selected(self.atoms, state, "output.atoms")
        return None if mask.all() else np.flatnonzero(mask)


def real_path(path: str | Path) -> Path:
    """The one name of a run's file, whichever link or relative path leads to it: so that two runs notice each other."""
    return Path(os.path.realpath(path))


def parts_folder(path: Path) -> Path:
    """The hidden folder of the segments of a run's file."""
    path = real_path(path)
    return path.parent / f".{path.name}.parts"


def _refuse_existing(path: Path, place: str) -> None:
    """Raise InputError if a new run would replace data: the file itself, or the segments of one that has gone."""
    parts = parts_folder(path)
    if path.exists():
        ways = "choose another name, or overwrite it with --force"
        try:
            with open_run(path) as file:
                if GROUP in file:
                    ways = f"go on with it (spinmd resume {path}), replace it with --force, or choose another name"
        except InputError:
            pass  # not a run, or one that cannot be resumed
        raise InputError(f"{path} exists already; {ways}", place)
    if _holds_data(parts):
        raise InputError(
            f"{path} has gone, but the hidden folder {parts} still holds the data of its run; put the file back and go "
            f"on with it (spinmd resume {path}), or discard the data with --force",
            place,
        )


def _holds_data(parts: Path) -> bool:
    """True if a run got beyond its first step there: what a run leaves that was killed at its very start is nothing."""
    for path in parts.glob("checkpoint-*.h5"):
        try:
            with open_file(path) as file:
                if file["checkpoint"].attrs["step"] > 0:
                    return True
        except (OSError, KeyError):
            return True
    return False


def check_output(parameters: OutputParameters, force: bool = False, resume: bool = False) -> None:
    """Raise InputError (place ``output.file``) if the run could not write its file. Writes nothing."""
    path, place = parameters.file, "output.file"
    if not real_path(path).parent.is_dir():
        raise InputError(f"the folder {path.parent} does not exist; create it or write to another one", place)
    if path.is_dir():
        raise InputError(f"{path} is a folder; give the name of a file, such as {path / 'run.h5'}", place)
    if not os.access(real_path(path).parent, os.W_OK | os.X_OK):
        raise InputError(f"no permission to write in the folder {path.parent}; write to another one", place)
    if resume and not path.exists():
        raise InputError(f"there is no file {path} to resume; start the run first", place)
    if locked(parts_folder(path)):
        raise InputError(f"another run is writing {path} at this moment; wait for it or choose another name", place)
    if not (force or resume):
        _refuse_existing(path, place)


def check_stages(outputs: Sequence[OutputParameters]) -> None:
    """Raise InputError unless all stages can share one file; the first is the deck's own table, the next [[stage]] 0.

    Intervals may differ from stage to stage; what a row holds may not.
    """
    for index, output in enumerate(outputs[1:]):
        for name in ("file", "quantities", "atoms", "precision", "compression"):
            if getattr(output, name) != getattr(outputs[0], name):
                raise InputError(
                    f"all stages write one file, and what its rows hold stays the same; set {name} in [output] only",
                    f"stage.{index}.output.{name}",
                )


def disk_use(outputs: Sequence[OutputParameters], steps: Sequence[int], state: State, columns: int) -> dict[str, Any]:
    """What a run will write, before compression, in bytes: per frame, and in total at the end.

    ``outputs`` and ``steps``: one per stage;  ``columns``: of the thermo table. Keys: atoms, frames, frame_bytes,
    rows, checkpoint_bytes, total_bytes. InputError at ``output.atoms``.
    """
    chosen = outputs[0].chosen(state)
    atoms = state.natoms if chosen is None else len(chosen)
    item = np.dtype(outputs[0].precision).itemsize
    frame_bytes = len(outputs[0].quantities) * 3 * atoms * item + 11 * 8  # cell, step and time
    counts = {"trajectory": 1, "thermo": 1}  # the first of the run; the end of each stage has one too
    first = state.clock.step
    for output, length in zip(outputs, steps, strict=True):
        for table in counts:
            every = getattr(output, table)
            between = (first + length - 1) // every - first // every if every and length else 0
            counts[table] += between + (length > 0)
        first += length
    checkpoint = sum(getattr(state, name).nbytes for name in state.PER_ATOM) + 24 * state.natoms  # and list history
    total = counts["trajectory"] * frame_bytes + counts["thermo"] * columns * 8 + checkpoint
    return {
        "atoms": atoms,
        "frames": counts["trajectory"],
        "frame_bytes": frame_bytes,
        "rows": counts["thermo"],
        "checkpoint_bytes": checkpoint,
        "total_bytes": total,
    }


def git_commit() -> str:
    """The commit of the checkout that spinmd runs from, or "unknown"."""
    folder = Path(__file__).resolve().parents[1] / ".git"
    try:
        head = (folder / "HEAD").read_text().strip()
        if not head.startswith("ref: "):
            return head
        name = head.removeprefix("ref: ")
        if (folder / name).is_file():
            return (folder / name).read_text().strip()
        for line in (folder / "packed-refs").read_text().splitlines():
            if line.endswith(" " + name):
                return line.split()[0]
    except OSError:  # installed without its repository, or one without a commit
        pass
    return "unknown"


def author() -> str:
    """The user's login name, which H5MD asks for."""
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # no such user in a bare container
        return "unknown"
