"""Tables of the embedding nets: piecewise quintics in s = w(r)/(r + protection), made when a model is loaded.

With x = s + ``FIRST_OCTAVE`` the intervals are 2ᵏ equal ones in each octave of x, as floating-point numbers are
spaced: [0, 0.5) in s, [0.5, 1.5), [1.5, 3.5), ... up to s = 1/protection, which a virtual atom on top of an atom
reaches. The quintic of an interval has the value and the first two derivatives of the net at both ends, so that
forces are smooth twice over. k grows until, at several points of every interval, value and slope deviate from the net
by less than ``VALUE_BOUND`` and ``SLOPE_BOUND`` times the largest value and slope of their channel
(``FLOAT_VALUE_BOUND`` and ``FLOAT_SLOPE_BOUND`` for float32). ``EmbeddingTables.value_error`` and ``slope_error`` are
what was measured.
"""

from dataclasses import dataclass

import numpy as np

from spinmd.errors import InputError
from spinmd.potentials.deepspin.kernels_channels import COEFFICIENTS
from spinmd.potentials.deepspin.model import Net, Network
from spinmd.potentials.deepspin.nets import series

FIRST_OCTAVE = 0.5  # 1/Å
VALUE_BOUND = 1.0e-11
SLOPE_BOUND = 1.0e-9
FLOAT_VALUE_BOUND = 1.0e-7
FLOAT_SLOPE_BOUND = 1.0e-6
START, MOST = 3, 11  # k of the first try and of the finest table
POINTS = (
    0.27,
    0.5,
    0.73,
)  # where an interval is compared with the net: the deviations of slope and value are largest there


@dataclass
class EmbeddingTables:
    """All tables of a network.

    coefficients  flat, (rows, blocks, 6, lanes); channels padded with zeros
    places        {(neighbour type, centre element): (first row, k)}, 2ᵏ intervals in an octave
    octaves       of x = s + FIRST_OCTAVE; a table has octaves · 2ᵏ rows
    lanes, blocks channels in a vector, and vectors for all channels
    value_error, slope_error  largest deviations measured, relative to the channel's largest value and slope
    """

    coefficients: np.ndarray
    places: dict[tuple[int, int], tuple[int, int]]
    octaves: int
    lanes: int
    blocks: int
    value_error: float
    slope_error: float

    @property
    def row_length(self) -> int:
        """Numbers in a row."""
        return self.blocks * COEFFICIENTS * self.lanes


def octave_count(protection: float) -> int:
    """Octaves of x = s + FIRST_OCTAVE that hold s = 1/protection."""
    return int(np.floor(np.log2((1.0 / protection + FIRST_OCTAVE) / FIRST_OCTAVE))) + 1


def _ends(bits: int, octaves: int) -> np.ndarray:
    """(rows + 1,) x at the ends of the intervals."""
    n = 1 << bits
    inside = 1.0 + np.arange(n) / n
    x = (FIRST_OCTAVE * 2.0 ** np.arange(octaves))[:, None] * inside
    return np.append(x.ravel(), FIRST_OCTAVE * 2.0**octaves)


def _quintics(value, slope, curve, width) -> np.ndarray:
    """(6, rows, M) coefficients in t = (x − x_0)/width from value and derivatives at the ends (rows + 1, M)."""
    h = width[:, None]
    c = np.empty((COEFFICIENTS, len(width), value.shape[1]))
    c[0], c[1], c[2] = value[:-1], slope[:-1] * h, 0.5 * curve[:-1] * h * h
    rise = value[1:] - c[0] - c[1] - c[2]
    tilt = slope[1:] * h - c[1] - 2.0 * c[2]
    bend = curve[1:] * h * h - 2.0 * c[2]
    c[3] = 10.0 * rise - 4.0 * tilt + 0.5 * bend
    c[4] = -15.0 * rise + 7.0 * tilt - bend
    c[5] = 6.0 * rise - 3.0 * tilt + 0.5 * bend
    return c


