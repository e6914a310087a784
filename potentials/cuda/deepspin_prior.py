"""A prior, and the nets over its invariants, on the GPU: tables of features, and one evaluation, block by block of rows.

Per atom with P neighbours within the cutoff, L entries in the list and f features (821 for one magnetic element with the default
sizes), nz of which (497) are the net's input; float64:

    sums of neighbours some 1000 P operations;  8 threads a centre
    features, slopes   2 to 10 f and 2 · 25 · 208 operations;  memory: 16 f bytes, 3.3 kB of x and ∂E/∂x
    net, back          4 Σ n_in n_out operations (144 thousand for 497-64-64-1), as matrix products;  memory: 24 nz bytes
    way back to pairs  some 1400 P operations;  slopes from the first-level cache;  memory: 64 L bytes
    gather             memory: 64 L bytes of its own, 8 L of list and transpose, 64 P of others' pulls

A block of rows is as large as ``BLOCK_BYTES`` allows; only the pulls (64 bytes for each place of the list) are kept for all atoms.
"""

import numpy as np
import torch

from spinmd.cuda.arrays import on_device, zeros
from spinmd.potentials.cuda.deepspin_lists import scale_spins
from spinmd.potentials.cuda.deepspin_nets import DeviceNet
from spinmd.potentials.cuda.deepspin_prior_kernels import (
    FACTORS,
    WIDTH,
    add_centres,
    gather_neighbours,
    make_features,
    make_slopes,
    pull_neighbours,
    sum_neighbours,
)
from spinmd.potentials.deepspin.invariant_kernels import feature_places
from spinmd.potentials.deepspin.prior import COMPONENTS, GROUPS, invariant_count
from spinmd.potentials.deepspin.prior_lanes import ROW_OF
from spinmd.protocols import Need

BLOCK_BYTES = 2**29


class _Features:
    """The features of the centres of one element, for ``make_features`` and ``make_slopes``; ``nz`` of them are the net's input."""

    def __init__(self, prior, element: int, present: np.ndarray):
        products, coefficients, members = [], [], {}  # place in x -> terms as in make_slopes
        self.nz = invariant_count(prior, element)
        blocks = {
            b.name: prior.coefficients[b.where] for b in prior.blocks if (b.kind, b.element) == ("many-body", element)
        }
        length = FACTORS * len(present)

        def put(p, q, components, coefficient):
            m = len(products)
            there = p >= 0 and (components == 0 or q >= 0)
            # a sum over an element that the state does not have is zero: the column behind n_i stays so
            products.append((p, q, components) if there else (length + 1, -1, 0))
            coefficients.append(coefficient)
            if there and components == 0:
                members.setdefault(p, []).append((m, -1))
            elif there:
                for c in range(0, WIDTH * components, WIDTH):
                    members.setdefault(p + c, []).append((m, 2 * (q + c) + int(p == q)))
                    if p != q:
                        members.setdefault(q + c, []).append((m, 2 * (p + c)))

        places = {
            group: feature_places(prior, element, present, group, GROUPS[group], ROW_OF, FACTORS)
            for group in prior.groups
        }
        places["L0"] = ([length] if prior.magnetic[element] else []) + places["L0"]
        for place in places["L0"]:
            put(place, -1, 0, 0.0)
        for group in (*prior.groups[1:], "L0"):
            of = places[group]
            for (p, q), coefficient in zip(
                zip(*prior.products(element, group), strict=True), blocks[group], strict=True
            ):
                put(of[p], of[q], COMPONENTS[group], coefficient)
        terms = np.zeros((2, max(len(one) for one in members.values()), len(members)), np.int32)
        for column, one in enumerate(members.values()):
            terms[:, : len(one), column] = np.array(one).T
        columns = np.array([(place, len(one)) for place, one in members.items()], np.int32)
        self.products, self.columns = on_device(np.array(products, np.int32)), on_device(columns)
        self.features, self.factors = on_device(terms[0]), on_device(terms[1])
        self.coefficients = on_device(np.array(coefficients))


