"""What a user reads where there is no GPU to compute on, or where a deck does not fit one; and what ``spinmd info`` says."""

import ctypes
import importlib.util
import json
import re
import warnings
from types import SimpleNamespace

import pytest
from support.devices import small_card

import spinmd
from spinmd import building, device
from spinmd.cli import main
from spinmd.cuda import driver, runtime
from spinmd.errors import InputError

DECK = """\
[structure]
prototype = "bcc"
element = "Fe"
lattice_constant = 2.87
supercell = [2, 2, 2]

[structure.spins]
moments = { Fe = 2.2 }
texture = "random"

[[potential]]
kind = "exchange"
parameters = { form = "bethe-slater", a = 0.02726, b = 0.2171, d = 1.841, cutoff = 3.4 }

[integrator]
timestep = "1 fs"
lattice = "frozen"

[run]
steps = 4

[output]
file = "run.h5"
thermo = 2
trajectory = 2
checkpoint = 2
"""
PLUGIN = '''\
from spinmd.parameters import Parameters
from spinmd.protocols import OK, Need


class Tether:
    """No energy, and no version for the GPU."""

    class Parameters(Parameters):
        pass

    cutoff, provides, magnetic = 0.0, Need.ALL, False

    def __init__(self, parameters, name="tether"):
        self.parameters, self.name = parameters, name

    def prepare(self, state, backend=None):
        pass

    def margin(self, state):
        return 0.0

    def add(self, state, pairs, out, need):
        return OK

    def freeze(self, state, pairs):
        return None
'''


class Cuda:
    """Stands for libcuda: a driver that knows this CUDA, answers cuInit with this code, and has GPUs (name, capability, bytes)."""

    def __init__(self, version=13000, code=0, gpus=(("NVIDIA H100 80GB HBM3", (9, 0), 80 * 2**30),)):
        self.version, self.code, self.gpus = version, code, gpus

    def cuDriverGetVersion(self, number):
        number._obj.value = self.version
        return 0

    def cuInit(self, flags):
        return self.code

    def cuDeviceGetCount(self, count):
        count._obj.value = len(self.gpus)
        return 0

    def cuDeviceGet(self, found, number):
        found._obj.value = number
        return 0

    def cuDeviceGetName(self, text, length, gpu):
        text.value = self.gpus[gpu.value][0].encode()
        return 0

    def cuDeviceGetPCIBusId(self, text, length, gpu):
        text.value = f"0000:{gpu.value:02d}:00.0".encode()
        return 0

    def cuDeviceTotalMem_v2(self, total, gpu):
        total._obj.value = self.gpus[gpu.value][2]
        return 0

    def cuDeviceGetAttribute(self, value, attribute, gpu):
        value._obj.value = self.gpus[gpu.value][1][attribute - driver.MAJOR]
        return 0


class Management:
    """Stands for libnvidia-ml; ``free`` bytes by the GPU's place on the bus."""

    def __init__(self, free):
        self.free = free

    def nvmlInit_v2(self):
        return 0

    def nvmlShutdown(self):
        return 0

    def nvmlDeviceGetHandleByPciBusId_v2(self, address, handle):
        handle._obj.value = 1 + int(address.value.split(b":")[1])
        return 0

    def nvmlDeviceGetMemoryInfo(self, handle, memory):
        memory._obj.free = self.free[handle.value - 1]
        return 0


