"""The set-up: packages and entry points as declared, the direction of the imports, what importing spinmd costs."""

import ast
import configparser
import importlib
import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("potentials", "integrators", "analysis")
CODE = ("spinmd", *ROOMS)

# Who may import whom: a module imports from its own layer and the layers before it.
# A new module of spinmd/ gets its place here.
LAYERS = (
    {"errors", "units", "jitcache", "signals"},
    {"state"},
    {"protocols", "parameters"},
    {
        "backend",
        "simd",
        "simd_extra",
        "simd_matrix",
        "cell_list",
        "neighbors",
        "rng",
        "structure",
        "crystal",
        "textures",
        "run_cell",
        "selection",
    }
    | {"model", "evaluator", "couplings", "spin_laws", "spin_temperature"}
    | {"run", "divergence", "drift", "output", "integrity", "h5md", "segments", "checkpoint", "reporters"}
    | {"trajectory", "stored_arrays", "snapshot", "cuda"},
    set(ROOMS),
    {
        "registry",
        "toml_source",
        "complaints",
        "schema",
        "deck",
        "building",
        "checking",
        "simulation",
        "resuming",
        "device",
    },
    {
        "learning",
        "interop",
        "testing",
        "ase_calculator",
        "sweeping",
        "spin_hamiltonian",
        "frozen_couplings",
        "live_couplings",
    },
    {"commands"},
    {"cli"},
    {"__main__"},
)
# they train, need torch, and are imported inside functions only
TORCH_MODULES = {
    f"spinmd.potentials.deepspin.{name}"
    for name in (
        "torch_network",
        "torch_invariants",
        "training_parts",
        "training",
        "training_checkpoint",
        "output_scale",
        "optimisers",
    )  # fmt: skip
}
# so does everything for the GPU
CUDA_PACKAGES = ("spinmd.cuda", "spinmd.potentials.cuda", "spinmd.integrators.cuda")
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}


def sources() -> list[Path]:
    return sorted(path for top in CODE for path in (ROOT / top).rglob("*.py") if not path.parent.is_symlink())


def configuration() -> configparser.ConfigParser:
    config = configparser.ConfigParser()
    config.optionxform = str
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    return config


def declared(section: str, option: str) -> dict[str, str]:
    """The ``name = value`` lines of an option of setup.cfg."""
    lines = [line for line in configuration()[section][option].splitlines() if line.strip()]
    return {name.strip(): value.strip() for name, _, value in (line.partition("=") for line in lines)}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    if parts[0] in ROOMS:
        parts = ("spinmd", *parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def type_checking_lines(tree: ast.Module) -> set[int]:
    """Lines under ``if TYPE_CHECKING:``, which never run."""
    return {
        line
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for line in range(node.lineno, node.end_lineno + 1)
    }


def imported(tree: ast.Module) -> list[tuple[str, int, bool]]:
    """(module, line, whether at module level) of every import, wherever it stands."""
    skipped = type_checking_lines(tree)
    inside = {id(node) for f in ast.walk(tree) if isinstance(f, (ast.FunctionDef, ast.Lambda)) for node in ast.walk(f)}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import in line {node.lineno}"
            # `from spinmd import x` and `from spinmd.potentials import x` name modules in their second half
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        if node.lineno not in skipped:
            found += [(name, node.lineno, id(node) not in inside) for name in names]
    return found


def brings_torch(name: str) -> bool:
    """Whether a module may import torch at its top, and so must itself be imported inside functions only."""
    return name in TORCH_MODULES or any(name == p or name.startswith(p + ".") for p in CUDA_PACKAGES)


def import_faults(name: str, tree: ast.Module) -> list[str]:
    """Every import in module ``name`` that goes against the rule, as a sentence."""
    faults = []
    own = name.split(".")[1] if "." in name else ""
    for target, line, at_top in imported(tree):
        parts = target.split(".")
        where = f"{name} line {line}: {target}"
        if any(map(brings_torch, (target, target.rpartition(".")[0]))) and at_top and not brings_torch(name):
            faults.append(f"{where} brings torch along; import it inside a function")
        if parts[0] == "torch" and not brings_torch(name):
            faults.append(f"{where} belongs to {', '.join([*sorted(TORCH_MODULES), *CUDA_PACKAGES])}")
        if parts[0] in ROOMS:
            faults.append(f"{where} is to be imported as spinmd.{parts[0]}")
        if parts[0] != "spinmd" or len(parts) == 1:
            continue
        other = parts[1]
        if other == "__version__":
            continue
        if other not in RANK:
            faults.append(f"{where} is not in LAYERS (a public name of spinmd? import it from its module)")
            continue
        if own == "":
            continue  # spinmd/__init__.py: jitcache only, everything else is under TYPE_CHECKING or lazy
        if RANK[other] > RANK[own]:
            faults.append(f"{where} stands above {own}")
        if own in ROOMS and other in ROOMS and own != other:
            faults.append(f"{where}: {own} and {other} do not know each other")
        if name == "spinmd.run" and other == "h5md":
            faults.append(f"{where}: the loop sees reporters, never files")
    return faults


def in_subprocess(code: str, **environment: str) -> subprocess.CompletedProcess:
    env = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True, timeout=120)


