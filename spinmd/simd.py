"""Eight doubles at a time: a vector type for numba kernels.

``F64x8`` is an LLVM ``<8 x double>`` with the usual operators, so that a law of physics that is written once as a scalar ``@njit``
function compiles for vectors too. What compilers do not find by themselves is the gather of short rows: ``gather_rows4`` loads
eight rows of an (n, 4) array and transposes them in registers, several times cheaper than hardware gathers. LLVM maps the type to
whatever the processor has (one AVX-512 register, two AVX, four SSE or NEON ones); nothing here is specific to one.

Values exist inside kernels only. Multiplications and additions may be contracted to fused ones (LLVM flag ``contract``).
"""

import math
import operator

from llvmlite import ir
from numba.core import cgutils, types
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin, models, overload, register_model

WIDTH = 8
_DOUBLE = ir.DoubleType()
_INT32 = ir.IntType(32)
_INT64 = ir.IntType(64)
_VECTOR = ir.VectorType(_DOUBLE, WIDTH)
_VECTOR_INT = ir.VectorType(_INT32, WIDTH)


class F64x8Type(types.Type):
    def __init__(self):
        super().__init__(name="f64x8")


class I32x8Type(types.Type):
    def __init__(self):
        super().__init__(name="i32x8")


f64x8 = F64x8Type()
i32x8 = I32x8Type()


@register_model(F64x8Type)
class _F64x8Model(models.PrimitiveModel):
    def __init__(self, manager, fe_type):
        super().__init__(manager, fe_type, _VECTOR)


@register_model(I32x8Type)
class _I32x8Model(models.PrimitiveModel):
    def __init__(self, manager, fe_type):
        super().__init__(manager, fe_type, _VECTOR_INT)


def _splat(builder, value, vector=_VECTOR):
    undefined = ir.Constant(vector, ir.Undefined)
    first = builder.insert_element(undefined, value, ir.Constant(_INT32, 0))
    return builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(_INT32, WIDTH), [0] * WIDTH))


def _as_vector(context, builder, value, kind):
    if kind is f64x8:
        return value
    return _splat(builder, context.cast(builder, value, kind, types.float64))


def _define_operator(function, instruction):
    @infer_global(function)
    class Template(AbstractTemplate):
        def generic(self, args, keywords):
            if len(args) == 2 and f64x8 in args and all(a is f64x8 or isinstance(a, types.Number) for a in args):
                return signature(f64x8, *args)
            return None

    def lower(context, builder, sig, args):
        left, right = (_as_vector(context, builder, a, t) for a, t in zip(args, sig.args, strict=True))
        return getattr(builder, instruction)(left, right, flags=("contract",))

    for left, right in ((f64x8, f64x8), (f64x8, types.Number), (types.Number, f64x8)):
        lower_builtin(function, left, right)(lower)


for _function, _name in (
    (operator.add, "fadd"),
    (operator.sub, "fsub"),
    (operator.mul, "fmul"),
    (operator.truediv, "fdiv"),
):
    _define_operator(_function, _name)
for _function, _name in ((operator.iadd, "fadd"), (operator.isub, "fsub"), (operator.imul, "fmul")):
    _define_operator(_function, _name)


@infer_global(operator.neg)
class _NegateTemplate(AbstractTemplate):
    def generic(self, args, keywords):
        return signature(f64x8, f64x8) if args == (f64x8,) else None


@lower_builtin(operator.neg, f64x8)
def _negate(context, builder, sig, args):
    return builder.fneg(args[0])


def _call(builder, name, result, *args):
    function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(result, [a.type for a in args]), name)
    return builder.call(function, args)


@intrinsic
def splat(typingctx, value):
    """All eight lanes equal to one number."""

    def codegen(context, builder, sig, args):
        return _as_vector(context, builder, args[0], sig.args[0])

    return f64x8(value), codegen


