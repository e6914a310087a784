"""The deck of a training: [data], [prior], [network], [training] and [output]. Nothing is trained here."""

from typing import Annotated, Literal

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from spinmd.parameters import Length, OutputFile, Parameters

Width = Annotated[int, Field(ge=1, strict=True)]
Fraction = Annotated[float, Field(ge=0.0, le=0.5)]


class DataParameters(Parameters):
    """Where the labelled frames are: folders in DeePMD's spin layout, parent folders, or patterns with * and ?."""

    train: tuple[str, ...] = Field(min_length=1, description="systems, relative to the deck")
    validation: Fraction | tuple[str, ...] = Field(
        0.1,
        description="fraction of the train frames, spread evenly, or systems of their own; chooses the best weights; "
        "0: the training frames choose them, so that nothing tells overfitting",
    )
    test: Fraction | tuple[str, ...] = Field(
        0.0, description="fraction of the train frames, or systems; used neither in training nor in stopping"
    )
    magnetic: tuple[str, ...] | None = Field(None, description="elements that carry spins; default: those that do")


class PriorTable(Parameters):
    """The classical prior (potentials.deepspin.prior), fitted by linear least squares before anything else."""

    enabled: bool = Field(True, description="false: the network alone, which DeePMD-kit can read")
    cutoff: Length = Field(5.0, gt=0.0, description="of the prior")
    pair_functions: Width = Field(14, description="radial functions of each pair term")
    many_body: bool = Field(True, description="products of per-atom sums beside the pair terms")
    many_body_functions: Annotated[int, Field(ge=1, le=8, strict=True)] = Field(
        8, description="radial functions of the per-atom sums"
    )
    many_body_l: Annotated[int, Field(ge=0, le=2, strict=True)] = Field(2, description="highest angular momentum")
    terms: tuple[Literal["1", "c", "n", "c2", "nn", "n2", "cn"], ...] = Field(
        ("1", "c", "n", "c2", "nn", "n2", "cn"),
        description="pair terms: repulsion and attraction, exchange S·S, |S|², biquadratic, and products",
    )
    landau: bool = Field(True, description="powers of |S|² up to the fourth")
    core: bool = Field(True, description="screened nuclear repulsion below the shortest distance of the data")
    robust: float = Field(0.5, ge=0.0, description="frames with forces beyond this (rms, eV/Å) weigh less; 0: never")
    train: bool = Field(True, description="train the coefficients with the network; false: keep the fitted ones")

    @property
    def settings(self) -> dict:
        """What ``prior.Prior`` calls settings."""
        return self.model_dump(exclude={"enabled", "robust", "train"})


class NetworkTable(Parameters):
    """The network on top of the prior."""

    descriptor: Literal["invariants", "virtual-atoms", "both", "none"] | None = Field(
        None,
        description="invariants: a net over the prior's many-body sums; virtual-atoms: DeepSPIN's network (se_e2_a); "
        "both; none: the prior alone; default: invariants with a many-body prior, virtual-atoms without",
    )
    precision: Literal["float32", "float64"] = Field("float32", description="numbers of the nets in training")
    invariant_fitting: tuple[Width, ...] = Field(
        (64, 64), min_length=1, description="widths of the net over invariants"
    )
    components: Width = Field(200, description="principal components of the invariants that the net sees")
    cutoff: Length = Field(6.0, gt=0.0, description="of the virtual-atom network")
    cutoff_smooth: Length | None = Field(None, ge=0.0, description="where it begins to fall; default half the cutoff")
    neuron: tuple[Width, ...] = Field((25, 50, 100), min_length=1, description="widths of the embedding nets")
    axis: Width = Field(12, description="second width of the descriptor")
    fitting: tuple[Width, ...] = Field((120, 120, 120), min_length=1, description="widths of the fitting nets")
    activation: Literal["tanh", "sigmoid", "softplus", "gelu", "silu"] = Field("tanh", description="of all nets")
    virtual_scale: float | dict[str, float] = Field(
        0.3, description="η, Å/µB: virtual atoms at R + ηS; per element too"
    )
    time_reversal: bool = Field(True, description="energy of the network: the mean over S and −S")

    @model_validator(mode="after")
    def _fits(self):
        if self.axis > self.neuron[-1]:
            raise PydanticCustomError("axis", "axis must not exceed the last width of neuron")
        if self.cutoff_smooth is not None and self.cutoff_smooth >= self.cutoff:
            raise PydanticCustomError("smooth", "cutoff_smooth must be shorter than cutoff")
        return self


