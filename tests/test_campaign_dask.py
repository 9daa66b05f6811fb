"""Campaigns on Dask, here with worker processes on this machine: the same rows, whatever happens to a worker."""

import os
import signal
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fakes
import pytest

from sbi_circuits.campaign import campaign_status, run_campaign, verify_campaign
from sbi_circuits.campaign.cluster import ClusterPlan, open_client
from sbi_circuits.campaign.executors import Dask
from sbi_circuits.engines import ENGINES
from sbi_circuits.errors import TableError
from sbi_circuits.table import Rows, Table, rows_equal

pytest.importorskip("distributed")
N = 40
MARKS = "CAMPAIGN_TEST_MARKS"


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> Rows:
    return run_campaign(fakes.campaign(N), tmp_path_factory.mktemp("whole"), progress=False).read()


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Two worker processes; whatever Dask, tornado and asyncio warn of when they end is not ours."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with open_client(ClusterPlan("local", jobs=2), tmp_path_factory.mktemp("logs")) as (client, expected):
            assert expected == 2
            yield client


@pytest.mark.filterwarnings("ignore")
def test_dask_changes_nothing(tmp_path: Path, expected: Rows, client: Any) -> None:
    """On two worker processes, the units run in processes of their own, and the rows are those of one process."""
    seen: list[int] = []
    table = run_campaign(fakes.campaign(N), tmp_path, progress=False, executor=Dask(client),
                         on_unit=lambda rows: seen.append(len(rows)))  # fmt: skip
    assert rows_equal(table.read(), expected)
    assert sum(seen) == N and len(seen) == 6
    assert campaign_status(tmp_path).faults == {}


class KillingEngine(fakes.FakeEngine):
    """Kills its process, and with it Dask's own worker, once each."""

    def run(self, circuit: Any, theta: Any, protocol: Any, seed: int, index: int) -> Any:
        victim = {9: os.getpid(), 30: os.getppid()}.get(index)
        mark = Path(os.environ[MARKS]) / str(index)
        if victim is not None and not mark.exists():
            mark.touch()
            os.kill(victim, signal.SIGKILL)
            time.sleep(5)
        return super().run(circuit, theta, protocol, seed, index)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_killed_unit_and_a_killed_dask_worker_change_nothing(
    tmp_path: Path, expected: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The unit's own process costs a fault of that unit; Dask's worker is replaced and its units go elsewhere."""
    monkeypatch.setenv(MARKS, str(tmp_path))
    monkeypatch.setitem(ENGINES, "fake", (__name__, "KillingEngine"))
    with open_client(ClusterPlan("local", jobs=2), tmp_path / "logs") as (client, _):
        run_campaign(fakes.campaign(N), tmp_path / "t", progress=False, executor=Dask(client))
    assert (tmp_path / "9").exists() and (tmp_path / "30").exists()
    assert rows_equal(Table.open(tmp_path / "t").read(), expected)
    assert campaign_status(tmp_path / "t").faults == {"killed": 1}
    assert verify_campaign(tmp_path / "t") == []


@pytest.mark.filterwarnings("ignore")
def test_the_client_of_this_process_is_used(tmp_path: Path, client: Any) -> None:
    with client.as_current():
        assert len(run_campaign(fakes.campaign(7), tmp_path, progress=False, executor="dask")) == 7


def test_without_a_cluster_it_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(TableError, match="needs a cluster: make a distributed.Client first, or give --cluster"):
        run_campaign(fakes.campaign(3), tmp_path, executor="dask")
