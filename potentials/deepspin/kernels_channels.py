"""The loops over channels: descriptors from neighbours and table, and the way back. Emitted vector code, in either
precision.

Channels are taken eight doubles or sixteen floats at a time, a *block*. The table (see ``tables.py``) has, for each
row and block, six vectors of coefficients. The numbers of a list of neighbours are stored as five columns of length
``capacity``: t (place in the interval of the table), R_0, R_x, R_y, R_z. A and its derivative have four rows (0, x,
y, z) of all channels, ``stride`` long.
"""

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from spinmd.simd_matrix import Lanes, is_flat

COEFFICIENTS = 6
_INT64 = ir.IntType(64)


def _row_pointer(v: Lanes, table: int, rows: int, rows_at: int, stride: int, p):
    """Pointer to the coefficients of the table row of neighbour p."""
    row = v.builder.load(v.at(v.data(rows), v.integer(rows_at), p))
    return v.at(v.data(table), v.times(v.builder.sext(row, _INT64), v.integer(stride)))


def _accumulate(blocks: int):
    """A[4, ``blocks`` blocks] += Σ_p R_p ⊗ g_p with g_p from the table (Horner), accumulators in registers."""

    @intrinsic
    def accumulate(
        typingctx, table, rows, rows_at, stride, block_at, numbers, numbers_at, capacity, count, out, out_at, out_stride
    ):
        if not all(is_flat(array) and array.dtype == table.dtype for array in (table, numbers, out)):
            return None

        def codegen(context, builder, sig, args):
            v = Lanes(context, builder, sig, args, 0)
            capacity = v.integer(7)
            columns = [v.at(v.data(5), v.integer(6))]
            for _ in range(4):
                columns.append(v.at(columns[-1], capacity))
            places = [v.at(v.data(9), v.integer(10))]
            for _ in range(3):
                places.append(v.at(places[-1], v.integer(11)))
            sums = [[v.variable(v.load(v.at(place, b * v.width))) for b in range(blocks)] for place in places]
            block_at = v.integer(4)
            with v.loop(0, v.integer(8)) as p:
                begin = v.at(_row_pointer(v, 0, 1, 2, 3, p), block_at)
                t, *r = [v.broadcast(v.at(column, p)) for column in columns]
                for b in range(blocks):
                    where = [v.at(begin, (b * COEFFICIENTS + c) * v.width) for c in range(COEFFICIENTS)]
                    g = v.load(where[-1])
                    for place in where[-2::-1]:
                        g = v.fma(g, t, v.load(place))
                    for k in range(4):
                        v.set(sums[k][b], v.fma(r[k], g, v.get(sums[k][b])))
            for place, slots in zip(places, sums, strict=True):
                for b, slot in enumerate(slots):
                    v.store(v.get(slot), v.at(place, b * v.width))
            return v.nothing()

        given = (table, rows, rows_at, stride, block_at, numbers, numbers_at, capacity, count, out, out_at, out_stride)
        return types.void(*given), codegen

    return accumulate


accumulate_1 = _accumulate(1)
accumulate_2 = _accumulate(2)
accumulate_3 = _accumulate(3)
accumulate_4 = _accumulate(4)


@intrinsic
def channel_gradients(
    typingctx,
    table,
    rows,
    rows_at,
    stride,
    numbers,
    numbers_at,
    capacity,
    count,
    blocks,
    slope,
    slope_at,
    slope_stride,
    out,
    out_at,
):
    """Sums over channels for each neighbour p, with B = ∂E/∂A (``slope``), to five columns (float64) of ``out``.

    Columns 0 to 3: Σ_m B_km g_m for k = 0, x, y, z;  column 4: Σ_m (Σ_k R_k B_km) dg_m/dt
    """
    if not all(is_flat(array) and array.dtype == table.dtype for array in (table, numbers, slope)):
        return None

    def codegen(context, builder, sig, args):
        v = Lanes(context, builder, sig, args, 0)
        capacity, width = v.integer(6), v.width
        columns = [v.at(v.data(4), v.integer(5))]
        results = [v.at(v.data(12), v.integer(13))]
        for _ in range(4):
            columns.append(v.at(columns[-1], capacity))
            results.append(v.at(results[-1], capacity))
        slopes = [v.at(v.data(9), v.integer(10))]
        for _ in range(3):
            slopes.append(v.at(slopes[-1], v.integer(11)))
        blocks = v.integer(8)
        slots = [v.variable(v.zero()) for _ in range(5)]
        with v.loop(0, v.integer(7)) as p:
            begin = _row_pointer(v, 0, 1, 2, 3, p)
            t, *r = [v.broadcast(v.at(column, p)) for column in columns]
            for slot in slots:
                v.set(slot, v.zero())
            with v.loop(0, blocks) as b:
                place = v.at(begin, v.times(b, COEFFICIENTS * width))
                channel = v.times(b, width)
                c = [v.load(v.at(place, k * width)) for k in range(COEFFICIENTS)]
                g = v.fma(c[5], t, c[4])
                slope = v.fma(c[5], t, g)
                for k in (3, 2, 1):
                    g = v.fma(g, t, c[k])
                    slope = v.fma(slope, t, g)
                g = v.fma(g, t, c[0])
                pull = None
                for k in range(4):
                    weight = v.load(v.at(slopes[k], channel))
                    v.set(slots[k], v.fma(weight, g, v.get(slots[k])))
                    pull = builder.fmul(weight, r[k]) if pull is None else v.fma(weight, r[k], pull)
                v.set(slots[4], v.fma(pull, slope, v.get(slots[4])))
            four = v.sums4([v.get(slot) for slot in slots[:4]])
            sums = [v.lane(four, k) for k in range(4)] + [v.sum(v.get(slots[4]))]
            for result, total in zip(results, sums, strict=True):
                if not v.double:
                    total = builder.fpext(total, ir.DoubleType())
                builder.store(total, v.at(result, p))
        return v.nothing()

    given = (
        table,
        rows,
        rows_at,
        stride,
        numbers,
        numbers_at,
        capacity,
        count,
        blocks,
        slope,
        slope_at,
        slope_stride,
        out,
        out_at,
    )
    return types.void(*given), codegen


