"""Which device solver stands for a host's: the one place that knows all of them."""

from typing import Any

from spinmd.errors import InputError
from spinmd.integrators.cuda.live_midpoint import DeviceLiveMidpoint
from spinmd.integrators.cuda.midpoint import DeviceMidpoint
from spinmd.integrators.cuda.predictor_corrector import STAGES, DevicePredictorCorrector
from spinmd.integrators.cuda.runge_kutta import DeviceRungeKutta
from spinmd.integrators.cuda.spin_flow import DeviceSpinFlow
from spinmd.integrators.cuda.suzuki_trotter import DeviceSuzukiTrotter

SOLVERS: dict[str, type[DeviceSpinFlow]] = {
    "Midpoint": DeviceMidpoint,
    "LiveMidpoint": DeviceLiveMidpoint,
    "RungeKutta": DeviceRungeKutta,
    "SuzukiTrotter": DeviceSuzukiTrotter,
    **dict.fromkeys(STAGES, DevicePredictorCorrector),
}


def device_solver(host: Any, state: Any, aux: Any, turns: int, rigid: bool = False) -> DeviceSpinFlow:
    """The device's version of a spin solver that acts ``turns`` times a step, on a ``rigid`` lattice or a moving one; InputError
    for one that has none."""
    kind = type(host).__name__
    if kind not in SOLVERS:
        raise InputError(f"the spin solver {kind} has no version for the GPU; use midpoint", "integrator.spin_solver")
    solver = SOLVERS[kind](host, state, aux, turns)
    solver.rigid = rigid
    return solver
