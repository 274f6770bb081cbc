/* Small repairs that the theme leaves to the book; the pages read well without them. */
"use strict";

// A page opened from a file cannot fetch its neighbours, so search there shows titles without excerpts.
if (location.protocol === "file:" && typeof DOCUMENTATION_OPTIONS !== "undefined") {
  DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;
}

// What scrolls must be reachable by keyboard; recomputed when the page changes its width, its fonts or its formulas.
function markScrollable() {
  for (const box of document.querySelectorAll(".table-box, div.math, div.math > mjx-container, .bd-article pre, .cell_output .output, "
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

// A link to a figure opens the tab that it stands in.
function openTab() {
  const place = location.hash.length > 1 && document.getElementById(decodeURIComponent(location.hash.slice(1)));
  const tab = place && place.closest(".sd-tab-content");
  if (!tab) return;
  const button = document.getElementById(tab.id.replace(/-content$/, ""));
  if (button) button.checked = true;
  place.scrollIntoView();
}

// A figure fills the window on request, drawn from its SVG where the provenance lines offer one.
function offerEnlarging() {
  const pictures = document.querySelectorAll(".bd-article .cell_output figure img");
  if (!pictures.length || !window.HTMLDialogElement) return;
  const view = document.body.appendChild(document.createElement("dialog"));
  view.className = "enlarged";
  view.addEventListener("click", () => view.close());
  for (const picture of pictures) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "enlarge";
    button.textContent = "⤢";
    button.setAttribute("aria-label", "Enlarge this figure");
    const open = () => {
      const lines = picture.closest(".cell").nextElementSibling;
      const vector = lines && lines.querySelector('a[href$=".svg"]');
      const large = new Image();
      large.src = vector ? vector.href : picture.src;
      large.alt = picture.alt;
      const close = document.createElement("button");
      close.type = "button";
      close.textContent = "Close";
      view.replaceChildren(close, large);
      view.showModal();
    };
    button.addEventListener("click", open);
    picture.addEventListener("click", open);
    picture.closest("figure").append(button);
  }
}

// Where TeX may be broken outside of all brackets: at a \\qquad between formulas, or before a further relation of one.
function broken(tex, atRelations) {
  const lines = [], relation = /^(=|<|>|\\(?:approx|le|ge|leq|geq|lesssim|gtrsim)(?![a-zA-Z]))/;
  let depth = 0, line = "", relations = 0;
  for (let rest = tex; rest; ) {
    const token = rest.match(/^(?:\\(?:[a-zA-Z]+|[^]))|^[^]/)[0];
    if (/^(?:[{([]|\\(?:begin|left|\{|lVert|langle|Bigl|bigl))$/.test(token)) depth += 1;
    if (/^(?:[})\]]|\\(?:end|right|\}|rVert|rangle|Bigr|bigr))$/.test(token)) depth -= 1;
    const outside = depth === 0;
    if (outside && !atRelations && token === "\\qquad") {
      lines.push(line);
      line = "";
    } else {
      if (outside && atRelations && relation.test(rest) && (relations += 1) > 1) {
        lines.push(line);
        line = "\\quad ";
      }
      line += token;
    }
    rest = rest.slice(token.length);
  }
  return [...lines, line].filter((each) => each.trim());
}

// A formula that is wider than its place is set in several lines, and what is too wide still in smaller type.
async function fitFormulas() {
  if (!window.MathJax?.startup?.document) return;
  const width = (box) => box.scrollWidth / box.clientWidth;
  for (const atRelations of [false, true]) {
    for (const place of document.querySelectorAll("div.math")) {
      const box = place.querySelector('mjx-container[display="true"]');
      if (!box || width(box) <= (atRelations ? 1.25 : 1.01)) continue;
      const tex = MathJax.startup.document.getMathItemsWithin(place)[0].math;
      if (/&|\\tag|\\label/.test(tex)) continue;
      const inner = tex.replace(/^\s*\\begin\{gathered\}|\\end\{gathered\}\s*$/g, "");
      const lines = inner.split(/\\\\(?:\[\d+pt\])?/).flatMap((line) => broken(line, atRelations));
      if (lines.length < 2) continue;
      MathJax.typesetClear([place]);
      box.replaceWith(`\\[\\begin{gathered}${lines.join("\\\\[4pt]")}\\end{gathered}\\]`); // its number stays
      await MathJax.typesetPromise([place]);
    }
  }
  for (const box of document.querySelectorAll('div.math > mjx-container[display="true"]')) {
    for (let size = 100; size > 60 && box.scrollWidth > box.clientWidth + 1; size -= 4) box.style.fontSize = `${size}%`;
  }
}

addEventListener("hashchange", openTab);
addEventListener("DOMContentLoaded", () => {
  openTab();
  offerEnlarging();
  labelCells();
  markScrollable();
  addEventListener("resize", markScrollable, { passive: true });
  addEventListener("load", () => {
    const there = Promise.all([document.fonts.ready, window.MathJax?.startup?.promise]);
    window.formulasFit = there.then(fitFormulas).then(markScrollable);
  });
});
