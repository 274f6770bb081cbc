"""Trajectories that start at the edge of stability, and what is measured along them."""
