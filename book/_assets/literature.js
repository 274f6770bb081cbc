/* The graph of the works around the paper, drawn by vis-network; a plain script, so that it runs from file:// too. */
(function () {
  "use strict";

  const { clamp, element, button, group, press, palette, restyled } = window.EosWidgets;
  const root = document.getElementById("literature");
  if (!root || !window.vis) return;

  const KINDS = { // relation: [token of the book's palette, shape]
    extends: ["gd", "dot"],
    explains: ["predicted", "triangle"],
    questions: ["constrained", "diamond"],
    uses: ["generalized", "square"],
    theme: ["flow", "dot"],
  };
  const data = JSON.parse(document.getElementById("literature-data").textContent);
  const works = new Map(data.works.map((work) => [work.id, work]));
  const items = [...document.querySelectorAll(".lit-work")]; // the list below the graph
  const colour = palette(root);
  const face = window.getComputedStyle(root).fontFamily;
  const quiet = window.matchMedia("(prefers-reduced-motion: reduce)").matches;
  let chosen = null; // id of the work in the panel
  let shown = null; // the one relation that is not dimmed, or null for all

  // ---------------------------------------------------------------------------------------------------- page parts
  const chips = new Map(Object.keys(KINDS).map((relation) => [relation, button(
    { class: `lit-chip lit-${relation}`, "data-relation": relation, onclick: () => filter(relation) },
    element("span", { class: "lit-mark", "aria-hidden": "true" }), `${data.relations[relation]} `,
    element("span", { class: "lit-count" }, String(data.works.filter((work) => work.relation === relation).length)),
  )]));
  const canvas = element("div", { class: "lit-canvas", role: "group", "aria-describedby": "lit-help",
    "aria-label": `Graph of ${data.works.length} works around the paper; the list below holds the same works` });
  const zoomButton = (label, sign, onclick) => button({ class: "lit-button", "aria-label": label, title: label, onclick }, sign);
  const zoom = group("lit-zoom", "Zoom", zoomButton("Zoom in", "+", () => scaleBy(1.35)),
    zoomButton("Zoom out", "−", () => scaleBy(1 / 1.35)), zoomButton("Show all", "⤢", () => fit()));
  const stage = element("div", { class: "lit-stage" }, canvas, zoom);
  const panel = element("div", { class: "lit-panel", id: "literature-panel", "aria-live": "polite" });
  root.replaceChildren(group("lit-bar", "Show works by relation", ...chips.values()),
    element("div", { class: "lit-frame" }, stage, panel),
    element("p", { class: "lit-help", id: "lit-help" },
      "A thick rim marks a work that a chapter of this book measures. Click the graph once and the wheel zooms it; arrow keys move it, + and − zoom. Escape gives the page its wheel back."));

  // -------------------------------------------------------------------------------------------------------- graph
  const tall = () => stage.clientHeight > stage.clientWidth;
  let upright = tall();
  // On a tall screen the same picture, turned: what lay across now lies down.
  const place = ({ x, y }) => (upright ? { x: y, y: x } : { x, y });
  const dimmed = (work) => shown !== null && work.relation !== shown;
  /** Colours of a node: its surface, its rim, and its rim when it is pointed at or selected. */
  const surface = (background, border, lit, inside = background) =>
    ({ background: inside, border, highlight: { background, border: lit }, hover: { background, border: lit } });

  const nodeLook = (work) => {
    const [token, shape] = KINDS[work.relation];
    const main = colour(token);
    const [plain, inside, width] = work.relation === "theme" ? [main, colour("paper"), 2] : [colour("paper"), main, 1.5];
    const [rim, borderWidth] = work.measured.length ? [colour("ink"), 3] : [plain, width];
    return {
      shape, borderWidth, size: work.id === chosen ? 13 : 9, opacity: dimmed(work) ? 0.15 : 1,
      color: surface(main, rim, colour("ink"), inside),
      font: { color: dimmed(work) ? "rgba(128,128,128,0.3)" : colour("ink"), size: 11, face, vadjust: -2 },
    };
  };
  const edgeLook = (work) => {
    const near = work.id === chosen;
    return {
      width: near ? 2 : 1, dashes: work.relation === "theme" ? [2, 5] : false, label: near ? data.relations[work.relation] : "",
      color: { color: colour(KINDS[work.relation][0]), opacity: near ? 1 : dimmed(work) ? 0.05 : 0.28, inherit: false },
      font: { color: colour("ink"), size: 12, face, strokeWidth: 4, strokeColor: colour("paper"), align: "middle" },
    };
  };
  const paperLook = () => ({
    shape: "box", margin: 10, borderWidth: 0, color: surface(colour("ink"), colour("ink"), colour("gd")),
    font: { color: colour("paper"), size: 24, face },
  });

  const nodes = new vis.DataSet([
    { id: "paper", label: data.paper.label, title: data.paper.title, x: 0, y: 0, ...paperLook() },
    ...data.works.map((work) => ({ id: work.id, label: work.label, title: work.title, ...place(work), ...nodeLook(work) })),
  ]);
  const edges = new vis.DataSet(data.works.map((work) =>
    ({ id: work.id, from: work.id, to: "paper", relation: work.relation, ...edgeLook(work) })));
  const network = new vis.Network(canvas, { nodes, edges }, {
    physics: false,
    layout: { randomSeed: 1 },
    edges: { smooth: false, arrows: { to: { enabled: false } }, chosen: false, hoverWidth: 0, selectionWidth: 0 },
    nodes: { scaling: { label: { drawThreshold: 8.4 } } },
    interaction: { hover: true, tooltipDelay: 80, zoomView: false, dragView: true, zoomSpeed: 0.6,
      keyboard: { enabled: true, bindToWindow: false } },
  });

  network.on("beforeDrawing", (context) => {
    const size = clamp(12.5 / network.getScale(), 14, 24); // the same size on the screen, within reason
    const discs = data.themes.map((disc) => ({ ...disc, ...place(disc) }));
    context.fillStyle = colour("paper-deep");
    for (const { x, y, radius } of discs) {
      context.beginPath();
      context.arc(x, y, radius + 10, 0, 2 * Math.PI);
      context.fill();
    }
    Object.assign(context, { font: `600 ${size}px ${face}`, textAlign: "center", lineJoin: "round", lineWidth: size / 3,
      strokeStyle: colour("paper"), fillStyle: colour("ink-soft") });
    for (const { x, y, radius, lines } of discs) {
      const below = y > radius; // on the outer side, where no other disc is
      context.textBaseline = below ? "top" : "bottom";
      lines.forEach((line, i) => {
        const row = below ? i : i - lines.length + 1;
        const at = y + (below ? 1 : -1) * (radius + 14) + 1.15 * size * row;
        context.strokeText(line, x, at);
        context.fillText(line, x, at);
      });
    }
  });

  const fit = () => network.fit({ animation: false });
  const moved = (duration) => (quiet ? false : { duration });
  const scaleBy = (factor) => network.moveTo({ scale: clamp(network.getScale() * factor, 0.15, 4), animation: moved(160) });

  // The wheel belongs to the page until the graph is clicked, and again after Escape or a click elsewhere.
  const wheel = (on) => network.setOptions({ interaction: { zoomView: on } });
  stage.addEventListener("pointerdown", () => wheel(true));
  document.addEventListener("pointerdown", (event) => stage.contains(event.target) || wheel(false));
  root.addEventListener("keydown", (event) => event.key === "Escape" && wheel(false));

  // ----------------------------------------------------------------------------------------------------- the panel
  function describe(work) {
    const line = (kind, ...words) => element("p", { class: `lit-${kind}` }, ...words);
    const known = { "arxiv.org": "Read on arXiv", "openreview.net": "Read on OpenReview" };
    const host = Object.keys(known).find((name) => work.url.includes(name));
    const links = line("links", element("a", { href: work.url, rel: "noopener" }, known[host] ?? "Look it up"));
    panel.replaceChildren(line("theme", work.theme || "The paper"), element("h2", {}, work.title), line("by", work.authors),
      line("by", work.where), links);
    if (work.relation) {
      links.before(line("told", element("span", { class: `lit-relation lit-${work.relation}` }, data.relations[work.relation]),
        ` ${work.sentence}`));
      if (work.measured.length) {
        const chapters = work.measured.flatMap(({ title, page, count, claims }, i) => [i ? ", " : "",
          element("a", { href: page }, title), " (", element("a", { href: claims }, `${count} claim${count === 1 ? "" : "s"}`), ")"]);
        links.before(line("measured", "Measured here: ", ...chapters, "."));
      }
      links.append(element("a", { href: `#${work.id}` }, "Find it in the list"));
    } else panel.append(line("empty", "Click a work to read about it here."));
  }

  function choose(id) {
    chosen = id;
    repaint();
    describe(works.get(id) ?? data.paper);
  }

  function filter(relation) {
    shown = shown === relation ? null : relation;
    press(chips, (name) => name === shown);
    for (const item of items) item.classList.toggle("lit-dim", dimmed(works.get(item.id)));
    repaint();
  }

  function repaint() {
    nodes.update([{ id: "paper", ...paperLook() }, ...data.works.map((work) => ({ id: work.id, ...nodeLook(work) }))]);
    edges.update(data.works.map((work) => ({ id: work.id, ...edgeLook(work) })));
  }

  network.on("click", (event) => choose(event.nodes[0] ?? null));
  network.on("hoverNode", () => (canvas.style.cursor = "pointer"));
  network.on("blurNode", () => (canvas.style.cursor = "grab"));

  // A button in each entry of the list shows the work in the graph.
  const find = (id) => {
    network.selectNodes([id]);
    network.focus(id, { scale: Math.max(1, network.getScale()), animation: moved(300) });
    choose(id);
    root.scrollIntoView({ behavior: quiet ? "auto" : "smooth", block: "start" });
  };
  for (const item of items) {
    const label = `Show in the graph: ${works.get(item.id).title}`;
    const show = button({ class: "lit-show", "aria-label": label, onclick: () => find(item.id) }, "Show in the graph");
    item.querySelector(".lit-by").append(" ", show);
  }

  restyled(stage, repaint, () => {
    if (tall() !== upright) {
      upright = tall();
      nodes.update(data.works.map((work) => ({ id: work.id, ...place(work) })));
    }
    fit();
  });

  filter(null);
  describe(data.paper);
  window.eosLiterature = { network, nodes, edges, data };
  root.setAttribute("data-ready", "true");
})();
