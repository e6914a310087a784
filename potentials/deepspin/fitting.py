"""Fitting nets on blocks of atoms: descriptor, layers, and the way back to ∂E/∂A, in either precision.

    D_ma = Σ_k A_km A_ka,   x_0 = D,   x_{l+1} = x_l' + step φ(x_l W + b),   E = x_last

Rows are atoms of one element. Products are made by ``simd_matrix.tile_*`` on groups of eight rows in a fixed order,
so that results do not depend on the number of threads. D (M · axis numbers per atom) exists only in pieces of a few
columns a, in the order a · M + m. ``pack_fitting`` lays the weights out as the kernels want them; ``fit_energies``
and ``fit_slopes`` are the kernels.
"""

import math
from typing import NamedTuple

import numpy as np
from numba import njit

from spinmd.errors import InputError
from spinmd.potentials.deepspin.kernels_channels import descriptor_columns, descriptor_gradient
from spinmd.potentials.deepspin.model import ACTIVATIONS, Network
from spinmd.potentials.deepspin.nets import resnet_kind
from spinmd.simd_matrix import TILE_ROWS, TILE_VECTORS, tanh_in_place, tile_1, tile_2, tile_3

ROWS = 48  # atoms in a block, a multiple of TILE_ROWS
PIECE = 256  # columns of D that are made at a time, about

# columns of FittingNets.layers
N_IN, N_OUT, PADDED, ACTIVATION, RESNET, WEIGHT, TRANSPOSED, BIAS, STEP, PADDED_IN = range(10)
TANH, LINEAR, SIGMOID, SOFTPLUS, GELU, RELU, SILU = (
    ACTIVATIONS.index(name) for name in ("tanh", "linear", "sigmoid", "softplus", "gelu", "relu", "silu")
)
_GELU = math.sqrt(2.0 / math.pi)


class FittingNets(NamedTuple):
    """All fitting nets of a model.

    numbers  flat: weights in panels of up to three vectors of columns, transposed weights, biases and steps, padded with zeros
    layers   (n elements, layers, 10) int64; columns are named above, places count in ``numbers``
    depth    (n,) layers of each net
    wide     longest padded row of a layer;  width M;  axis;  stride  M padded;  lanes
    piece    columns a of D that are made at a time
    """

    numbers: np.ndarray
    layers: np.ndarray
    depth: np.ndarray
    wide: int
    width: int
    axis: int
    stride: int
    lanes: int
    piece: int


