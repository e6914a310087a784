"""Flows, spin solvers and Monte Carlo on the GPU. Imported only with ``device = "cuda"``."""

from typing import Any

from spinmd.errors import InputError


def device_mover(integrator: Any, state: Any, aux: Any) -> Any:
    """The device's version of a host's integrator; InputError for one that has none."""
    kind = type(integrator).__name__
    if kind == "Splitting":
        from spinmd.integrators.cuda.splitting import DeviceSplitting

        return DeviceSplitting(integrator, state, aux)
    if kind == "MonteCarlo":
        from spinmd.integrators.cuda.monte_carlo import DeviceMonteCarlo

        return DeviceMonteCarlo(integrator, state, aux)
    if kind == "ParallelTempering":
        from spinmd.integrators.cuda.parallel_tempering import DeviceParallelTempering

        return DeviceParallelTempering(integrator, state, aux)
    raise InputError(f"{kind} has no version for the GPU; compute on the CPU with --device cpu", "integrator.ensemble")
