"""What a chapter's notebook needs to show its argument: figures, computed sentences, claims, and the book's look."""

from selfstab.page.page import Page
from selfstab.page.style import COLORS, RATES

__all__ = ["COLORS", "RATES", "Page"]