def _deviation(net: Net, mean, std, s, width, c) -> tuple[float, float]:
    """Largest relative deviations of value and slope from the net at POINTS of all intervals."""
    value_scale = slope_scale = 0.0
    worst_value = worst_slope = 0.0
    for t in POINTS:
        y, slope, _ = series(net, (s[:-1] + t * width - mean) / std)
        slope = slope / std
        value_scale = np.maximum(value_scale, np.abs(y).max(axis=0))
        slope_scale = np.maximum(slope_scale, np.abs(slope).max(axis=0))
        value = c[0] + t * (c[1] + t * (c[2] + t * (c[3] + t * (c[4] + t * c[5]))))
        rate = c[1] + t * (2.0 * c[2] + t * (3.0 * c[3] + t * (4.0 * c[4] + t * 5.0 * c[5])))
        worst_value = np.maximum(worst_value, np.abs(value - y).max(axis=0))
        worst_slope = np.maximum(worst_slope, np.abs(rate / width[:, None] - slope).max(axis=0))
    # a channel that hardly changes counts with a millionth of the largest one
    value_scale = np.maximum(value_scale, 1e-6 * value_scale.max()) + 1e-300
    slope_scale = np.maximum(slope_scale, 1e-6 * slope_scale.max()) + 1e-300
    return float((worst_value / value_scale).max()), float((worst_slope / slope_scale).max())


def _one_table(net: Net, mean: float, std: float, bits: int, octaves: int):
    """Coefficients (6, rows, M) and the two deviations."""
    x = _ends(bits, octaves)
    width, s = np.diff(x), x - FIRST_OCTAVE
    value, slope, curve = series(net, (s - mean) / std)
    c = _quintics(value, slope / std, curve / std**2, width)
    return c, _deviation(net, mean, std, s, width, c)


def _fitted_table(net: Net, mean: float, std: float, octaves: int, bounds):
    """Coefficients, k and deviations of the coarsest table within the bounds.

    Deviations of a coarse table tell how fine it must be: they fall as the sixth and fifth power of the interval.
    """
    bits = START
    while True:
        c, deviation = _one_table(net, mean, std, bits, octaves)
        excess = [np.log2(min(max(d, 1e-300), 1e30) / bound) for d, bound in zip(deviation, bounds, strict=True)]
        if max(excess) <= 0.0:
            return c, bits, deviation
        if bits == MOST:
            raise InputError(
                f"an embedding net cannot be tabulated to a relative {bounds[0]:g} (value) and {bounds[1]:g} (slope), only to "
                f"{deviation[0]:.1g} and {deviation[1]:.1g}; activations with a kink (relu) are for fitting nets only",
                "model",
            )
        bits = min(MOST, bits + max(1, int(np.ceil(max(excess[0] / 6.0, excess[1] / 5.0) - 0.1))))


def build_tables(network: Network, lanes: int, dtype) -> EmbeddingTables:
    """Tables of all embedding nets of a network for vectors of ``lanes`` numbers of type ``dtype``."""
    single = np.dtype(dtype) == np.float32
    bounds = (FLOAT_VALUE_BOUND, FLOAT_SLOPE_BOUND) if single else (VALUE_BOUND, SLOPE_BOUND)
    octaves, blocks = octave_count(network.protection), -(-network.width // lanes)
    found, errors = {}, np.zeros(2)
    for (kind, centre), net in network.embedding.items():
        mean, std = float(network.mean[centre, 0]), float(network.std[centre, 0])
        c, bits, deviation = _fitted_table(net, mean, std, octaves, bounds)
        found[kind, centre] = c, bits
        errors = np.maximum(errors, deviation)
    total = sum(c.shape[1] for c, _ in found.values())
    flat = _aligned(total * blocks * COEFFICIENTS * lanes, dtype)
    table = flat.reshape(total, blocks, COEFFICIENTS, lanes)
    places, row = {}, 0
    for pair, (c, bits) in found.items():
        padded = np.zeros((c.shape[1], blocks * lanes))
        for k in range(COEFFICIENTS):
            padded[:, : network.width] = c[k]
            table[row : row + c.shape[1], :, k] = padded.reshape(-1, blocks, lanes)
        places[pair] = (row, bits)
        row += c.shape[1]
    return EmbeddingTables(flat, places, octaves, lanes, blocks, float(errors[0]), float(errors[1]))


def _aligned(count: int, dtype) -> np.ndarray:
    """Uninitialised numbers at an address that is a multiple of 64."""
    size = np.dtype(dtype).itemsize
    raw = np.empty(count + 64 // size, dtype=dtype)
    skip = (-raw.ctypes.data % 64) // size
    return raw[skip : skip + count]
