"""What all terms of the energy share: parameters, choice of elements, the inverse moments. No physics lives here."""

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from pydantic import ValidationError

from spinmd.errors import InputError
from spinmd.parameters import Parameters, written_place
from spinmd.protocols import Need
from spinmd.state import State


def read_parameters(kind: type[Parameters], parameters, keywords: dict[str, Any], place: str) -> Parameters:
    """An instance of ``kind`` from an instance, a dict, keywords, or a dict and keywords.

    Raises InputError that names the first wrong parameter.
    """
    if isinstance(parameters, Parameters):
        if not isinstance(parameters, kind):
            raise InputError(f"expected {kind.__qualname__}, got {type(parameters).__qualname__}", place)
        if not keywords:
            return parameters
        parameters = parameters.model_dump(exclude_unset=True)
    values = {**(parameters or {}), **keywords}
    try:
        return kind.model_validate(values)
    except InputError as error:
        raise InputError(error.message, ".".join(part for part in (place, error.place) if part)) from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in written_place(first["loc"], values, first["type"] == "missing"))
        message = first["msg"].removeprefix("Value error, ")
        if first["type"] == "extra_forbidden":
            known = ", ".join(kind.model_fields)
            message = (
                f"there is no such parameter; use {known}" if known else "there is no such parameter; none is needed"
            )
        elif first["type"] == "missing":
            message = "this parameter is missing"
        raise InputError(message, ".".join(part for part in (place, where) if part)) from None


def split_pair(pair: str) -> tuple[str, str]:
    """("Fe", "Co") from "Fe-Co"; InputError for anything else."""
    parts = pair.split("-") if isinstance(pair, str) else []
    if len(parts) != 2 or not all(part.strip() for part in parts):
        raise InputError(f'expected two element symbols such as "Fe-Co", got {pair!r}', "pairs")
    return parts[0].strip(), parts[1].strip()


def element_index(symbol: str, symbols: Sequence[str], place: str) -> int:
    """The species index of an element; InputError if the structure has none."""
    if symbol not in symbols:
        raise InputError(f"the structure has no {symbol}; it has {', '.join(symbols)}", place)
    return list(symbols).index(symbol)


def pair_mask(pairs: Sequence[str] | None, symbols: Sequence[str], place: str = "pairs") -> np.ndarray:
    """(nspecies, nspecies) bool, symmetric: the pairs of elements that a term acts on; all of them for None."""
    n = len(symbols)
    if pairs is None:
        return np.ones((n, n), dtype=np.bool_)
    mask = np.zeros((n, n), dtype=np.bool_)
    for pair in pairs:
        a, b = (element_index(symbol, symbols, place) for symbol in split_pair(pair))
        mask[a, b] = mask[b, a] = True
    return mask


def element_mask(elements: Sequence[str] | None, symbols: Sequence[str], place: str = "elements") -> np.ndarray:
    """(nspecies,) bool: the elements that a term acts on; all of them for None."""
    if elements is None:
        return np.ones(len(symbols), dtype=np.bool_)
    mask = np.zeros(len(symbols), dtype=np.bool_)
    for symbol in elements:
        mask[element_index(symbol, symbols, place)] = True
    return mask


class Term:
    """Base of the potentials that come with spinmd; see ``spinmd.protocols.Potential`` for the contract.

    ``Exchange(Parameters(...))``, ``Exchange({"form": ...})`` and ``Exchange(form=..., cutoff=3.4)`` are the same.
    ``pairs`` such as ["Fe-Fe", "Fe-Co"] and ``elements`` such as ["Fe"] restrict the term to some elements. ``selects``
    is what a kind understands: "pairs", "elements" or "". Raises InputError for wrong parameters.
    """

    Parameters: ClassVar[type[Parameters]] = Parameters
    selects: ClassVar[str] = "pairs"
    default_name: ClassVar[str] = ""
    magnetic: bool = True
    provides: Need = Need.ALL
    cutoff: float = 0.0
    out_of_range: str = ""  # a trained potential says here where a configuration has left what it was trained on

    def __init__(self, parameters=None, *, pairs=None, elements=None, name: str | None = None, **keywords):
        self.name = name or self.default_name or type(self).__name__.lower()
        self.parameters = read_parameters(self.Parameters, parameters, keywords, self.name)
        for given, value in (("pairs", pairs), ("elements", elements)):
            if value is None:
                continue
            if given != self.selects:
                instead = f"; use {self.selects}" if self.selects else ""
                raise InputError(f"{self.name} cannot be restricted by {given}{instead}", given)
            if isinstance(value, str) or not isinstance(value, Sequence) or not value:
                example = '["Fe-Fe"]' if given == "pairs" else '["Fe"]'
                raise InputError(f"expected a list such as {example}, got {value!r}", given)
        for pair in pairs or ():
            split_pair(pair)
        self.pairs = None if pairs is None else tuple(pairs)
        self.elements = None if elements is None else tuple(elements)

    def prepare(self, state: State, backend: Any = None) -> None:
        """Masks and buffers that depend on elements, number and order of the atoms.

        mask (nspecies, nspecies) or (nspecies,) bool;  inverse_moments (N,) 1/µB, zero for non-magnetic atoms;
        directions (N, 3) buffer for e_i = S_i/m_i.
        """
        self.backend = backend
        if self.selects == "elements":
            self.mask = element_mask(self.elements, state.symbols)
        else:
            self.mask = pair_mask(self.pairs, state.symbols)
        magnetic = state.moments > 0.0
        self.inverse_moments = np.zeros(state.natoms)
        self.inverse_moments[magnetic] = 1.0 / state.moments[magnetic]
        self.directions = np.zeros((state.natoms, 3))

    def update_directions(self, state: State) -> np.ndarray:
        """(N, 3) e_i = S_i/m_i, zero for non-magnetic atoms, in the term's own buffer."""
        np.multiply(state.spins, self.inverse_moments[:, None], out=self.directions)
        return self.directions

    def margin(self, state: State) -> float:
        return 0.0

    def freeze(self, state: State, pairs) -> Any:
        return None

    def coupling_vectors(self) -> np.ndarray | None:
        """(nnz, 3) Å from each atom to its neighbour for the entries of what ``freeze`` gives, where these are not those of the
        neighbour list; else None."""
        lattice = getattr(self, "_lattice", None)
        return None if lattice is None else lattice.vectors

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.parameters!r})"
