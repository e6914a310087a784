"""How magnetic fields change in time, as scalar functions of the time in ps: what both the host and a GPU evaluate."""

import math

from numba import njit

import spinmd.backend  # noqa: F401  (sets numba's cache folder before kernels are defined)

# envelopes of a pulse
GAUSSIAN, SQUARE, SINC = 0, 1, 2


@njit(cache=True)
def ramp_share(t, begin, duration):
    """How far a ramp has gone: 0 before it begins, 1 after its end."""
    return min(max((t - begin) / duration, 0.0), 1.0)


@njit(cache=True)
def carrier(t, frequency, phase, begin):
    """cos and sin of 2π f (t − begin) + phase; f in 1/ps, the phase in degrees."""
    angle = 2.0 * math.pi * frequency * (t - begin) + math.radians(phase)
    return math.cos(angle), math.sin(angle)


@njit(cache=True)
def pulse_size(t, centre, width, envelope, frequency, phase):
    """s(τ) cos(2π f τ + phase) with τ = t − centre; s is exp(−τ²/(2 width²)), 1 for |τ| ≤ width/2, or sin(x)/x, x = 2π τ/width."""
    since = t - centre
    if envelope == GAUSSIAN:
        size = math.exp(-0.5 * (since / width) ** 2)
    elif envelope == SQUARE:
        size = 1.0 if abs(since) <= 0.5 * width else 0.0
    else:
        x = 2.0 * math.pi * since / width
        size = math.sin(x) / x if x != 0.0 else 1.0
    cosine, _ = carrier(t, frequency, phase, centre)
    return size * cosine


@njit(cache=True)
def repeated(t, first, last):
    """The time within [first, last) of which t is a repetition."""
    return first + (t - first) % (last - first)


@njit(cache=True)
def between(t, before, after, low, high):
    """On the straight line from ``low`` at ``before`` to ``high`` at ``after``; constant outside."""
    if t <= before or after <= before:
        return low
    return high if t >= after else low + (high - low) / (after - before) * (t - before)
