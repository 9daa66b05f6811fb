"""Campaigns: resumable plans that fill a table."""

from sbi_circuits.campaign.folder import read_plan
from sbi_circuits.campaign.plan import Campaign, TableProposal
from sbi_circuits.campaign.run import plan_campaign, remeasure, run_campaign
from sbi_circuits.campaign.status import campaign_status, forgive, verify_campaign

__all__ = [
    "Campaign", "TableProposal", "campaign_status", "forgive", "plan_campaign", "read_plan", "remeasure",
    "run_campaign", "verify_campaign",
]  # fmt: skip
