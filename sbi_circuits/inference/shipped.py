"""Posteriors that come with the package, and the card that says how far to trust each of them.

A shipped posterior is a folder that `Posterior.save` wrote with `card.json` beside it, and `simulations.parquet`, the
table behind it, where it is small; `benchmarks/aimed` makes them.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from sbi_circuits.errors import InferenceError, UnknownNameError
from sbi_circuits.inference.save import FORMAT
from sbi_circuits.table import MemoryTable, Table

FOLDER = Path(str(files("sbi_circuits.data").joinpath("posteriors")))
CARD = "card.json"
SIMULATIONS = "simulations.parquet"
SCHEMA = 1


def shipped_posteriors() -> tuple[str, ...]:
    """Names that `load_posterior` takes in place of a folder, sorted.

    Examples:
        >>> "adex_clustered" in shipped_posteriors()
        True
    """
    return tuple(sorted(path.parent.name for path in FOLDER.glob(f"*/{FORMAT.manifest}")))


def posterior_folder(name_or_folder: str | Path) -> Path:
    """The folder meant: an existing one, or that of a shipped posterior.

    Raises:
        UnknownNameError: neither; the message lists the names of shipped posteriors.
    """
    folder = Path(name_or_folder)
    if folder.is_dir():
        return folder
    # A path with separators can only have meant a folder: that it is missing is said where it is read.
    if folder.name != str(name_or_folder):
        return folder
    if folder.name in shipped_posteriors():
        return FOLDER / folder.name
    raise UnknownNameError("posterior", folder.name, (*shipped_posteriors(), "or the path of a folder that exists"))


@dataclass(frozen=True, eq=False)
class Card:
    """What is known of a shipped posterior.

    Args:
        name: of the posterior; weights_sha256: of the weights it speaks of.
        training: digest of the table, simulations by outcome and by proposal, rows trained on, gain over the prior.
        features: families, view and length of the windows in seconds.
        coverage: by kind of dynamics and by observed families, of held-out simulations.
        calibration: by observed families, SBC and TARP of the same simulations.
        weak: where not to trust it, one sentence each.
        made_by: the command that makes it again.
    """

    name: str
    weights_sha256: str
    training: Mapping[str, Any]
    features: Mapping[str, Any]
    coverage: Mapping[str, Any]
    calibration: Mapping[str, Any]
    weak: tuple[str, ...]
    made_by: str

    def summary(self) -> str:
        """A few lines for people."""
        t, f = self.training, self.features
        lines = [
            f"posterior {self.name}: {', '.join(f['families'])} of {f['view']}, windows of {f['window_s']:g} s; "
            f"trained on {t['rows']} rows of {t['simulations']} simulations, {t['gain']:.1f} nats over the prior",
            *(f"{kind}: {found['all features']['text']}" for kind, found in self.coverage.items()),
            *(f"{subset}: calibration {found['verdict']}" for subset, found in self.calibration.items()),
            *(f"weak: {line}" for line in self.weak),
        ]
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON content."""
        return {"schema": SCHEMA, **vars(self), "weak": list(self.weak)}


def load_card(name_or_folder: str | Path) -> Card:
    """The card of a shipped posterior, or of a folder with one.

    Raises:
        InferenceError: no card, a damaged one, or one of other weights than lie beside it; `UnknownNameError` for a
            name that is not shipped.

    Examples:
        >>> card = load_card("adex_clustered")
        >>> card.name, card.features["view"]
        ('adex_clustered', 'channels')
    """
    path = posterior_folder(name_or_folder) / CARD
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        weights = json.loads((path.parent / FORMAT.manifest).read_text(encoding="utf-8"))["weights_sha256"]
        if content.pop("schema") != SCHEMA:
            raise InferenceError(f"{path} has not schema {SCHEMA}, the one this version reads")
        card = Card(**content | {"weak": tuple(content["weak"])})
    except OSError as error:
        raise InferenceError(f"cannot read {error.filename}: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InferenceError(f"{path} is damaged: {error!r}") from error
    if card.weights_sha256 != weights:
        raise InferenceError(f"{path} speaks of other weights than those beside it")
    return card


def load_simulations(name_or_folder: str | Path) -> MemoryTable | None:
    """The simulations that a shipped posterior was trained and judged on; None where they do not come with it.

    Raises:
        UnknownNameError: a name that is not shipped; `TableError`: a damaged file.

    Examples:
        >>> load_simulations("adex_clustered_cells").counts()["ok"]
        2136
    """
    path = posterior_folder(name_or_folder) / SIMULATIONS
    return Table.load_file(path) if path.exists() else None