class TrainingTable(Parameters):
    """How the weights are found. The loss of a frame of N atoms is

    p_e ΔE²/N + p_f mean ΔF² + p_m mean ΔF_m² (+ p_v ΔW²/N),  p = limit + (start − limit) · rate/first rate,

    over components, F_m over magnetic atoms (the form of DeePMD-kit), times the weight of the frame (``prior.robust``).
    """

    steps: Annotated[int, Field(ge=0, strict=True)] = Field(
        20000, description="steps of the optimiser; the one value that --resume may find changed"
    )
    batch: Width = Field(2, description="frames per step")
    seed: Annotated[int, Field(ge=0, strict=True)] = Field(1, description="of weights and order of the frames")
    rate: float = Field(1.0e-3, gt=0.0, description="first learning rate")
    last_rate: float = Field(1.0e-5, gt=0.0, description="last learning rate")
    schedule: Literal["cosine", "exponential"] = Field("cosine", description="how the rate falls")
    prior_rate: float = Field(10.0, ge=0.0, description="rate of the prior's coefficients over that of the nets")
    average: bool = Field(True, description="moving average of the weights over the last few hundred steps")
    energy: tuple[float, float] = Field((14.0, 14.0), description="p_e, start and limit, 1/eV²")
    force: tuple[float, float] = Field((1.0, 1.0), description="p_f, Å²/eV²")
    field: tuple[float, float] = Field((16.0, 16.0), description="p_m, µB²/eV²")
    virial: tuple[float, float] = Field((0.0, 0.0), description="p_v, 1/eV²; needs virial labels")
    field_scale: float | Literal["fit"] = Field(
        1.0, description='labels are this times −∂E/∂S; "fit" finds it (some public sets carry such a factor)'
    )
    transverse_only: bool = Field(False, description="train only the part of the field across S")
    checkpoint: Width = Field(1000, description="steps between checkpoints and validations")
    threads: Width = Field(1, description="CPU threads; results depend on it in the last digits")


class TrainingOutput(Parameters):
    """What is written: the model, beside it FILE.log.csv, FILE.png and, while it trains, FILE.checkpoint."""

    file: OutputFile = Field(description="the model, HDF5")


class TrainingDeck(Parameters):
    """``spinmd train DECK``"""

    title: str = Field("", description="a line for people; goes into the model")
    data: DataParameters = Field(description="labelled frames")
    prior: PriorTable = Field(default_factory=PriorTable, description="the classical prior")
    network: NetworkTable = Field(default_factory=NetworkTable, description="the network on top")
    training: TrainingTable = Field(default_factory=TrainingTable, description="how the weights are found")
    output: TrainingOutput = Field(description="what is written")

    @model_validator(mode="after")
    def _fits(self):
        wanted = self.network.descriptor
        if wanted in ("invariants", "both") and not (self.prior.enabled and self.prior.many_body):
            raise PydanticCustomError(
                "descriptor",
                'a net over invariants needs the many-body prior; enable it or write network.descriptor = "virtual-atoms"',
            )
        if wanted == "none" and not self.prior.enabled:
            raise PydanticCustomError("descriptor", "neither a prior nor a network is left; enable one of them")
        return self

    @property
    def descriptor(self) -> str:
        """The descriptor in use."""
        if self.network.descriptor is not None:
            return self.network.descriptor
        return "invariants" if self.prior.enabled and self.prior.many_body else "virtual-atoms"
