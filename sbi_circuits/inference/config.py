"""What to train and how; zero means "derived from the table's size"."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from sbi_circuits.errors import InferenceError, UnknownNameError
from sbi_circuits.inference.encode import SCALINGS
from sbi_circuits.inference.long import LongFamily

FAMILIES = ("batched", "zuko", "nflows")
TRANSFORMS = ("mixture", "autoregressive", "coupling", "affine")
LIBRARY_TRANSFORMS = ("autoregressive", "coupling")  # of zuko and nflows
BOUNDED_TRANSFORMS = ("mixture",)  # keep within the prior's bounds on their own
WEIGHTINGS = ("equal", "validation")
IMPORTANCE = ("truncated", "none")
EMBEDDINGS = ("auto", "none", "long")
_SUBSETS_TAKE = 2.5  # times as many epochs


@dataclass(frozen=True)
class TrainingConfig:
    """Settings of neural posterior estimation; a zero is derived from the number of rows.

    Args:
        family: "batched" (own networks, all members in one computation), or the flows of "zuko" or "nflows".
        transform: "mixture" (autoregressive mixtures of normals, cut off at the prior's bounds), splines
            ("autoregressive" or "coupling"), or "affine" (masked autoregressive flow); the libraries have splines.
            "auto": mixtures where the family has them, autoregressive splines otherwise.
        coordinates: "uniform" or "normal", see `coordinates`; "auto": what the start predicts better. Only
            mixtures work in "uniform" ones.
        members: flows in the ensemble.
        hidden: width of the context embedding, and of the libraries' conditioners.
        width: of the network of each parameter and member ("batched" only).
        layers: transformations of each flow; mixtures have one.
        bins: bins of each spline, or components of each mixture.
        blocks: residual blocks of the context embedding.
        dropout: in the context embedding; negative: derived.
        batch: rows a step.
        epochs: most epochs; the learning rate decays to zero over them.
        patience: epochs without a better validation loss before a member stops.
        rate: highest learning rate of AdamW.
        weight_decay: of AdamW; pulls a flow towards the Gaussian regression it starts as. Negative: derived.
        clip: largest gradient norm.
        ema: decay of the moving average of the weights, per step.
        drop: share of the rows of a batch that lose a random part of their features, so that the
            posterior answers when features are unobserved; 0 turns this off.
        validation: share of the rows kept for validation.
        weighting: of the members in the mixture: "equal", or "validation" (by validation likelihood).
        importance: what to do with rows that were not drawn from the prior: "truncated" weighs them towards the
            prior (see `local_weights`), "none" takes their proposal as the prior.
        device: "auto", "cpu" or "cuda".
        embedding: how families of more than 64 features (a spectrum, binned counts) are read: "long", as a few numbers,
            see `long` ("batched" only), or "none", each feature as an input of its own. "auto": "long" where there are.
        scaling: of the features before they enter: "robust", or "rank", see `FeatureEncoder`. "auto": "robust", unless
            the regression that flows start from predicts clearly better with ranks.

    Raises:
        InferenceError, UnknownNameError: for a value that cannot be.

    Examples:
        >>> TrainingConfig().resolve(rows=2000, parameters=28).members
        5
    """

    family: str = "batched"
    transform: str = "auto"
    coordinates: str = "auto"
    members: int = 0
    hidden: int = 0
    width: int = 0
    layers: int = 0
    bins: int = 0
    blocks: int = 2
    dropout: float = -1.0
    batch: int = 0
    epochs: int = 0
    patience: int = 0
    rate: float = 3e-3
    weight_decay: float = -1.0
    clip: float = 5.0
    ema: float = 0.98
    drop: float = 0.65
    validation: float = 0.1
    weighting: str = "equal"
    importance: str = "truncated"
    device: str = "auto"
    embedding: str = "auto"
    scaling: str = "robust"

    def __post_init__(self) -> None:
        _one_of("flow family", self.family, FAMILIES)
        offered = TRANSFORMS if self.family == "batched" else LIBRARY_TRANSFORMS
        _one_of(f"transform of family {self.family!r}", self.transform, ("auto", *offered))
        bounded = self._transform in BOUNDED_TRANSFORMS
        valid = ("auto", "normal", "uniform") if bounded else ("auto", "normal")
        _one_of(f"coordinates of transform {self._transform!r}", self.coordinates, valid)
        _one_of("weighting", self.weighting, WEIGHTINGS)
        _one_of("importance", self.importance, IMPORTANCE)
        _one_of("device", self.device, ("auto", "cpu", "cuda"))
        embeddings = EMBEDDINGS if self.family == "batched" else ("auto", "none")
        _one_of(f"embedding of family {self.family!r}", self.embedding, embeddings)
        _one_of("scaling", self.scaling, ("auto", *SCALINGS))
        for name in ("members", "hidden", "width", "layers", "bins", "blocks", "batch", "epochs", "patience"):
            _within(name, getattr(self, name), 0, float("inf"))
        _within("bins", self.bins or 2, 2, 256)
        _within("drop", self.drop, 0.0, 1.0)
        _within("dropout", self.dropout, -1.0, 0.95)
        _within("ema", self.ema, 0.0, 0.9999)
        _within("validation", self.validation, 0.01, 0.5)

    @property
    def _transform(self) -> str:
        default = "mixture" if self.family == "batched" else "autoregressive"
        return default if self.transform == "auto" else self.transform

    def resolve(self, rows: int, parameters: int) -> "TrainingConfig":
        """The configuration with every derived setting filled in, for a table of `rows` usable rows.

        How fast a flow overfits goes with the rows per parameter, how long a step may take with the rows.
        """
        density = rows / parameters
        derived: dict[str, Any] = {
            "members": 5 if rows < 3_000 else 4 if rows < 20_000 else 3,
            "width": 32,
            "hidden": 64 if rows < 3_000 else 96 if rows < 20_000 else 192,
            "layers": 1 if self._transform == "mixture" else 2 if rows < 20_000 else 4,
            "bins": 8,
            "batch": 64 if rows < 3_000 else 128 if rows < 20_000 else 256,
            # About as many rows are seen whatever the size, up to a million; patience ends most runs before. Each
            # subset of the features is a problem of its own, which takes longer.
            "epochs": round(max(8.0, min(100.0, 4e5 / rows)) * (_SUBSETS_TAKE if self.drop else 1.0)),
            # Losses of averaged weights hardly fluctuate: of 10,000 rows, 4 epochs and 8 ended alike (slcp, uniform).
            "patience": 20 if rows < 3_000 else 8 if self.drop else 5,
        }
        filled: dict[str, Any] = {name: value for name, value in derived.items() if not getattr(self, name)}
        filled["transform"] = self._transform
        if self.coordinates == "auto" and self._transform not in BOUNDED_TRANSFORMS:
            filled["coordinates"] = "normal"
        if self.dropout < 0:
            filled["dropout"] = _by_density(density, 0.2, 0.05, 0.0)
        if self.weight_decay < 0:
            filled["weight_decay"] = _by_density(density, 1.0, 0.1, 0.01)
        return replace(self, **filled)


@dataclass(frozen=True)
class FlowSpec:
    """The shape of one flow: enough to build it again before its weights are read.

    Args:
        parameters: P, the width of z.
        inputs: C, width of the encoded features.
        missing: (D,) for each of the first D inputs, the input that says it is unobserved; -1 for none.
        family, transform, coordinates, members, hidden, width, layers, bins, blocks, dropout: as in `TrainingConfig`.
        long: the families that are read as a few numbers.
    """

    parameters: int
    inputs: int
    missing: tuple[int, ...]
    family: str
    transform: str
    coordinates: str
    members: int
    hidden: int
    width: int
    layers: int
    bins: int
    blocks: int
    dropout: float
    long: tuple[LongFamily, ...] = ()

    @classmethod
    def of(
        cls, config: TrainingConfig, parameters: int, inputs: int, missing: tuple[int, ...],
        long: tuple[LongFamily, ...] = (),
    ) -> "FlowSpec":  # fmt: skip
        names = (
            "family", "transform", "coordinates", "members", "hidden", "width", "layers", "bins", "blocks", "dropout",
        )  # fmt: skip
        return cls(parameters, inputs, missing, **{name: getattr(config, name) for name in names}, long=long)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "FlowSpec":
        """What `dataclasses.asdict` gave, as JSON keeps it; posteriors of the first releases have no `long`."""
        long = tuple(LongFamily.from_dict(family) for family in content.get("long", ()))
        return cls(**{**content, "missing": tuple(content["missing"]), "long": long})


def _one_of(kind: str, value: str, valid: tuple[str, ...]) -> None:
    if value not in valid:
        raise UnknownNameError(kind, value, valid)


def _within(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise InferenceError(f"training: {name} = {value:g} must lie within [{low:g}, {high:g}]")


def _by_density(density: float, sparse: float, middling: float, dense: float) -> float:
    """A setting by rows per parameter."""
    return sparse if density < 400 else middling if density < 4000 else dense
