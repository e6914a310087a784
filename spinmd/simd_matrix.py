"""Whole loops as single operations of kernels, in either precision: small matrix products and activations.

``simd.py`` gives kernels a vector type; the loops here need more accumulators in registers than one wants to name, so
they are emitted as LLVM code. The type of the arrays chooses the vectors: eight doubles or sixteen floats. Arrays are
flat and C-contiguous, places in them are counted in numbers. Nothing here knows physics. ``Lanes`` is for other
emitters of loops.
"""

from contextlib import contextmanager

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

_INT32 = ir.IntType(32)
_INT64 = ir.IntType(64)
LANES = {types.float64: 8, types.float32: 16}
TILE_ROWS = 8  # rows of a matrix product that are worked on together
TILE_VECTORS = 3  # vectors of columns: 24 accumulators, of 32 registers


def is_flat(array) -> bool:
    """Whether a numba type is a flat C-contiguous array of doubles or floats."""
    return isinstance(array, types.Array) and array.layout == "C" and array.ndim == 1 and array.dtype in LANES


class Lanes:
    """Emits vector code of one precision: ``Lanes(context, builder, signature, arguments, array)``.

    ``array`` is the number of the argument whose element type chooses the vectors.
    """

    def __init__(self, context, builder, sig, args, array: int):
        self.context, self.builder, self.sig, self.args = context, builder, sig, args
        self.double = sig.args[array].dtype == types.float64
        self.scalar = ir.DoubleType() if self.double else ir.FloatType()
        self.width = LANES[sig.args[array].dtype]
        self.vector = ir.VectorType(self.scalar, self.width)
        self.name = "v8f64" if self.double else "v16f32"

    def integer(self, k: int):
        """Argument k as a 64-bit integer."""
        return self.context.cast(self.builder, self.args[k], self.sig.args[k], types.int64)

    def data(self, k: int):
        """Pointer to the first element of the array that is argument k."""
        return self.context.make_array(self.sig.args[k])(self.context, self.builder, value=self.args[k]).data

    def at(self, pointer, *offsets):
        """``pointer`` moved by the sum of some integers (Python's or emitted ones)."""
        for offset in offsets:
            if isinstance(offset, int):
                if offset == 0:
                    continue
                offset = ir.Constant(_INT64, offset)
            pointer = self.builder.gep(pointer, [offset])
        return pointer

    def times(self, value, factor):
        factor = ir.Constant(_INT64, factor) if isinstance(factor, int) else factor
        return self.builder.mul(value, factor)

    def add(self, left, right):
        right = ir.Constant(_INT64, right) if isinstance(right, int) else right
        return self.builder.add(left, right)

    def load(self, pointer):
        align = 8 if self.double else 4
        return self.builder.load(self.builder.bitcast(pointer, self.vector.as_pointer()), align=align)

    def store(self, value, pointer):
        align = 8 if self.double else 4
        self.builder.store(value, self.builder.bitcast(pointer, self.vector.as_pointer()), align=align)

    def splat(self, value):
        undefined = ir.Constant(self.vector, ir.Undefined)
        first = self.builder.insert_element(undefined, value, ir.Constant(_INT32, 0))
        lanes = ir.Constant(ir.VectorType(_INT32, self.width), [0] * self.width)
        return self.builder.shuffle_vector(first, undefined, lanes)

    def broadcast(self, pointer):
        """One number in all lanes."""
        return self.splat(self.builder.load(pointer))

    def constant(self, value: float):
        return ir.Constant(self.vector, [value] * self.width)

    def zero(self):
        return self.constant(0.0)

    def call(self, name, *values):
        function_type = ir.FunctionType(self.vector, [self.vector] * len(values))
        function = cgutils.get_or_insert_function(self.builder.module, function_type, f"llvm.{name}.{self.name}")
        return self.builder.call(function, values)

    def fma(self, a, b, c):
        """a · b + c, fused where the processor can."""
        return self.call("fmuladd", a, b, c)

    def shuffle(self, left, right, lanes):
        return self.builder.shuffle_vector(left, right, ir.Constant(ir.VectorType(_INT32, len(lanes)), list(lanes)))

    def sum(self, vector):
        """Sum of the lanes in a fixed order, a scalar."""
        width = self.width
        while width > 1:
            width //= 2
            low = self.shuffle(vector, vector, range(width))
            vector = self.builder.fadd(low, self.shuffle(vector, vector, range(width, 2 * width)))
        return self.builder.extract_element(vector, ir.Constant(_INT32, 0))

    def sums4(self, vectors):
        """Sums of the lanes of four vectors, as one vector of four, in a fixed order."""
        halves = []
        for vector in vectors:
            width = self.width
            while width > 4:
                width //= 2
                low = self.shuffle(vector, vector, range(width))
                vector = self.builder.fadd(low, self.shuffle(vector, vector, range(width, 2 * width)))
            halves.append(vector)
        a, b, c, d = halves
        ab = self.builder.fadd(self.shuffle(a, b, [0, 4, 2, 6]), self.shuffle(a, b, [1, 5, 3, 7]))
        cd = self.builder.fadd(self.shuffle(c, d, [0, 4, 2, 6]), self.shuffle(c, d, [1, 5, 3, 7]))
        return self.builder.fadd(self.shuffle(ab, cd, [0, 1, 4, 5]), self.shuffle(ab, cd, [2, 3, 6, 7]))

    def lane(self, vector, k: int):
        return self.builder.extract_element(vector, ir.Constant(_INT32, k))

    def variable(self, value):
        """A vector that changes in a loop (kept in a register)."""
        slot = cgutils.alloca_once(self.builder, value.type)
        self.builder.store(value, slot)
        return slot

    def get(self, slot):
        return self.builder.load(slot)

    def set(self, slot, value):
        self.builder.store(value, slot)

    @contextmanager
    def loop(self, first, last, step: int = 1):
        """``for k in range(first, last, step)``; gives k."""
        first = ir.Constant(_INT64, first) if isinstance(first, int) else first
        with cgutils.for_range_slice(self.builder, first, last, ir.Constant(_INT64, step), _INT64) as (k, _):
            yield k

    def nothing(self):
        return self.context.get_dummy_value()


