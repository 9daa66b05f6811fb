"""The folder of a campaign: everything another machine needs to go on with it, as plain content."""

import json
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

from sbi_circuits import circuit as circuit_module
from sbi_circuits import circuit_parts, prior, wiring_rules
from sbi_circuits.campaign.code import code_identity
from sbi_circuits.campaign.plan import PROPOSAL_FILE, Campaign, TableProposal
from sbi_circuits.circuit import Circuit, Record
from sbi_circuits.digests import plain
from sbi_circuits.engines import Protocol
from sbi_circuits.errors import SbiCircuitsError, TableError
from sbi_circuits.table import Table, replace_file

SCHEMA_VERSION = 1
PLAN_FILE = "campaign.json"
CLAIMS, JOURNAL, RECORDINGS, SLURM = "claims", "journal", "recordings", "slurm"


@dataclass(frozen=True)
class Terms:
    """How the units of a campaign are run; the same for every process that works on it.

    Args:
        time_limit: seconds a unit may take, or None.
        attempts: failures of a simulation after which it is given up, until `retry`.
        codes: identities of the code that may make rows; the first is that of the beginning.
    """

    time_limit: float | None = None
    attempts: int = 3
    codes: tuple[str, ...] = field(default_factory=lambda: (code_identity(),))

    def __post_init__(self) -> None:
        object.__setattr__(self, "codes", tuple(self.codes))
        if self.attempts < 1:
            raise TableError(f"attempts must be 1 or more, got {self.attempts}")
        if self.time_limit is not None and not self.time_limit > 0:
            raise TableError(f"the time limit of a unit must be above 0 s, got {self.time_limit:g} s")


def write_plan(campaign: Campaign, table: Table, terms: Terms) -> None:
    """Write down a campaign and its terms in its table's folder; raises `OSError`."""
    content = {
        "schema_version": SCHEMA_VERSION,
        "n": campaign.n,
        "unit": campaign.unit,
        "keep_recordings": campaign.keep_recordings,
        "circuit": plain(campaign.circuit),
        "terms": plain(terms),
    }
    written = json.dumps(content, indent=1).encode()
    file = table.path / PLAN_FILE
    if not file.exists() or file.read_bytes() != written:
        replace_file(file, written)


def read_plan(path: str | Path) -> tuple[Campaign, Terms]:
    """The campaign in a folder, and the terms it runs on; nothing but the folder is needed.

    Raises:
        TableError: there is no campaign, or its circuit is not the one its table is of.
    """
    table, file = Table.open(path), Path(path) / PLAN_FILE
    if not file.is_file():
        raise TableError(f"{path} has no {PLAN_FILE}: it is a table, but no campaign that can go on by itself")
    try:
        content = json.loads(file.read_bytes())
        if content["schema_version"] != SCHEMA_VERSION:
            raise TableError(f"{file} has schema version {content['schema_version']}; this code reads {SCHEMA_VERSION}")
        circuit, terms = _rebuilt(content["circuit"]), _rebuilt(content["terms"])
        settings = {name: content[name] for name in ("n", "unit", "keep_recordings")}
    except (ValueError, KeyError, TypeError) as error:
        raise TableError(f"{file} is not the plan of a campaign: {error!r}") from error
    return _campaign(table, circuit, settings), terms


def _campaign(table: Table, circuit: Circuit, settings: dict[str, Any]) -> Campaign:
    manifest = table.manifest
    proposal = table.path / PROPOSAL_FILE
    campaign = Campaign(
        circuit=circuit.with_prior(manifest.prior),
        feature_set=table.feature_set,
        protocol=protocol_of(manifest.protocol),
        seed=int(manifest.seed or 0),
        engine=manifest.engine,
        proposal=TableProposal.load(proposal) if proposal.exists() else None,
        **settings,
    )
    manifest.require_same(campaign.manifest, f"this code does not make the rows of {table.path}")
    return campaign


def protocol_of(flat: Any) -> Protocol:
    """The protocol whose plain values stand in a manifest."""
    known = dict(flat)
    record = {f.name: known.pop(f.name) for f in fields(Record) if f.name in known}
    return Protocol(record=Record(**record), **known)


def _values() -> dict[str, Any]:
    """Classes that a plan can hold, by name."""
    modules = (circuit_module, circuit_parts, wiring_rules, prior)
    found = {k: v for module in modules for k, v in vars(module).items() if isinstance(v, type) and is_dataclass(v)}
    return {**found, "Terms": Terms}


def _rebuilt(content: Any) -> Any:
    """The value whose plain content this is: the inverse of `digests.plain`, for values of known classes only."""
    if isinstance(content, list):
        return tuple(_rebuilt(value) for value in content)
    if not isinstance(content, dict):
        return content
    values = {name: _rebuilt(value) for name, value in content.items() if name}
    if "" not in content:
        return values
    try:
        return _values()[content[""]](**values)
    except SbiCircuitsError as error:
        raise TableError(f"a value of class {content['']} does not fit this code: {error}") from error