def tracked_files() -> list[Path]:
    """Files under version control, and new ones that are not ignored; all files of an unpacked source archive."""
    if (ROOT / ".git").exists() and shutil.which("git"):
        command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
        paths = [ROOT / name for name in names if name]
    else:
        hidden = re.compile(r"^(\.venv|build|dist|.*\.egg-info|__pycache__)$")
        paths = [p for p in ROOT.rglob("*") if not any(hidden.match(part) for part in p.relative_to(ROOT).parts)]
    return [path for path in paths if path.is_file() and not path.is_symlink()]


# --- what is declared is what is there ---


def test_package_list_is_the_tree():
    packages = set(configuration()["options"]["packages"].split())
    assert {module_name(path.parent / "__init__.py") for path in sources()} == packages
    for package in packages:
        parts = package.split(".")
        folder = ROOT.joinpath(*(parts[1:] if len(parts) > 1 and parts[1] in ROOMS else parts))
        assert (folder / "__init__.py").is_file(), f"{package} has no __init__.py"


def test_package_folders_are_mapped_and_linked():
    expected = {"spinmd": "spinmd", **{f"spinmd.{room}": room for room in ROOMS}}
    assert declared("options", "package_dir") == expected
    for room in ROOMS:
        assert os.readlink(ROOT / "spinmd" / room) == f"../{room}"


def test_entry_points_are_the_registered_kinds():
    registry = importlib.import_module("spinmd.registry")
    assert declared("options.entry_points", "spinmd.potentials") == registry.OWN


@pytest.mark.parametrize("kind, value", declared("options.entry_points", "spinmd.potentials").items())
def test_entry_point_leads_to_a_potential(kind, value):
    module, _, name = value.partition(":")
    potential = getattr(importlib.import_module(module), name)
    assert hasattr(potential, "Parameters"), f"{kind} has no Parameters"
    for method in ("prepare", "margin", "add", "freeze"):
        assert callable(getattr(potential, method)), f"{kind} has no {method}"


def test_command_leads_to_a_function():
    module, _, name = declared("options.entry_points", "console_scripts")["spinmd"].partition(":")
    assert callable(getattr(importlib.import_module(module), name))


def test_constraints_pin_all_that_is_needed():
    requirements = pytest.importorskip("packaging.requirements")
    normal = pytest.importorskip("packaging.utils").canonicalize_name
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    pinned = {normal(name): version for name, version in pinned.items()}
    options = configuration()
    lines = (options["options"]["install_requires"] + options["options.extras_require"]["test"]).splitlines()
    queue = [(line, "", True) for line in lines if line and not line.startswith("#")]
    seen = set()
    while queue:
        line, extra, tested = queue.pop()
        requirement = requirements.Requirement(line)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": extra}):
            continue
        name = normal(requirement.name)
        assert name in pinned, f"{name} is needed for running or testing and not pinned in constraints.txt"
        if tested:
            assert requirement.specifier.contains(pinned[name], prereleases=True), f"{line} excludes {pinned[name]}"
        try:
            package = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            pytest.skip(f"needs the test extra installed; {name} is missing")
        # another version than the pinned one may ask for other versions of its own requirements
        tested = package.version.partition("+")[0] == pinned[name]
        for part in ("", *requirement.extras):
            if (name, part) not in seen:
                seen.add((name, part))
                queue += [(needed, part, tested) for needed in package.requires or []]
    assert {"numpy", "numba", "torch", "pytest", "llvmlite"} <= {name for name, _ in seen}