@intrinsic
def vsqrt(typingctx, value):
    """Square root of each lane."""

    def codegen(context, builder, sig, args):
        return _call(builder, "llvm.sqrt.v8f64", _VECTOR, args[0])

    return (f64x8(f64x8), codegen) if value is f64x8 else None


def root(value):
    """Square root of a number or of each lane."""
    return math.sqrt(value)


@overload(root)
def _root(value):
    if value is f64x8:
        return lambda value: vsqrt(value)
    return lambda value: math.sqrt(value)


def larger(left, right):
    """The larger of two numbers, or of each lane; ``right`` where ``left`` is not a number."""
    return left if left > right else right


@overload(larger)
def _larger(left, right):
    if left is f64x8:
        return lambda left, right: where_less(right, left, left, right)
    return lambda left, right: left if left > right else right


@intrinsic
def where_less(typingctx, left, right, if_true, if_false):
    """``if_true`` in the lanes where left < right, else ``if_false``."""

    def codegen(context, builder, sig, args):
        left, right, yes, no = (_as_vector(context, builder, a, t) for a, t in zip(args, sig.args, strict=True))
        return builder.select(builder.fcmp_ordered("<", left, right), yes, no)

    return f64x8(left, right, if_true, if_false), codegen


@intrinsic
def mask_less(typingctx, left, right):
    """Bits 0 to 7 of an integer: the lanes where left < right."""

    def codegen(context, builder, sig, args):
        left, right = (_as_vector(context, builder, a, t) for a, t in zip(args, sig.args, strict=True))
        lanes = builder.fcmp_ordered("<", left, right)
        return builder.zext(builder.bitcast(lanes, ir.IntType(8)), _INT64)

    return types.int64(left, right), codegen


@intrinsic
def bit_count(typingctx, mask):
    """Number of set bits."""

    def codegen(context, builder, sig, args):
        return builder.ctpop(args[0])

    return types.int64(types.int64), codegen


@intrinsic
def truncate(typingctx, value):
    """Integer part (towards zero) of each lane as 32-bit integers; lanes must fit."""

    def codegen(context, builder, sig, args):
        return builder.fptosi(args[0], _VECTOR_INT)

    return (i32x8(f64x8), codegen) if value is f64x8 else None


@intrinsic
def to_float(typingctx, value):
    """Integers to doubles."""

    def codegen(context, builder, sig, args):
        return builder.sitofp(args[0], _VECTOR)

    return (f64x8(i32x8), codegen) if value is i32x8 else None


@intrinsic
def offset_by(typingctx, value, offset):
    """Each integer lane plus one integer."""

    def codegen(context, builder, sig, args):
        number = context.cast(builder, args[1], sig.args[1], types.int32)
        return builder.add(args[0], _splat(builder, number, _VECTOR_INT))

    return (i32x8(i32x8, offset), codegen) if value is i32x8 and isinstance(offset, types.Integer) else None


@intrinsic
def vadd(typingctx, left, right):
    """Sum of two integer vectors."""

    def codegen(context, builder, sig, args):
        return builder.add(args[0], args[1])

    return (i32x8(i32x8, i32x8), codegen) if left is i32x8 and right is i32x8 else None


@intrinsic
def hsum(typingctx, value):
    """Sum of the eight lanes, in a fixed order."""

    def codegen(context, builder, sig, args):
        vector = args[0]
        for width in (4, 2, 1):
            undefined = ir.Constant(vector.type, ir.Undefined)
            lanes = ir.VectorType(_INT32, width)
            low = builder.shuffle_vector(vector, undefined, ir.Constant(lanes, list(range(width))))
            high = builder.shuffle_vector(vector, undefined, ir.Constant(lanes, list(range(width, 2 * width))))
            vector = builder.fadd(low, high)
        return builder.extract_element(vector, ir.Constant(_INT32, 0))

    return (types.float64(f64x8), codegen) if value is f64x8 else None


