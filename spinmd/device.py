"""Where a run computes: the loop of the host, or that of the GPU with the rooms' device terms and integrators.

The one place that brings ``spinmd.cuda`` and the ``cuda`` folders of the rooms together; nothing of them is imported before
``device = "cuda"`` is asked for.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache, partial
from typing import Any

from spinmd.complaints import raise_all
from spinmd.errors import InputError
from spinmd.protocols import Evaluation, Need

DEVICES = ("cpu", "cuda")


def check_device(device: str | None, place: str = "--device", here: bool = True) -> str:
    """The device, "cpu" by default. InputError for an unknown one, and where there is no GPU: all that is missing, with remedies.

    here   False: the run is for another machine, and the GPU need not be on this one
    """
    if device is None or device == "cpu":
        return "cpu"
    if device != "cuda":
        raise InputError(f"expected cpu or cuda, got {device!r}", place)
    if here:
        from spinmd.cuda.runtime import require

        raise_all([InputError(problem, place) for problem in problems()])
        try:
            require()
        except InputError as error:
            raise InputError(error.message, place) from None
    return device


def problems() -> list[str]:
    """What stands in the way of a run on the GPU of this machine, a sentence each."""
    from spinmd.cuda.runtime import problems

    return problems()


def check_terms(terms: Iterable[Any], precision: str) -> None:
    """InputError for a term that has no version for the GPU, and where no term makes use of mixed precision."""
    from spinmd.potentials.cuda import check_device_term, has_mixed

    terms = list(terms)
    for term in terms:
        check_device_term(term)
    if precision == "mixed" and not any(map(has_mixed, terms)):
        names = ", ".join(term.name for term in terms)
        raise InputError(
            f"of the terms ({names}) none has a mixed version, which EAM and exchange by distance have; leave it out (a DeepSPIN "
            'model has its own, parameters.precision = "float32")',
            "run.precision",
        )


def loop(device: str, precision: str = "float64") -> Callable[..., Any]:
    """The loop of a run on this device, with the arguments of ``spinmd.run.run``."""
    if device == "cpu":
        from spinmd.run import run

        return run
    from spinmd.cuda.run import run_on_device
    from spinmd.integrators.cuda import device_mover
    from spinmd.potentials.cuda import device_term

    return partial(run_on_device, device_term=device_term, device_mover=device_mover, precision=precision)


def evaluate(simulation: Any, need: Need) -> Evaluation:
    """The present state of a simulation, evaluated on its device."""
    if simulation.device == "cpu":
        return simulation.model.evaluate(need)
    from spinmd.cuda.evaluation import evaluate_on_device
    from spinmd.potentials.cuda import device_term

    return evaluate_on_device(simulation.state, simulation.model, need, device_term, precision_of(simulation.deck.run))


def precision_of(run: Any) -> str:
    """Precision of pair arithmetic in a deck's [run], or without one."""
    return "float64" if run is None else run.precision


@cache
def name_of(device: str) -> str:
    """What people call the device: "cpu", or the GPU's name."""
    if device == "cpu":
        return "cpu"
    from spinmd.cuda.runtime import require

    return require().name


def described(device: str, precisions: Sequence[str] = ("float64",)) -> str:
    """A line for the file of a run: the device, and where it is a GPU, driver, versions and precision (of all stages)."""
    if device == "cpu":
        return "cpu"
    from spinmd.cuda.runtime import package_version, require

    gpu = require()
    versions = ", ".join(f"{name} {package_version(name)}" for name in ("numba-cuda", "torch"))
    precision = ", ".join(dict.fromkeys(precisions))
    return f"cuda: {gpu.name}, driver {gpu.driver}, {versions}; {precision}"


def facts() -> Mapping[str, str]:
    """For ``spinmd info``: packages, driver, GPUs, and what is missing. Imports neither torch nor numba.cuda."""
    from spinmd.cuda import driver
    from spinmd.cuda.runtime import package_version, problems, simulated, torch_cuda

    found: dict[str, str] = {"numba_cuda": package_version("numba-cuda") or "not installed"}
    found["torch_cuda"] = torch_cuda() or "none (torch computes on the CPU only)"
    seen = driver.look()
    known = f", CUDA up to {seen.cuda[0]}.{seen.cuda[1]}" if seen.version else ""
    found["driver"] = f"{seen.version}{known}" if seen.version else "none"
    for number, gpu in enumerate(seen.gpus):
        free = f"{gpu.free / 2**30:.1f} of " if gpu.free >= 0 else ""
        unit = "GiB free" if gpu.free >= 0 else "GiB"
        found[f"gpu_{number}"] = (
            f"{gpu.name}, compute capability {gpu.capability[0]}.{gpu.capability[1]}, {free}{gpu.memory / 2**30:.1f} {unit}"
        )
    if driver.hidden() is not None:
        found["visible_gpus"] = f"CUDA_VISIBLE_DEVICES={driver.hidden()}"
    missing = problems()
    if missing:
        found["cuda"] = f"not available: {'; and '.join(missing)}"
    elif simulated():
        found["cuda"] = "numba's simulator, for tests (NUMBA_ENABLE_CUDASIM is set)"
    else:
        found["cuda"] = f"a run takes gpu_0, {seen.gpus[0].name}"
    return found


def on_device(simulation: Any) -> Any:
    """What computes a simulation's present stage on the GPU, set up and with its first forces: ``step()`` takes a step, ``state``
    and ``model`` are on the device. For benchmarks and scripts that go their own way; the simulation itself stays where it is."""
    from spinmd.cuda.launch import own_stream
    from spinmd.cuda.run import DeviceRun
    from spinmd.integrators.cuda import device_mover
    from spinmd.potentials.cuda import device_term

    aux = simulation.integrator.init(simulation.state, simulation.deck.seed)
    precision = precision_of(simulation.deck.run)
    limits = None if simulation.deck.run is None else simulation.deck.run.limits
    with own_stream():
        one = DeviceRun(
            simulation.state, simulation.model, simulation.integrator, aux, limits, device_term, device_mover, precision
        )
        one.begin()
    return one
