"""Which code runs: what must be equal on every node for the rows of one table to be of one kind."""

import hashlib
import platform
import socket
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

# The parts of the package, and the libraries, that can change a number in a row.
_SOURCES = ("circuit*.py", "engines/*.py", "features/*.py", "prior.py", "projection_checks.py", "recording.py",
            "seeds.py", "units.py", "wiring_rules.py", "campaign/unit.py")  # fmt: skip
_LIBRARIES = ("numpy", "scipy", "numba", "brian2")


@cache
def code_identity() -> str:
    """Version and digest of the code that makes rows: this package's, and the numerical libraries' versions.

    Examples:
        >>> version, digest = code_identity().split("+")
        >>> len(digest)
        12
    """
    root, found = Path(__file__).parents[1], hashlib.sha256()
    for path in sorted(p for pattern in _SOURCES for p in root.glob(pattern)):
        found.update(f"{path.relative_to(root).as_posix()}\0".encode() + path.read_bytes())
    found.update(" ".join(f"{name}={_version(name)}" for name in _LIBRARIES).encode())
    found.update(".".join(platform.python_version_tuple()[:2]).encode())
    return f"{_version('sbi-circuits')}+{found.hexdigest()[:12]}"


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        return "none"


@cache
def host_name() -> str:
    """Name of this machine."""
    return socket.gethostname()