@intrinsic
def descriptor_columns(typingctx, a, a_at, stride, blocks, width, first, last, out, out_at):
    """D_ma = Σ_k A_km A_ka for first ≤ a < last and all channels m, at out_at + (a − first) · width + m.

    Whole vectors are written: up to a vector beyond the last place is overwritten.
    """
    if not all(is_flat(array) and array.dtype == a.dtype for array in (a, out)):
        return None

    def codegen(context, builder, sig, args):
        v = Lanes(context, builder, sig, args, 0)
        rows = [v.at(v.data(0), v.integer(1))]
        for _ in range(3):
            rows.append(v.at(rows[-1], v.integer(2)))
        first, width = v.integer(5), v.integer(4)
        with v.loop(first, v.integer(6)) as axis:
            factors = [v.broadcast(v.at(row, axis)) for row in rows]
            place = v.at(v.data(7), v.integer(8), v.times(builder.sub(axis, first), width))
            with v.loop(0, v.integer(3)) as b:
                channel = v.times(b, v.width)
                total = builder.fmul(factors[0], v.load(v.at(rows[0], channel)))
                for factor, row in zip(factors[1:], rows[1:], strict=True):
                    total = v.fma(factor, v.load(v.at(row, channel)), total)
                v.store(total, v.at(place, channel))
        return v.nothing()

    return types.void(a, a_at, stride, blocks, width, first, last, out, out_at), codegen


@intrinsic
def descriptor_gradient(typingctx, a, a_at, stride, blocks, first, last, given, given_at, out, out_at):
    """∂E/∂A from ∂E/∂D for first ≤ a < last: out_km += Σ_a D'_ma A_ka and out_ka += Σ_m D'_ma A_km.

    D'_ma is at given_at + (a − first) · stride + m; ``out`` is laid out like A. Channels of padding must be zero in A.
    """
    if not all(is_flat(array) and array.dtype == a.dtype for array in (a, given, out)):
        return None

    def codegen(context, builder, sig, args):
        v = Lanes(context, builder, sig, args, 0)
        stride, first, last = v.integer(2), v.integer(4), v.integer(5)
        rows, results = [v.at(v.data(0), v.integer(1))], [v.at(v.data(8), v.integer(9))]
        for _ in range(3):
            rows.append(v.at(rows[-1], stride))
            results.append(v.at(results[-1], stride))
        begin = v.at(v.data(6), v.integer(7))
        slots = [v.variable(v.zero()) for _ in range(4)]
        with v.loop(0, v.integer(3)) as b:
            channel = v.times(b, v.width)
            for slot, result in zip(slots, results, strict=True):
                v.set(slot, v.load(v.at(result, channel)))
            with v.loop(first, last) as axis:
                slope = v.load(v.at(begin, v.times(builder.sub(axis, first), stride), channel))
                for slot, row in zip(slots, rows, strict=True):
                    v.set(slot, v.fma(slope, v.broadcast(v.at(row, axis)), v.get(slot)))
            for slot, result in zip(slots, results, strict=True):
                v.store(v.get(slot), v.at(result, channel))
        with v.loop(first, last) as axis:
            for slot in slots:
                v.set(slot, v.zero())
            with v.loop(0, v.integer(3)) as b:
                channel = v.times(b, v.width)
                slope = v.load(v.at(begin, v.times(builder.sub(axis, first), stride), channel))
                for slot, row in zip(slots, rows, strict=True):
                    v.set(slot, v.fma(slope, v.load(v.at(row, channel)), v.get(slot)))
            four = v.sums4([v.get(slot) for slot in slots])
            for k, result in enumerate(results):
                place = v.at(result, axis)
                builder.store(builder.fadd(builder.load(place), v.lane(four, k)), place)
        return v.nothing()

    return types.void(a, a_at, stride, blocks, first, last, given, given_at, out, out_at), codegen
