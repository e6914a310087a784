"""The NVIDIA driver asked directly: which GPUs this process may use, in milliseconds, without torch and without numba.

Its libraries come with the driver (libcuda, and libnvidia-ml for memory that is free); where they are missing, there is none.
"""

import ctypes
import os
from dataclasses import dataclass

MAJOR, MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_*
TEXT = 96  # characters of a name


@dataclass(frozen=True)
class Gpu:
    """A GPU: name, compute capability, total and free memory in bytes (free −1 where nobody says), driver version as text."""

    name: str
    capability: tuple[int, int]
    memory: int
    free: int
    driver: str


@dataclass(frozen=True)
class Driver:
    """version  of the driver, such as "580.95.05", None where there is none;  cuda  the newest CUDA that it knows
    code     what it answers when it is started: 0, or a CUDA error
    gpus     that this process may use, in the order of CUDA; a run takes the first
    """

    version: str | None
    cuda: tuple[int, int] = (0, 0)
    code: int = 0
    gpus: tuple[Gpu, ...] = ()


class _Memory(ctypes.Structure):
    _fields_ = [(name, ctypes.c_ulonglong) for name in ("total", "free", "used")]


def library(name: str):
    """A library of the driver, None where it is not there."""
    try:
        return ctypes.CDLL(name)
    except OSError:
        return None


def look() -> Driver:
    """What the driver says now."""
    cuda = library("libcuda.so.1")
    if cuda is None:
        return Driver(None)
    number = ctypes.c_int(0)
    cuda.cuDriverGetVersion(ctypes.byref(number))
    known = (number.value // 1000, number.value % 1000 // 10)
    version = kernel_version() or "(version unknown)"
    code = cuda.cuInit(0)
    if code != 0:
        return Driver(version, known, code)
    count = ctypes.c_int(0)
    cuda.cuDeviceGetCount(ctypes.byref(count))
    management = library("libnvidia-ml.so.1")
    if management is not None and management.nvmlInit_v2() != 0:
        management = None
    gpus = tuple(_gpu(cuda, management, k, version) for k in range(count.value))
    if management is not None:
        management.nvmlShutdown()
    return Driver(version, known, 0, gpus)


def _gpu(cuda, management, number: int, version: str) -> Gpu:
    device, total = ctypes.c_int(0), ctypes.c_size_t(0)
    cuda.cuDeviceGet(ctypes.byref(device), number)
    name, address = (ctypes.create_string_buffer(TEXT) for _ in range(2))
    cuda.cuDeviceGetName(name, TEXT, device)
    cuda.cuDeviceGetPCIBusId(address, TEXT, device)
    cuda.cuDeviceTotalMem_v2(ctypes.byref(total), device)
    capability = []
    for attribute in (MAJOR, MINOR):
        value = ctypes.c_int(0)
        cuda.cuDeviceGetAttribute(ctypes.byref(value), attribute, device)
        capability.append(value.value)
    free = -1 if management is None else _free(management, address)
    return Gpu(name.value.decode(errors="replace"), (capability[0], capability[1]), total.value, free, version)


def _free(management, address) -> int:
    """Free memory of the GPU at this address of the bus, bytes; −1 where that is not known."""
    handle, memory = ctypes.c_void_p(), _Memory()
    if management.nvmlDeviceGetHandleByPciBusId_v2(address, ctypes.byref(handle)) != 0:
        return -1
    if management.nvmlDeviceGetMemoryInfo(handle, ctypes.byref(memory)) != 0:
        return -1
    return int(memory.free)


def kernel_version() -> str | None:
    """Version of the NVIDIA kernel driver, None where it does not say (as under Windows)."""
    for path in ("/proc/driver/nvidia/version", "/sys/module/nvidia/version"):
        try:
            with open(path, encoding="utf-8") as file:
                words = file.readline().split()
        except OSError:
            continue
        found = next((word for word in words if word[:1].isdigit() and "." in word), None)
        if found:
            return found
    return None


def hidden() -> str | None:
    """CUDA_VISIBLE_DEVICES, None where it is not set."""
    return os.environ.get("CUDA_VISIBLE_DEVICES")
