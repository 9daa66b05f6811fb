"""Campaigns: resumable plans that fill a table."""

from sbi_circuits.campaign.plan import Campaign, TableProposal
from sbi_circuits.campaign.run import remeasure, run_campaign

__all__ = ["Campaign", "TableProposal", "remeasure", "run_campaign"]
