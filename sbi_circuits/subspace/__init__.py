"""Invariant subspaces: the configurations that one observation leaves possible, their directions, paths and proofs."""
