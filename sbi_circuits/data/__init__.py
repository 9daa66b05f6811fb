"""Small files shipped with the toolkit: feature values of recordings, tables for the demo."""
