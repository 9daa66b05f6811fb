"""Scenarios every engine passes: equal rasters on deterministic circuits, equal distributions on random ones."""
