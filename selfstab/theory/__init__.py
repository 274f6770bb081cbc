"""The reduced dynamics of two coordinates, and losses on which the coupling theorem is put to the test."""
