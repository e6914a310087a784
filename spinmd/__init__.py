"""spinmd: coupled spin-lattice dynamics of magnetic materials.

The public names live here and are imported on first use: ``import spinmd`` itself imports neither numba nor torch.

    import spinmd

    deck = spinmd.load_deck("inputs/bcc_iron.toml")
    simulation = spinmd.build(deck)
"""

from importlib import import_module
from typing import TYPE_CHECKING

from spinmd import jitcache

if TYPE_CHECKING:
    from spinmd.ase_calculator import SpinmdCalculator
    from spinmd.building import build
    from spinmd.deck import load_deck
    from spinmd.errors import DivergedError, InputError, SpinmdError, StoppedError
    from spinmd.model import Model
    from spinmd.parameters import Parameters
    from spinmd.protocols import Aux, Need, SpinTerm
    from spinmd.resuming import resume
    from spinmd.simulation import Simulation
    from spinmd.state import State
    from spinmd.sweeping.driver import sweep
    from spinmd.sweeping.table import read_sweep
    from spinmd.testing import check_integrator, check_potential
    from spinmd.trajectory import Trajectory

__version__ = "0.1.0"

__all__ = [
    "Aux",
    "DivergedError",
    "InputError",
    "Model",
    "Need",
    "Parameters",
    "Simulation",
    "SpinTerm",
    "SpinmdCalculator",
    "SpinmdError",
    "State",
    "StoppedError",
    "Trajectory",
    "__version__",
    "build",
    "check_integrator",
    "check_potential",
    "load_deck",
    "read_sweep",
    "resume",
    "sweep",
]

# public name -> the module it lives in
_HOMES = {
    "Aux": "spinmd.protocols",
    "DivergedError": "spinmd.errors",
    "InputError": "spinmd.errors",
    "Model": "spinmd.model",
    "Need": "spinmd.protocols",
    "Parameters": "spinmd.parameters",
    "Simulation": "spinmd.simulation",
    "SpinTerm": "spinmd.protocols",
    "SpinmdCalculator": "spinmd.ase_calculator",
    "SpinmdError": "spinmd.errors",
    "State": "spinmd.state",
    "StoppedError": "spinmd.errors",
    "Trajectory": "spinmd.trajectory",
    "build": "spinmd.building",
    "check_integrator": "spinmd.testing",
    "check_potential": "spinmd.testing",
    "load_deck": "spinmd.deck",
    "read_sweep": "spinmd.sweeping.table",
    "resume": "spinmd.resuming",
    "sweep": "spinmd.sweeping.driver",
}

# Here and not later: numba decides where a kernel is cached when the kernel is defined, and any module may define one.
jitcache.configure()


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module 'spinmd' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(_HOMES))
