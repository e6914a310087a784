"""The nets over the prior's many-body invariants in inference: energy of one centre and ∂E/∂x of its sums.

    z = (n_i and the sums of L0; Σ_c x_pc x_qc, p ≤ q, of L1, L2 and S0)
    y_1 = z,   y_{l+1} = y_l' + step φ(y_l W + b),   E = y_last
    ∂E/∂x_pc = Σ_q (1 + δ_pq) g_pq x_qc  for the products,   g = ∂E/∂z

Notation of ``potentials.deepspin.prior``; eV. Vectors of eight numbers throughout: widths are padded with zeros, and what a store
writes beyond its row is overwritten by the next row or never read. A first layer of 500 × 64 is 64 thousand multiplications an
atom, forwards and back; its 250 kB come from the second-level cache twice.
"""

from typing import NamedTuple

import numpy as np

from spinmd.backend import aligned_zeros
from spinmd.errors import InputError
from spinmd.potentials.deepspin.fitting import TANH, activation_law
from spinmd.potentials.deepspin.model import ACTIVATIONS, Net
from spinmd.potentials.deepspin.nets import resnet_kind
from spinmd.potentials.deepspin.prior import COMPONENTS, GROUPS, Prior, invariant_count
from spinmd.simd import hsum, load, splat, store
from spinmd.simd_matrix import tanh_in_place

from numba import njit  # isort: skip

inner = njit(cache=True, _nrt=False)
N_IN, N_OUT, ACTIVATION, RESNET, WEIGHT, BIAS, STEP = range(7)


class InvariantNets(NamedTuple):
    """The nets of the kinds (elements) of a state, nk of them; nk = 0: there are none.

    numbers   flat: weights, biases, steps, columns padded to a multiple of 8
    layers    (nk, depth, 7) int64, columns named above;  depth (nk,)
    places    flat int64: where the sums are in x, group by group, component by component
    start     (nk, 5) first entry of each group in ``places``;  sizes (nk, 4) sums of each group (n_i not counted)
    length    (nk,) bool: z begins with n_i;  count (nk,) length of z
    wide      longest of z and the layers;  most  largest group, and largest number of components times group
    """

    numbers: np.ndarray
    layers: np.ndarray
    depth: np.ndarray
    places: np.ndarray
    start: np.ndarray
    sizes: np.ndarray
    length: np.ndarray
    count: np.ndarray
    wide: int
    most: int

    @property
    def scratch(self) -> int:
        """Numbers of scratch memory of one centre."""
        return (2 * self.layers.shape[1] + 4) * self.wide + 6 * self.most


