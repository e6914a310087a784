"""Tables of the embedding nets: the stated error bounds hold, also between the points where the tables measure themselves."""

import numpy as np
import pytest
from support.deepspin_models import make_random_model, random_net

from spinmd.errors import InputError
from spinmd.potentials.deepspin import tables
from spinmd.potentials.deepspin.model import ACTIVATIONS, Layer
from spinmd.potentials.deepspin.nets import activation_series, evaluate, series


def lookup(built, pair, s):
    """Value and slope of all channels at s (P,), plainly from the layout of the tables."""
    first, bits = built.places[pair]
    x = s + tables.FIRST_OCTAVE
    octave = np.floor(np.log2(x / tables.FIRST_OCTAVE))
    low = tables.FIRST_OCTAVE * 2.0**octave
    place = (x / low - 1.0) * 2**bits
    row = np.minimum(place.astype(int), 2**bits - 1)
    t = (place - row)[:, None]
    c = built.coefficients.reshape(-1, built.blocks, 6, built.lanes)[first + octave.astype(int) * 2**bits + row]
    c = c.transpose(2, 0, 1, 3).reshape(6, len(s), -1).astype(float)
    value = sum(c[k] * t**k for k in range(6))
    slope = sum(k * c[k] * t ** (k - 1) for k in range(1, 6)) * (2.0**bits / low)[:, None]
    return value, slope


@pytest.mark.parametrize(
    ("dtype", "lanes", "value_bound", "slope_bound"),
    [
        (np.float64, 8, tables.VALUE_BOUND, tables.SLOPE_BOUND),
        (np.float32, 16, tables.FLOAT_VALUE_BOUND, tables.FLOAT_SLOPE_BOUND),
    ],
)
def test_bounds_hold_everywhere(dtype, lanes, value_bound, slope_bound):
    network = make_random_model(neuron=(5, 10, 20)).network
    built = tables.build_tables(network, lanes, dtype)
    assert built.value_error <= value_bound
    assert built.slope_error <= slope_bound
    random = np.random.default_rng(3)
    s = np.concatenate(
        [random.uniform(0.0, 1.0, 4000), 10.0 ** random.uniform(0.0, 2.0, 2000), [0.0, 1.0 / network.protection]]
    )
    rounding = 1e-14 if dtype is np.float64 else 3e-7
    for pair, net in network.embedding.items():
        mean, std = network.mean[pair[1], 0], network.std[pair[1], 0]
        expected, slope, _ = series(net, (s - mean) / std)
        slope = slope / std
        value, rate = lookup(built, pair, s)
        assert value[:, network.width :].any() == 0.0
        scale, slope_scale = np.abs(expected).max(axis=0), np.abs(slope).max(axis=0)
        width = network.width
        assert (np.abs(value[:, :width] - expected) <= (1.3 * value_bound + rounding) * scale).all()
        assert (np.abs(rate[:, :width] - slope) <= (1.3 * slope_bound + 300.0 * rounding) * slope_scale).all()


def test_steeper_nets_get_finer_tables():
    model = make_random_model(elements=("Fe",), magnetic=(True,), neuron=(4, 8))
    smooth = tables.build_tables(model.network, 8, np.float64)
    for net in model.network.embedding.values():
        net[0].weight *= 6.0
    steep = tables.build_tables(model.network, 8, np.float64)
    assert steep.places[0, 0][1] > smooth.places[0, 0][1]
    assert steep.value_error <= tables.VALUE_BOUND


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_series_of_activations(name):
    x = np.linspace(-3.05, 3.05, 40)
    y, slope, curve = activation_series(name, x)
    step = 1e-4
    above, below = activation_series(name, x + step), activation_series(name, x - step)
    np.testing.assert_allclose(slope, (above[0] - below[0]) / (2 * step), atol=1e-7)
    np.testing.assert_allclose(curve, (above[1] - below[1]) / (2 * step), atol=1e-7)
    assert y.shape == x.shape


def test_series_of_a_net_against_finite_differences():
    net = random_net(np.random.default_rng(2), (1, 6, 12, 12), step=True)
    x = np.linspace(-2.0, 2.0, 17)
    value, slope, curve = series(net, x)
    step = 1e-4
    above, below = (evaluate(net, (x + d)[:, None]) for d in (step, -step))
    np.testing.assert_allclose(value, evaluate(net, x[:, None]), atol=1e-15)
    np.testing.assert_allclose(slope, (above - below) / (2 * step), atol=1e-8)
    np.testing.assert_allclose(curve, (above - 2 * value + below) / step**2, atol=1e-6)


def test_unknown_activation():
    with pytest.raises(InputError, match="swish.*use one of tanh"):
        evaluate([Layer(np.ones((1, 2)), activation="swish")], np.ones((3, 1)))
