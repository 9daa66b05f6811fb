"""How features enter a network: scales, long tails, and features left out while it is trained."""

import numpy as np
import pytest
import torch

from sbi_circuits.features import DEFINED
from sbi_circuits.inference.encode import FeatureEncoder, feature_groups, random_drops
from sbi_circuits.seeds import generator


def test_scales_come_from_defined_entries_only() -> None:
    values = np.array([[1.0], [2.0], [3.0], [4.0], [5.0], [1e9]])
    states = np.array([[0], [0], [0], [0], [0], [1]])
    encoder = FeatureEncoder.fit(values, states, dropping=False)
    assert encoder.centre[0] == 3.0 and encoder.scaled(values, states)[5, 0] == 0.0


def test_heavy_tails_go_through_the_logarithm_and_gaussians_do_not() -> None:
    random = generator(0, "tails")
    values = np.stack([random.standard_normal(500), np.exp(2 * random.standard_normal(500))], axis=1)
    encoder = FeatureEncoder.fit(values, np.zeros(values.shape, dtype=int), dropping=True)
    assert encoder.log.tolist() == [False, True]
    extreme = encoder.scaled(np.array([1e9, 1e9]), np.array([DEFINED, DEFINED]))
    rising = encoder.scaled(np.linspace(-9, 9, 99)[:, None].repeat(2, axis=1), np.zeros((99, 2)))
    assert (np.diff(rising, axis=0) > 0).all()
    assert (extreme < 30).all()


def test_dropping_takes_whole_families_or_single_features() -> None:
    """Half of the rows lose something; of these 3/4 keep one of the two families, the others 0 to 3 features."""
    groups = torch.as_tensor(feature_groups(("isi.a", "isi.b", "bursts.a", "isi.c")))
    drops = random_drops(8000, groups, 0.5, torch.Generator().manual_seed(0)).numpy()
    isi = drops[:, [0, 1, 3]]
    assert (~drops.any(1)).mean() == pytest.approx(0.5, abs=0.02)
    assert (isi.any(1) & ~isi.all(1)).mean() == pytest.approx(0.125 * 0.625, abs=0.02)
    for only in ([True, True, False, True], [False, False, True, False]):
        assert (drops == only).all(1).mean() == pytest.approx(0.1875 + 0.125 / 16, abs=0.02)
    assert drops.all(1).mean() == pytest.approx(0.125 / 4, abs=0.01)


def test_one_family_loses_single_features() -> None:
    groups = torch.zeros(4, dtype=torch.long)
    drops = random_drops(8000, groups, 1.0, torch.Generator().manual_seed(0)).numpy()
    lost = np.bincount(drops.sum(1), minlength=5) / len(drops)
    assert lost == pytest.approx([0, 0.25, 0.25, 0.25, 0.25], abs=0.02)