def pack_invariants(prior: Prior, nets: list[Net] | None, present: np.ndarray, row_of, factors: int) -> InvariantNets:
    """The nets of the elements ``present`` as the kernel reads them; x holds ``factors`` numbers per kind, the row of a sum is
    ``row_of[group, factor]``. Raises InputError for nets that do not fit the prior."""
    nk = len(present) if nets is not None else 0
    numbers, size, places = [], 0, []
    depth = np.array([len(nets[e]) for e in present] if nk else [], dtype=np.int64)
    layers = np.zeros((nk, int(depth.max(initial=0)), 7), dtype=np.int64)
    start, sizes = np.zeros((nk, 5), dtype=np.int64), np.zeros((nk, 4), dtype=np.int64)
    length, count = np.zeros(nk, dtype=np.bool_), np.zeros(nk, dtype=np.int64)
    wide = most = 8

    def put(array) -> int:
        nonlocal size
        numbers.append(np.ascontiguousarray(array, dtype=np.float64).ravel())
        size += numbers[-1].size
        return size - numbers[-1].size

    for kind in range(nk):
        element = int(present[kind])
        length[kind] = prior.magnetic[element]
        count[kind] = invariant_count(prior, element)
        for g, (group, names) in enumerate(GROUPS.items()):
            start[kind, g] = len(places)
            if group in prior.groups:
                place_of = feature_places(prior, element, present, group, names, row_of, factors)
                sizes[kind, g] = len(place_of)
                places += [place + 8 * c for c in range(COMPONENTS[group]) for place in place_of]
                most = max(most, len(place_of) + 1)
        start[kind, 4] = len(places)
        expected = int(count[kind])
        for k, layer in enumerate(nets[element]):
            n_in, n_out = layer.weight.shape
            if n_in != expected:
                raise InputError(f"layer {k} takes {n_in} numbers, it is given {expected}", f"invariants.{element}")
            padded = -(-n_out // 8) * 8
            weight, bias, step = np.zeros((n_in, padded)), np.zeros(padded), np.zeros(padded)
            weight[:, :n_out] = layer.weight
            bias[:n_out] = 0.0 if layer.bias is None else layer.bias
            step[:n_out] = 1.0 if layer.step is None else layer.step
            layers[kind, k] = (
                n_in, padded, ACTIVATIONS.index(layer.activation), resnet_kind(layer), put(weight), put(bias), put(step),
            )  # fmt: skip
            wide, expected = max(wide, n_in, padded), n_out
        if expected != 1:
            raise InputError(f"the net gives {expected} numbers instead of an energy", f"invariants.{element}")
    flat = aligned_zeros((max(size, 8),))
    if numbers:
        flat[:size] = np.concatenate(numbers)
    return InvariantNets(
        flat, layers, depth, np.array(places, dtype=np.int64), start, sizes, length, count,
        -(-wide // 8) * 8 + 8, -(-most // 8) * 8 + 8,
    )  # fmt: skip


def feature_places(prior: Prior, element: int, present, group: str, names, row_of, factors: int) -> list[int]:
    """Places in x of the first component of the sums of a group, in the order of the prior's features (n_i left out).

    A sum over an element that the state does not have is zero: its place is −1.
    """
    kind_of = {int(e): kind for kind, e in enumerate(present)}
    offsets, _ = prior.features(element, group)
    found = {}
    for b in range(len(prior.elements)):
        for s, name in enumerate(names):
            if offsets[b, s] < 0:
                continue
            for k in range(prior.settings["many_body_functions"]):
                kind = kind_of.get(b)
                found[int(offsets[b, s]) + k] = -1 if kind is None else factors * kind + 8 * row_of[group, name] + k
    return [found[at] for at in sorted(found)]


@inner
def _times_columns(count, x, x_at, w, w_at, stride, vectors, y, y_at):
    """y += x · W: ``count`` rows, ``vectors`` vectors of columns; eight of them stay in registers."""
    first = 0
    while first + 8 <= vectors:
        at = y_at + 8 * first
        a, b, c, d = load(y, at), load(y, at + 8), load(y, at + 16), load(y, at + 24)
        e, f, g, h = load(y, at + 32), load(y, at + 40), load(y, at + 48), load(y, at + 56)
        for m in range(count):
            own, row = splat(x[x_at + m]), w_at + m * stride + 8 * first
            a, b, c, d = (
                a + own * load(w, row), b + own * load(w, row + 8), c + own * load(w, row + 16), d + own * load(w, row + 24)
            )  # fmt: skip
            e, f, g, h = (
                e + own * load(w, row + 32), f + own * load(w, row + 40), g + own * load(w, row + 48), h + own * load(w, row + 56)
            )  # fmt: skip
        store(y, at, a)
        store(y, at + 8, b)
        store(y, at + 16, c)
        store(y, at + 24, d)
        store(y, at + 32, e)
        store(y, at + 40, f)
        store(y, at + 48, g)
        store(y, at + 56, h)
        first += 8
    for k in range(first, vectors):
        a, b = load(y, y_at + 8 * k), splat(0.0)
        for m in range(0, count - 1, 2):
            row = w_at + m * stride + 8 * k
            a = a + splat(x[x_at + m]) * load(w, row)
            b = b + splat(x[x_at + m + 1]) * load(w, row + stride)
        if count % 2 == 1:
            a = a + splat(x[x_at + count - 1]) * load(w, w_at + (count - 1) * stride + 8 * k)
        store(y, y_at + 8 * k, a + b)


@inner
def _times_rows(count, g, g_at, w, w_at, stride, vectors, y, y_at):
    """y += W · g, the way back of ``_times_columns``."""
    for m in range(count):
        row = w_at + m * stride
        a, b = splat(0.0), splat(0.0)
        for k in range(0, vectors - 1, 2):
            a = a + load(g, g_at + 8 * k) * load(w, row + 8 * k)
            b = b + load(g, g_at + 8 * k + 8) * load(w, row + 8 * k + 8)
        if vectors % 2 == 1:
            a = a + load(g, g_at + 8 * vectors - 8) * load(w, row + 8 * vectors - 8)
        y[y_at + m] += hsum(a + b)


@inner
def _pick_sums(kind, group, nets, x, x_at, scratch, sums):
    """The sums of a group to ``scratch``, component by component, each followed by zeros."""
    size, first, most = nets.sizes[kind, group], nets.start[kind, group], nets.most
    components = (nets.start[kind, group + 1] - first) // size
    for c in range(components):
        at = sums + c * most
        for p in range(size, most):
            scratch[at + p] = 0.0
        for p in range(size):
            place = nets.places[first + c * size + p]
            scratch[at + p] = x[x_at + place] if place >= 0 else 0.0
    return components


@inner
def _products(size, components, most, scratch, sums, at):
    """z of a group: Σ_c x_p x_q, q = p, p + 1, ..., for each p in turn."""
    for p in range(size):
        for q in range(0, size - p, 8):
            total = splat(0.0)
            for c in range(components):
                row = sums + c * most + p
                total = total + splat(scratch[row]) * load(scratch, row + q)
            store(scratch, at + q, total)
        at += size - p
    return at


@inner
def invariant_slopes(kind, ni, nets, x, x_at, slopes, scratch):
    """Energy of the net of one centre, and ∂E/∂n_i; adds ∂E/∂x to ``slopes``."""
    numbers, wide, most, layers, depth = nets.numbers, nets.wide, nets.most, nets.layers, nets.depth[kind]
    # y_1 = z, y_2, ...; then the slopes of the activations; then ∂E/∂y of one layer, and of the one before; then the sums
    slopes_at = (nets.layers.shape[1] + 1) * wide
    g = slopes_at + nets.layers.shape[1] * wide
    sums, at = g + 2 * wide, 0
    if nets.length[kind]:
        scratch[0] = ni
        at = 1
    for group in range(4):
        size = nets.sizes[kind, group]
        if size > 0:
            components = _pick_sums(kind, group, nets, x, x_at, scratch, sums)
            if group == 0:
                for p in range(size):
                    scratch[at + p] = scratch[sums + p]
                at += size
            else:
                at = _products(size, components, most, scratch, sums, at)
    for k in range(depth):
        n_in, n_out, here, there = layers[kind, k, N_IN], layers[kind, k, N_OUT], k * wide, (k + 1) * wide
        bias, steps, code = layers[kind, k, BIAS], layers[kind, k, STEP], layers[kind, k, ACTIVATION]
        for o in range(0, n_out, 8):
            store(scratch, there + o, load(numbers, bias + o))
        _times_columns(n_in, scratch, here, numbers, layers[kind, k, WEIGHT], n_out, n_out // 8, scratch, there)
        slope_at = slopes_at + k * wide
        if code == TANH:
            tanh_in_place(scratch, there, n_out)
            for o in range(0, n_out, 8):
                step, y = load(numbers, steps + o), load(scratch, there + o)
                store(scratch, slope_at + o, step * (1.0 - y * y))
                store(scratch, there + o, step * y)
        else:
            for o in range(n_out):
                value, slope = activation_law(code, scratch[there + o])
                scratch[there + o] = numbers[steps + o] * value
                scratch[slope_at + o] = numbers[steps + o] * slope
        for copy in range(layers[kind, k, RESNET]):
            for m in range(n_in):
                scratch[there + copy * n_in + m] += scratch[here + m]
    energy = scratch[depth * wide]
    for o in range(wide):
        scratch[g + o] = 0.0
    scratch[g] = 1.0
    for k in range(depth - 1, -1, -1):
        n_in, n_out, other = layers[kind, k, N_IN], layers[kind, k, N_OUT], g + wide
        for m in range(wide):
            scratch[other + m] = 0.0
        for copy in range(layers[kind, k, RESNET]):
            for m in range(n_in):
                scratch[other + m] += scratch[g + copy * n_in + m]
        for o in range(0, n_out, 8):
            store(scratch, g + o, load(scratch, g + o) * load(scratch, slopes_at + k * wide + o))
        _times_rows(n_in, scratch, g, numbers, layers[kind, k, WEIGHT], n_out, n_out // 8, scratch, other)
        for m in range(0, wide, 8):
            store(scratch, g + m, load(scratch, other + m))
    by_n, at = 0.0, g
    if nets.length[kind]:
        by_n = scratch[g]
        at += 1
    back = 0  # z is not needed any more
    for group in range(4):
        size, first = nets.sizes[kind, group], nets.start[kind, group]
        if size == 0:
            continue
        if group == 0:
            for p in range(size):
                if nets.places[first + p] >= 0:
                    slopes[nets.places[first + p]] += scratch[at + p]
            at += size
            continue
        components = _pick_sums(kind, group, nets, x, x_at, scratch, sums)
        for c in range(components):
            row, line = sums + c * most, at
            for p in range(0, most, 8):
                store(scratch, back + p, splat(0.0))
            for p in range(size):
                own, total = splat(scratch[row + p]), splat(0.0)
                for q in range(0, size - p, 8):
                    weight = load(scratch, line + q)
                    total = total + weight * load(scratch, row + p + q)
                    store(scratch, back + p + q, load(scratch, back + p + q) + own * weight)
                scratch[back + p] += hsum(total)
                line += size - p
            for p in range(size):
                if nets.places[first + c * size + p] >= 0:
                    slopes[nets.places[first + c * size + p]] += scratch[back + p]
        at += size * (size + 1) // 2
    return energy, by_n