class DevicePrior:
    """``part``: a prepared ``PriorPart``;  ``elements`` (N,) the model's element of each atom."""

    def __init__(self, part, elements: np.ndarray, state):
        prior, tables = part.prior, part._tables
        natoms, kinds = len(elements), part._kinds
        of_atoms = part._index[elements]
        order = np.argsort(kinds, kind="stable")
        ends = np.searchsorted(kinds[order], np.arange(part._nk + 1))
        self._ranges = [(k, int(ends[k]), int(ends[k + 1])) for k in range(part._nk)]
        present = np.array([of_atoms[order[first]] for _, first, _ in self._ranges])
        self._order, self._kinds = on_device(order.astype(np.int32)), on_device(kinds.astype(np.int32))
        self._cutoff, self._functions, self._kp = tables.cutoff, tables.functions, tables.kp
        nk = part._nk
        self._basis = on_device(tables.basis)
        self._pair = on_device(tables.pair.reshape(nk, nk, self._kp, 8))
        landau = np.where(prior.magnetic[present][:, None], tables.landau, 0.0)
        self._landau = [on_device(row) for row in landau]
        self._inverse, self._answering = on_device(part._inverse), on_device(part._answering)
        self._w, self._by_length = zeros((natoms, 4)), zeros(natoms)
        self._features = [_Features(prior, int(e), present) for e in present] if prior.groups else None
        self._fitting = None if part.invariants is None else [part.invariants[int(e)] for e in present]
        size = FACTORS * nk + 2  # n_i, and a column that stays zero
        most = max((len(f.coefficients) for f in self._features or ()), default=0)
        inner = max((DeviceNet.numbers_per_row(net) for net in self._fitting or ()), default=0)
        longest = max(last - first for _, first, last in self._ranges)
        self._rows = rows = int(min(max(BLOCK_BYTES // (8 * (2 * size + most + inner + 9)), 1), longest))
        self._x, self._slopes, self._pair_energies = zeros((rows, size)), zeros((rows, size)), zeros((rows, WIDTH))
        self._many, self._nothing = zeros(rows), zeros((1, 1))
        self._values = [zeros((rows, len(f.coefficients))) for f in self._features or ()]
        self._nets = None
        if self._fitting is not None:
            given = zip(self._fitting, self._values, self._features, strict=True)
            self._nets = [DeviceNet(net, rows, "float64", values, f.coefficients) for net, values, f in given]
        self._pulls = zeros((1, natoms, 8))

    def add(self, state, pairs, reverse, out, need) -> None:
        """Launch energies, forces, fields and virials as far as needed; ``reverse`` as in ``deepspin_lists``."""
        room = pairs.neighbours.shape[0]
        if len(self._pulls) != room:
            self._pulls = zeros((room, state.natoms, 8))
        want_force = bool(need & (Need.FORCE | Need.VIRIAL))
        backward = want_force or Need.FIELD in need
        many = self._features is not None
        scale_spins(state.natoms, state.spins, self._inverse, self._w)
        for kind, begin, end in self._ranges:
            if many:
                self._slopes.tensor.zero_()
            for first in range(begin, end, self._rows):
                rows = min(self._rows, end - first)
                sum_neighbours(
                    rows * WIDTH, rows, first, kind, self._functions, self._kp, self._cutoff, self._order, pairs.packed,
                    pairs.owner, self._kinds, pairs.neighbours, pairs.count, self._w, self._basis, self._pair, self._x,
                    self._pair_energies,
                )  # fmt: skip
                by_net = self._many_body(rows, kind, backward) if many else self._nothing
                if Need.ENERGY in need:
                    add_centres(
                        rows, rows, first, int(self._nets is not None), self._order, self._pair_energies, self._w,
                        self._landau[kind], by_net, self._many, out.energies,
                    )  # fmt: skip
                if backward:
                    pull_neighbours(
                        rows * room, rows, first, kind, room, self._functions, self._kp, int(many), int(want_force),
                        self._cutoff, self._order, pairs.packed, pairs.owner, self._kinds, pairs.neighbours, pairs.count, self._w,
                        self._basis, self._pair, self._slopes, self._landau[kind], self._pulls, self._by_length,
                    )  # fmt: skip
        if backward:
            gather_neighbours(
                state.natoms, int(Need.FORCE in need), int(Need.FIELD in need), int(Need.VIRIAL in need), self._answering,
                pairs.packed, self._w, pairs.owner, pairs.neighbours, pairs.count, reverse, self._pulls, self._by_length,
                out.forces, out.fields, out.virials,
            )  # fmt: skip

    def _many_body(self, rows: int, kind: int, backward: bool):
        """Energies of forms and net of a block of rows, and ∂E/∂x; returns the array of the nets' energies."""
        features, values = self._features[kind], self._values[kind]
        net = None if self._nets is None else self._nets[kind]
        make_features(rows * values.shape[1], rows, features.products, self._x, values)
        torch.mv(values.tensor[:rows], features.coefficients.tensor, out=self._many.tensor[:rows])
        if net is not None:
            net.forward(rows)
        if backward:
            if net is not None:
                net.backward(rows)
            make_slopes(
                rows * len(features.columns), rows, 0 if net is None else features.nz, features.columns, features.features,
                features.factors, features.coefficients, self._nothing if net is None else net.slopes, self._x, self._slopes,
            )  # fmt: skip
        return self._nothing if net is None else net.energies
