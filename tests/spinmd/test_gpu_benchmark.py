"""benchmarks/gpu.py without a GPU: its counts, its sentences, and that nothing that fails ends it."""

import importlib
import json
import os
import subprocess
import sys

import pytest


def run(root, *arguments, **environment):
    environment = {
        name: value for name, value in {**os.environ, **environment}.items() if name != "NUMBA_ENABLE_CUDASIM"
    }
    command = [sys.executable, str(root / "benchmarks" / "gpu.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)


@pytest.fixture
def modules(root, monkeypatch):
    monkeypatch.syspath_prepend(str(root / "benchmarks"))
    return {name: importlib.import_module(name) for name in ("gpu", "gpu_cases", "gpu_counts")}


def test_expected_times_need_no_gpu(root):
    done = run(root, "--expect")
    assert done.returncode == 0, done.stderr
    assert "EAM + exchange 5.74 Å, nve, float64" in done.stdout and "`midpoint._iterate`" in done.stdout


def test_without_a_gpu_there_is_one_sentence(root):
    done = run(root, "--cases", "launch", CUDA_VISIBLE_DEVICES="-1")
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("gpu.py"), done.stderr


def test_what_is_missing_is_named(root, tmp_path):
    """A module that cannot be found: the script is run by a Python without site-packages."""
    done = subprocess.run(
        [sys.executable, "-S", str(root / "benchmarks" / "gpu.py"), "--check"], capture_output=True, text=True, timeout=60
    )  # fmt: skip
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "pydantic" in done.stderr, done.stderr


def test_counts(modules):
    """Neighbours of bcc iron and rocksalt, and numbers that the kernels' text gives by hand."""
    counts, case = modules["gpu_counts"], modules["gpu_cases"].Case
    assert counts.neighbours("bcc", 3.4) == 14 and counts.neighbours("bcc", 5.3) == 58
    assert counts.neighbours("rocksalt", 2.2) == 6 and counts.neighbours("rocksalt", 3.0, True) == 9  # 12 of Ni, 6 of O
    work = counts.kernels(case("spins", 64, "nve", "float64", 1000), 3.0)
    assert work["midpoint._iterate"].memory == 3 * (64 * 12 + 4 + 24 + 24 + 24 + 48 + 8)
    large = counts.total(case("deepspin", "large", "nve", "float32", 1000))
    assert 2.6e6 < large["flops"] < 2.9e6


def test_kernels_that_are_counted_exist(modules):
    """A name that no kernel has would hide its time."""
    pytest.importorskip("numba_cuda")
    for name in ("deepspin_kernels", "deepspin_nets", "eam", "exchange"):
        importlib.import_module(f"spinmd.potentials.cuda.{name}")
    for name in ("midpoint", "flows", "spin_flow"):
        importlib.import_module(f"spinmd.integrators.cuda.{name}")
    from spinmd.cuda.launch import KERNELS

    known = {f"{function.__module__.rsplit('.', 1)[-1]}.{function.__name__}" for function, _ in KERNELS.values()}
    case = modules["gpu_cases"].Case
    for kind in (("eam", 3.4, "langevin", "mixed"), ("deepspin", "small", "nve", "float32")):
        named = {name for name in modules["gpu_counts"].kernels(case(*kind, 1000)) if not name.startswith("torch")}
        assert named <= known, named - known


def test_a_case_that_fails_or_does_not_fit_leaves_a_row(modules, tmp_path, monkeypatch, capsys):
    gpu, cases = modules["gpu"], modules["gpu_cases"]
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--json", str(tmp_path / "out.json"), "--budget", "1000"])
    monkeypatch.setattr(gpu.Run, "about", lambda self: {"device": "none"})
    one = gpu.Run(gpu.arguments(), None)
    case = cases.Case("eam", 3.4, "nve", "mixed", 1000)

    def full():
        raise MemoryError("40 GB")

    assert not one.attempt("rows", case, full, ("a",))
    assert one.attempt("rows", case, lambda: {"case": "fine", "seconds": 0.0}, ("b",))
    one.durations["b",] = (400.0, 1000)
    assert not one.attempt("rows", cases.Case("eam", 3.4, "nve", "mixed", 8000), full, ("b",))
    rows = json.loads((tmp_path / "out.json").read_text())["rows"]
    assert "memory of the host" in rows[0]["failed"] and rows[1]["case"] == "fine"
    assert "would take about 3200 s" in rows[2]["skipped"]


def test_couplings_by_place_are_those_of_a_search(modules):
    """Of the rigid crystal: the same neighbours with the same couplings."""
    cases = modules["gpu_cases"]
    case = cases.Case("spins", 64, "nve", "float64", 250)
    small = cases.small_one(case)
    assert small.state.natoms == 250
    found = cases.rigid_term(small, small.state, 5)._lattice.spin_term
    right = small.model.terms[0]._lattice.spin_term
    for i in range(small.state.natoms):
        rows = []
        for term in (found, right):
            here = slice(term.start[i], term.start[i] + term.count[i])
            rows.append(sorted(zip(term.neighbours[here].tolist(), term.isotropic[here].tolist(), strict=True)))
        assert rows[0] == rows[1]
