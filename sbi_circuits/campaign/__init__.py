"""Campaigns: resumable plans that fill a table."""
