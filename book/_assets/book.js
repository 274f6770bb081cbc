/* Small repairs that the theme leaves to the book; the pages read well without them. */
"use strict";

// A page opened from a file cannot fetch its neighbours, so search there shows titles without excerpts.
if (location.protocol === "file:" && typeof DOCUMENTATION_OPTIONS !== "undefined") {
  DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;
}

// What scrolls must be reachable by keyboard; recomputed when the page changes its width, its fonts or its formulas.
function markScrollable() {
  for (const box of document.querySelectorAll(".table-box, div.math, .bd-article pre, .cell_output .output, "
    + ".pst-scrollable-table-container, .story .figure-caption")) {
    const scrolls = box.scrollWidth > box.clientWidth + 1 || (box.matches(".figure-caption") && box.scrollHeight > box.clientHeight + 1);
    if (scrolls) box.tabIndex = 0;
    else if (!box.matches("pre")) box.removeAttribute("tabindex");
  }
}

// On a phone a claim's row becomes a block: each cell then carries its column's name.
function labelCells() {
  for (const table of document.querySelectorAll("table.claims")) {
    const names = [...table.querySelectorAll("thead th")].map((cell) => cell.textContent.trim());
    for (const row of table.querySelectorAll("tbody tr")) {
      [...row.cells].forEach((cell, column) => {
        if (column > 0) cell.dataset.label = names[column];
      });
    }
  }
}

addEventListener("DOMContentLoaded", () => {
  labelCells();
  markScrollable();
  addEventListener("resize", markScrollable, { passive: true });
  addEventListener("load", () => Promise.all([document.fonts.ready, window.MathJax?.startup?.promise]).then(markScrollable));
});
