"""Operations on vectors of eight that few kernels need: places in tables with octaves, stores with conversion, scattered
rows.

The vector types and the common operations are in ``simd.py``.
"""

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from spinmd.simd import WIDTH, _as_vector, _is_table, _pointer, _shuffle, _splat, f64x8, i32x8

_DOUBLE = ir.DoubleType()
_INT32 = ir.IntType(32)
_INT64 = ir.IntType(64)
_VECTOR = ir.VectorType(_DOUBLE, WIDTH)
_VECTOR_INT = ir.VectorType(_INT32, WIDTH)
_QUAD = ir.VectorType(_DOUBLE, 4)


@intrinsic
def octave_position(typingctx, x, bits, first):
    """Where positive numbers stand in a table with 2^bits equal intervals in each octave, the first of which begins at 2^first.

    Row (I32x8), place t within the interval, 0 ≤ t < 1, and inverse width of the interval: read from the bits of the numbers.
    """
    if x is not f64x8:
        return None
    vector = ir.VectorType(_INT64, WIDTH)

    def codegen(context, builder, sig, args):
        def same(value):
            return ir.Constant(vector, [value] * WIDTH)

        bits, first = (context.cast(builder, args[k], sig.args[k], types.int64) for k in (1, 2))
        shift = _splat(builder, bits, vector)
        number = builder.bitcast(args[0], vector)
        begin = builder.shl(builder.add(first, ir.Constant(_INT64, 1023)), bits)
        row = builder.lshr(number, builder.sub(same(52), shift))
        row = builder.trunc(builder.sub(row, _splat(builder, begin, vector)), _VECTOR_INT)
        rest = builder.and_(builder.shl(number, shift), same((1 << 52) - 1))
        one = builder.bitcast(builder.or_(rest, same(1023 << 52)), _VECTOR)
        t = builder.fsub(one, ir.Constant(_VECTOR, [1.0] * WIDTH))
        exponent = builder.and_(number, same(0x7FF << 52))
        top = builder.shl(builder.add(bits, ir.Constant(_INT64, 2046)), ir.Constant(_INT64, 52))
        inverse = builder.bitcast(builder.sub(_splat(builder, top, vector), exponent), _VECTOR)
        return context.make_tuple(builder, sig.return_type, [row, t, inverse])

    return types.Tuple([i32x8, f64x8, f64x8])(x, bits, first), codegen


@intrinsic
def store_as(typingctx, array, index, value):
    """Write eight doubles to a flat array of doubles or floats, or eight integers to one of int32, from ``index``."""
    kinds = {types.float64: (f64x8, _VECTOR, 8), types.int32: (i32x8, _VECTOR_INT, 4)}
    kinds[types.float32] = (f64x8, ir.VectorType(ir.FloatType(), WIDTH), 4)
    wanted, vector, align = kinds.get(array.dtype, (None, None, 0))
    if value is not wanted:
        return None

    def codegen(context, builder, sig, args):
        index = context.cast(builder, args[1], sig.args[1], types.int64)
        pointer = _pointer(context, builder, sig.args[0], args[0], index)
        number = args[2] if sig.args[0].dtype != types.float32 else builder.fptrunc(args[2], vector)
        builder.store(number, builder.bitcast(pointer, vector.as_pointer()), align=align)
        return context.get_dummy_value()

    return types.void(array, index, value), codegen


@intrinsic
def lane_numbers(typingctx, first):
    """first, first + 1, ... first + 7 as doubles."""

    def codegen(context, builder, sig, args):
        number = _as_vector(context, builder, args[0], sig.args[0])
        return builder.fadd(number, ir.Constant(_VECTOR, [float(k) for k in range(WIDTH)]))

    return f64x8(first), codegen


@intrinsic
def scatter_rows4(typingctx, array, rows, x, y, z, w):
    """Write four F64x8 to the columns of rows ``rows[0..7]`` of an (n, 4) array."""
    if not (_is_table(array) and rows is i32x8):
        return None

    def codegen(context, builder, sig, args):
        xy = [_shuffle(builder, args[2], args[3], [k, 8 + k]) for k in range(WIDTH)]
        zw = [_shuffle(builder, args[4], args[5], [k, 8 + k]) for k in range(WIDTH)]
        for lane in range(WIDTH):
            index = builder.sext(builder.extract_element(args[1], ir.Constant(_INT32, lane)), _INT64)
            pointer = builder.bitcast(_pointer(context, builder, sig.args[0], args[0], index, 4), _QUAD.as_pointer())
            builder.store(_shuffle(builder, xy[lane], zw[lane], range(4)), pointer, align=8)
        return context.get_dummy_value()

    return types.void(array, rows, x, y, z, w), codegen
