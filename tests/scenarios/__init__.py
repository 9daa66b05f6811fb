"""Scenarios every engine passes: equal rasters where nothing is random, equal distributions elsewhere."""