def _pointer(context, builder, array_type, array, index, row_length=1):
    """Address of element ``index * row_length`` of a C-contiguous array."""
    data = context.make_array(array_type)(context, builder, value=array).data
    if row_length != 1:
        index = builder.mul(index, ir.Constant(_INT64, row_length))
    return builder.gep(data, [index])


@intrinsic
def load(typingctx, array, index):
    """Eight consecutive elements of a flat array, from ``index``: F64x8 of float64, I32x8 of int32."""
    if not (isinstance(array, types.Array) and array.layout == "C" and isinstance(index, types.Integer)):
        return None
    result, vector, align = (f64x8, _VECTOR, 8) if array.dtype == types.float64 else (i32x8, _VECTOR_INT, 4)

    def codegen(context, builder, sig, args):
        index = context.cast(builder, args[1], sig.args[1], types.int64)
        pointer = _pointer(context, builder, sig.args[0], args[0], index)
        return builder.load(builder.bitcast(pointer, vector.as_pointer()), align=align)

    return result(array, index), codegen


@intrinsic
def store(typingctx, array, index, value):
    """Write eight lanes to consecutive elements of a flat array, from ``index``."""

    def codegen(context, builder, sig, args):
        index = context.cast(builder, args[1], sig.args[1], types.int64)
        pointer = _pointer(context, builder, sig.args[0], args[0], index)
        builder.store(args[2], builder.bitcast(pointer, _VECTOR.as_pointer()), align=8)
        return context.get_dummy_value()

    return types.void(array, index, value), codegen


_QUAD = ir.VectorType(_DOUBLE, 4)


def _shuffle(builder, left, right, lanes):
    return builder.shuffle_vector(left, right, ir.Constant(ir.VectorType(_INT32, len(lanes)), list(lanes)))


def _columns(builder, rows):
    """Four vectors of eight from eight of four: rows k and k + 4 side by side, then a 4 × 4 transpose in both halves."""
    both = [_shuffle(builder, rows[k], rows[k + 4], range(8)) for k in range(4)]
    low01 = _shuffle(builder, both[0], both[1], [0, 8, 2, 10, 4, 12, 6, 14])
    high01 = _shuffle(builder, both[0], both[1], [1, 9, 3, 11, 5, 13, 7, 15])
    low23 = _shuffle(builder, both[2], both[3], [0, 8, 2, 10, 4, 12, 6, 14])
    high23 = _shuffle(builder, both[2], both[3], [1, 9, 3, 11, 5, 13, 7, 15])
    return [
        _shuffle(builder, low01, low23, [0, 1, 8, 9, 4, 5, 12, 13]),
        _shuffle(builder, high01, high23, [0, 1, 8, 9, 4, 5, 12, 13]),
        _shuffle(builder, low01, low23, [2, 3, 10, 11, 6, 7, 14, 15]),
        _shuffle(builder, high01, high23, [2, 3, 10, 11, 6, 7, 14, 15]),
    ]


def _is_table(array) -> bool:
    return isinstance(array, types.Array) and array.layout == "C" and array.dtype == types.float64


def _gather(row_length):
    """Code that loads four numbers from ``row_length`` times each index on."""

    def codegen(context, builder, sig, args):
        rows = []
        for lane in range(WIDTH):
            index = builder.sext(builder.extract_element(args[1], ir.Constant(_INT32, lane)), _INT64)
            pointer = _pointer(context, builder, sig.args[0], args[0], index, row_length)
            rows.append(builder.load(builder.bitcast(pointer, _QUAD.as_pointer()), align=8))
        return context.make_tuple(builder, sig.return_type, _columns(builder, rows))

    return codegen


@intrinsic
def gather_rows4(typingctx, array, rows):
    """Rows ``rows[0..7]`` of a C-contiguous float64 array of row length 4, as four F64x8, one per column."""
    return (types.UniTuple(f64x8, 4)(array, rows), _gather(4)) if _is_table(array) and rows is i32x8 else None


