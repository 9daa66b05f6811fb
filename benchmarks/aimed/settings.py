"""Every setting of the aimed campaign, in one place."""

from dataclasses import dataclass
from pathlib import Path

from sbi_circuits.circuit import Record
from sbi_circuits.cultures import PLATE_FILE, culture_features
from sbi_circuits.engines import Protocol
from sbi_circuits.features import FeatureSet

# Bands of 2 Hz up to 100 Hz, over the squared mean rate: what neither the number of cells nor their rate sets alone.
SPECTRUM = {"low": 2.0, "high": 100.0, "step": 2.0, "relative": True}
# Wells no round aims at, kept for judging on cultures nobody has aimed at.
HELD_OUT_WELLS = ("A2", "A6", "B1", "B6", "C4", "C8", "D5", "E4", "F1", "F6")


def cells() -> FeatureSet:
    """Features of single cells."""
    return FeatureSet.of("isi", "bursts", spectrum=SPECTRUM)


def channels() -> FeatureSet:
    """The same features of 16 channels of 5 cells each."""
    like = culture_features()
    how = {"n_channels": like.n_channels, "cells_per_channel": like.cells_per_channel}
    return FeatureSet.of("bursts", spectrum=SPECTRUM, view="channels", **how)


@dataclass(frozen=True)
class Settings:
    """What is simulated, and how it aims.

    Args:
        circuit, engine, seed, protocol: of every simulation; round k has seed `seed + k`.
        per_round, rounds: simulations in a round, and how many rounds.
        prior_share: of the simulations of a round that are draws of the prior.
        nearest: simulations nearest to each target around which a round draws.
        others: simulations of every kind of dynamics (bursting, oscillating, asynchronous) around which it draws too.
        widths: of the kernels, in standard deviations of the nearest simulations; as many draws from each.
        keep: every so many-th recording is kept; features are measured again from them.
        accept_code: whether to go on with rounds that other code began.
    """

    circuit: str = "adex_clustered"
    engine: str = "auto"
    seed: int = 20270
    protocol: Protocol = Protocol(duration=120.0, warmup=2.0, record=Record(spikes=200, counts=True, moments=True))
    per_round: int = 200
    rounds: int = 1000
    prior_share: float = 0.3
    nearest: int = 2
    others: int = 40
    widths: tuple[float, ...] = (0.25, 0.5)
    keep: int = 1
    accept_code: bool = False


@dataclass(frozen=True)
class Wanted:
    """A table to train on.

    Args:
        name: of the table; features, window_s: how recordings are measured.
        with_start: whether the simulations of 60 s that the rounds began with join it; they were measured alike.
    """

    name: str
    features: FeatureSet
    window_s: float
    with_start: bool = False


TABLES = {
    wanted.name: wanted
    for wanted in (
        Wanted("adex_clustered", culture_features(), 60.0, with_start=True),
        Wanted("adex_clustered_channels", channels(), 120.0),
        Wanted("adex_clustered_cells", cells(), 120.0),
    )
}


def kept(name: str) -> Path:
    """The table behind a shipped posterior: in the package where it ships beside it, else in `kept/`."""
    shipped = PLATE_FILE.parent / "posteriors" / name / "simulations.parquet"
    return shipped if shipped.exists() else Path(__file__).with_name("kept") / f"{name}.parquet"
