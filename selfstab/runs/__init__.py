"""Runs: their files, computation and provenance, and the quantities derived from them."""
