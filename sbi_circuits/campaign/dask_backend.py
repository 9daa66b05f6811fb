"""joblib on a Dask client, for clusters that grow and shrink while a campaign runs."""

from concurrent.futures import CancelledError
from typing import Any

from distributed import Client, get_client, get_worker
from distributed.client import FutureCancelledError
from distributed.scheduler import KilledWorker
from joblib._dask import DaskDistributedBackend

from sbi_circuits.errors import TableError


class Backend(DaskDistributedBackend):
    """joblib's own backend, for a given client.

    joblib asks once how many cores there are, hands over in proportion, and with one core does the work itself;
    a cluster may have none yet, and its cores are elsewhere.
    """

    LOST = (KilledWorker, FutureCancelledError, CancelledError)

    def __init__(self, client: Client, ahead: int):
        super().__init__(client=client, wait_for_workers_timeout=0)
        self.ahead = max(2, ahead)

    def effective_n_jobs(self, n_jobs: int) -> int:
        """Cores there are, or are to be expected."""
        return max(self.ahead, sum(self.client.ncores().values()))

    def forget(self) -> None:
        """Cancel what was handed over."""
        self.client.cancel(list(self._results), force=True)


def current_client() -> Any:
    """The client of this process; raises `TableError` where there is none."""
    try:
        return get_client()
    except ValueError:
        how = "make a distributed.Client first, or give --cluster"
        raise TableError(f"the executor dask needs a cluster: {how}") from None


def address() -> str:
    """Address of the Dask worker that runs this."""
    return str(get_worker().address)
