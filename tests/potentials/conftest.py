"""What several tests of potentials share."""

import numpy as np
import pytest


@pytest.fixture
def write_eam_fs():
    """A function that writes smooth Finnis-Sinclair tables of Fe and Co to a path."""
    return _write_eam_fs


def _write_eam_fs(path):
    """Smooth Finnis-Sinclair tables of Fe and Co in which every function is another one."""
    cutoff, n = 4.9, 1500
    r = np.linspace(0.0, cutoff, n)
    rho = 0.03 * np.arange(1000)
    end = (1.0 - r / cutoff) ** 3
    blocks = []
    for a, mass in enumerate((55.845, 58.933)):
        blocks.append(f"{26 + a} {mass} 2.87 bcc")
        blocks.append(_numbers(-(1.0 + 0.3 * a) * np.sqrt(rho) + 0.01 * a * rho**2))
        for b in range(2):
            size = 4.0 * (1.0 + 0.5 * a + 0.9 * b + 0.3 * a * b)
            blocks.append(_numbers(size * np.exp(-r * (0.5 + 0.1 * a)) * end))
    for a in range(2):
        for b in range(a + 1):
            blocks.append(_numbers(8.0 * (20.0 + 5.0 * a - 7.0 * b) * np.exp(-1.3 * r) * end * r))
    header = f"smooth functions\nfor tests\n\n2 Fe Co\n{len(rho)} 0.03 {n} {cutoff / (n - 1)!r} {cutoff}\n"
    path.write_text(header + "\n".join(blocks) + "\n")
    return path


def _numbers(values):
    return "\n".join(" ".join(f"{v:.15e}" for v in values[k : k + 5]) for k in range(0, len(values), 5))
