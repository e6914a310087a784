"""A prior as a part of the ``deepspin`` term: what ``prior_kernels`` needs, from a Prior and a State. numpy and numba only."""

from collections.abc import Sequence

import numpy as np

from spinmd.backend import BLOCK, aligned_zeros, block_count
from spinmd.errors import InputError
from spinmd.potentials.deepspin.invariant_kernels import pack_invariants
from spinmd.potentials.deepspin.kernels_lists import sort_list
from spinmd.potentials.deepspin.model import Net
from spinmd.potentials.deepspin.prior import GROUPS, LANDAU, MOST_FUNCTIONS, TERMS, Prior
from spinmd.potentials.deepspin.prior_kernels import (
    FACTORS,
    PAIR,
    Neighbours,
    Scratch,
    Tables,
    gather,
    scale_spins,
    sift,
    walk,
)
from spinmd.potentials.deepspin.prior_lanes import ROW_OF
from spinmd.protocols import OK, Code, Need, Status


class PriorPart:
    """The energy of a prior and of the nets over its invariants, without the shift. ``elements`` are the model's, in whose
    terms ``prepare`` names the atoms and ``invariants`` has one net each.

    Everything is computed in float64. Raises InputError if the prior lacks one of the elements.
    """

    def __init__(self, prior: Prior, elements: Sequence[str] | None = None, invariants: list[Net] | None = None):
        self.prior = prior
        self.cutoff = prior.cutoff
        names = prior.elements if elements is None else tuple(elements)
        for symbol in names:
            if symbol not in prior.elements:
                raise InputError(f"the prior has no {symbol}, only {', '.join(prior.elements)}", "prior")
        self._index = np.array([prior.elements.index(symbol) for symbol in names], dtype=np.int64)
        self.invariants = None
        if invariants is not None:  # in the order of the prior's elements
            self.invariants = [[] for _ in prior.elements]
            for element, net in zip(self._index, invariants, strict=True):
                self.invariants[element] = net

    def lists_reach(self, reach: float) -> None:
        """Lists that reach further do no harm."""

    def prepare(self, state, elements: np.ndarray) -> None:
        """Buffers; ``elements`` (N,) the model's element of each atom. Raises InputError for a spin on an atom of an
        element that the prior calls non-magnetic."""
        prior, of_atoms, natoms = self.prior, self._index[np.asarray(elements)], state.natoms
        wrong = ~prior.magnetic[of_atoms] & (state.spins != 0.0).any(axis=1)
        if wrong.any():
            i = int(np.argmax(wrong))
            raise InputError(
                f"atom {state.ids[i]} ({prior.elements[of_atoms[i]]}) has a spin, but the prior has no spins on "
                f"{prior.elements[of_atoms[i]]}; remove it or take another model",
                "structure.spins",
            )
        present = np.unique(of_atoms)
        present = np.concatenate([present[prior.magnetic[present]], present[~prior.magnetic[present]]])
        self._kinds = np.zeros(natoms, dtype=np.int64)
        for kind, element in enumerate(present):
            self._kinds[of_atoms == element] = kind
        self._tables = make_tables(prior, present)
        self._nets = pack_invariants(prior, self.invariants, present, ROW_OF, FACTORS)
        self._nk, self._magnetic_kinds = len(present), int(prior.magnetic[present].sum())
        moments = prior.reference_moment[of_atoms]
        self._inverse = np.where(prior.magnetic[of_atoms], 1.0 / moments, 0.0)
        # an atom without a moment takes no part in spin dynamics, whatever its neighbours would do to it
        self._answering = np.where(state.moments > 0.0, self._inverse, 0.0)
        self._w = aligned_zeros((natoms, 4))
        self._x = aligned_zeros((natoms * self._nk * FACTORS,))
        self._centre = aligned_zeros((natoms, 8))
        self.atom_energies = np.zeros(natoms)
        self._sums = np.zeros((block_count(natoms), 7))
        self._nothing = np.zeros((natoms, 3))
        self._source, self._version = None, -1
        self._near = None  # every buffer is made anew: another state may have more kinds of atoms

    def _update_list(self, state, pairs) -> None:
        """Sort a list that is new and make room for what it needs."""
        if self._source is pairs.start:
            return
        found = sort_list(pairs, state.natoms, self._kinds, self._nk, self._magnetic_kinds)
        self._source, self._version = pairs.start, -1
        lengths = np.diff(found.start)
        room = (lengths + 8 * self._nk + 7) // 8 * 8
        first = np.zeros(state.natoms + 1, dtype=np.int64)
        np.cumsum(room, out=first[1:])
        size, total = int(first[-1]) + 8, int(found.start[-1])
        near = self._near
        if near is None or len(near.places) < size:
            size += size // 20
            places, geometry = np.zeros(size, dtype=np.int32), aligned_zeros((4 * size,))
        else:
            places, geometry = near.places, near.geometry
        if near is None or self._rows.size < 8 * (total + 8):
            self._rows = aligned_zeros((8 * (total + 8 + total // 20),))
        self._all_rows = found.places
        self._near = Neighbours(
            found.start, found.neighbours, found.atoms, found.sections, found.place_start, found.places.copy(), first,
            np.zeros((state.natoms, self._nk + 1), dtype=np.int64), places, geometry, np.zeros(total + 8, dtype=np.uint8),
            np.zeros(state.natoms, dtype=np.int64),
        )  # fmt: skip
        most = int(room.max(initial=8)) // 8
        if near is None or self._work.phi.shape[1] < 64 * most or len(self._work.phi) != len(self._sums):
            blocks, most = len(self._sums), most + 1
            self._work = Scratch(
                phi=aligned_zeros((blocks, 64 * most)), dphi=aligned_zeros((blocks, 64 * most)),
                turned=aligned_zeros((blocks, 64 * most)), factors=aligned_zeros((blocks, FACTORS * most)),
                pair=aligned_zeros((blocks, 8 * PAIR * most)), slopes=aligned_zeros((blocks, FACTORS * self._nk)),
                h=aligned_zeros((blocks, FACTORS)),
                own=aligned_zeros((blocks, 16)), net=aligned_zeros((blocks, self._nets.scratch)),
            )  # fmt: skip
        self._work.slopes[:] = 0.0

    def add(self, state, pairs, out, need: Need) -> Status:
        """Add energy, forces, fields and virial as far as needed. What depends on positions alone is kept while they stay."""
        self._update_list(state, pairs)
        natoms = state.natoms
        fresh = self._version != pairs.version
        want_force, want_field = bool(need & (Need.FORCE | Need.VIRIAL)), Need.FIELD in need
        scale_spins(natoms, state.spins, self._inverse, self._w, BLOCK)
        walk(
            natoms, self._kinds, self._tables, self._nets, self._near, self._w, self._x, fresh, bool(self.prior.groups),
            Need.ENERGY in need, want_force, want_force or want_field, Need.VIRIAL in need, pairs.packed,
            self._rows.reshape(-1, 4), self._work, self.atom_energies, self._centre, self._sums, BLOCK,
        )  # fmt: skip
        if fresh:
            near = self._near
            sift(
                natoms, near.place_start, near.inside, self._all_rows, near.transposed, near.found, len(self._sums), BLOCK
            )  # fmt: skip
        self._version = pairs.version
        if want_force or want_field:
            forces = out.forces if Need.FORCE in need else self._nothing
            fields = out.fields if want_field else self._nothing
            gather(
                natoms, self._near, self._rows, self._centre.reshape(-1), self._answering, Need.FORCE in need, want_field,
                forces, fields, len(self._sums), BLOCK,
            )  # fmt: skip
        sums = self._sums.sum(axis=0)
        if not np.isfinite(sums[0]):
            atom = int(np.argmin(np.isfinite(self.atom_energies)))
            return Status(Code.DIVERGED, int(state.ids[atom]), "deepspin", "the energy of its prior is not a number")
        if Need.ENERGY in need:
            out.energy[0] += sums[0]
        if Need.VIRIAL in need:
            xx, yy, zz, xy, xz, yz = sums[1:]
            out.virial += np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]])
        return OK


