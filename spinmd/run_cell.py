"""The atoms of a run's file as a unit cell: where another run starts, by ``[structure] file = "run.h5"``.

The last checkpoint has everything; a stored frame has what ``output.quantities`` named. Atoms come in their original
order, with the reference sites and moments of the run; its clock, its random numbers and its lists stay behind.
"""

import math
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from spinmd.checkpoint import DAMAGE, open_run, read_checkpoint
from spinmd.crystal import UnitCell, repeat
from spinmd.errors import InputError

FRAMES = "particles/trajectory"
NEEDED = {
    "velocity": ("velocities", "temperature"),
    "spin": ("spins", "spins.moments and spins.texture"),
}  # of a frame: the quantity in the deck that stores it, and what to give instead


def is_run(path: Path) -> bool:
    """Whether a structure file is HDF5; formats of ASE that are HDF5 too are read when the deck names the format."""
    try:
        with path.open("rb") as file:
            return file.read(8) == b"\x89HDF\r\n\x1a\n"
    except OSError:  # ASE will say why
        return False


def read_run_cell(path: Path, index: int | None = None, needs: Iterable[str] = ()) -> UnitCell:
    """The last checkpoint of a run's file, or its stored frame ``index`` (from 0, or from the end if negative).

    Positions are those of the checkpoint, wrapped, with their images; those of a frame are unwrapped. ``needs``: the elements
    ("velocity", "spin") that a frame must have. Raises InputError for a file that is no run's, and for a frame that is
    not there or lacks something.
    """
    state, *_ = read_checkpoint(path)
    order = np.argsort(state.ids)
    unit = UnitCell(
        state.cell.copy(), state.pbc.copy(), state.positions[order], [state.symbols[k] for k in state.species[order]],
        masses=state.masses[order], velocities=state.velocities[order], magmoms=state.spins[order],
        moments=state.moments[order], reference=state.reference[order], images=state.images[order],
    )  # fmt: skip
    if index is not None:
        _take_frame(unit, path, index, needs)
    for name in ("cell", "positions", "masses", "velocities", "magmoms", "moments", "reference"):
        values = getattr(unit, name)
        if values is not None and not np.isfinite(values).all():
            raise InputError(f"{path.name}: its {name} are not finite numbers", "structure.file")
    return unit


def _take_frame(unit: UnitCell, path: Path, index: int, needs: Iterable[str]) -> None:
    """Put a stored frame in the place of the checkpoint's configuration."""
    try:
        with open_run(path) as file:
            cells = file[f"{FRAMES}/box/edges/value"]
            if not -len(cells) <= index < len(cells):
                raise InputError(
                    f"{path.name} has no frame {index}; it has {len(cells)}, counted from 0", "structure.index"
                )
            unit.cell = np.asarray(cells[index], dtype=np.float64).reshape(3, 3)
            unit.positions = _read(file, "position", index, path, unit)
            unit.velocities, unit.magmoms = (_read(file, name, index, path, unit) for name in ("velocity", "spin"))
    except DAMAGE as error:
        raise InputError(f"{path.name}: frame {index} cannot be read ({error})", "structure.file") from None
    if unit.positions is None:
        raise InputError(
            f"{path.name} stores no positions in its frames; leave index out, the checkpoint has them",
            "structure.index",
        )
    unit.images[:] = 0
    for name in needs:
        if name == "spin" and not (unit.moments > 0.0).any():
            continue
        quantity, instead = NEEDED[name]
        if (unit.velocities if name == "velocity" else unit.magmoms) is None:
            raise InputError(
                f"{path.name} stores no {quantity} in its frames; give {instead}, or leave index out, the checkpoint has them",
                "structure.index",
            )


def _read(file, name: str, index: int, path: Path, unit: UnitCell) -> np.ndarray | None:
    """(N, 3) of one element of a frame, or None where it is not stored; InputError where it is of a part of the atoms."""
    dataset = file.get(f"{FRAMES}/{name}/value")
    if dataset is None:
        return None
    if (
        dataset.ndim != 3
        or dataset.shape[2] != 3
        or dataset.dtype.kind != "f"
        or not -len(dataset) <= index < len(dataset)
    ):
        raise InputError(f"{path.name} is damaged: frame {index} of {name} cannot be read", "structure.file")
    if dataset.shape[1:] != unit.positions.shape:
        raise InputError(
            f"{path.name} stores {dataset.shape[1]} of {len(unit.positions)} atoms in its frames; leave index out, the "
            "checkpoint has all",
            "structure.index",
        )
    return np.asarray(dataset[index], dtype=np.float64)


def sites_of(unit: UnitCell, supercell: tuple[int, int, int], pbc: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Reference sites (N, 3) Å and images (N, 3) of the repeated cell.

    Where the new cell has no such images, of several cells or along an open direction, the sites are moved instead.
    """
    images = unit.images * (pbc & (max(supercell) == 1)).astype(np.int32)
    reference = unit.reference - (unit.images - images) @ unit.cell
    return repeat(reference, unit.cell, supercell), np.tile(images, (math.prod(supercell), 1))
