"""Exchange of DeepSPIN models with DeePMD-kit 3: read its spin models, write ones that it reads.

What a file is, is told by its content and never by its name. docs/deepmd.md says what is supported.
"""

from pathlib import Path

from spinmd.errors import InputError
from spinmd.interop.conversion import check_target
from spinmd.interop.deepmd_parts import assemble
from spinmd.interop.deepmd_torch import parts_from_checkpoint, parts_from_frozen
from spinmd.interop.deepmd_tree import parts_from_tree, precision_of, read_dp, read_yaml
from spinmd.interop.deepmd_writer import write_dp
from spinmd.interop.pytorch_archive import Node, read_archive
from spinmd.potentials.deepspin.model import DeepSpinModel
from spinmd.potentials.deepspin.model_check import check_model
from spinmd.potentials.deepspin.model_file import HDF5_SIGNATURE, first_bytes, is_model_file, read_model, write_model
from spinmd.segments import open_file

SPINMD_SUFFIXES = (".h5", ".hdf5")


def read_deepmd(path: str | Path) -> DeepSpinModel:
    """A DeePMD-kit spin model (descriptor se_e2_a): portable .dp or .yaml, training checkpoint .pt, frozen .pth.

    Weights are float64 and equal, bit for bit, to those in the file. No code in the file is run.
    Raises InputError for a missing, damaged or foreign file and for models that spinmd cannot represent.
    """
    path = Path(path)
    place = str(path)
    kind = _content(path)
    if kind in ("portable (HDF5)", "portable (YAML)"):
        tree = read_dp(path) if kind == "portable (HDF5)" else read_yaml(path)
        parts, precision = parts_from_tree(tree, place), precision_of(tree)
    elif kind == "zip":
        archive = read_archive(path)
        if isinstance(archive, Node):
            kind = "frozen"
            parts, precision = parts_from_frozen(archive, place)
        elif isinstance(archive, dict):
            kind = "checkpoint"
            parts, precision = parts_from_checkpoint(archive, place)
        else:
            raise InputError("this PyTorch file holds no model; name a .pth or a model.ckpt-N.pt", place)
    elif kind == "spinmd":
        raise InputError("this is already a model of spinmd; use it as it is", place)
    else:
        raise InputError(
            "this is not a model of DeePMD-kit's PyTorch backend; spinmd reads .dp, .yaml, .pth and model.ckpt-N.pt",
            place,
        )
    parts.provenance = {"source": path.name, "format": f"DeePMD-kit, {kind}", **parts.provenance}
    return assemble(parts, precision, place)


def write_deepmd(model: DeepSpinModel, path: str | Path, place: str = "") -> None:
    """Write a portable ``.dp`` model; ``dp convert-backend MODEL.dp MODEL.pth`` makes of it what DeePMD-kit runs.

    Raises InputError, at ``place`` (default: the path), for a model with a prior or with time_reversal, which
    DeePMD-kit does not have.
    """
    check_model(model, place or str(path))
    write_dp(model, Path(path), place)


def convert(source: str | Path, target: str | Path, force: bool = False) -> str:
    """Convert a model file: any that spinmd reads, to ``.h5`` (spinmd) or ``.dp`` (DeePMD-kit). Returns a summary.

    Raises InputError for what cannot be read or written, and if ``target`` exists and ``force`` is false.
    """
    source, target = Path(source), Path(target)
    suffix = target.suffix.lower()
    if suffix in (".pth", ".pt", ".yaml", ".yml"):
        raise InputError(
            f"spinmd writes .h5 and .dp; write {target.stem}.dp, and then: dp convert-backend {target.stem}.dp {target.name}",
            f"OUT {target}",
        )
    if suffix not in (*SPINMD_SUFFIXES, ".dp"):
        raise InputError("of a model, name a file that ends in .h5 (spinmd) or .dp (DeePMD-kit)", f"OUT {target}")
    kind = _content(source)
    check_target(source, target, force)
    model = read_model(source) if kind == "spinmd" else read_deepmd(source)
    if suffix == ".dp":
        write_deepmd(model, target, place=str(source))  # it is the model that DeePMD-kit may have no words for
    else:
        write_model(model, target)
    return f"{source} -> {target}: {describe(model)}"


def describe(model: DeepSpinModel) -> str:
    """One line on a model: elements, cutoff, widths, number of parameters."""
    names = [f"{e} (magnetic)" if m else e for e, m in zip(model.elements, model.magnetic, strict=True)]
    text = f"DeepSPIN model of {', '.join(names)}, cutoff {model.cutoff:g} Å"
    network = model.network
    if network is not None:
        nets = [*network.embedding.values(), *network.fitting]
        count = sum(
            x.size for net in nets for layer in net for x in (layer.weight, layer.bias, layer.step) if x is not None
        )
        widths = "-".join(str(layer.weight.shape[1]) for layer in nets[0])
        fit = "-".join(str(layer.weight.shape[1]) for layer in network.fitting[0][:-1])
        text += f", embedding {widths}, axis {network.axis}, fitting {fit}, {count} parameters, {network.precision}"
    return text + (", with a prior" if model.prior is not None else "")


def _content(path: Path) -> str:
    """What a file holds: "spinmd", "portable (HDF5)", "portable (YAML)", "zip" or "unknown"."""
    place = str(path)
    head = first_bytes(path)
    if not head:
        raise InputError("the file is empty; make or copy it again", place)
    if head.startswith(HDF5_SIGNATURE):
        return _hdf5_content(path)
    if head.startswith(b"PK\x03\x04"):
        return "zip"
    if any(line.startswith((b"backend:", b"model:", b"'@variables'", b'"@variables"')) for line in head.splitlines()):
        return "portable (YAML)"
    return "unknown"


def _hdf5_content(path: Path) -> str:
    if is_model_file(path):
        return "spinmd"
    try:
        with open_file(path) as file:
            return "portable (HDF5)" if "json" in file.attrs else "unknown"
    except (OSError, KeyError, RuntimeError) as error:
        raise InputError(f"the file is damaged ({error}); make or copy it again", str(path)) from None
