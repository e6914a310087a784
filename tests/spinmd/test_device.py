"""What can be tested of the device without one: its kernels compile to PTX and machine code, and are kept."""

import importlib
import pkgutil
import re
from types import SimpleNamespace

import pytest

pytest.importorskip("numba_cuda", reason="needs numba-cuda, the extra cuda or test")

PACKAGES = ("spinmd.cuda", "spinmd.potentials.cuda", "spinmd.integrators.cuda")


@pytest.fixture(scope="module")
def kernels(request):
    """Every kernel of the project: name -> (Python function, signature). Compiling asks for the present device on the way."""
    patch = pytest.MonkeyPatch()
    request.addfinalizer(patch.undo)
    device = SimpleNamespace(compute_capability=(9, 0), id=0)
    patch.setattr("numba.cuda.dispatcher.get_current_device", lambda: device)
    for package in PACKAGES:
        for module in pkgutil.walk_packages(importlib.import_module(package).__path__, package + "."):
            importlib.import_module(module.name)
    from spinmd.cuda.launch import KERNELS

    return SimpleNamespace(all=KERNELS, device=device, ptx={})


def test_signatures_fit_their_kernels(kernels):
    assert len(kernels.all) > 20
    for name, (function, signature) in kernels.all.items():
        assert function.__code__.co_argcount == len(signature), name


def compiled(kernels, name: str, capability: tuple[int, int]) -> str:
    """PTX of a kernel, compiled once."""
    from numba import cuda, types

    if (name, capability) not in kernels.ptx:
        kernels.device.compute_capability = capability
        function, signature = kernels.all[name]
        kernels.ptx[name, capability], _ = cuda.compile_ptx(function, types.void(*signature), cc=capability)
    return kernels.ptx[name, capability]


@pytest.mark.parametrize("capability", [(8, 0), (9, 0)], ids=["sm_80", "sm_90"])
def test_every_kernel_compiles_to_ptx(kernels, capability):
    target = f"sm_{capability[0]}{capability[1]}"
    for name in kernels.all:
        ptx = compiled(kernels, name, capability)
        assert f".target {target}" in ptx and ".entry" in ptx, name


def test_every_kernel_assembles_for_an_h100(kernels):
    """From PTX to machine code, which needs no driver: registers, shared memory and what lies in local memory fit."""
    linker = pytest.importorskip("cuda.bindings.nvjitlink", reason="needs nvJitLink, which numba-cuda brings")
    for name in kernels.all:
        log = assembled(linker, compiled(kernels, name, (9, 0)).encode())
        registers, shared, spilled, stack = (
            sum(map(int, re.findall(pattern, log)))
            for pattern in (r"Used (\d+) registers", r"(\d+) bytes smem", r"(\d+) bytes spill", r"(\d+) bytes stack")
        )
        assert 0 < registers <= 255 and shared <= 48 * 1024, (name, log)
        assert spilled == 0 and stack <= 64, (name, log)  # sines of large arguments keep 40 bytes there


def assembled(linker, ptx: bytes) -> str:
    """What the assembler says about a kernel."""
    handle = linker.create(3, ["-arch=sm_90", "-verbose", "-Xptxas=-v"])
    try:
        linker.add_data(handle, linker.InputType.PTX, ptx, len(ptx), "kernel")
        linker.complete(handle)
        log = bytearray(linker.get_info_log_size(handle))
        linker.get_info_log(handle, log)
        return log.decode()
    finally:
        linker.destroy(handle)


def test_kernels_are_kept_for_the_next_process(kernels, monkeypatch):
    """A kernel that another process has compiled is read; kernels of one text and signature are told apart by their closure."""
    from spinmd.cuda.launch import Kernel
    from spinmd.potentials.cuda.pairs import _EVALUATE

    module = SimpleNamespace(initialized=True, get_function=lambda name: SimpleNamespace(module=module))
    context = SimpleNamespace(device=kernels.device, create_module_image=lambda *image: module)
    monkeypatch.setattr("numba.cuda.cudadrv.devices.get_context", lambda *number: context)
    kernels.device.compute_capability = (9, 0)

    def compiled_anew(one: Kernel) -> bool:
        fresh = object.__new__(Kernel)
        fresh.__dict__ |= one.__dict__ | {"_ready": None}
        return sum(fresh.compile().stats.cache_misses.values()) > 0

    assert _EVALUATE[0].signature == _EVALUATE[3].signature
    compiled_anew(_EVALUATE[0])
    assert not compiled_anew(_EVALUATE[0])
    compiled_anew(_EVALUATE[3])
    machine_code = [next(iter(_EVALUATE[k]._compile(_EVALUATE[k].function).overloads.values())) for k in (0, 3)]
    first, second = (one._codelibrary.get_cubin((9, 0)).code for one in machine_code)
    assert first != second
