"""Whether there is a GPU to compute on, what it is, and what to say where there is none.

Under ``NUMBA_ENABLE_CUDASIM=1`` numba's simulator runs the kernels as Python threads, and torch keeps the arrays on the CPU: slow,
for tests of small systems.
"""

import importlib.metadata
import importlib.util
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from spinmd.cuda import driver
from spinmd.cuda.driver import Gpu
from spinmd.errors import InputError

PLACE = "--device"
LEAST_DRIVER = 580  # of CUDA 13, which the wheels of the extra are made for
DRIVERS = {13: LEAST_DRIVER, 12: 525}  # the first drivers of each CUDA
LEAST_CAPABILITY = (7, 5)
NO_DEVICE = 100  # cuInit: CUDA_ERROR_NO_DEVICE
# bytes for the message when memory runs out: per atom beside lists, counted by benchmarks/gpu.py --memory; per place of a list;
# per place of a list with couplings; per place and per atom of a potential without couplings, such as DeepSPIN
ATOM, PLACE_IN_LIST, COUPLING, LIVE_PLACE, LIVE_ATOM = 1070, 4, 12, 52, 1700
BYTES_PER_ATOM = 1750  # of a bcc crystal with EAM and exchange at 3.4 Å
FEWER = 0.9  # of the atoms that have not fitted, at most, are said to fit
EXTRA = "install it with pip install 'spinmd[cuda]'"
CUDA_TORCH = "pip install --force-reinstall torch==2.13.0 --index-url https://download.pytorch.org/whl/cu130"


def simulated() -> bool:
    """Whether kernels run in numba's simulator."""
    return os.environ.get("NUMBA_ENABLE_CUDASIM", "0") not in ("", "0")


def require() -> Gpu:
    """The GPU of a run, ready to compute. InputError with what to install where there is none."""
    found = problems()
    if found:
        raise InputError(found[0], PLACE)
    if simulated():
        return Gpu("numba's simulator", (9, 0), 2**33, 2**33, "none")
    import numba.cuda
    import torch

    if not numba.cuda.is_available():
        raise InputError(
            "numba-cuda finds no usable GPU, and the driver does; unset NUMBA_DISABLE_CUDA, or see what numba -s says",
            PLACE,
        )
    if not torch.cuda.is_available():
        raise InputError(
            f"torch {torch.__version__} (CUDA {torch.version.cuda}) finds no usable GPU; take the build for CUDA 13: {CUDA_TORCH}",
            PLACE,
        )
    return driver.look().gpus[0]


def problems() -> list[str]:
    """All that stands in the way of a run on the GPU, a sentence with a remedy each; found without importing torch or numba."""
    found = [] if simulated() else driver_problems(driver.look())
    if importlib.util.find_spec("numba_cuda") is None:
        found.append(f"numba-cuda is missing, which compiles the kernels; {EXTRA}")
    elif not simulated():
        missing = missing_compilers()
        if missing:
            found.append(f"numba-cuda is there without its compiler ({', '.join(missing)}); {EXTRA}")
    if importlib.util.find_spec("torch") is None:
        found.append(f"torch is missing, which keeps the arrays on the GPU; install it with {CUDA_TORCH}")
    elif not simulated() and torch_cuda() is None:
        found.append(
            f"torch {package_version('torch')} is built without CUDA; install the build for CUDA 13: {CUDA_TORCH}"
        )
    return found


def driver_problems(seen: driver.Driver) -> list[str]:
    """What is wrong with driver and GPU: nothing, or a sentence."""
    if seen.version is None:
        return [
            f"there is no NVIDIA driver on this machine; install one ({LEAST_DRIVER} or newer), or compute on the CPU with "
            "--device cpu"
        ]
    built = torch_cuda()
    needed = max(int(built.split(".")[0]), min(DRIVERS)) if built else max(DRIVERS)
    if seen.cuda[0] < needed:
        reason = f"torch is built for {built}" if built else f"{needed}.0 is needed"
        return [
            f"the NVIDIA driver {seen.version} knows CUDA up to {seen.cuda[0]}.{seen.cuda[1]}, and {reason}; install driver "
            f"{DRIVERS.get(needed, LEAST_DRIVER)} or newer"
        ]
    if seen.code not in (0, NO_DEVICE):
        return [
            f"the NVIDIA driver {seen.version} does not start (CUDA error {seen.code}); look at nvidia-smi, and start the machine "
            "anew if the driver has just been updated"
        ]
    if not seen.gpus:
        chosen = driver.hidden()
        if chosen is not None:
            return [
                f"CUDA_VISIBLE_DEVICES={chosen!r} hides every GPU from this process; unset it, or name one, such as 0"
            ]
        return [
            f"the NVIDIA driver {seen.version} shows no GPU to this process; look at nvidia-smi, and in a container or a batch job "
            "ask for a GPU"
        ]
    gpu = seen.gpus[0]
    if gpu.capability < LEAST_CAPABILITY:
        return [
            f"{gpu.name} has compute capability {gpu.capability[0]}.{gpu.capability[1]}, and "
            f"{LEAST_CAPABILITY[0]}.{LEAST_CAPABILITY[1]} is needed; choose another with CUDA_VISIBLE_DEVICES, or take --device cpu"
        ]
    return []