def make_tables(prior: Prior, present: np.ndarray) -> Tables:
    """The prior in terms of the elements ``present`` (indices into the prior's, magnetic ones first)."""
    nk, functions = len(present), prior.settings["many_body_functions"]
    pair = np.zeros((nk, nk, prior.settings["pair_functions"], 8))
    pair[..., : len(TERMS)] = prior.pair_coefficients()[np.ix_(present, present)].transpose(0, 1, 3, 2)
    places, start, forms, form_at = [], [0], [], np.zeros((nk, len(GROUPS)), dtype=np.int64)
    length = np.zeros((nk, nk * 3 * MOST_FUNCTIONS))
    size = 0
    for g, (group, factors) in enumerate(GROUPS.items()):
        blocks = [(b, s) for b in range(nk) for s in range(len(factors))] if group in prior.groups else []
        places += [FACTORS * b + 8 * ROW_OF[group, factors[s]] for b, s in blocks]
        start.append(len(places))
        for kind, element in enumerate(present):
            form_at[kind, g] = size
            if not blocks:
                continue
            offsets, _ = prior.features(int(element), group)
            matrix = 2.0 * prior.form(int(element), group)
            table = np.zeros((len(blocks), len(blocks), MOST_FUNCTIONS, MOST_FUNCTIONS))
            where = [int(offsets[present[b], s]) for b, s in blocks]
            for o, to in enumerate(where):
                if to < 0:
                    continue
                if group == "L0" and prior.magnetic[element]:
                    length[kind, 8 * o : 8 * o + functions] = matrix[0, to : to + functions]
                for i, at in enumerate(where):
                    if at >= 0:
                        table[o, i, :functions, :functions] = matrix[at : at + functions, to : to + functions]
            forms.append(table.ravel())
            size += table.size
    basis = np.ascontiguousarray(prior.core_parameters()[np.ix_(present, present)])
    flat = np.concatenate(forms) if forms else np.zeros(8)
    aligned = aligned_zeros(flat.shape)
    aligned[:] = flat
    return Tables(
        cutoff=prior.cutoff, reach=float(prior.shortest.max()), functions=functions, kp=prior.settings["pair_functions"],
        basis=basis, pair=pair.ravel(), landau=prior.landau_coefficients()[present].reshape(nk, LANDAU), forms=aligned,
        form_at=form_at, group_places=np.array(places, dtype=np.int64), group_start=np.array(start, dtype=np.int64),
        length=length, magnetic=prior.magnetic[present].copy(),
    )  # fmt: skip