@intrinsic
def load_rows4(typingctx, array, first):
    """Rows first to first + 7 of an (n, 4) array, as four F64x8."""

    def codegen(context, builder, sig, args):
        first = context.cast(builder, args[1], sig.args[1], types.int64)
        base = builder.bitcast(_pointer(context, builder, sig.args[0], args[0], first, 4), _QUAD.as_pointer())
        rows = [builder.load(builder.gep(base, [ir.Constant(_INT64, k)]), align=8) for k in range(WIDTH)]
        return context.make_tuple(builder, sig.return_type, _columns(builder, rows))

    return (types.UniTuple(f64x8, 4)(array, first), codegen) if _is_table(array) else None


@intrinsic
def store_rows4(typingctx, array, first, x, y, z, w):
    """Write four F64x8 to the columns of rows first to first + 7 of an (n, 4) array."""

    def codegen(context, builder, sig, args):
        first = context.cast(builder, args[1], sig.args[1], types.int64)
        base = builder.bitcast(_pointer(context, builder, sig.args[0], args[0], first, 4), _QUAD.as_pointer())
        xy = [_shuffle(builder, args[2], args[3], [k, 8 + k]) for k in range(WIDTH)]
        zw = [_shuffle(builder, args[4], args[5], [k, 8 + k]) for k in range(WIDTH)]
        for k in range(WIDTH):
            row = _shuffle(builder, xy[k], zw[k], range(4))
            builder.store(row, builder.gep(base, [ir.Constant(_INT64, k)]), align=8)
        return context.get_dummy_value()

    return (types.void(array, first, x, y, z, w), codegen) if _is_table(array) else None


@intrinsic
def load_rows3(typingctx, array, first):
    """Rows first to first + 7 of an (n, 3) array, as three F64x8."""

    def codegen(context, builder, sig, args):
        first = context.cast(builder, args[1], sig.args[1], types.int64)
        wide = ir.VectorType(_DOUBLE, 3 * WIDTH)
        pointer = builder.bitcast(_pointer(context, builder, sig.args[0], args[0], first, 3), wide.as_pointer())
        numbers = builder.load(pointer, align=8)
        columns = [_shuffle(builder, numbers, numbers, range(a, 3 * WIDTH, 3)) for a in range(3)]
        return context.make_tuple(builder, sig.return_type, columns)

    return (types.UniTuple(f64x8, 3)(array, first), codegen) if _is_table(array) else None


@intrinsic
def store_rows3(typingctx, array, first, x, y, z):
    """Write three F64x8 to the columns of rows first to first + 7 of an (n, 3) array."""

    def codegen(context, builder, sig, args):
        first = context.cast(builder, args[1], sig.args[1], types.int64)
        wide = ir.VectorType(_DOUBLE, 3 * WIDTH)
        pointer = builder.bitcast(_pointer(context, builder, sig.args[0], args[0], first, 3), wide.as_pointer())
        xy = _shuffle(builder, args[2], args[3], range(16))
        zz = _shuffle(builder, args[4], args[4], range(16))
        order = [lane + 8 * a if a < 2 else 16 + lane for lane in range(WIDTH) for a in range(3)]
        builder.store(_shuffle(builder, xy, zz, order), pointer, align=8)
        return context.get_dummy_value()

    return (types.void(array, first, x, y, z), codegen) if _is_table(array) else None


@intrinsic
def gather_int(typingctx, array, rows):
    """Elements ``array[rows[0..7]]`` of a flat int32 array."""
    if not (isinstance(array, types.Array) and array.layout == "C" and array.dtype == types.int32 and rows is i32x8):
        return None

    def codegen(context, builder, sig, args):
        result = ir.Constant(_VECTOR_INT, ir.Undefined)
        for lane in range(WIDTH):
            index = builder.sext(builder.extract_element(args[1], ir.Constant(_INT32, lane)), _INT64)
            pointer = _pointer(context, builder, sig.args[0], args[0], index)
            result = builder.insert_element(result, builder.load(pointer), ir.Constant(_INT32, lane))
        return result

    return i32x8(array, rows), codegen