def missing_compilers() -> list[str]:
    """Libraries of CUDA's compiler that are not found, neither as wheels nor in a toolkit of the machine."""
    try:
        from cuda import pathfinder
    except ImportError:
        return ["cuda-pathfinder"]
    missing = []
    for name in ("nvvm", "nvrtc", "nvJitLink"):
        try:
            pathfinder.load_nvidia_dynamic_lib(name)
        except Exception:  # one class for each way of not finding it, in every version others
            if not any(
                any(home.glob(f"{place}/lib{name}.so*")) for home in toolkits() for place in ("lib64", "nvvm/lib64")
            ):
                missing.append(name)
    return missing


def toolkits() -> list[Path]:
    """Where numba looks for a toolkit of the machine."""
    named = [os.environ[name] for name in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(name)]
    return [Path(one) for one in (*named, "/usr/local/cuda")]


def package_version(name: str) -> str | None:
    """Version of an installed package, None where there is none."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def torch_cuda() -> str | None:
    """The CUDA that the installed torch is built for, None for one without; read, not imported, since that takes seconds."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    try:
        text = Path(spec.origin).with_name("version.py").read_text(encoding="utf-8")
    except OSError:
        return None
    found = re.search(r"^cuda\b[^=\n]*=\s*['\"]([\d.]+)['\"]", text, re.MULTILINE)
    return None if found is None else found[1]


def atoms_that_fit(free: int, bytes_per_atom: float = BYTES_PER_ATOM) -> int:
    """About how many atoms fit into ``free`` bytes, rounded down to two digits."""
    count = int(free / bytes_per_atom)
    scale = 10 ** max(len(str(count)) - 2, 0)
    return count // scale * scale


def bytes_per_atom(model: Any) -> float:
    """About what a run of this model of the host needs on the GPU per atom: lists and couplings at the density of its cell."""
    state, skin = model.state, model.lists.skin
    density = state.natoms / max(abs(float(np.linalg.det(state.cell))), 1.0e-9)
    places = {radius: 1.06 * 4.19 * density * (radius + skin) ** 3 + 2 for radius in model._radius if radius > 0.0}
    total = ATOM + PLACE_IN_LIST * sum(places.values())
    live = model.live_terms()
    for k, radius in enumerate(model._radius):
        if k in live:
            total += LIVE_ATOM + LIVE_PLACE * places.get(radius, 0.0)
        elif model.magnetic_terms[k]:
            total += COUPLING * places.get(radius, 0.0)
    return total


@contextmanager
def memory_explained(natoms: int, model: Any = None) -> Iterator[None]:
    """What torch says when memory runs out becomes a sentence with the number of atoms of this model that fit."""
    import torch

    free = total = 0
    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info(0)
        free += torch.cuda.memory_reserved() - torch.cuda.memory_allocated()  # what torch keeps for the next one
    try:
        yield
    except torch.cuda.OutOfMemoryError:
        torch.cuda.empty_cache()
        each = BYTES_PER_ATOM if model is None else bytes_per_atom(model)
        fit = atoms_that_fit(int(min(free, FEWER * natoms * each)), each)
        raise InputError(
            f"{natoms} atoms do not fit into the {free / 2**30:.1f} GiB that were free of the {total / 2**30:.0f} of the GPU; "
            f"about {fit} would with these potentials: make the supercell smaller, or compute on the CPU",
            "structure.supercell",
        ) from None
