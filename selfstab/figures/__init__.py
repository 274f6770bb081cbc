"""The chapters' figures: one module per subject, and one function per figure, which it returns."""