def _padded(n: int, lanes: int) -> int:
    return -(-n // lanes) * lanes


@njit(cache=True)
def _panel_width(left):
    """Vectors of columns in the next panel: three, but rather two twice than three and one."""
    return 2 if left == 4 or left == 2 else min(left, TILE_VECTORS)


def _panels(weight: np.ndarray, lanes: int, dtype) -> np.ndarray:
    """Columns in panels of up to three vectors, each panel row by row; flat."""
    n_in, n_out = weight.shape
    padded = np.zeros((n_in, _padded(n_out, lanes)), dtype=dtype)
    padded[:, :n_out] = weight
    at, vectors, panels = 0, padded.shape[1] // lanes, []
    while at < vectors:
        wide = _panel_width.py_func(vectors - at)
        panels.append(padded[:, at * lanes : (at + wide) * lanes].ravel())
        at += wide
    return np.concatenate(panels)


def pack_fitting(network: Network, lanes: int, dtype) -> FittingNets:
    """The fitting nets of a network for vectors of ``lanes`` numbers. Raises InputError for nets of a wrong shape."""
    width, axis = network.width, network.axis
    stride = _padded(width, lanes)
    numbers, size = [], 0
    depth = np.array([len(net) for net in network.fitting], dtype=np.int64)
    layers = np.zeros((len(depth), int(depth.max()), 10), dtype=np.int64)

    def put(array) -> int:
        nonlocal size
        numbers.append(np.ascontiguousarray(array, dtype=dtype).ravel())
        size += numbers[-1].size
        return size - numbers[-1].size

    wide = lanes
    for c, net in enumerate(network.fitting):
        expected = width * axis
        for k, layer in enumerate(net):
            n_in, n_out = layer.weight.shape
            if n_in != expected:
                raise InputError(f"layer {k} of fitting net {c} takes {n_in} numbers, it is given {expected}", "model")
            expected, padded = n_out, _padded(n_out, lanes)
            weight = layer.weight
            if k == 0:  # the descriptor comes as a · M + m instead of m · axis + a
                weight = weight.reshape(width, axis, n_out).transpose(1, 0, 2)
                back = [_panels(weight[a].T, lanes, dtype) for a in range(axis)]
                weight, transposed = weight.reshape(n_in, n_out), np.concatenate(back)
            else:
                transposed = _panels(weight.T, lanes, dtype)
            bias, step = np.zeros(padded), np.zeros(padded)
            if layer.bias is not None:
                bias[:n_out] = layer.bias
            step[:n_out] = 1.0 if layer.step is None else layer.step
            layers[c, k] = (
                n_in, n_out, padded, ACTIVATIONS.index(layer.activation), resnet_kind(layer), put(_panels(weight, lanes, dtype)),
                put(transposed), put(bias), put(step), _padded(n_in, lanes),
            )  # fmt: skip
            wide = max(wide, padded)
        if expected != 1:
            raise InputError(f"fitting net {c} gives {expected} numbers instead of an energy", "model")
    piece = max(1, min(axis, PIECE // width))
    return FittingNets(np.concatenate(numbers), layers, depth, wide, width, axis, stride, lanes, piece)


def scratch_size(nets: FittingNets) -> int:
    """Numbers of scratch memory that ``fit_energies`` needs."""
    layers = nets.layers.shape[1]
    return ROWS * ((2 * layers + 2) * nets.wide + nets.piece * (nets.width + nets.stride) + 4 * nets.lanes)


@njit(cache=True)
def _product(rows, x, x_at, x_stride, w, w_at, n_in, first, count, vectors, lanes, c, c_at, c_stride):
    """C += X · W[first : first + count]; W has n_in rows in panels, C ``vectors`` vectors of columns."""
    panel = 0
    while panel < vectors:
        wide = _panel_width(vectors - panel)
        place = w_at + (panel * n_in + first * wide) * lanes
        for row in range(0, rows, TILE_ROWS):
            x_row, c_row = x_at + row * x_stride, c_at + row * c_stride + panel * lanes
            if wide == 3:
                tile_3(x, x_row, x_stride, w, place, count, c, c_row, c_stride)
            elif wide == 2:
                tile_2(x, x_row, x_stride, w, place, count, c, c_row, c_stride)
            else:
                tile_1(x, x_row, x_stride, w, place, count, c, c_row, c_stride)
        panel += wide


@njit(cache=True)
def activation_law(code, x):
    """φ(x) and φ'(x) of the rarer activations."""
    if code == SIGMOID:
        y = 1.0 / (1.0 + math.exp(-x))
        return y, y * (1.0 - y)
    if code == SOFTPLUS:
        return max(x, 0.0) + math.log1p(math.exp(-abs(x))), 1.0 / (1.0 + math.exp(-x))
    if code == GELU:
        y = math.tanh(_GELU * (x + 0.044715 * x * x * x))
        slope = (1.0 - y * y) * _GELU * (1.0 + 0.134145 * x * x)
        return 0.5 * x * (1.0 + y), 0.5 * (1.0 + y) + 0.5 * x * slope
    if code == RELU:
        return max(x, 0.0), 1.0 if x > 0.0 else 0.0
    if code == SILU:
        y = 1.0 / (1.0 + math.exp(-x))
        return x * y, y + x * y * (1.0 - y)
    return x, 1.0


@njit(cache=True)
def _activate(code, scratch, at, slope_at, count, steps, step_at):
    """z becomes step · φ(z), and step · φ'(z) goes to ``slope_at``; one row."""
    if code == TANH:
        tanh_in_place(scratch, at, count)
        for k in range(count):
            step, y = steps[step_at + k], scratch[at + k]
            scratch[slope_at + k] = step * (1 - y * y)
            scratch[at + k] = step * y
    else:
        for k in range(count):
            step = steps[step_at + k]
            y, slope = activation_law(code, float(scratch[at + k]))
            scratch[at + k] = step * y
            scratch[slope_at + k] = step * slope


@njit(cache=True)
def _add_descriptor(copies, a, a_at, nets, x, x_at):
    """The shortcut of a first layer that is as wide as the descriptor, or twice as wide: x += D."""
    for m in range(nets.width):
        for axis in range(nets.axis):
            d = x[x_at] * 0
            for k in range(4):
                d += a[a_at + k * nets.stride + m] * a[a_at + k * nets.stride + axis]
            for copy in range(copies):
                x[x_at + (copy * nets.width + m) * nets.axis + axis] += d


@njit(cache=True)
def fit_energies(count, element, a, a_at, nets, scratch, energies):
    """Energies (float64, without the shift) of ``count`` ≤ ROWS atoms of one element.

    A of atom r is at a_at + r · 4 · stride: four rows of ``stride`` numbers. ``scratch`` holds x_1, x_2, ..., the slopes of the
    layers, and pieces of D; ``fit_slopes`` reads it.
    """
    wide, lanes, stride, numbers, layers = nets.wide, nets.lanes, nets.stride, nets.numbers, nets.layers[element]
    rows = (count + TILE_ROWS - 1) // TILE_ROWS * TILE_ROWS
    size = ROWS * wide
    slopes_at = nets.layers.shape[1] * size
    piece_at = 2 * slopes_at + 2 * size
    piece_stride = nets.piece * nets.width + 2 * lanes
    for layer in range(nets.depth[element]):
        n_in, padded = layers[layer, N_IN], layers[layer, PADDED]
        x_at, z_at, bias, weight = (layer - 1) * size, layer * size, layers[layer, BIAS], layers[layer, WEIGHT]
        for row in range(rows):
            for k in range(padded):
                scratch[z_at + row * wide + k] = numbers[bias + k]
        if layer > 0:
            _product(
                rows, scratch, x_at, wide, numbers, weight, n_in, 0, n_in, padded // lanes, lanes, scratch, z_at, wide
            )
        else:
            for first in range(0, nets.axis, nets.piece):
                last = min(first + nets.piece, nets.axis)
                for row in range(count):
                    descriptor_columns(
                        a, a_at + row * 4 * stride, stride, stride // lanes, nets.width, first, last, scratch,
                        piece_at + row * piece_stride,
                    )  # fmt: skip
                _product(
                    rows, scratch, piece_at, piece_stride, numbers, weight, n_in, first * nets.width,
                    (last - first) * nets.width, padded // lanes, lanes, scratch, z_at, wide,
                )  # fmt: skip
        for row in range(count):
            at = z_at + row * wide
            _activate(layers[layer, ACTIVATION], scratch, at, slopes_at + at, padded, numbers, layers[layer, STEP])
            copies = layers[layer, RESNET]
            if layer == 0 and copies > 0:
                _add_descriptor(copies, a, a_at + row * 4 * stride, nets, scratch, at)
            elif layer > 0:
                for copy in range(copies):
                    for k in range(n_in):
                        scratch[at + copy * n_in + k] += scratch[x_at + row * wide + k]
    for row in range(count):
        energies[row] = scratch[(nets.depth[element] - 1) * size + row * wide]


@njit(cache=True)
def _times_slopes(rows, wide, count, scratch, from_at, slopes_at, to_at):
    """∂E/∂z = ∂E/∂x · step φ'(z)."""
    for row in range(rows):
        for k in range(row * wide, row * wide + count):
            scratch[to_at + k] = scratch[from_at + k] * scratch[slopes_at + k]


@njit(cache=True)
def fit_slopes(count, element, a, a_at, nets, scratch, slopes, slopes_place):
    """∂E/∂A of the atoms of the last ``fit_energies``, laid out like A from ``slopes_place`` on."""
    wide, lanes, stride, numbers, layers = nets.wide, nets.lanes, nets.stride, nets.numbers, nets.layers[element]
    rows = (count + TILE_ROWS - 1) // TILE_ROWS * TILE_ROWS
    size = ROWS * wide
    slopes_at = nets.layers.shape[1] * size
    x_at, z_at = 2 * slopes_at, 2 * slopes_at + size  # ∂E/∂x and ∂E/∂z of a layer
    for row in range(rows):
        for k in range(lanes):
            scratch[x_at + row * wide + k] = 1 if k == 0 else 0
    for layer in range(nets.depth[element] - 1, 0, -1):
        n_in, n_out, padded_in = layers[layer, N_IN], layers[layer, N_OUT], layers[layer, PADDED_IN]
        _times_slopes(rows, wide, layers[layer, PADDED], scratch, x_at, slopes_at + layer * size, z_at)
        for row in range(x_at, x_at + rows * wide, wide):
            copies = layers[layer, RESNET]
            if copies == 0:
                for k in range(row, row + n_in):
                    scratch[k] = 0
            elif copies == 2:
                for k in range(row, row + n_in):
                    scratch[k] += scratch[k + n_in]
            for k in range(row + n_in, row + padded_in):
                scratch[k] = 0
        _product(
            rows, scratch, z_at, wide, numbers, layers[layer, TRANSPOSED], n_out, 0, n_out, padded_in // lanes, lanes, scratch,
            x_at, wide,
        )  # fmt: skip
    _times_slopes(rows, wide, layers[0, PADDED], scratch, x_at, slopes_at, z_at)
    for k in range(slopes_place, slopes_place + count * 4 * stride):
        slopes[k] = 0
    back_at = 2 * slopes_at + 2 * size + ROWS * (nets.piece * nets.width + 2 * lanes)
    back_stride = nets.piece * stride
    n_out = layers[0, N_OUT]
    for first in range(0, nets.axis, nets.piece):
        last = min(first + nets.piece, nets.axis)
        for row in range(rows):
            begin = back_at + row * back_stride
            for k in range(begin, begin + (last - first) * stride):
                scratch[k] = 0
            for copy in range(layers[0, RESNET]):
                for axis in range(first, last):
                    for m in range(nets.width):
                        place = x_at + row * wide + (copy * nets.width + m) * nets.axis + axis
                        scratch[begin + (axis - first) * stride + m] += scratch[place]
        for axis in range(first, last):
            _product(
                rows, scratch, z_at, wide, numbers, layers[0, TRANSPOSED] + axis * n_out * stride, n_out, 0, n_out,
                stride // lanes, lanes, scratch, back_at + (axis - first) * stride, back_stride,
            )  # fmt: skip
        for row in range(count):
            descriptor_gradient(
                a, a_at + row * 4 * stride, stride, stride // lanes, first, last, scratch, back_at + row * back_stride, slopes,
                slopes_place + row * 4 * stride,
            )  # fmt: skip
