"""The companion: the experiments, runs, records and pages of the book on self-stabilization."""
