/* The explorer of recorded runs: brush a window of time, see every quantity of the run together.  A plain script.
 *
 * The panels come with the page (`_ext/explorer.py`); a run is a script of its own, fetched when it is chosen.
 */
(function () {
  "use strict";

  const { clamp, show, element, button, group, press, slider, choice, table, quantities, announcer, palette, restyled, oncePerFrame,
    axes, plot, follow } = window.EosWidgets;
  const here = document.currentScript ? document.currentScript.src.replace(/explorer\.js.*$/, "") : "_static/";
  const ORDER = ["flow", "gd", "constrained", "generalized", "predicted"]; // the last is drawn on top
  const NARROWEST = 8; // steps that a window holds at least

  /** Fetch a run's script once; resolves to its data. */
  function fetchRun(run) {
    return new Promise((resolve, reject) => {
      const found = () => resolve(window.eosRuns[run.key]);
      if (window.eosRuns?.[run.key]) found();
      else document.head.append(element("script", { src: here + run.file, onload: found, onerror: reject }));
    });
  }

  /** Mark the steps from `a` to `b` on a plot. */
  function mark(made, a, b) {
    const [left, right] = [Math.min(a, b), Math.max(a, b)].map((step) => made.valToPos(step, "x"));
    made.setSelect({ left, width: right - left, top: 0, height: made.over.clientHeight }, false);
  }

  class Explorer {
    constructor(root, page) {
      Object.assign(this, { root, ...page, plots: [], held: null, grip: null, mean: true });
      this.shown = new Set(["gd", "predicted", "constrained"]);
      this.colour = palette(root);
      this.refresh = oncePerFrame(() => this.strip && this.showNow());
      this.build();
      this.choose(0);
    }

    build() {
      const chip = (attributes, act, ...inside) => button({ class: "exp-chip", onclick: act, ...attributes }, ...inside);
      const toggle = (attributes, flip, ...inside) => chip(attributes, () => {
        flip();
        this.draw();
      }, ...inside);
      const field = (id, name, act) => slider(`exp-${id}`, "exp-field", [name], {}, act);
      const run = choice("exp-run", "", "Run", this.runs.map(({ title }, i) => [i, title]), (i) => this.choose(i));
      this.origin = element("p", { class: "exp-provenance" });
      this.chips = new Map(Object.entries(this.who).map(([who, name]) => [who, toggle({ class: `exp-chip exp-${who}`, "data-who": who },
        () => this.shown.delete(who) || this.shown.add(who), element("i"), name)]));
      this.meanChip = toggle({ id: "exp-mean" }, () => (this.mean = !this.mean), "two-step means");
      this.panes = element("div", { id: "exp-panels", class: "exp-card plots", role: "img" });
      this.overview = element("div", { id: "exp-strip", class: "exp-card", role: "img" });
      this.from = field("from", "from step", (v) => this.look(Math.min(v, this.top - NARROWEST), Math.max(this.end, v + NARROWEST)));
      this.to = field("to", "to step", (v) => this.look(Math.min(this.begin, v - NARROWEST), Math.max(v, NARROWEST)));
      this.at = field("step", "step", (v) => this.point(v));
      this.walk = [["previous", -1], ["next", 1]].map(([id, by]) => chip({ id: `exp-${id}` }, () => this.cycle(by), `${id} cycle`));
      this.values = element("div", { class: "exp-table", tabindex: 0, role: "region", "aria-label": "Values at the step" });
      this.summary = element("div", { class: "exp-table" });
      this.live = announcer("exp");
      this.root.replaceChildren(
        element("div", { class: "exp-head" }, run.box),
        this.origin, group("exp-chips", "Curves", ...this.chips.values(), this.meanChip), this.panes, this.overview,
        element("div", { class: "exp-times" }, this.from.box, this.to.box,
          group("exp-steps", "Window", chip({ id: "exp-all" }, () => this.look(0, this.top), "whole run"), ...this.walk)),
        element("div", { class: "exp-below" }, this.at.box, this.values, this.summary), this.live.node);
      restyled(this.overview, () => this.draw()); // its height never changes
    }

    async choose(index) {
      const run = this.runs[index];
      this.origin.textContent = run.provenance;
      const data = await fetchRun(run).catch(() => null);
      if (!data) {
        this.origin.textContent = `Sorry: the data of the run ${run.title} cannot be read.`;
        return;
      }
      this.data = data;
      this.steps = Array.from({ length: this.data.steps }, (_, t) => t);
      this.top = this.data.steps - 1;
      this.cursor ??= Math.round(this.top / 4);
      for (const { input } of [this.from, this.to, this.at]) input.max = String(this.top);
      for (const button of this.walk) button.disabled = this.data.cycles.length === 0;
      for (const [who, chip] of this.chips) chip.hidden = !this.panels.some(({ id }) => this.variable(id, who));
      this.look(0, this.top);
      this.draw();
      this.root.setAttribute("data-ready", run.key);
    }

    // --------------------------------------------------------------------------------------------------------- numbers
    /** Name of the variable that a panel draws of a trajectory, if the run holds it. */
    variable(panel, who) {
      return [`${who}_${panel}`, ...(who === "gd" ? [panel] : [])].find((name) => name in this.data.series);
    }

    /** A variable at every step, undefined between those that it was recorded at; or averaged with the next step. */
    curve(name, averaged = false) {
      const { every, values } = this.data.series[name];
      if (every > 1) return this.steps.map((t) => (t % every ? undefined : values[t / every]));
      if (!averaged) return values;
      return values.map((v, t) => (v === null || values[t + 1] === null ? null : (v + (values[t + 1] ?? v)) / 2));
    }

    /** Levels drawn across a panel. */
    levels({ level }) {
      const { edge, delta } = this.data;
      return { "2/η": [this.steps.map(() => edge)], "δ": [delta], "±δ": [delta, delta.map((v) => v && -v)] }[level] ?? [];
    }

    // ---------------------------------------------------------------------------------------------------------- moving
    look(begin, end) {
      this.begin = clamp(Math.round(begin), 0, Math.max(0, this.top - NARROWEST));
      this.end = clamp(Math.round(end), Math.min(this.top, this.begin + NARROWEST), this.top);
      this.cursor = clamp(this.cursor, this.begin, this.end);
      for (const made of this.plots) made.setScale("x", { min: this.begin, max: this.end });
      this.summarise();
      this.refresh();
      this.live.say(`Window: steps ${this.begin} to ${this.end}.`);
    }

    /** Move the window, its width kept, to begin as near to `begin` as the run allows. */
    shift(begin) {
      const width = this.end - this.begin;
      const first = clamp(Math.round(begin), 0, this.top - width);
      this.look(first, first + width);
    }

    point(t) {
      this.cursor = clamp(Math.round(t), 0, this.top);
      if (this.cursor < this.begin || this.cursor > this.end) this.shift(this.cursor - (this.end - this.begin) / 2);
      else this.refresh();
    }

    /** Look at the cycle after or before the one that the window begins in. */
    cycle(by) {
      const starts = [...this.data.cycles, this.top];
      const spans = starts.slice(1).map((end, i) => [starts[i], end]).filter(([a, b]) => b - a >= NARROWEST);
      const current = spans.findIndex(([a, b]) => this.begin < b && this.begin >= a);
      const whole = this.begin === 0 && this.end === this.top;
      if (spans.length) this.look(...spans[whole ? 0 : clamp(Math.max(current, 0) + by, 0, spans.length - 1)]);
    }

    /** A drag over the panels chooses a window; any move there points at a step. */
    brush(name, t) {
      if (name === "down") this.held = [t, t];
      if (this.held) this.held[1] = t;
      const [a, b] = this.held ?? [t, t];
      if (name === "up" || name === "cancel") this.held = null;
      else this.cursor = clamp(Math.round(t), this.begin, this.end);
      if (name === "up" && Math.abs(b - a) >= NARROWEST) this.look(Math.min(a, b), Math.max(a, b));
      else this.refresh();
    }

    /** A drag in the strip moves the window, or the end of it that was taken hold of. */
    slide(name, t) {
      const { begin, end } = this;
      if (name === "down") {
        const reach = Math.min((9 / this.strip.over.clientWidth) * this.top, (end - begin) / 4); // the middle moves it
        const near = (end) => Math.abs(t - end) < reach;
        this.grip = near(begin) ? "begin" : near(end) ? "end" : t > begin && t < end ? t - begin : (end - begin) / 2;
      }
      if (this.grip === "begin") this.look(Math.min(t, end - NARROWEST), end);
      else if (this.grip === "end") this.look(begin, Math.max(t, begin + NARROWEST));
      else if (this.grip !== null) this.shift(t - this.grip);
      if (name === "up" || name === "cancel") this.grip = null;
    }

    // --------------------------------------------------------------------------------------------------------- showing
    /** Show what follows the pointer and the sliders. */
    showNow() {
      this.from.set(this.begin);
      this.to.set(this.end);
      this.at.set(this.cursor);
      for (const made of this.plots) {
        made.setCursor({ left: made.valToPos(this.cursor, "x"), top: 0 }, false);
        mark(made, ...(this.held ?? [this.begin, this.begin]));
      }
      mark(this.strip, this.begin, this.end);
      this.read();
      const titles = this.panels.map((panel) => panel.title).join("; ");
      this.panes.setAttribute("aria-label", `${titles}: steps ${this.begin} to ${this.end} of the run.`);
      this.overview.setAttribute("aria-label", `The whole run's x with the window from ${this.begin} to ${this.end} marked.`);
    }

    /** Every curve at the cursor, one row for each trajectory. */
    read() {
      const cell = (who, { id, title }) => {
        const name = this.variable(id, who);
        if (!name) return element("td");
        const { long_name, symbol, units } = this.data.series[name];
        const words = [long_name ?? `${title}, ${this.who[who]}`, symbol, units !== "1" && units].filter(Boolean).join("; ");
        const value = this.curve(name)[this.cursor] ?? null;
        return element("td", { "data-curve": name, "data-value": value, title: words }, show(value ?? NaN, 5));
      };
      const rows = Object.entries(this.who).filter(([who]) => !this.chips.get(who).hidden);
      this.values.replaceChildren(table(`At step ${this.cursor}`, ["curve", ...this.panels.map((panel) => panel.id)],
        rows.map(([who, name]) => [name, ...this.panels.map((panel) => cell(who, panel))])));
    }

    /** What the theory predicts of the window; NaN where a step has no number. */
    summarise() {
      const cut = (values) => values.slice(this.begin, this.end + 1).map((v) => v ?? NaN);
      const series = (name) => cut(this.data.series[name]?.values ?? []);
      const mean = (values) => values.reduce((a, b) => a + b, 0) / values.length;
      const delta = cut(this.data.delta);
      const ratio = (name) => series(name).map((v, i) => Math.abs(v) / delta[i]);
      this.summary.replaceChildren(quantities("In the window", "exp-sum", 4, [
        ["steps", "steps in the window", this.end - this.begin + 1],
        ["square", "mean of (x/δ)²", mean(ratio("x").map((v) => v * v))],
        ["excess", "mean sharpness − 2/η", mean(series("gd_sharpness")) - this.data.edge],
        ["peak", "largest |x|/δ", Math.max(...ratio("x"))],
        ["far", "largest distance/δ", Math.max(...ratio("distance"))],
        ["miss", "largest error of the prediction/δ", Math.max(...ratio("predicted_error"))],
      ]));
    }

    /** Make the plots anew: after another run, choice of curves, width or theme. */
    draw() {
      if (!this.data || this.root.clientWidth < 100) return;
      press(this.chips, (who) => this.shown.has(who) && !this.chips.get(who).hidden);
      press([["", this.meanChip]], () => this.mean);
      for (const made of [...this.plots, this.strip]) made?.destroy();

      const { colour } = this;
      const { x, y, narrow } = axes(this.root, colour, "steps after the instability");
      const range = (_, low, high) => {
        const pad = low < high ? 0.07 * (high - low) : 1;
        return [(low ?? 0) - pad, (high ?? 0) + pad];
      };
      this.panes.replaceChildren(...this.panels.map(({ title, mean, level = "" }) =>
        element("div", {}, element("p", {}, element("b", {}, title + (mean && this.mean ? ", two-step means" : "")), level))));
      const width = this.panes.firstChild.clientWidth;
      this.plots = this.panels.map((panel, i) => {
        const last = i === this.panels.length - 1;
        const dash = panel.level === "2/η" ? [6, 4] : [2, 3];
        const levels = this.levels(panel).map((values) => ({ values, stroke: colour("threshold"), width: 1.1, dash }));
        const curves = ORDER.filter((who) => this.shown.has(who) && this.variable(panel.id, who)).map((who) => ({
          values: this.curve(this.variable(panel.id, who), panel.mean && this.mean), stroke: colour(who), width: 1.6,
          dash: who === "predicted" || who === "generalized" ? [5, 3] : [],
        }));
        const dot = (paint) => (u, s) => (s > levels.length ? paint(u.series[s]) : "transparent"); // levels have none
        const made = plot(this.panes.children[i], this.steps, [...levels, ...curves], {
          width, height: (narrow ? 104 : 118) + (last ? 32 : 0), padding: [6, 10, last ? 0 : 6, 0], axes: [{ ...x, show: last }, y],
          scales: { x: { min: this.begin, max: this.end }, y: { range } },
          cursor: { points: { size: 8, width: 1.5, fill: dot((curve) => curve.stroke()), stroke: dot(() => colour("plot-card")) } },
        });
        follow(made, this.brush.bind(this));
        made.over.addEventListener("dblclick", () => this.look(0, this.top));
        return made;
      });
      this.strip = plot(this.overview, this.steps, [{ values: this.curve("x"), stroke: colour("gd"), width: 1 }], {
        width, height: 56, padding: [6, 10, 6, 0], scales: { x: { min: 0, max: this.top }, y: { range } }, cursor: { show: false },
        axes: [{ show: false }, { ...y, grid: { show: false }, splits: () => [0], values: () => ["x"] }],
      });
      follow(this.strip, this.slide.bind(this));
      this.refresh();
    }
  }

  const root = document.getElementById("explorer");
  if (root) window.eosExplorer = new Explorer(root, JSON.parse(document.getElementById("explorer-data").textContent));
})();
