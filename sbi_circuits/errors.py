"""The errors of the toolkit: one clear line each, naming what is valid.

The command line prints them without a traceback and exits with status 2.
"""

from collections.abc import Iterable


class SbiCircuitsError(Exception):
    """Base of every error a user can cause and mend."""


class UnknownNameError(SbiCircuitsError):
    """A name that is not in a registry, a prior or a feature set."""

    def __init__(self, kind: str, name: object, valid: Iterable[str]):
        listed = ", ".join(sorted(valid)) or "none"
        super().__init__(f"unknown {kind} {name!r}; valid: {listed}")


class PriorError(SbiCircuitsError):
    """A prior or a configuration that cannot be: bounds, units, names, values."""


class CircuitError(SbiCircuitsError):
    """A circuit whose equations, wiring or inputs do not fit together."""


class TranslationError(CircuitError):
    """A construct an engine cannot translate; the message names it and the engine that can."""


class RecordingError(SbiCircuitsError):
    """A recording that is missing, unreadable, empty or inconsistent."""


class FeatureError(SbiCircuitsError):
    """A feature set that is asked for something it does not have."""


class TableError(SbiCircuitsError):
    """A table that does not belong to the campaign, or whose parts are damaged."""


class InferenceError(SbiCircuitsError):
    """Too little data, or a posterior that does not fit the observation."""
