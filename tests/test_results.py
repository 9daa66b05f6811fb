"""Ensembles become InferenceData, and load from NetCDF as they were saved."""

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import arviz
import numpy as np
import pytest
import xarray as xr
from tiny import FEATURES, PRIOR, tiny_ensemble

from sbi_circuits.ensemble import Ensemble
from sbi_circuits.errors import InferenceError
from sbi_circuits.results import load_ensemble, save_ensemble, to_inference_data

GROUPS = {"posterior", "sample_stats", "posterior_predictive", "observed_data", "prior", "constant_data"}
PARTS = ("observation", "judgement", "encoder")


@pytest.fixture(scope="module")
def ensemble() -> Ensemble:
    return tiny_ensemble()


@pytest.fixture(scope="module")
def saved(ensemble: Ensemble, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_ensemble(ensemble, tmp_path_factory.mktemp("results") / "deep" / "ensemble.nc")


def without_members(ensemble: Ensemble) -> Ensemble:
    nothing = np.zeros(len(ensemble.theta), dtype=bool)
    return replace(ensemble, judgement=replace(ensemble.judgement, verified=nothing))


def assert_same(a: Any, b: Any) -> None:
    """Equal field by field; NaN equals NaN."""
    for field in fields(a):
        own, other = getattr(a, field.name), getattr(b, field.name)
        if field.name in PARTS:
            assert_same(own, other)
        elif isinstance(own, np.ndarray):
            np.testing.assert_array_equal(own, other)
            assert own.dtype.kind == other.dtype.kind, field.name
        elif field.name == "provenance":
            assert json.loads(json.dumps(dict(own))) == other
        else:
            assert own == other, field.name


def test_round_trip(ensemble: Ensemble, saved: Path) -> None:
    loaded = load_ensemble(saved)
    assert_same(ensemble, loaded)
    assert loaded.summary() == ensemble.summary() and loaded.prior.digest == PRIOR.digest


def test_round_trip_without_members(ensemble: Ensemble, tmp_path: Path) -> None:
    none = without_members(ensemble)
    path = save_ensemble(none, tmp_path / "none.nc")
    assert_same(none, load_ensemble(path))
    assert arviz.from_netcdf(path).posterior.sizes["draw"] == 0
    assert to_inference_data(none).posterior.sizes["draw"] == 0


def test_groups_hold_what_they_are_named_for(ensemble: Ensemble) -> None:
    data = to_inference_data(ensemble, n_prior=50)
    assert GROUPS <= {
        str(name).lstrip("/") for name in (data.groups() if callable(data.groups) else data.groups)
    }
    k = len(ensemble.members)
    assert dict(data.posterior.sizes) == {"chain": 1, "draw": k}
    assert [data.posterior[name].attrs["unit"] for name in PRIOR.names] == ["Hz", "Hz", "mV"]
    np.testing.assert_array_equal(data.posterior["idle"].values[0], ensemble.members[:, 2])
    np.testing.assert_array_equal(
        data.sample_stats["log_prob"].values[0], ensemble.log_prob[ensemble.verified]
    )
    assert (data.sample_stats["max_abs_z"].values <= ensemble.judgement.bound).all()
    assert data.posterior_predictive["value"].shape == (1, k, ensemble.criterion.repeats, FEATURES.width)
    assert data.observed_data["window_value"].shape == (6, FEATURES.width)
    assert tuple(data.observed_data["feature"].values) == FEATURES.names
    assert data.prior.sizes["draw"] == 50
    assert data.constant_data["theta"].shape == ensemble.theta.shape


def test_attributes_hold_every_digest_and_setting(ensemble: Ensemble) -> None:
    attrs = to_inference_data(ensemble).attrs
    for name in ("circuit_digest", "table_digest", "feature_set_digest", "prior_digest"):
        assert len(attrs[name]) == 64, name
    assert attrs["seed"] == ensemble.seed and attrs["yield"] == ensemble.yield_
    assert attrs["trust"] == ensemble.trust and json.loads(attrs["criterion"])["repeats"] == 2
    assert json.loads(attrs["protocol"])["duration"] == 20.0 and attrs["training_seed"] == "0"
    assert "sbi-circuits" in json.loads(attrs["versions"])


def test_a_file_is_written_whole_or_not_at_all(ensemble: Ensemble, saved: Path, monkeypatch: Any) -> None:
    def fail(tree: Any, path: Path, **kwargs: Any) -> None:
        path.write_bytes(b"half")
        raise OSError("disk full")

    before = saved.read_bytes()
    monkeypatch.setattr(xr.DataTree, "to_netcdf", fail)
    with pytest.raises(OSError, match="disk full"):
        save_ensemble(ensemble, saved)
    assert saved.read_bytes() == before and [p.name for p in saved.parent.iterdir()] == [saved.name]


def test_bad_files(saved: Path, tmp_path: Path) -> None:
    damaged, foreign, newer = (tmp_path / name for name in ("damaged.nc", "foreign.nc", "newer.nc"))
    damaged.write_bytes(saved.read_bytes()[:5000])
    xr.Dataset({"a": ("x", [1.0])}).to_netcdf(foreign, engine="h5netcdf")
    xr.Dataset(attrs={"schema": "sbi_circuits.ensemble", "schema_version": 9}).to_netcdf(
        newer, engine="h5netcdf"
    )
    lines = {
        tmp_path / "none.nc": f"there is no ensemble {tmp_path / 'none.nc'}",
        damaged: f"cannot read the ensemble {damaged}: not a whole NetCDF file",
        foreign: f"{foreign} is not an ensemble: it was not written by save_ensemble",
        newer: f"{newer} has schema version 9; this code reads version 1",
    }
    for path, line in lines.items():
        with pytest.raises(InferenceError) as caught:
            load_ensemble(path)
        assert str(caught.value) == line
