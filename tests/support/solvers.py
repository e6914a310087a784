"""All spin solvers under the names of a deck, made alike: ``SOLVERS[name](bath, tolerance=..., damping=...)``.

``live-midpoint`` is what "midpoint" becomes where a potential has no frozen couplings. ``tolerance`` means something to the
implicit ones only.
"""

from spinmd.integrators.depondt_mertens import DepondtMertens
from spinmd.integrators.heun import Heun
from spinmd.integrators.live_midpoint import LiveMidpoint
from spinmd.integrators.midpoint import Midpoint
from spinmd.integrators.runge_kutta import RungeKutta
from spinmd.integrators.semi_implicit import SemiImplicit
from spinmd.integrators.suzuki_trotter import SuzukiTrotter

TOLERANCE = 1.0e-13


def _explicit(kind):
    return lambda bath=None, tolerance=None, **k: kind(bath=bath, **k)


SOLVERS = {
    "midpoint": lambda bath=None, tolerance=TOLERANCE, **k: Midpoint(tolerance=tolerance, bath=bath, **k),
    "spherical-midpoint": lambda bath=None, tolerance=TOLERANCE, **k: Midpoint(
        tolerance=tolerance, spherical=True, bath=bath, **k
    ),
    "live-midpoint": lambda bath=None, tolerance=TOLERANCE, **k: LiveMidpoint(tolerance=tolerance, bath=bath, **k),
    "suzuki-trotter": _explicit(SuzukiTrotter),
    "depondt-mertens": _explicit(DepondtMertens),
    "semi-implicit": _explicit(SemiImplicit),
    "heun": _explicit(Heun),
    "runge-kutta": _explicit(RungeKutta),
}
EXPLICIT = ("depondt-mertens", "semi-implicit", "heun", "runge-kutta")
ORDER = dict.fromkeys(SOLVERS, 2) | {"runge-kutta": 4}  # without noise, spins alone
