"""Fixtures shared by all tests."""

import os
from pathlib import Path

import pytest

# Before torch is imported: workers of `make test` share the cores, and threads of one that wait for those of another
# cost many times what they gain.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real recordings that lies beside the checkout on some machines."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("no real recordings beside this checkout (../shared/data)")
    return folder
