/* The explorer of recorded runs: brush a window of time, see every quantity of the run together.  A plain script.
 *
 * Which panels and curves there are is the table that the page carries (`_ext/explorer.py`); a run is a script of its own,
 * fetched when it is chosen.
 */
(function () {
  "use strict";

  const { clamp, show, element, ticks, scale, Picture } = window.EosPicture;
  const here = document.currentScript ? document.currentScript.src.replace(/explorer\.js.*$/, "") : "_static/";
  const WHO = ["gd", "predicted", "generalized", "constrained", "flow"];
  const NARROWEST = 8; // steps that a window holds at least

  /** Fetch a run's script once; resolves to its data. */
  function fetchRun(run) {
    const known = (window.eosRuns || {})[run.key];
    if (known) return Promise.resolve(known);
    return new Promise((resolve, reject) => {
      const script = element("script", { src: here + run.file });
      script.onload = () => resolve(window.eosRuns[run.key]);
      script.onerror = () => reject(new Error(`the data of the run ${run.title} cannot be read`));
      document.head.append(script);
    });
  }

  class Explorer {
    constructor(root, { runs, panels }) {
      Object.assign(this, { root, runs, panels });
      this.shown = new Set(["gd", "predicted", "constrained"]);
      this.mean = true;
      this.build();
      this.choose(0);
    }

    // -------------------------------------------------------------------------------------------------- the page parts
    build() {
      const select = element("select", { id: "exp-run" },
        ...this.runs.map((run, i) => element("option", { value: i }, run.title)));
      select.addEventListener("change", () => this.choose(Number(select.value)));
      this.origin = element("p", { class: "exp-provenance" });
      const chips = element("div", { class: "exp-chips", role: "group", "aria-label": "Curves" });
      this.chips = new Map();
      const names = new Map(this.panels.flatMap((panel) => panel.curves).map(([, who, name]) => [who, name]));
      for (const who of WHO) {
        const chip = element("button", { type: "button", class: `exp-chip exp-${who}`, "data-who": who }, element("i", {}), names.get(who));
        chip.addEventListener("click", () => {
          if (!this.shown.delete(who)) this.shown.add(who);
          this.update();
        });
        this.chips.set(who, chip);
        chips.append(chip);
      }
      this.meanChip = element("button", { type: "button", class: "exp-chip", id: "exp-mean" }, "two-step means");
      this.meanChip.addEventListener("click", () => {
        this.mean = !this.mean;
        this.update();
      });
      chips.append(this.meanChip);

      const panels = element("canvas", { id: "exp-panels", role: "img" });
      const strip = element("canvas", { id: "exp-strip", role: "img" });
      this.picture = new Picture(panels, { still: this.drawPanels.bind(this), moving: this.drawCursor.bind(this) });
      this.overview = new Picture(strip, { still: this.drawOverview.bind(this), moving: this.drawWindow.bind(this) });
      this.brush(panels);
      this.slide(strip);

      const field = (id, name, change) => {
        const input = element("input", { type: "range", id: `exp-${id}`, min: 0, step: 1 });
        const output = element("output", { for: `exp-${id}` });
        input.addEventListener("input", () => change(Number(input.value)));
        return { input, output, box: element("div", { class: "exp-field" }, element("label", { for: `exp-${id}` }, name), output, input) };
      };
      this.from = field("from", "from step", (v) => this.look(Math.min(v, this.data.steps - 1 - NARROWEST), Math.max(this.end, v + NARROWEST)));
      this.to = field("to", "to step", (v) => this.look(Math.min(this.begin, v - NARROWEST), Math.max(v, NARROWEST)));
      this.at = field("step", "step", (v) => this.point(v));
      const steps = element("div", { class: "exp-steps", role: "group", "aria-label": "Window" });
      this.buttons = {};
      for (const [id, name, action] of [
        ["all", "whole run", () => this.look(0, this.data.steps - 1)],
        ["previous", "previous cycle", () => this.cycle(-1)],
        ["next", "next cycle", () => this.cycle(1)],
      ]) {
        this.buttons[id] = element("button", { type: "button", class: "exp-chip", id: `exp-${id}` }, name);
        this.buttons[id].addEventListener("click", action);
        steps.append(this.buttons[id]);
      }
      this.values = element("div", { class: "exp-table", tabindex: 0, role: "region", "aria-label": "Values at the step" });
      this.summary = element("div", { class: "exp-table" });
      this.live = element("p", { class: "exp-sr", role: "status", "aria-live": "polite", id: "exp-live" });
      this.root.replaceChildren(
        element("div", { class: "exp-head" }, element("div", {}, element("label", { for: "exp-run" }, "Run"), select)),
        this.origin, chips,
        element("div", { class: "exp-card exp-panels" }, panels),
        element("div", { class: "exp-card exp-strip", style: "margin-top: 0.5rem" }, strip),
        element("div", { class: "exp-times" }, this.from.box, this.to.box, steps),
        element("div", { class: "exp-below" }, this.at.box, this.values, this.summary), this.live);

      const restyle = () => {
        this.picture.stale = this.overview.stale = true;
        this.refresh();
      };
      new MutationObserver(restyle).observe(document.documentElement, { attributes: true, attributeFilter: ["data-theme"] });
      new ResizeObserver(restyle).observe(this.root);
      document.fonts.addEventListener("loadingdone", restyle);
    }

    async choose(index) {
      const run = this.runs[index];
      this.origin.textContent = run.provenance;
      try {
        this.data = await fetchRun(run);
      } catch (error) {
        this.origin.textContent = `Sorry: ${error.message}.`;
        return;
      }
      const top = this.data.steps - 1;
      for (const { input } of [this.from, this.to, this.at]) input.max = String(top);
      this.begin = 0;
      this.end = top;
      this.cursor = Math.min(this.cursor ?? Math.round(top / 4), top);
      this.there = new Set(this.panels.flatMap((panel) => panel.curves).filter(([name]) => name in this.data.series).map(([, who]) => who));
      this.overview.stale = true;
      this.update();
      this.root.setAttribute("data-ready", run.key);
    }

    // --------------------------------------------------------------------------------------------------------- numbers
    /** A curve as [step, value] pairs in the window (a little beyond it), averaged with the next step where asked for. */
    points(name, averaged, begin = this.begin, end = this.end) {
      const { every, values } = this.data.series[name];
      const first = Math.max(0, Math.floor(begin / every) - 1);
      const last = Math.min(values.length - 1, Math.ceil(end / every) + 1);
      const out = [];
      for (let i = first; i <= last; i += 1) {
        let value = values[i];
        if (averaged && every === 1 && i + 1 < values.length) {
          value = value === null || values[i + 1] === null ? null : (value + values[i + 1]) / 2;
        }
        out.push([i * every, value]);
      }
      return out;
    }

    curves(panel) {
      return panel.curves.filter(([name, who]) => this.shown.has(who) && name in this.data.series);
    }

    /** Levels drawn across a panel, as pairs [step, value]. */
    levels(panel) {
      if (!panel.line) return [];
      if (panel.line === "edge") return [[[0, this.data.edge], [this.data.steps - 1, this.data.edge]]];
      const pairs = this.data.delta.map((v, t) => [t, v]).slice(Math.max(0, this.begin - 1), this.end + 2);
      return panel.both ? [pairs, pairs.map(([t, v]) => [t, v === null ? null : -v])] : [pairs];
    }

    value(name, t) {
      const { every, values } = this.data.series[name];
      return every === 1 ? values[t] : t % every === 0 ? values[t / every] : null;
    }

    // ---------------------------------------------------------------------------------------------------------- moving
    look(begin, end) {
      const top = this.data.steps - 1;
      this.begin = clamp(Math.round(begin), 0, Math.max(0, top - NARROWEST));
      this.end = clamp(Math.round(end), Math.min(top, this.begin + NARROWEST), top);
      this.cursor = clamp(this.cursor, this.begin, this.end);
      this.update();
      window.clearTimeout(this.saying);
      this.saying = window.setTimeout(() => {
        this.live.textContent = `Window: steps ${this.begin} to ${this.end}.`;
      }, 700);
    }

    point(t) {
      this.cursor = clamp(Math.round(t), 0, this.data.steps - 1);
      if (this.cursor < this.begin || this.cursor > this.end) {
        const width = this.end - this.begin;
        const begin = clamp(this.cursor - Math.round(width / 2), 0, this.data.steps - 1 - width);
        this.look(begin, begin + width);
        return;
      }
      this.refresh();
    }

    /** The cycle after or before the one that the window begins in. */
    cycle(by) {
      const starts = this.data.cycles;
      const spans = starts.map((start, i) => [start, starts[i + 1] ?? this.data.steps - 1]).filter(([a, b]) => b - a >= NARROWEST);
      if (!spans.length) return;
      const whole = this.begin === 0 && this.end === this.data.steps - 1;
      const current = spans.findIndex(([a, b]) => this.begin < b && this.begin >= a);
      const index = whole ? 0 : clamp((current < 0 ? 0 : current) + by, 0, spans.length - 1);
      this.look(...spans[index]);
    }

    brush(canvas) {
      const step = (event) => Math.round(this.time.inverse(event.clientX - canvas.getBoundingClientRect().left));
      canvas.addEventListener("pointerdown", (event) => {
        if (event.button !== 0 || !this.time) return;
        this.drag = { from: step(event), to: step(event) };
        canvas.setPointerCapture(event.pointerId);
      });
      canvas.addEventListener("pointermove", (event) => {
        if (!this.time) return;
        if (this.drag) this.drag.to = step(event);
        this.cursor = clamp(step(event), this.begin, this.end);
        this.refresh();
      });
      canvas.addEventListener("pointerup", () => {
        const drag = this.drag;
        this.drag = null;
        if (drag && Math.abs(drag.to - drag.from) >= NARROWEST) this.look(Math.min(drag.from, drag.to), Math.max(drag.from, drag.to));
        else this.refresh();
      });
      canvas.addEventListener("pointercancel", () => (this.drag = null));
      canvas.addEventListener("dblclick", () => this.look(0, this.data.steps - 1));
    }

    slide(canvas) {
      let grip = null;
      const step = (event) => this.whole.inverse(event.clientX - canvas.getBoundingClientRect().left);
      canvas.addEventListener("pointerdown", (event) => {
        if (event.button !== 0 || !this.whole) return;
        const t = step(event);
        const near = (9 / canvas.clientWidth) * this.data.steps;
        const width = this.end - this.begin;
        if (Math.abs(t - this.begin) < near) grip = { edge: "begin" };
        else if (Math.abs(t - this.end) < near) grip = { edge: "end" };
        else grip = { offset: t > this.begin && t < this.end ? t - this.begin : width / 2, width };
        canvas.setPointerCapture(event.pointerId);
        if (grip.width !== undefined) this.slideTo(t - grip.offset, grip.width);
      });
      canvas.addEventListener("pointermove", (event) => {
        if (!grip) return;
        const t = step(event);
        if (grip.edge === "begin") this.look(Math.min(t, this.end - NARROWEST), this.end);
        else if (grip.edge === "end") this.look(this.begin, Math.max(t, this.begin + NARROWEST));
        else this.slideTo(t - grip.offset, grip.width);
      });
      for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, () => (grip = null));
    }

    slideTo(begin, width) {
      const first = clamp(Math.round(begin), 0, this.data.steps - 1 - width);
      this.look(first, first + width);
    }

    // --------------------------------------------------------------------------------------------------------- showing
    update() {
      for (const [who, chip] of this.chips) {
        chip.setAttribute("aria-pressed", String(this.shown.has(who) && this.there.has(who)));
        chip.hidden = !this.there.has(who);
      }
      this.meanChip.setAttribute("aria-pressed", String(this.mean));
      this.buttons.previous.disabled = this.buttons.next.disabled = this.data.cycles.length === 0;
      this.picture.stale = true;
      this.summarise();
      this.refresh();
    }

    refresh() {
      if (this.pending || !this.data) return;
      this.pending = window.requestAnimationFrame(() => {
        this.pending = null;
        for (const [part, v] of [[this.from, this.begin], [this.to, this.end], [this.at, this.cursor]]) {
          part.input.value = String(v);
          part.output.textContent = String(v);
        }
        this.tabulate();
        this.picture.paint();
        this.overview.paint();
        this.picture.canvas.setAttribute("aria-label",
          `${this.panels.map((panel) => panel.title).join("; ")}: steps ${this.begin} to ${this.end} of the run.`);
        this.overview.canvas.setAttribute("aria-label", `The whole run's x with the window from ${this.begin} to ${this.end} marked.`);
      });
    }

    /** Every curve at the cursor, one row for each trajectory. */
    tabulate() {
      const t = this.cursor;
      const head = element("tr", {}, element("th", { scope: "col" }, "curve"), ...this.panels.map((panel) => element("th", { scope: "col" }, panel.id)));
      const rows = WHO.filter((who) => this.there.has(who)).map((who) => {
        const cells = this.panels.map((panel) => {
          const curve = panel.curves.find(([name, whose]) => whose === who && name in this.data.series);
          const value = curve ? this.value(curve[0], t) : null;
          return element("td", { "data-curve": curve ? curve[0] : "", "data-value": value }, curve ? show(value ?? NaN, 5) : "");
        });
        return element("tr", {}, element("th", { scope: "row" }, this.chips.get(who).textContent), ...cells);
      });
      this.values.replaceChildren(element("table", {}, element("caption", {}, `At step ${t}`), element("thead", {}, head), element("tbody", {}, ...rows)));
    }

    /** What the theory speaks of, averaged over the window. */
    summarise() {
      const slice = (values) => values.slice(this.begin, this.end + 1);
      const mean = (values) => (values.length && values.every((v) => v !== null) ? values.reduce((a, b) => a + b, 0) / values.length : NaN);
      const most = (values) => (values.every((v) => v !== null) ? values.reduce((m, v) => Math.max(m, v), 0) : NaN);
      const series = (name) => (name in this.data.series ? slice(this.data.series[name].values) : [null]);
      const delta = slice(this.data.delta);
      const ratio = (values) => values.map((v, i) => (v === null || delta[i] === null || delta[i] === undefined ? null : Math.abs(v) / delta[i]));
      const x = ratio(series("x"));
      const rows = [
        ["steps", "steps in the window", this.end - this.begin + 1],
        ["square", "mean of (x/δ)²", mean(x.map((v) => (v === null ? null : v * v)))],
        ["excess", "mean sharpness − 2/η", mean(series("gd_sharpness")) - this.data.edge],
        ["peak", "largest |x|/δ", most(x)],
        ["far", "largest distance/δ", most(ratio(series("distance")))],
        ["miss", "largest error of the prediction/δ", most(ratio(series("predicted_error")))],
      ];
      this.summary.replaceChildren(element("table", {}, element("caption", {}, "In the window"), element("tbody", {},
        ...rows.map(([id, name, value]) => element("tr", {}, element("th", { scope: "row" }, name),
          element("td", { id: `exp-sum-${id}`, "data-value": Number.isFinite(value) ? value : "" }, show(value, 4)))))));
    }

    // --------------------------------------------------------------------------------------------------------- drawing
    colours() {
      const style = window.getComputedStyle(this.root);
      const get = (name) => style.getPropertyValue(name).trim();
      this.font = style.fontFamily;
      return { ink: get("--ink"), soft: get("--ink-soft"), grid: get("--exp-grid"), card: get("--exp-card"), threshold: get("--threshold"),
        ...Object.fromEntries(WHO.map((who) => [who, get(`--${who}`)])) };
    }

    text(c, words, x, y, colour, { align = "left", size = 11, weight = 400 } = {}) {
      c.font = `${weight} ${size}px ${this.font}`;
      c.textAlign = align;
      c.textBaseline = "middle";
      c.fillStyle = colour;
      c.fillText(words, x, y);
    }

    trace(c, pairs, sx, sy, colour, width, dash = []) {
      c.beginPath();
      let pen = false;
      for (const [t, v] of pairs) {
        if (v === null) pen = false;
        else {
          if (pen) c.lineTo(sx(t), sy(v));
          else c.moveTo(sx(t), sy(v));
          pen = true;
        }
      }
      c.strokeStyle = colour;
      c.lineWidth = width;
      c.lineJoin = "round";
      c.setLineDash(dash);
      c.stroke();
      c.setLineDash([]);
    }

    drawPanels(c, w, h) {
      const colour = this.colours();
      const [left, right, gap, foot] = [w < 520 ? 46 : 58, w - 10, 26, 40];
      const each = (h - foot - gap * this.panels.length) / this.panels.length;
      this.time = scale(this.begin, this.end, left, right);
      this.rows = this.panels.map((panel, i) => {
        const top = gap + i * (each + gap) - 4;
        const averaged = this.mean && panel.mean;
        const drawn = this.curves(panel).map(([name, who, said]) => ({ name, who, said, pairs: this.points(name, averaged) }));
        const levels = this.levels(panel);
        let [low, high] = [Infinity, -Infinity];
        for (const pairs of [...drawn.map((d) => d.pairs), ...levels]) {
          for (const [t, v] of pairs) {
            if (v === null || t < this.begin || t > this.end) continue;
            low = Math.min(low, v);
            high = Math.max(high, v);
          }
        }
        if (panel.line === "edge") [low, high] = [Math.min(low, this.data.edge), Math.max(high, this.data.edge)];
        if (!(low < high)) [low, high] = Number.isFinite(low) ? [low - 1, low + 1] : [0, 1];
        const pad = (high - low) * 0.07;
        const sy = scale(low - pad, high + pad, top + each, top);
        for (const v of ticks(low - pad, high + pad, Math.max(2, each / 22))) {
          this.line(c, left, sy(v), right, sy(v), colour.grid, 0.5);
          this.text(c, show(v, 4), left - 6, sy(v), colour.soft, { align: "right" });
        }
        c.save();
        c.beginPath();
        c.rect(left, top, right - left, each);
        c.clip();
        for (const pairs of levels) this.trace(c, pairs, this.time, sy, colour.threshold, 1.1, panel.line === "edge" ? [6, 4] : [2, 3]);
        for (const who of ["flow", "gd", "constrained", "generalized", "predicted"]) {
          for (const d of drawn.filter((entry) => entry.who === who)) {
            const dashed = who === "predicted" || who === "generalized";
            this.trace(c, d.pairs, this.time, sy, colour[who], dashed ? 1.5 : 1.7, dashed ? [5, 3] : []);
          }
        }
        c.restore();
        this.line(c, left, top + each + 0.5, right, top + each + 0.5, colour.soft, 0.8);
        this.text(c, panel.title + (averaged ? ", two-step means" : ""), left, top - 10, colour.ink, { size: 12, weight: 600 });
        if (panel.said) this.text(c, panel.said, right, top - 10, colour.soft, { align: "right" });
        return { top, sy, drawn };
      });
      this.bottom = h - foot;
      for (const t of ticks(this.begin, this.end, w < 520 ? 4 : 9)) {
        if (Number.isInteger(t)) this.text(c, String(t), this.time(t), h - 28, colour.soft, { align: "center" });
      }
      this.text(c, "steps after the instability", (left + right) / 2, h - 9, colour.ink, { align: "center", size: 12 });
      this.palette = colour;
    }

    line(c, x0, y0, x1, y1, colour, width) {
      c.beginPath();
      c.moveTo(x0, y0);
      c.lineTo(x1, y1);
      c.strokeStyle = colour;
      c.lineWidth = width;
      c.stroke();
    }

    drawCursor(c) {
      const x = this.time(this.cursor);
      const top = this.rows[0].top;
      if (this.drag) {
        c.fillStyle = this.palette.gd;
        c.globalAlpha = 0.15;
        c.fillRect(this.time(this.drag.from), top, this.time(this.drag.to) - this.time(this.drag.from), this.bottom - top);
        c.globalAlpha = 1;
      }
      this.line(c, x, top, x, this.bottom, this.palette.ink, 0.8);
      for (const row of this.rows) {
        for (const { who, pairs } of row.drawn) {
          const pair = pairs.find(([t]) => t === this.cursor);
          if (!pair || pair[1] === null) continue;
          c.beginPath();
          c.arc(x, row.sy(pair[1]), 3.5, 0, 7);
          c.fillStyle = this.palette[who];
          c.fill();
          c.strokeStyle = this.palette.card;
          c.lineWidth = 1.5;
          c.stroke();
        }
      }
    }

    drawOverview(c, w, h) {
      const colour = this.colours();
      const [left, right] = [w < 520 ? 46 : 58, w - 10];
      this.whole = scale(0, this.data.steps - 1, left, right);
      const values = this.data.series.x.values;
      const most = values.reduce((m, v) => Math.max(m, Math.abs(v ?? 0)), 0) || 1;
      this.trace(c, values.map((v, t) => [t, v]), this.whole, scale(-most, most, h - 4, 4), colour.gd, 1);
      this.text(c, "x", left - 8, h / 2, colour.soft, { align: "right", size: 12 });
    }

    drawWindow(c, w, h) {
      const colour = this.palette;
      const [a, b] = [this.whole(this.begin), this.whole(this.end)];
      c.fillStyle = colour.card;
      c.globalAlpha = 0.7;
      c.fillRect(this.whole(0), 0, a - this.whole(0), h);
      c.fillRect(b, 0, this.whole(this.data.steps - 1) - b, h);
      c.globalAlpha = 1;
      c.strokeStyle = colour.ink;
      c.lineWidth = 1;
      c.strokeRect(a, 1, b - a, h - 2);
      c.fillStyle = colour.ink;
      for (const x of [a, b]) c.fillRect(x - 2, h / 2 - 9, 4, 18);
    }
  }

  function start() {
    const root = document.getElementById("explorer");
    const source = document.getElementById("explorer-data");
    if (root && source) window.eosExplorer = new Explorer(root, JSON.parse(source.textContent));
  }
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", start);
  else start();
})();
