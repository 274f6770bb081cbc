"""Tools with which a chapter's notebook shows its argument: figures, computed sentences, claims, the book's look."""

from selfstab.page.page import Page
from selfstab.page.style import COLORS, RATES, STAGES

__all__ = ["COLORS", "RATES", "STAGES", "Page"]
