"""The four loops of a prior's evaluation in which the time goes, emitted as vector code. The physics is in ``prior_kernels``.

The sums of one centre over its neighbours of one element are 25 rows of eight numbers (radial functions): ``ROWS``. The
first nine do not know spins. Neighbours come in blocks of eight; arrays are flat float64, places in them counted in numbers:

    factors  (blocks, 25, 8)   what φ_k of a neighbour is multiplied with in each row
    phi      (blocks, 8, 8)    φ_k, functions first;  dphi likewise;  turned (blocks, 8, 8) neighbours first
"""

from numba.core import types
from numba.extending import intrinsic

from spinmd.simd import f64x8
from spinmd.simd_matrix import Lanes, is_flat

ROWS = 25
LATTICE_ROWS = 9
# first row of each sum, (group, factor) as in prior.GROUPS
ROW_OF = {
    ("L0", "1"): 0, ("L1", "1"): 1, ("L2", "1"): 4, ("L0", "c"): 9, ("L0", "n"): 10, ("L1", "c"): 11, ("L1", "n"): 14,
    ("L2", "c"): 17, ("S0", "s"): 22,
}  # fmt: skip
_W = 8


def _doubles(*arrays) -> bool:
    return all(is_flat(array) and array.dtype == types.float64 for array in arrays)


def _sums(first: int, last: int):
    """out[q, k] = Σ_p factors[q, p] φ_k(p) of the rows first ≤ q < last, over all blocks."""

    @intrinsic
    def sums(typingctx, factors, factors_at, turned, turned_at, blocks, out, out_at):
        if not _doubles(factors, turned, out):
            return None

        def codegen(context, builder, sig, args):
            v = Lanes(context, builder, sig, args, 0)
            factors, turned = v.at(v.data(0), v.integer(1)), v.at(v.data(2), v.integer(3))
            totals = [v.variable(v.zero()) for _ in range(first, last)]
            with v.loop(0, v.integer(4)) as b:
                f, phi = v.at(factors, v.times(b, ROWS * _W)), v.at(turned, v.times(b, _W * _W))
                for lane in range(_W):
                    functions = v.load(v.at(phi, lane * _W))
                    for q, total in enumerate(totals, first):
                        v.set(total, v.fma(v.broadcast(v.at(f, q * _W + lane)), functions, v.get(total)))
            for q, total in enumerate(totals, first):
                v.store(v.get(total), v.at(v.data(5), v.integer(6), q * _W))
            return v.nothing()

        return types.void(factors, factors_at, turned, turned_at, blocks, out, out_at), codegen

    return sums


def _back(first: int, last: int, radial: bool):
    """out[q] = Σ_k slopes[q, k] φ_k of a block of neighbours, first ≤ q < last; returns Σ_k φ_k' Σ_q factors[q] slopes[q, k]
    (zero without ``radial``)."""

    @intrinsic
    def back(typingctx, slopes, slopes_at, factors, factors_at, phi, dphi, phi_at, out):
        if not _doubles(slopes, factors, phi, dphi, out):
            return None

        def codegen(context, builder, sig, args):
            v = Lanes(context, builder, sig, args, 0)
            slopes, factors = v.at(v.data(0), v.integer(1)), v.at(v.data(2), v.integer(3))
            functions = [v.load(v.at(v.data(4), v.integer(6), k * _W)) for k in range(_W)]
            weights = [v.zero()] * _W
            for q in range(first, last):
                total = v.zero()
                factor = v.load(v.at(factors, q * _W)) if radial else None
                for k in range(_W):
                    slope = v.broadcast(v.at(slopes, q * _W + k))
                    total = v.fma(slope, functions[k], total)
                    if radial:
                        weights[k] = v.fma(slope, factor, weights[k])
                v.store(total, v.at(v.data(7), q * _W))
            result = v.zero()
            if radial:
                for k in range(_W):
                    result = v.fma(v.load(v.at(v.data(5), v.integer(6), k * _W)), weights[k], result)
            return result

        return f64x8(slopes, slopes_at, factors, factors_at, phi, dphi, phi_at, out), codegen

    return back


def _form(components: int):
    """y = Q x of one group with so many components: blocks of eight numbers begin at places[0 ... count − 1] of x and y,
    those of further components eight numbers later each. Q: (block of y, block of x, number in x, number in y)."""
    split = 4 if components == 1 else 2  # independent sums, so that additions need not wait for each other

    @intrinsic
    def form(typingctx, q, q_at, places, places_at, count, x, x_at, y, y_at):
        if not _doubles(q, x, y):
            return None

        def codegen(context, builder, sig, args):
            v = Lanes(context, builder, sig, args, 0)
            count, places = v.integer(4), v.at(v.data(2), v.integer(3))
            x, y = v.at(v.data(5), v.integer(6)), v.at(v.data(7), v.integer(8))
            sums = [[v.variable(v.zero()) for _ in range(split)] for _ in range(components)]
            with v.loop(0, count) as o:
                for slots in sums:
                    for slot in slots:
                        v.set(slot, v.zero())
                line = v.at(v.data(0), v.integer(1), v.times(builder.mul(o, count), _W * _W))
                with v.loop(0, count) as i:
                    matrix = v.at(line, v.times(i, _W * _W))
                    begin = v.at(x, builder.load(v.at(places, i)))
                    for k in range(_W):
                        row = v.load(v.at(matrix, k * _W))
                        for m, slots in enumerate(sums):
                            slot = slots[k % split]
                            v.set(slot, v.fma(v.broadcast(v.at(begin, m * _W + k)), row, v.get(slot)))
                end = v.at(y, builder.load(v.at(places, o)))
                for m, slots in enumerate(sums):
                    total = v.get(slots[0])
                    for slot in slots[1:]:
                        total = builder.fadd(total, v.get(slot))
                    v.store(total, v.at(end, m * _W))
            return v.nothing()

        return types.void(q, q_at, places, places_at, count, x, x_at, y, y_at), codegen

    return form


@intrinsic
def turn(typingctx, source, source_at, target, target_at):
    """The transpose of an 8 × 8 matrix."""
    if not _doubles(source, target):
        return None

    def codegen(context, builder, sig, args):
        v = Lanes(context, builder, sig, args, 0)
        begin = v.at(v.data(0), v.integer(1))
        rows = [v.load(v.at(begin, k * _W)) for k in range(_W)]
        for half in (4, 2, 1):  # exchange off-diagonal blocks of this size
            low = [lane if not lane & half else lane - half + _W for lane in range(_W)]
            high = [lane + half if not lane & half else lane + _W for lane in range(_W)]
            for k in range(_W):
                if not k & half:
                    one, other = rows[k], rows[k + half]
                    rows[k], rows[k + half] = v.shuffle(one, other, low), v.shuffle(one, other, high)
        end = v.at(v.data(2), v.integer(3))
        for k, row in enumerate(rows):
            v.store(row, v.at(end, k * _W))
        return v.nothing()

    return types.void(source, source_at, target, target_at), codegen


sums_all = _sums(0, ROWS)
sums_lattice = _sums(0, LATTICE_ROWS)
sums_spins = _sums(LATTICE_ROWS, ROWS)
back_all = _back(0, ROWS, True)
back_lattice = _back(0, LATTICE_ROWS, True)
back_spins = _back(LATTICE_ROWS, ROWS, False)
form_1 = _form(1)
form_3 = _form(3)
form_5 = _form(5)