def _weighted_sum(context, builder, sig, args, first, last):
    """Code of Σ_k weights[k] · array[indices[k]], first ≤ k < last, as one vector of four; ``args`` begin array, indices, weights.

    Each row is one load and one fused multiply-add; four independent sums hide the latency and are added in a fixed order.
    """
    undefined = ir.Constant(_QUAD, ir.Undefined)
    sums = [cgutils.alloca_once(builder, _QUAD) for _ in range(4)]
    for slot in sums:
        builder.store(ir.Constant(_QUAD, [0.0] * 4), slot)

    def add(k, slot):
        weight = builder.load(_pointer(context, builder, sig.args[2], args[2], k))
        weight = _shuffle(
            builder, builder.insert_element(undefined, weight, ir.Constant(_INT32, 0)), undefined, [0] * 4
        )
        index = builder.sext(builder.load(_pointer(context, builder, sig.args[1], args[1], k)), _INT64)
        pointer = builder.bitcast(_pointer(context, builder, sig.args[0], args[0], index, 4), _QUAD.as_pointer())
        product = builder.fmul(builder.load(pointer, align=8), weight, flags=("contract",))
        builder.store(builder.fadd(builder.load(slot), product, flags=("contract",)), slot)

    bulk = builder.add(first, builder.and_(builder.sub(last, first), ir.Constant(_INT64, -4)))
    with cgutils.for_range_slice(builder, first, bulk, ir.Constant(_INT64, 4), _INT64) as (k, _):
        for lane, slot in enumerate(sums):
            add(builder.add(k, ir.Constant(_INT64, lane)), slot)
    with cgutils.for_range_slice(builder, bulk, last, ir.Constant(_INT64, 1), _INT64) as (k, _):
        add(k, sums[0])
    a, b, c, d = (builder.load(slot) for slot in sums)
    return builder.fadd(builder.fadd(a, b), builder.fadd(c, d))


@intrinsic
def weighted_rows4(typingctx, array, indices, weights, first, last):
    """Σ_k weights[k] · array[indices[k]] for first ≤ k < last, the rows of an (n, 4) array: four numbers."""
    if not (_is_table(array) and indices.dtype == types.int32):
        return None

    def codegen(context, builder, sig, args):
        low, high = (context.cast(builder, args[k], sig.args[k], types.int64) for k in (3, 4))
        total = _weighted_sum(context, builder, sig, args, low, high)
        parts = [builder.extract_element(total, ir.Constant(_INT32, lane)) for lane in range(4)]
        return context.make_tuple(builder, sig.return_type, parts)

    return types.UniTuple(types.float64, 4)(array, indices, weights, first, last), codegen


@intrinsic
def weighted_rows4_of8(typingctx, array, indices, weights, start, count, atom):
    """``weighted_rows4`` of eight consecutive atoms: k from start[i] on, count[i] of them, i = atom ... atom + 7. Four F64x8."""
    if not (_is_table(array) and indices.dtype == types.int32):
        return None

    def codegen(context, builder, sig, args):
        atom = context.cast(builder, args[5], sig.args[5], types.int64)
        rows = []
        for lane in range(WIDTH):
            i = builder.add(atom, ir.Constant(_INT64, lane))
            first = builder.load(_pointer(context, builder, sig.args[3], args[3], i))
            number = builder.load(_pointer(context, builder, sig.args[4], args[4], i))
            last = builder.add(first, context.cast(builder, number, sig.args[4].dtype, types.int64))
            rows.append(_weighted_sum(context, builder, sig, args, first, last))
        return context.make_tuple(builder, sig.return_type, _columns(builder, rows))

    return types.UniTuple(f64x8, 4)(array, indices, weights, start, count, atom), codegen
