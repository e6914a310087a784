"""Tests of the device: on a GPU where there is one, else in numba's simulator, which needs a process of its own.

``tests/spinmd/test_device_simulator.py`` starts that process. In any other one without a GPU these tests are reported as skipped.
"""

import os

import pytest
from support import simulator

SIMULATED = os.environ.get("NUMBA_ENABLE_CUDASIM", "0") not in ("", "0")
if SIMULATED:
    simulator.install()


def _usable() -> str:
    """Empty where kernels can run; else why not."""
    if SIMULATED:
        return ""
    try:
        from spinmd.cuda.runtime import require
        from spinmd.errors import InputError
    except ImportError as error:
        return str(error)
    try:
        require()
    except InputError as error:
        return error.message
    return ""


@pytest.fixture(scope="session", autouse=True)
def device():
    """Skips where there is nothing to run kernels on."""
    reason = _usable()
    if reason:
        pytest.skip(f"no device: {reason}")
    return "simulator" if SIMULATED else "gpu"
