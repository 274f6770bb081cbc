"""Trajectories from the edge of stability on, and what is measured along them."""
