/* The graph of the works around the paper, drawn by vis-network; a plain script, so that it runs from file:// too. */
(function () {
  "use strict";

  const KINDS = { // relation: [token of the book's palette, shape]
    extends: ["--gd", "dot"],
    explains: ["--predicted", "triangle"],
    questions: ["--constrained", "diamond"],
    uses: ["--generalized", "square"],
    theme: ["--flow", "dot"],
  };

  function element(tag, attributes = {}, ...children) {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    node.append(...children);
    return node;
  }

  function start() {
    const root = document.getElementById("literature");
    const source = document.getElementById("literature-data");
    if (!root || !source || !window.vis) return;
    const data = JSON.parse(source.textContent);
    const works = new Map(data.works.map((work) => [work.id, work]));
    let chosen = null; // id of the work in the panel
    let shown = null; // the one relation that is not dimmed, or null for all

    // -------------------------------------------------------------------------------------------------- page parts
    const bar = element("div", { class: "lit-bar", role: "group", "aria-label": "Show works by relation" });
    const stage = element("div", { class: "lit-stage" });
    const canvas = element("div", { class: "lit-canvas", role: "group", "aria-describedby": "lit-help",
      "aria-label": `Graph of ${data.works.length} works around the paper; the list below holds the same works` });
    const zoom = element("div", { class: "lit-zoom", role: "group", "aria-label": "Zoom" });
    const panel = element("div", { class: "lit-panel", id: "literature-panel", "aria-live": "polite" });
    const help = element("p", { class: "lit-help", id: "lit-help" },
      "Click the graph once and the wheel zooms it; arrow keys move it, + and − zoom. Escape gives the page its wheel back.");
    stage.append(canvas, zoom);
    root.replaceChildren(bar, element("div", { class: "lit-frame" }, stage, panel), help);

    const colour = (token) => window.getComputedStyle(root).getPropertyValue(token).trim() || "#777777";
    const counts = {};
    for (const work of data.works) counts[work.relation] = (counts[work.relation] || 0) + 1;
    const chips = new Map();
    for (const relation of Object.keys(KINDS)) {
      const chip = element("button", { type: "button", class: `lit-chip lit-${relation}`, "aria-pressed": "false",
        "data-relation": relation }, element("span", { class: "lit-mark", "aria-hidden": "true" }),
        `${data.relations[relation]} `, element("span", { class: "lit-count" }, String(counts[relation] || 0)));
      chip.addEventListener("click", () => {
        shown = shown === relation ? null : relation;
        for (const [name, other] of chips) other.setAttribute("aria-pressed", String(name === shown));
        repaint();
      });
      chips.set(relation, chip);
      bar.append(chip);
    }

    // ------------------------------------------------------------------------------------------------------ graph
    const tall = () => stage.clientHeight > stage.clientWidth;
    let upright = tall();
    // On a tall screen the same picture, turned: what lay across now lies down.
    const place = ({ x, y }) => (upright ? { x: y, y: x } : { x, y });

    const nodeLook = (work) => {
      const [token, shape] = KINDS[work.relation];
      const dim = shown !== null && work.relation !== shown;
      const main = colour(token);
      const hollow = work.relation === "theme";
      return {
        shape, size: work.id === chosen ? 13 : 9, opacity: dim ? 0.15 : 1, borderWidth: hollow ? 2 : 1.5,
        color: { background: hollow ? colour("--paper") : main, border: hollow ? main : colour("--paper"),
          highlight: { background: main, border: colour("--ink") }, hover: { background: main, border: colour("--ink") } },
        font: { color: dim ? "rgba(128,128,128,0.3)" : colour("--ink"), size: 11, face: fontFace, vadjust: -2 },
      };
    };
    const edgeLook = (work) => {
      const dim = shown !== null && work.relation !== shown;
      const near = work.id === chosen;
      return {
        width: near ? 2 : 1, dashes: work.relation === "theme" ? [2, 5] : false,
        color: { color: colour(KINDS[work.relation][0]), opacity: near ? 1 : dim ? 0.05 : 0.28, inherit: false },
        label: near ? data.relations[work.relation] : "",
        font: { color: colour("--ink"), size: 12, face: fontFace, strokeWidth: 4, strokeColor: colour("--paper"), align: "middle" },
      };
    };
    const fontFace = window.getComputedStyle(root).fontFamily;
    const paperLook = () => ({
      shape: "box", margin: 10, borderWidth: 0, color: { background: colour("--ink"), border: colour("--ink"),
        highlight: { background: colour("--ink"), border: colour("--gd") }, hover: { background: colour("--ink"), border: colour("--gd") } },
      font: { color: colour("--paper"), size: 24, face: fontFace },
    });

    const nodes = new vis.DataSet([
      { id: "paper", label: data.paper.label, title: data.paper.title, x: 0, y: 0, ...paperLook() },
      ...data.works.map((work) => ({ id: work.id, label: work.label, title: work.title, ...place(work), ...nodeLook(work) })),
    ]);
    const edges = new vis.DataSet(data.works.map((work) => ({ id: work.id, from: work.id, to: "paper", relation: work.relation, ...edgeLook(work) })));
    const quiet = window.matchMedia("(prefers-reduced-motion: reduce)").matches;
    const network = new vis.Network(canvas, { nodes, edges }, {
      physics: false,
      layout: { randomSeed: 1 },
      edges: { smooth: false, arrows: { to: { enabled: false } }, chosen: false, hoverWidth: 0, selectionWidth: 0 },
      nodes: { scaling: { label: { drawThreshold: 8.4 } } },
      interaction: { hover: true, tooltipDelay: 80, zoomView: false, dragView: true, zoomSpeed: 0.6,
        keyboard: { enabled: true, bindToWindow: false } },
    });

    // A long name in two lines, broken at the space nearest to its middle.
    const inLines = (name) => {
      if (name.length <= 20) return [name];
      const spaces = [...name.matchAll(/ /g)].map((found) => found.index);
      const at = spaces.reduce((a, b) => (Math.abs(b - name.length / 2) < Math.abs(a - name.length / 2) ? b : a));
      return [name.slice(0, at), name.slice(at + 1)];
    };

    document.fonts.addEventListener("loadingdone", () => network.redraw());
    network.on("beforeDrawing", (context) => {
      const ink = colour("--ink-soft");
      const size = Math.min(24, Math.max(14, 12.5 / network.getScale())); // the same size on the screen, within reason
      context.fillStyle = colour("--paper-deep");
      for (const disc of data.themes) {
        const { x, y } = place(disc);
        context.beginPath();
        context.arc(x, y, disc.radius + 10, 0, 2 * Math.PI);
        context.fill();
      }
      context.font = `600 ${size}px ${fontFace}`;
      context.textAlign = "center";
      context.lineJoin = "round";
      context.lineWidth = size / 3;
      context.strokeStyle = colour("--paper");
      context.fillStyle = ink;
      for (const disc of data.themes) {
        const { x, y } = place(disc);
        const below = y > disc.radius; // on the outer side, where no other disc is
        context.textBaseline = below ? "top" : "bottom";
        const lines = inLines(disc.name);
        lines.forEach((line, i) => {
          const row = below ? i : i - lines.length + 1;
          const at = y + (below ? 1 : -1) * (disc.radius + 14) + 1.15 * size * row;
          context.strokeText(line, x, at);
          context.fillText(line, x, at);
        });
      }
    });

    const fit = () => network.fit({ animation: false });
    const scaleBy = (factor) => network.moveTo({ scale: Math.min(4, Math.max(0.15, network.getScale() * factor)),
      animation: quiet ? false : { duration: 160 } });
    for (const [label, sign, action] of [["Zoom in", "+", () => scaleBy(1.35)], ["Zoom out", "−", () => scaleBy(1 / 1.35)], ["Show all", "⤢", fit]]) {
      const button = element("button", { type: "button", class: "lit-button", "aria-label": label, title: label }, sign);
      button.addEventListener("click", action);
      zoom.append(button);
    }

    // The wheel belongs to the page until the graph is clicked, and again after Escape or a click elsewhere.
    const wheel = (on) => network.setOptions({ interaction: { zoomView: on } });
    stage.addEventListener("pointerdown", () => wheel(true));
    document.addEventListener("pointerdown", (event) => stage.contains(event.target) || wheel(false));
    root.addEventListener("keydown", (event) => event.key === "Escape" && wheel(false));

    // --------------------------------------------------------------------------------------------------- the panel
    function describe(id) {
      const work = id === "paper" ? data.paper : works.get(id);
      panel.replaceChildren();
      panel.append(element("p", { class: "lit-theme" }, work.theme || "The paper"), element("h2", {}, work.title),
        element("p", { class: "lit-by" }, work.authors), element("p", { class: "lit-by" }, work.where));
      if (work.relation) {
        panel.append(element("p", { class: "lit-told" },
          element("span", { class: `lit-relation lit-${work.relation}` }, data.relations[work.relation]), ` ${work.sentence}`));
      }
      const links = element("p", { class: "lit-links" }, element("a", { href: work.url, rel: "noopener" },
        work.url.includes("arxiv.org") ? "Read on arXiv" : work.url.includes("openreview.net") ? "Read on OpenReview" : "Look it up"));
      if (work.relation) links.append(element("a", { href: `#${work.id}` }, "Find it in the list"));
      panel.append(links);
      if (!work.relation) panel.append(element("p", { class: "lit-empty" }, "Click a work to read about it here."));
    }

    function choose(id) {
      chosen = id;
      repaint();
      describe(id || "paper");
    }
    network.on("click", (event) => choose(event.nodes.length ? event.nodes[0] : null));
    network.on("hoverNode", () => (canvas.style.cursor = "pointer"));
    network.on("blurNode", () => (canvas.style.cursor = "grab"));

    function repaint() {
      nodes.update([{ id: "paper", ...paperLook() }, ...data.works.map((work) => ({ id: work.id, ...nodeLook(work) }))]);
      edges.update(data.works.map((work) => ({ id: work.id, ...edgeLook(work) })));
      for (const item of document.querySelectorAll(".lit-work")) {
        item.classList.toggle("lit-dim", shown !== null && works.get(item.id).relation !== shown);
      }
    }

    // A button in each entry of the list shows the work in the graph.
    for (const item of document.querySelectorAll(".lit-work")) {
      const button = element("button", { type: "button", class: "lit-show" }, "Show in the graph");
      button.setAttribute("aria-label", `Show in the graph: ${works.get(item.id).title}`);
      button.addEventListener("click", () => {
        network.selectNodes([item.id]);
        network.focus(item.id, { scale: Math.max(1, network.getScale()), animation: quiet ? false : { duration: 300 } });
        choose(item.id);
        root.scrollIntoView({ behavior: quiet ? "auto" : "smooth", block: "start" });
      });
      item.querySelector(".lit-by").append(" ", button);
    }

    new MutationObserver(() => {
      repaint();
      network.redraw();
    }).observe(document.documentElement, { attributes: true, attributeFilter: ["data-theme"] });
    new ResizeObserver(() => {
      if (tall() !== upright) {
        upright = tall();
        nodes.update(data.works.map((work) => ({ id: work.id, ...place(work) })));
      }
      fit();
    }).observe(stage);

    describe("paper");
    fit();
    window.eosLiterature = { network, nodes, edges, data };
    root.setAttribute("data-ready", "true");
  }

  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", start);
  else start();
})();
