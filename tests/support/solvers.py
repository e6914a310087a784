"""All spin solvers under the names of a deck, made alike: ``SOLVERS[name](bath=..., damping=..., tolerance=...)``.

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

TOLERANCE = 1.0e-12


def _without_tolerance(kind):
    return lambda tolerance=None, **arguments: kind(**arguments)


SOLVERS = {
    "midpoint": lambda tolerance=TOLERANCE, **k: Midpoint(tolerance=tolerance, **k),
    "spherical-midpoint": lambda tolerance=TOLERANCE, **k: Midpoint(tolerance=tolerance, spherical=True, **k),
    "live-midpoint": lambda tolerance=TOLERANCE, **k: LiveMidpoint(tolerance=tolerance, **k),
    "suzuki-trotter": _without_tolerance(SuzukiTrotter),
    "depondt-mertens": _without_tolerance(DepondtMertens),
    "semi-implicit": _without_tolerance(SemiImplicit),
    "heun": _without_tolerance(Heun),
    "runge-kutta": _without_tolerance(RungeKutta),
}
EXPLICIT = ("depondt-mertens", "semi-implicit", "heun", "runge-kutta")
ORDER = dict.fromkeys(SOLVERS, 2) | {"runge-kutta": 4}  # without noise, spins alone
