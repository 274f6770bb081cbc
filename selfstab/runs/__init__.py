"""Runs: their files, their computation and provenance, and what is read off them."""
