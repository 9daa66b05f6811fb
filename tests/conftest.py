"""Fixtures shared by all tests."""

import os
from pathlib import Path

import pytest

# The files that take longest, the longest first: started last, they keep one worker busy after the others are done.
_LONGEST = ("test_tutorials.py", "test_cuda.py", "test_rates.py", "test_engines.py", "test_campaign_faults.py",
            "test_distributions.py", "test_cli.py", "test_subspace_report.py", "test_readme.py")  # fmt: skip

# Before torch is imported: workers of `make test` share the cores, and threads of one that wait for those of another
# cost many times what they gain.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Longest files first."""
    items.sort(key=lambda item: _LONGEST.index(item.path.name) if item.path.name in _LONGEST else len(_LONGEST))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real recordings that lies beside the checkout on some machines."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("no real recordings beside this checkout (../shared/data)")
    return folder


@pytest.fixture(scope="module")
def posterior(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the toy circuit's posterior, for the command line."""
    from tiny import tiny_posterior

    return tiny_posterior().save(tmp_path_factory.mktemp("toy") / "posterior")


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    """File with a recording of the toy circuit."""
    from tiny import DURATION, THETA, tiny_recording

    from sbi_circuits.readers import write_recording

    write_recording(tmp_path / "rec.npz", tiny_recording(THETA, 3 * DURATION, 5))
    return tmp_path / "rec.npz"


@pytest.fixture
def observation(tmp_path: Path) -> Path:
    """File with features of a recording of the toy circuit."""
    from tiny import written_observation

    return written_observation(tmp_path / "observation.json")
