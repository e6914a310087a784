"""A choice of atoms in a deck: elements, indices and ranges, in the original order of the atoms."""

import re
from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
from pydantic import BeforeValidator
from pydantic_core import PydanticCustomError

from spinmd.errors import InputError
from spinmd.state import State

RANGE = re.compile(r"\s*(-?\d+)?\s*:\s*(-?\d+)?\s*(?::\s*(-?\d+)?\s*)?")


def as_slice(text: str) -> slice | None:
    """``"a:b:c"`` as a slice with Python's meaning; None if the text is something else or its step is zero."""
    match = RANGE.fullmatch(text)
    if match is None or (match[3] is not None and int(match[3]) == 0):
        return None
    return slice(*(None if part is None else int(part) for part in match.groups()))


def _entries(value: Any) -> Any:
    """One element, index or range, or a list of them, as a tuple; what they choose is known with the structure."""
    entries = list(value) if isinstance(value, (list, tuple)) else [value]
    if not entries:
        raise PydanticCustomError("atoms", "the list is empty; leave it out to mean all atoms")
    for entry in entries:
        index = isinstance(entry, int) and not isinstance(entry, bool)
        name = isinstance(entry, str) and (entry.isalpha() or as_slice(entry) is not None)
        if not (index or name):
            raise PydanticCustomError(
                "atoms",
                'expected elements ("Fe"), indices (17) or ranges ("0:100:2"), counted from 0, got {value}',
                {"value": repr(entry)},
            )
    return tuple(entries)


Selection = Annotated[tuple[int | str, ...], BeforeValidator(_entries)]


def selected(entries: Sequence[int | str], state: State, place: str) -> np.ndarray:
    """(N,) bool, original order: the atoms that any of ``entries`` chooses. InputError at ``place`` for what there is not."""
    natoms = state.natoms
    species = state.original_order(state.species)
    mask = np.zeros(natoms, dtype=bool)
    counted = f"the structure has {natoms} atoms, counted from 0"
    for entry in entries:
        part = as_slice(entry) if isinstance(entry, str) else None
        if part is not None:
            if max(abs(part.start or 0), abs(part.stop or 0)) > natoms:
                raise InputError(f"the range {entry!r} goes beyond the atoms: {counted}", place)
            if not len(range(natoms)[part]):
                raise InputError(f"the range {entry!r} holds no atom: {counted}", place)
            mask[part] = True
        elif isinstance(entry, int):
            if not -natoms <= entry < natoms:
                raise InputError(f"there is no atom {entry}: {counted}", place)
            mask[entry] = True
        elif entry in state.symbols:
            mask |= species == state.symbols.index(entry)
        else:
            raise InputError(f"the structure has no {entry}, only {', '.join(state.symbols)}", place)
    return mask