def _tile(vectors: int):
    """C[8 rows, ``vectors`` vectors] += X[8 rows, :count] · W[:count, same columns] as an intrinsic."""

    @intrinsic
    def tile(typingctx, x, x_at, x_stride, w, w_at, count, c, c_at, c_stride):
        if not all(is_flat(array) and array.dtype == x.dtype for array in (x, w, c)):
            return None

        def codegen(context, builder, sig, args):
            v = Lanes(context, builder, sig, args, 0)
            x_stride, count, c_stride = v.integer(2), v.integer(5), v.integer(8)
            x_rows = [v.at(v.data(0), v.integer(1))]
            c_rows = [v.at(v.data(6), v.integer(7))]
            for _ in range(TILE_ROWS - 1):
                x_rows.append(v.at(x_rows[-1], x_stride))
                c_rows.append(v.at(c_rows[-1], c_stride))
            w_first = v.at(v.data(3), v.integer(4))
            sums = [[v.variable(v.load(v.at(row, j * v.width))) for j in range(vectors)] for row in c_rows]
            with v.loop(0, count) as k:
                place = v.at(w_first, v.times(k, vectors * v.width))
                weights = [v.load(v.at(place, j * v.width)) for j in range(vectors)]
                for row, slots in zip(x_rows, sums, strict=True):
                    value = v.broadcast(v.at(row, k))
                    for slot, weight in zip(slots, weights, strict=True):
                        v.set(slot, v.fma(value, weight, v.get(slot)))
            for row, slots in zip(c_rows, sums, strict=True):
                for j, slot in enumerate(slots):
                    v.store(v.get(slot), v.at(row, j * v.width))
            return v.nothing()

        return types.void(x, x_at, x_stride, w, w_at, count, c, c_at, c_stride), codegen

    return tile


tile_1 = _tile(1)
tile_2 = _tile(2)
tile_3 = _tile(3)

_LN2 = (6.93147180369123816490e-01, 1.90821492927058770002e-10)
_LN2_FLOAT = (0.693359375, -2.12194440e-4)
_LOG2E = 1.44269504088896338700


def emit_exp(v: Lanes, x):
    """exp of each lane, |x| < 700 (80 for floats): 2ⁿ times the Taylor series of the rest, within an ulp or two."""
    high, low = _LN2 if v.double else _LN2_FLOAT
    n = v.call("rint", v.builder.fmul(x, v.constant(_LOG2E)))
    rest = v.fma(n, v.constant(-high), x)
    rest = v.fma(n, v.constant(-low), rest)
    factorial, coefficients = 1.0, []
    for k in range(14 if v.double else 8):
        factorial *= max(k, 1)
        coefficients.append(1.0 / factorial)
    total = v.constant(coefficients.pop())
    while coefficients:
        total = v.fma(total, rest, v.constant(coefficients.pop()))
    bits, mantissa, bias = (64, 52, 1023) if v.double else (32, 23, 127)
    integers = ir.VectorType(ir.IntType(bits), v.width)
    power = v.builder.fptosi(n, ir.VectorType(_INT32, v.width))
    if bits == 64:
        power = v.builder.sext(power, integers)
    power = v.builder.add(power, ir.Constant(integers, [bias] * v.width))
    power = v.builder.shl(power, ir.Constant(integers, [mantissa] * v.width))
    return v.builder.fmul(total, v.builder.bitcast(power, v.vector))


@intrinsic
def tanh_in_place(typingctx, array, first, count):
    """tanh of ``count`` numbers from ``first`` on (a multiple of the vector's width); absolute error below 2 ulp of 1.

    tanh x = 1 − 2/(exp 2x + 1). What is not a number stays so.
    """
    if not is_flat(array):
        return None

    def codegen(context, builder, sig, args):
        v = Lanes(context, builder, sig, args, 0)
        begin = v.at(v.data(0), v.integer(1))
        limit = 20.0 if v.double else 10.0
        with v.loop(0, v.integer(2), v.width) as k:
            place = v.at(begin, k)
            x = v.load(place)
            for sign, order in ((1.0, ">"), (-1.0, "<")):
                bound = v.constant(sign * limit)
                x = builder.select(builder.fcmp_ordered(order, x, bound), bound, x)
            e = emit_exp(v, builder.fadd(x, x))
            one = v.constant(1.0)
            v.store(builder.fsub(one, builder.fdiv(v.constant(2.0), builder.fadd(e, one))), place)
        return v.nothing()

    return types.void(array, first, count), codegen