@pytest.fixture
def machine(monkeypatch):
    """Another machine: ``machine(cuda=Cuda(), free=(bytes,), torch="13.0", compilers=(), missing=())``; None: no driver."""
    monkeypatch.delenv("NUMBA_ENABLE_CUDASIM", raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    device.name_of.cache_clear()
    find = importlib.util.find_spec

    def make(cuda=None, free=None, torch="13.0", without=(), missing=()):
        libraries = {"libcuda.so.1": cuda, "libnvidia-ml.so.1": None if free is None else Management(free)}
        monkeypatch.setattr(driver, "library", libraries.get)
        monkeypatch.setattr(driver, "kernel_version", lambda: "580.95.05")
        monkeypatch.setattr(runtime, "torch_cuda", lambda: torch)
        monkeypatch.setattr(runtime, "missing_compilers", lambda: list(without))
        monkeypatch.setattr(
            runtime.importlib.util,
            "find_spec",
            lambda name: None if name in missing else find(name) or SimpleNamespace(),
        )

    return make


OLD = Cuda(12040)
NO_GPU = Cuda(code=100)
MAXWELL = Cuda(gpus=(("GeForce GTX 980", (5, 2), 4 * 2**30),))
SAID = [
    ({}, "there is no NVIDIA driver on this machine; install one (580 or newer)"),
    ({"cuda": OLD}, "the NVIDIA driver 580.95.05 knows CUDA up to 12.4, and torch is built for 13.0; install driver 580 or newer"),
    ({"cuda": NO_GPU}, "the NVIDIA driver 580.95.05 shows no GPU to this process; look at nvidia-smi"),
    ({"cuda": Cuda(code=803)}, "does not start (CUDA error 803); look at nvidia-smi"),
    ({"cuda": MAXWELL}, "GeForce GTX 980 has compute capability 5.2, and 7.5 is needed; choose another with"),
    ({"cuda": Cuda(), "missing": ["numba_cuda"]}, "numba-cuda is missing, which compiles the kernels; install it with pip install"),
    ({"cuda": Cuda(), "without": ["nvvm"]}, "numba-cuda is there without its compiler (nvvm); install it with pip"),
    ({"cuda": Cuda(), "missing": ["torch"]}, "torch is missing, which keeps the arrays on the GPU; install it with pip install"),
    ({"cuda": Cuda(), "torch": None}, "is built without CUDA; install the build for CUDA 13: pip install --force-reinstall torch"),
]  # fmt: skip
NAMES = [
    "no driver", "old driver", "no GPU", "driver fails", "capability", "no numba-cuda", "no compiler", "no torch", "CPU torch",
]  # fmt: skip


@pytest.fixture
def deck(tmp_path, monkeypatch):
    """A deck in an empty folder, which is the present one."""
    (tmp_path / "deck.toml").write_text(DECK)
    monkeypatch.chdir(tmp_path)
    return "deck.toml"


def complaint(capsys, *arguments) -> str:
    """The one sentence of a command line that is refused, with exit code 2."""
    assert main(list(arguments)) == 2
    screen = capsys.readouterr()
    lines = screen.err.splitlines()
    assert len(lines) == 1 and screen.out == "", screen
    return lines[0]


@pytest.mark.parametrize("there, said", SAID, ids=NAMES)
def test_what_is_missing_is_said_with_a_remedy(machine, deck, tmp_path, capsys, there, said):
    machine(**there)
    sentence = complaint(capsys, "run", deck, "--device", "cuda")
    assert sentence.startswith("spinmd: error: --device: ") and said in sentence
    assert [path.name for path in tmp_path.iterdir()] == ["deck.toml"]


def test_a_driver_is_as_new_as_torch_needs(machine):
    """A build for CUDA 12 runs with a driver of CUDA 12, of whatever minor version."""
    machine(OLD, torch="12.8")
    assert runtime.problems() == []
    machine(Cuda(11080), torch="12.8")
    assert "knows CUDA up to 11.8, and torch is built for 12.8; install driver 525 or newer" in runtime.problems()[0]
    machine(OLD, torch=None)
    assert "knows CUDA up to 12.4, and 13.0 is needed; install driver 580" in runtime.problems()[0]


def test_the_compiler_of_a_toolkit_is_found(tmp_path, monkeypatch):
    """Without the wheels, a toolkit of the machine serves, as for numba."""

    def nowhere(name):
        raise RuntimeError(name)

    monkeypatch.setattr("cuda.pathfinder.load_nvidia_dynamic_lib", nowhere)
    monkeypatch.setattr(runtime, "toolkits", lambda: [tmp_path])
    assert runtime.missing_compilers() == ["nvvm", "nvrtc", "nvJitLink"]
    for place in ("nvvm/lib64/libnvvm.so.4", "lib64/libnvrtc.so.13", "lib64/libnvJitLink.so.13"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).touch()
    assert runtime.missing_compilers() == []


def test_everything_that_is_missing_is_said_at_once(machine, deck, capsys):
    machine(missing=["numba_cuda"], torch=None)
    assert main(["run", deck, "--device", "cuda"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert [word in line for word, line in zip(("driver", "numba-cuda", "torch"), lines, strict=True)] == [True] * 3


def test_a_hidden_gpu_is_named_by_what_hides_it(machine, deck, capsys, monkeypatch):
    machine(NO_GPU)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert "CUDA_VISIBLE_DEVICES='-1' hides every GPU from this process; unset it, or name one" in complaint(
        capsys, "run", deck, "--device", "cuda"
    )


def test_libraries_that_fail_although_all_is_there(machine, deck, capsys, monkeypatch):
    """numba or torch may still refuse; both are asked last."""
    import numba.cuda
    import torch

    machine(Cuda())
    monkeypatch.setattr(numba.cuda, "is_available", lambda: False)
    assert "unset NUMBA_DISABLE_CUDA" in complaint(capsys, "run", deck, "--device", "cuda")
    monkeypatch.setattr(numba.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "finds no usable GPU; take the build for CUDA 13" in complaint(capsys, "run", deck, "--device", "cuda")


def test_the_place_is_where_the_device_was_asked_for(machine, deck, tmp_path, capsys):
    machine()
    path = tmp_path / "cuda.toml"
    path.write_text(DECK.replace("steps = 4", 'steps = 4\ndevice = "cuda"'))
    for command in ("run", "evaluate"):
        assert "run.device (line 21): there is no NVIDIA driver" in complaint(capsys, command, str(path))
    assert "run.device: there is no" in complaint(capsys, "sweep", str(path), "--over", "run.seed=1,2")
    assert "--device: there is no" in complaint(capsys, "sweep", deck, "--over", "run.seed=1,2", "--device", "cuda")
    assert "expected cpu or cuda, got 'gpu'" in complaint(capsys, "run", deck, "--device", "gpu")
    assert "expected cpu or cuda, got 'gpu'" in complaint(
        capsys, "sweep", deck, "--over", "run.seed=1,2", "--device", "gpu"
    )
    assert sorted(one.name for one in tmp_path.iterdir()) == ["cuda.toml", "deck.toml"]


def test_check_needs_no_gpu_and_says_that_there_is_none(machine, deck, capsys):
    machine()
    assert main(["check", deck, "--device", "cuda"]) == 0
    out = capsys.readouterr().out
    assert "warning       --device: there is no NVIDIA driver" in out and "(the deck was checked on the CPU)" in out
    assert main(["check", deck]) == 0
    assert "device" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "changes, place, said",
    [
        (["run.precision='mixed'"], "run.precision", "mixed precision is for the GPU; leave it out on the CPU"),
        (["stage=[{run={precision='mixed', steps=2}}]"], "stage.0.run.precision", "mixed precision is for the GPU"),
        (["stage=[{run={device='cuda', steps=2}}]"], "stage.0.run.device", "all stages compute on one device"),
    ],
)
def test_settings_that_do_not_fit_the_cpu(deck, capsys, changes, place, said):
    changes = [word for change in changes for word in ("--set", change)]
    sentence = complaint(capsys, "run", deck, *changes)
    assert sentence.startswith(f"spinmd: error: {place} ") and said in sentence


def test_terms_without_a_version_for_the_gpu_are_refused_before_the_run(machine, deck, tmp_path, capsys):
    """Also those of a later stage, which would otherwise end the run after hours."""
    machine(Cuda())
    (tmp_path / "tether_without_gpu.py").write_text(PLUGIN)
    own = '\n[[potential]]\nkind = "tether_without_gpu:Tether"\n'
    (tmp_path / "own.toml").write_text(DECK + own)
    (tmp_path / "later.toml").write_text(
        DECK + '\n[[stage]]\nrun = { steps = 2 }\n\n[[stage.potential]]\nkind = "tether_without_gpu:Tether"\n'
    )
    for name, place in (("own", "potential.1.kind"), ("later", "stage.0.potential.0.kind")):
        with pytest.raises(
            InputError, match="tether has no version for the GPU .*; compute on the CPU with --device cpu"
        ) as caught:
            building.build(tmp_path / f"{name}.toml", device="cuda", here=False)
        assert caught.value.place.startswith(place)
    assert not (tmp_path / "run.h5").exists()


def test_mixed_precision_wants_a_term_that_has_it(deck):
    zeeman = {"potential": [{"kind": "zeeman", "parameters": {"field": [0, 0, 1]}}], "run.precision": "mixed"}
    with pytest.raises(InputError, match="none has a mixed version") as caught:
        building.build(deck, zeeman, device="cuda", here=False)
    assert caught.value.place.startswith("run.precision")
    building.build(deck, {"run.precision": "mixed"}, device="cuda", here=False)


def test_a_run_of_the_gpu_goes_on_on_the_cpu(machine, deck, tmp_path, capsys):
    """Without a GPU the message says so; with --device cpu it goes on, mixed precision or not."""
    import spinmd

    machine()
    with building.build(
        deck, {"run.precision": "mixed", "run.device": "cuda"}, device="cuda", here=False
    ) as simulation:
        simulation.device = "cpu"  # stands for the GPU that made the file
        simulation.run(2)
    assert "run.device" in complaint(capsys, "resume", "run.h5")
    with pytest.warns(UserWarning, match="was in mixed precision; on the CPU it goes on in float64"):
        simulation = spinmd.resume("run.h5", device="cpu")
    assert simulation.run()["steps"] == 4
    simulation.close()


def test_points_of_a_sweep_have_the_gpu_one_after_the_other(deck, monkeypatch):
    from spinmd import backend
    from spinmd.sweeping.driver import share_cores
    from spinmd.sweeping.plan import common, make_plan

    monkeypatch.setattr(backend, "available_threads", lambda: 8)
    plans = {name: make_plan(deck, ["run.seed=1,2"], [f'run.device="{name}"'], 1) for name in ("cpu", "cuda")}
    assert share_cores(plans["cpu"], None, None, False)[0] == 8
    assert share_cores(plans["cuda"], None, None, False)[0] == 1
    assert share_cores(plans["cuda"], 3, None, False)[0] == 3
    assert share_cores(plans["cuda"], None, None, True)[0] is None  # a cluster knows what it has
    # a sweep may go on on the other device
    tables = [plan.points[0].tables for plan in plans.values()]
    assert common(tables[0], ["run.seed"]) == common(tables[1], ["run.seed"])


@pytest.mark.parametrize("atoms, fit", [(10**8, 610000), (10**6, 610000), (400000, 360000)])
def test_memory_that_runs_out_is_a_sentence(atoms, fit, monkeypatch):
    """What fits is counted from what was free at the beginning, and is less than what has not fitted."""
    import torch

    small_card(monkeypatch)
    with pytest.raises(InputError) as caught, runtime.memory_explained(atoms):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda *_: (0, 80 * 2**30))
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
    assert f"{atoms} atoms do not fit into the 1.0 GiB that were free of the 80 of the GPU" in str(caught.value)
    assert f"about {fit} would" in str(caught.value) and "make the supercell smaller" in str(caught.value)
    assert caught.value.place == "structure.supercell"


def test_bytes_per_atom_are_those_that_were_counted(root):
    """docs/performance.md: 1656 at constant energy, 1744 with baths; the estimate covers both."""
    deck = spinmd.load_deck(root / "inputs" / "iron_gpu.toml", {"structure.supercell": [4, 4, 4], "run.device": "cpu"})
    simulation = spinmd.build(deck, output=False)
    assert 1700.0 < runtime.bytes_per_atom(simulation.model) < 1800.0


def test_the_remedy_names_the_tested_torch(root):
    pinned = re.search(r"^torch==(\S+)", (root / "constraints.txt").read_text(), re.MULTILINE)
    assert f"torch=={pinned[1]} " in runtime.CUDA_TORCH


# ------------------------------------------------------------------ info


def facts(capsys) -> dict:
    assert main(["info", "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_info_shows_all_gpus_and_which_one_a_run_takes(machine, capsys):
    gpus = (("NVIDIA H100 80GB HBM3", (9, 0), 80 * 2**30), ("NVIDIA T4", (7, 5), 16 * 2**30))
    machine(Cuda(13010, gpus=gpus), free=(70 * 2**30, 15 * 2**30))
    found = facts(capsys)
    assert found["driver"] == "580.95.05, CUDA up to 13.1"
    assert found["gpu_0"] == "NVIDIA H100 80GB HBM3, compute capability 9.0, 70.0 of 80.0 GiB free"
    assert found["gpu_1"] == "NVIDIA T4, compute capability 7.5, 15.0 of 16.0 GiB free"
    assert found["cuda"] == "a run takes gpu_0, NVIDIA H100 80GB HBM3" and found["torch_cuda"] == "13.0"
    machine(Cuda(13010, gpus=gpus))
    assert facts(capsys)["gpu_1"] == "NVIDIA T4, compute capability 7.5, 16.0 GiB"


def test_info_says_what_is_missing(machine, capsys, monkeypatch):
    machine(missing=["numba_cuda"], torch=None)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    found = facts(capsys)
    assert found["driver"] == "none" and found["visible_gpus"] == "CUDA_VISIBLE_DEVICES=3"
    assert found["torch_cuda"].startswith("none")
    assert all(
        word in found["cuda"]
        for word in ("not available", "no NVIDIA driver", "numba-cuda is missing", "built without")
    )
    assert main(["info"]) == 0 and "not available: there is no NVIDIA driver" in capsys.readouterr().out


def test_info_survives_a_broken_driver(machine, capsys, monkeypatch):
    machine()

    def broken():
        raise ctypes.ArgumentError("what is this")

    monkeypatch.setattr(driver, "look", broken)
    assert "the driver cannot be asked (ArgumentError: what is this)" in facts(capsys)["cuda"]


def test_the_build_of_torch_is_read_without_importing_it(monkeypatch, tmp_path):
    for text, expected in (
        ("cuda: Optional[str] = None", None),
        ("cuda: Optional[str] = '13.0'", "13.0"),
        ("cuda = '12.8'", "12.8"),
    ):
        (tmp_path / "version.py").write_text(f"__version__ = '2.13.0'\n{text}\nhip = None\n")
        found = SimpleNamespace(origin=str(tmp_path / "__init__.py"))
        monkeypatch.setattr(runtime.importlib.util, "find_spec", lambda name, found=found: found)
        assert runtime.torch_cuda() == expected


def test_nothing_warns_where_nothing_is_wrong(deck):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        building.build(deck, device="cuda", here=False)