def test_wheel_holds_every_module_once(tmp_path):
    setuptools = pytest.importorskip("setuptools", minversion="77")
    copy = tmp_path / "a copy"
    kept = [path for path in tracked_files() if path.relative_to(ROOT).parts[0] in CODE or path.parent == ROOT]
    for path in kept:
        target = copy / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, target)
    (copy / "README.md").touch()
    for room in ROOMS:
        (copy / "spinmd" / room).symlink_to(f"../{room}", target_is_directory=True)
    build = f"import setuptools.build_meta as b; b.build_wheel({str(tmp_path)!r})"
    done = subprocess.run([sys.executable, "-c", build], cwd=copy, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"setuptools {setuptools.__version__}: {done.stderr}"
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        names = [name for name in wheel.namelist() if ".dist-info/" not in name]
        wheel.extractall(tmp_path / "installed")
    assert sorted(names) == sorted(map(wheel_name, sources()))

    # what is installed is the same code under the same names: the key of numba's cache agrees
    code = "import spinmd.potentials as p, spinmd.jitcache as j; print(p.__file__); print(j.source_hash())"
    installed = in_subprocess(f"import os; os.chdir({str(tmp_path)!r})\n{code}", PYTHONPATH=str(tmp_path / "installed"))
    checkout = in_subprocess(code)
    assert installed.returncode == 0, installed.stderr
    assert installed.stdout.splitlines()[0] == str(tmp_path / "installed" / "spinmd" / "potentials" / "__init__.py")
    assert installed.stdout.splitlines()[1] == checkout.stdout.splitlines()[1]


def wheel_name(path: Path) -> str:
    name = module_name(path)
    return (name + "/__init__" if path.name == "__init__.py" else name).replace(".", "/") + ".py"


# --- imports ---


def test_imports_go_downwards():
    faults = []
    for path in sources():
        name = module_name(path)
        if "." in name and name.split(".")[1] not in RANK:
            faults.append(f"{name} has no place in LAYERS")
            continue
        faults += import_faults(name, ast.parse(path.read_text(encoding="utf-8")))
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize(
    "name, code",
    [
        ("spinmd.state", "from spinmd.model import Model"),
        ("spinmd.state", "def f():\n    import spinmd.deck"),
        ("spinmd.run", "from spinmd import h5md"),
        ("spinmd.potentials.eam", "from spinmd.integrators import flows"),
        ("spinmd.testing", "from spinmd.cli import main"),
        ("spinmd.potentials.eam", "import potentials.base"),
        ("spinmd.potentials.eam", "def f():\n    import torch"),
        ("spinmd.potentials.deepspin.potential", "def f():\n    import torch"),
        ("spinmd.learning.train", "from spinmd.potentials.deepspin.training import Trainer"),
        ("spinmd.model", "from spinmd import State"),
    ],
)
def test_import_rule_sees(name, code):
    assert len(import_faults(name, ast.parse(code))) == 1


def test_import_rule_allows():
    code = "from spinmd.model import Model\nimport spinmd.potentials.base\nif TYPE_CHECKING:\n    import spinmd.deck"
    assert import_faults("spinmd.potentials.eam", ast.parse(code)) == []


def test_importing_spinmd_is_light():
    code = "import sys, spinmd; print(*{'torch', 'numba', 'numba.cuda', 'numpy'}.intersection(sys.modules))"
    done = in_subprocess(code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


def test_importing_spinmd_is_quick():
    code = "import time; t = time.process_time(); import spinmd; print(time.process_time() - t)"
    best = min(float(in_subprocess(code).stdout) for _ in range(3))
    assert best < 0.05  # s of processor time; about 0.01 is usual


def test_public_names():
    import spinmd

    assert set(spinmd._HOMES) | {"__version__"} == set(spinmd.__all__)
    for name, home in spinmd._HOMES.items():
        assert getattr(spinmd, name) is getattr(importlib.import_module(home), name)
        assert importlib.util.find_spec(f"spinmd.{name}") is None, f"spinmd.{name} is a module and a public name"
    assert set(spinmd.__all__) <= set(dir(spinmd))
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        spinmd.nonsense  # noqa: B018


def test_type_checkers_see_the_same_public_names():
    import spinmd

    tree = ast.parse((ROOT / "spinmd" / "__init__.py").read_text(encoding="utf-8"))
    lines = type_checking_lines(tree)
    seen = {
        alias.name: node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.lineno in lines
        for alias in node.names
    }
    assert seen == spinmd._HOMES


@pytest.mark.parametrize("room", ROOMS)
def test_bare_import_of_a_room_is_refused(room):
    done = in_subprocess(f"import {room}")
    assert done.returncode == 1
    assert f"ImportError: this package is imported as spinmd.{room}, not as {room}" in done.stderr
    assert in_subprocess(f"import spinmd.{room}").returncode == 0


# --- house rules ---


def test_no_long_files():
    files = [path for path in tracked_files() if path.suffix == ".py"]
    assert len(files) > 10
    lengths = {str(path.relative_to(ROOT)): path.read_bytes().count(b"\n") for path in files}
    assert {path: length for path, length in lengths.items() if length > 500} == {}


def test_no_path_of_a_machine():
    machine = re.compile(rb"(?<![\w.])/(?:work|tmp/w|root|home/\w+)/")
    folder = b"work/main"
    assert machine.search(b"see /" + folder)
    assert not machine.search(b"https://example.org/" + folder)
    files = tracked_files()
    assert len(files) > 10
    assert [str(path.relative_to(ROOT)) for path in files if machine.search(path.read_bytes())] == []
