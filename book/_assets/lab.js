/* The self-stabilization lab: sliders, transport and four linked pictures of `EosDynamics.iterate`.
 *
 * A plain script, so that it runs from file:// too.  The whole orbit is computed whenever a parameter changes (a few
 * hundred multiplications); playing only moves a cursor along it.
 */
(function () {
  "use strict";

  const dynamics = window.EosDynamics;
  const { clamp, show, element, ticks, scale, Picture } = window.EosPicture;

  // ------------------------------------------------------------------------------------------------ what can be set
  const PARAMETERS = [
    { key: "eta", symbol: "η", name: "learning rate", low: 0.005, high: 0.2, log: true },
    { key: "alpha", symbol: "α", name: "progressive sharpening", low: -1, high: 4, step: 0.05 },
    { key: "beta", symbol: "β", name: "self-stabilization", low: 0.1, high: 10, log: true },
    { key: "x0", symbol: "x₀", name: "start across the valley", low: 1e-4, high: 6, log: true },
    { key: "y0", symbol: "y₀", name: "start of S − 2/η", low: -4, high: 4, step: 0.05 },
    { key: "damping", symbol: "d", name: "damping of y a step", low: 0, high: 0.05, step: 0.0005 },
    { key: "quartic", symbol: "q", name: "quartic term of the valley", low: -0.2, high: 0.2, step: 0.005 },
  ];
  const HORIZONS = [200, 400, 800, 1600];
  const SPEEDS = [10, 30, 60, 120];
  const BASE = { eta: 0.05, alpha: 1, beta: 1, x0: 0.01, y0: -1.5, damping: 0.005, quartic: 0, n: 400 };
  const STAGES = ["", "progressive sharpening", "blow-up", "self-stabilization", "return to stability"];

  // `until` plays one stage and stops where it ends; `note` says what to look for.
  const PRESETS = [
    { id: "stage1", group: "stage", label: "Progressive sharpening", until: 1, set: { x0: 0.02, y0: -2 },
      note: "y climbs by ηα a step while |x| is too small to push back. The stage ends where the sharpness passes 2/η." },
    { id: "stage2", group: "stage", label: "Blow-up", until: 2, set: { x0: 0.02, y0: 0.02 },
      note: "Above 2/η each step flips x and multiplies it by 1 + ηy. The stage ends where |x| exceeds δ." },
    { id: "stage3", group: "stage", label: "Self-stabilization", until: 3, set: { x0: 1.45, y0: 2.3 },
      note: "Beyond δ the cubic force βx²/2 outweighs α and drives the sharpness down, while x still grows." },
    { id: "stage4", group: "stage", label: "Return to stability", until: 4, set: { x0: 3.9, y0: -0.02 },
      note: "Below 2/η the oscillation shrinks again; the sharpness falls until |x| is back inside δ." },
    { id: "cycles", group: "whole", label: "Three cycles", set: { n: 800 },
      note: "All four stages, again and again. The weak damping here just balances the outward drift of the discrete map." },
    { id: "damped", group: "whole", label: "Damped: settles at (δ, 0)", set: { x0: 0.15, y0: 0, damping: 0.02, n: 800 },
      note: "With d > 2ε² the two-cycle x = ±δ attracts: the sharpness comes to rest at 2/η." },
    { id: "spiral", group: "whole", label: "Undamped: spikes grow", set: { damping: 0, n: 800 },
      note: "The ODE closes its orbits; the discrete map does not. Without damping H grows a little at every step." },
    { id: "quartic", group: "whole", label: "Sub-quadratic: hovers above 2/η", set: { x0: 0.3, y0: 0, damping: 0, quartic: -0.1, n: 800 },
      note: "A valley that flattens outwards rests at y = −qδ² > 0, above the threshold, and damps itself." },
    { id: "leave", group: "whole", label: "α < 0: leaves the edge", set: { alpha: -0.5, x0: 0.02, y0: 2, damping: 0 },
      note: "Where the gradient flow would lower the sharpness there is nothing to balance: one burst, and then y falls for good." },
  ];

  // --------------------------------------------------------------------------------------------- state and its address
  function readHash() {
    const fields = new URLSearchParams(window.location.hash.replace(/^#/, ""));
    const found = {};
    for (const { key, low, high } of PARAMETERS) {
      const value = fields.has(key) ? Number(fields.get(key)) : NaN;
      if (Number.isFinite(value)) found[key] = clamp(value, low, high);
    }
    if (HORIZONS.includes(Number(fields.get("n")))) found.n = Number(fields.get("n"));
    const t = Number(fields.get("t"));
    return { settings: found, t: Number.isInteger(t) && t > 0 ? t : 0, any: Object.keys(found).length > 0 };
  }

  function makeHash(settings, t) {
    const fields = [...PARAMETERS.map(({ key }) => key), "n"].map((key) => `${key}=${settings[key]}`);
    return `#${fields.join("&")}&t=${t}`;
  }

  class Lab {
    constructor(root) {
      this.root = root;
      this.quiet = window.matchMedia("(prefers-reduced-motion: reduce)");
      const linked = readHash();
      this.settings = { ...BASE, ...linked.settings };
      this.t = linked.t;
      this.playing = false;
      this.until = 0;
      this.preset = linked.any ? null : "cycles";
      if (!linked.any) Object.assign(this.settings, PRESETS.find((p) => p.id === "cycles").set);
      this.speed = 60;
      this.carry = 0;
      this.build();
      this.readColours();
      this.compute();
      this.observe();
      this.root.setAttribute("data-ready", "true");
    }

    // -------------------------------------------------------------------------------------------------- the page parts
    build() {
      this.root.replaceChildren();
      this.root.append(this.buildPresets(), this.buildTransport(), this.buildPictures(), this.buildValues());
      this.live = element("p", { class: "lab-sr", role: "status", "aria-live": "polite", id: "lab-live" });
      this.root.append(this.live);
    }

    buildPresets() {
      const box = element("div", { class: "lab-presets" });
      this.presetButtons = new Map();
      const group = (kind, title) => {
        const list = element("div", { class: `lab-chips lab-chips-${kind}`, role: "group", "aria-label": title });
        list.append(element("span", { class: "lab-chips-title", "aria-hidden": "true" }, title));
        PRESETS.filter((p) => p.group === kind).forEach((preset) => {
          const button = element("button", { type: "button", class: "lab-chip", "data-preset": preset.id,
            "aria-pressed": "false" });
          if (preset.until) button.append(element("span", { class: "lab-badge", "data-stage": preset.until }, String(preset.until)));
          button.append(preset.label);
          button.addEventListener("click", () => this.usePreset(preset));
          this.presetButtons.set(preset.id, button);
          list.append(button);
        });
        return list;
      };
      box.append(group("stage", "One stage"), group("whole", "Whole runs"));
      this.note = element("p", { class: "lab-note" });
      box.append(this.note);
      return box;
    }

    buildTransport() {
      const bar = element("div", { class: "lab-transport", role: "group", "aria-label": "Run" });
      const button = (id, label, icon, action, extra = {}) => {
        const node = element("button", { type: "button", class: "lab-button", id: `lab-${id}`, title: label,
          "aria-label": label, ...extra });
        node.innerHTML = `<svg viewBox="0 0 16 16" aria-hidden="true">${icon}</svg>`;
        node.addEventListener("click", action);
        bar.append(node);
        return node;
      };
      button("reset", "Reset to step 0", '<path d="M3 3v10M13.5 3v10L5.5 8z"/>', () => this.reset());
      button("back", "One step back", '<path d="M11.5 3v10L4.5 8z"/>', () => this.move(-1));
      this.playButton = button("play", "Play", "", () => this.toggle(), { class: "lab-button lab-play" });
      button("step", "One step", '<path d="M4.5 3v10l7-5z"/>', () => this.move(1));
      button("next", "To the next stage", '<path d="M2.5 3v10l6-5zM8.5 3v10l6-5z"/>', () => this.nextStage());
      this.scrub = element("input", { type: "range", class: "lab-range lab-scrub", id: "lab-t", min: 0, step: 1,
        "aria-label": "Step t" });
      this.scrub.addEventListener("input", () => this.goTo(Number(this.scrub.value)));
      bar.append(this.scrub);
      this.clock = element("output", { class: "lab-clock", for: "lab-t", "aria-live": "off" });
      this.stageTag = element("span", { class: "lab-stage" });
      bar.append(this.clock, this.stageTag);
      return bar;
    }

    buildPictures() {
      const grid = element("div", { class: "lab-pictures" });
      const picture = (id, title, hint, draw) => {
        const canvas = element("canvas", { id: `lab-${id}`, role: "img", "aria-label": title });
        const figure = element("figure", { class: `lab-figure lab-figure-${id}` },
          element("figcaption", {}, element("b", {}, title), " ", element("span", {}, hint)), canvas);
        grid.append(figure);
        return new Picture(canvas, draw);
      };
      this.phase = picture("phase", "Phase plane", "size of the oscillation against excess sharpness",
        { still: this.phaseStill.bind(this), moving: this.phaseMoving.bind(this) });
      this.valley = picture("valley", "The valley from above", "contours of the loss; dark is high",
        { still: this.valleyStill.bind(this), moving: this.valleyMoving.bind(this) });
      this.series = picture("series", "In time", "drag to move in time",
        { still: this.seriesStill.bind(this), moving: this.seriesMoving.bind(this) });
      const drag = (event) => {
        if (!this.timeScale || !(event.buttons & 1)) return;
        const left = this.series.canvas.getBoundingClientRect().left;
        this.goTo(Math.round(this.timeScale.inverse(event.clientX - left)));
        event.preventDefault();
      };
      this.series.canvas.addEventListener("pointerdown", (event) => {
        this.series.canvas.setPointerCapture(event.pointerId);
        drag(event);
      });
      this.series.canvas.addEventListener("pointermove", drag);
      grid.append(this.buildControls());
      return grid;
    }

    buildControls() {
      const controls = element("div", { class: "lab-controls" });
      this.inputs = new Map();
      for (const parameter of PARAMETERS) {
        const { key, symbol, name, low, high, log, step } = parameter;
        const at = (v) => (log ? Math.log10(v) : v);
        const input = element("input", { type: "range", class: "lab-range", id: `lab-${key}`, min: at(low), max: at(high),
          step: log ? 0.005 : step });
        const output = element("output", { for: `lab-${key}`, "aria-live": "off" });
        const label = element("label", { for: `lab-${key}` }, element("i", {}, symbol), ` ${name}`);
        input.addEventListener("input", () => {
          const raw = Number(input.value);
          // At the ends of a logarithmic slider the exact bound; in between four digits are what a link should carry.
          this.settings[key] = clamp(Number((log ? 10 ** raw : raw).toPrecision(4)), low, high);
          this.preset = null;
          this.until = 0;
          this.compute();
        });
        this.inputs.set(key, { input, output, at });
        controls.append(element("div", { class: "lab-control" }, label, output, input));
      }
      const choice = (id, label, values, current, unit, change) => {
        const select = element("select", { id: `lab-${id}` },
          ...values.map((v) => element("option", { value: v, selected: v === current }, `${v}${unit}`)));
        select.addEventListener("change", () => change(Number(select.value)));
        controls.append(element("div", { class: "lab-control lab-choice" }, element("label", { for: `lab-${id}` }, label), select));
        return select;
      };
      this.horizon = choice("n", "steps computed", HORIZONS, this.settings.n, "", (v) => {
        this.settings.n = v;
        this.compute();
      });
      choice("speed", "speed of play", SPEEDS, this.speed, " steps/s", (v) => (this.speed = v));
      return controls;
    }

    buildValues() {
      const values = element("div", { class: "lab-values" });
      this.cells = new Map();
      const rows = [
        ["t", "step t", "now"], ["x", "x_t", "now"], ["r", "|x_t| / δ", "now"], ["y", "y_t", "now"],
        ["s", "sharpness 2/η + y_t", "now"], ["l", "loss L_t", "now"], ["e", "excess x_t²/η", "now"],
        ["h", "H − H₀", "now"],
        ["delta", "δ = √(2α/β)", "run"], ["eps", "ε = η√α", "run"], ["crit", "damping threshold 2ε²", "run"],
        ["period", "period near (δ, 0), √2π/ε", "run"], ["peak", "first peak by H₀, in δ", "run"],
        ["seen", "largest |x| so far, in δ", "run"],
      ];
      for (const [kind, title] of [["now", "At this step"], ["run", "Of this run"]]) {
        const body = element("tbody", {});
        values.append(element("table", {}, element("caption", {}, title), body));
        for (const [key, name] of rows.filter((r) => r[2] === kind)) {
          const cell = element("td", { id: `lab-value-${key}` });
          this.cells.set(key, cell);
          body.append(element("tr", {}, element("th", { scope: "row" }, name), cell));
        }
      }
      const link = element("div", { class: "lab-link" });
      this.address = element("input", { type: "text", readonly: true, id: "lab-address", "aria-label": "Link to this state" });
      const copy = element("button", { type: "button", class: "lab-chip", id: "lab-copy" }, "Copy link");
      copy.addEventListener("click", () => this.copyLink());
      this.address.addEventListener("focus", () => this.address.select());
      link.append(element("label", { for: "lab-address" }, "Link to this state"), this.address, copy);
      return element("div", { class: "lab-bottom" }, link, values);
    }

    // ------------------------------------------------------------------------------------------------------- computing
    compute() {
      const p = this.settings;
      this.orbit = dynamics.iterate(p, p.n);
      const { x, y } = this.orbit;
      this.unit = dynamics.lengthUnit(p);
      this.stage = dynamics.stages(x, y, p);
      this.loss = x.map((v, t) => dynamics.loss(v, y[t], p));
      this.last = x.length - 1;
      this.t = clamp(this.t, 0, this.last);
      // Axes: what the run covers, within reason where it runs away.
      const most = (values, floor, ceiling) =>
        clamp(values.reduce((m, v) => Math.max(m, Math.abs(v)), 0) * 1.08, floor, ceiling);
      this.xTop = most(x, 2.2 * this.unit, 9 * this.unit) / this.unit;
      this.yTop = most(y, 1.2 * Math.sqrt(Math.max(0.05, Math.abs(p.alpha))), 14 * Math.sqrt(Math.max(0.25, Math.abs(p.alpha))));
      this.scrub.max = String(this.last);
      for (const { key } of PARAMETERS) {
        const { input, output, at } = this.inputs.get(key);
        if (document.activeElement !== input || Math.abs(Number(input.value) - at(p[key])) > 0.01) input.value = String(at(p[key]));
        output.textContent = show(p[key]);
        input.setAttribute("aria-valuetext", show(p[key]));
        input.style.setProperty("--fill", `${((at(p[key]) - Number(input.min)) / (Number(input.max) - Number(input.min))) * 100}%`);
      }
      this.horizon.value = String(p.n);
      for (const [id, button] of this.presetButtons) button.setAttribute("aria-pressed", String(id === this.preset));
      const preset = PRESETS.find((entry) => entry.id === this.preset);
      this.note.textContent = preset ? preset.note
        : this.orbit.status === "diverged" ? `This orbit diverges at step ${this.last + 1}: the picture ends there.`
          : "Your own setting. The faint curve is where the run is going to go.";
      for (const picture of [this.phase, this.valley, this.series]) picture.stale = true;
      this.refresh();
      this.saveSoon();
    }

    readColours() {
      const style = window.getComputedStyle(this.root);
      const get = (name) => style.getPropertyValue(`--lab-${name}`).trim();
      this.colour = {};
      for (const name of ["ink", "muted", "grid", "card", "gd", "constrained", "predicted", "threshold", "floor", "wall",
        "contour", "stage1", "stage2", "stage3", "stage4"]) this.colour[name] = get(name);
      this.font = style.fontFamily;
    }

    observe() {
      const restyle = () => {
        this.readColours();
        for (const picture of [this.phase, this.valley, this.series]) picture.stale = true;
        this.refresh();
      };
      new MutationObserver(restyle).observe(document.documentElement, { attributes: true, attributeFilter: ["data-theme"] });
      window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", restyle);
      new ResizeObserver(restyle).observe(this.root);
      document.fonts.addEventListener("loadingdone", restyle);
      const motion = () => {
        this.root.toggleAttribute("data-quiet", this.quiet.matches);
        this.playButton.hidden = this.quiet.matches;
        if (this.quiet.matches) this.pause();
      };
      this.quiet.addEventListener("change", motion);
      motion();
      window.addEventListener("hashchange", () => {
        const linked = readHash();
        if (!linked.any || window.location.hash === this.written) return;
        Object.assign(this.settings, BASE, linked.settings);
        this.t = linked.t;
        this.preset = null;
        this.until = 0;
        this.pause();
        this.compute();
      });
      document.addEventListener("visibilitychange", () => document.hidden && this.pause());
      if (!this.quiet.matches && !window.location.hash) {
        // Starts by itself, once, when most of the lab is first seen; Pause is the first control in reach.
        const watcher = new IntersectionObserver((entries) => {
          if (!entries.some((e) => e.isIntersecting)) return;
          watcher.disconnect();
          if (!this.touched) this.play();
        }, { threshold: 0.6 });
        watcher.observe(this.phase.canvas);
        this.root.addEventListener("pointerdown", () => (this.touched = true), { once: true, capture: true });
        this.root.addEventListener("keydown", () => (this.touched = true), { once: true, capture: true });
      }
    }

    // ----------------------------------------------------------------------------------------------------------- moving
    usePreset(preset) {
      this.pause();
      Object.assign(this.settings, BASE, preset.set);
      this.preset = preset.id;
      this.until = preset.until || 0;
      this.t = 0;
      this.compute();
      this.say(`${preset.label}. ${preset.note}`);
      if (!this.quiet.matches) this.play();
    }

    toggle() {
      if (this.playing) this.pause();
      else this.play();
    }

    play() {
      if (this.playing || this.quiet.matches) return;
      if (this.t >= this.last) this.t = 0;
      this.playing = true;
      this.carry = 0;
      this.before = null;
      const frame = (now) => {
        if (!this.playing) return;
        if (this.before !== null) this.carry += (Math.min(now - this.before, 100) * this.rate()) / 1000;
        this.before = now;
        while (this.carry >= 1 && this.playing) {
          this.carry -= 1;
          this.advance();
        }
        this.refresh();
        if (this.playing) window.requestAnimationFrame(frame);
      };
      window.requestAnimationFrame(frame);
      this.refresh();
    }

    /** Stage presets are short: they play slowly enough for single bounces to be seen. */
    rate() {
      return this.until >= 3 ? Math.min(this.speed, 12) : this.until ? Math.min(this.speed, 30) : this.speed;
    }

    advance() {
      const before = this.stage[this.t];
      if (this.t >= this.last) {
        this.pause(`End of the run at step ${this.t}. ${this.describe()}`);
        return;
      }
      this.t += 1;
      const now = this.stage[this.t];
      if (this.until && now !== this.until && before === this.until) {
        this.until = 0;
        this.pause(`Stage ${before}, ${STAGES[before]}, ends at step ${this.t}. ${this.describe()}`);
      } else if (now !== before && this.playing) {
        this.say(`Step ${this.t}: ${now ? `stage ${now}, ${STAGES[now]}` : "off the edge"}.`);
      }
    }

    pause(message) {
      const was = this.playing;
      this.playing = false;
      if (was) {
        this.say(message || `Paused. ${this.describe()}`);
        this.saveSoon();
      }
      this.refresh();
    }

    reset() {
      this.pause();
      const preset = PRESETS.find((entry) => entry.id === this.preset);
      this.until = (preset && preset.until) || 0;
      this.goTo(0);
    }

    move(by) {
      this.pause();
      this.goTo(this.t + by);
    }

    nextStage() {
      this.pause();
      let t = this.t + 1;
      while (t < this.last && this.stage[t] === this.stage[this.t]) t += 1;
      this.goTo(t);
    }

    goTo(t) {
      this.playing = false;
      this.t = clamp(t, 0, this.last);
      this.refresh();
      this.say(this.describe());
      this.saveSoon();
    }

    /** Announce politely, the latest message only, at most one every 1.2 seconds. */
    say(text) {
      this.message = text;
      if (this.saying) return;
      this.saying = window.setTimeout(() => {
        this.saying = null;
        this.live.textContent = this.message;
      }, 1200);
    }

    describe() {
      const [x, y] = [this.orbit.x[this.t], this.orbit.y[this.t]];
      const k = this.stage[this.t];
      return `Step ${this.t}${k ? `, stage ${k}, ${STAGES[k]}` : ""}: x ${show(x)}, sharpness ` +
        `${show(dynamics.sharpness(y, this.settings))} against 2/η ${show(2 / this.settings.eta)}, loss ${show(this.loss[this.t])}.`;
    }

    saveSoon() {
      window.clearTimeout(this.saving);
      const base = window.location.href.replace(/#.*$/, "");
      this.address.value = base + makeHash(this.settings, this.t);
      if (!this.saved) { // an untouched page keeps a clean address
        this.saved = true;
        return;
      }
      this.saving = window.setTimeout(() => {
        if (this.playing) return;
        this.written = makeHash(this.settings, this.t);
        try {
          window.history.replaceState(null, "", this.written);
        } catch (error) { // an address that the browser guards: the link field still carries the state
          this.written = null;
        }
      }, 250);
    }

    async copyLink() {
      this.saveSoon();
      this.address.focus();
      this.address.select();
      try {
        await navigator.clipboard.writeText(this.address.value);
        this.say("Link copied.");
      } catch (error) {
        this.say(document.execCommand("copy") ? "Link copied." : "The link is selected: copy it with the keyboard.");
      }
    }

    // ---------------------------------------------------------------------------------------------------------- showing
    refresh() {
      if (this.pending) return;
      this.pending = window.requestAnimationFrame(() => {
        this.pending = null;
        this.showValues();
        for (const picture of [this.phase, this.valley, this.series]) picture.paint();
      });
    }

    showValues() {
      const p = this.settings;
      const t = this.t;
      const [x, y] = [this.orbit.x[t], this.orbit.y[t]];
      const delta = dynamics.radius(p);
      const eps = dynamics.epsilon(p);
      let seen = 0;
      for (let i = 0; i <= t; i += 1) seen = Math.max(seen, Math.abs(this.orbit.x[i]));
      const values = {
        t, x, r: Math.abs(x) / delta, y, s: dynamics.sharpness(y, p), l: this.loss[t], e: (x * x) / p.eta,
        h: dynamics.conserved(x, y, p) - dynamics.conserved(p.x0, p.y0, p),
        delta, eps, crit: 2 * eps * eps, period: dynamics.smallPeriod(p),
        peak: dynamics.peak(p.x0, p.y0, p) / delta, seen: seen / delta,
      };
      for (const [key, value] of Object.entries(values)) {
        const cell = this.cells.get(key);
        const text = key === "t" ? String(value) : show(value, 7);
        if (cell.textContent !== text) cell.textContent = text;
        cell.dataset.value = String(value);
      }
      this.scrub.value = String(t);
      this.scrub.style.setProperty("--fill", `${(t / Math.max(1, this.last)) * 100}%`);
      this.scrub.setAttribute("aria-valuetext", `step ${t} of ${this.last}`);
      this.clock.textContent = `t = ${t}`;
      const k = this.stage[t];
      this.stageTag.dataset.stage = String(k);
      this.stageTag.textContent = k ? `${k} ${STAGES[k]}` : "off the edge";
      const label = this.playing ? "Pause" : "Play";
      if (this.playButton.getAttribute("aria-label") !== label) {
        this.playButton.setAttribute("aria-label", label);
        this.playButton.title = label;
        this.playButton.querySelector("svg").innerHTML = this.playing
          ? '<path d="M3.5 2.5h3.4v11H3.5zM9.1 2.5h3.4v11H9.1z"/>' : '<path d="M4 2v12l10-6z"/>';
      } else if (!this.playButton.querySelector("svg").innerHTML) {
        this.playButton.querySelector("svg").innerHTML = '<path d="M4 2v12l10-6z"/>';
      }
      if (!this.playing) {
        const words = this.describe();
        this.phase.canvas.setAttribute("aria-label", `Phase plane of |x|/δ and y with level sets and the orbit. ${words}`);
        this.valley.canvas.setAttribute("aria-label", `Contours of the loss valley with the iterate at x ${show(x)}, y ${show(y)}.`);
        this.series.canvas.setAttribute("aria-label", `x, sharpness and loss against the step, ${this.last + 1} values. ${words}`);
      }
    }

    text(c, words, x, y, { align = "left", base = "middle", colour = this.colour.muted, size = 11, weight = 400 } = {}) {
      c.font = `${weight} ${size}px ${this.font}`;
      c.textAlign = align;
      c.textBaseline = base;
      c.fillStyle = colour;
      c.fillText(words, x, y);
    }

    line(c, points, colour, width = 1, dash = []) {
      c.beginPath();
      points.forEach(([x, y], i) => (i ? c.lineTo(x, y) : c.moveTo(x, y)));
      c.strokeStyle = colour;
      c.lineWidth = width;
      c.setLineDash(dash);
      c.stroke();
      c.setLineDash([]);
    }

    /** Frame shared by the two square pictures: same y axis, so that the eye can go across. */
    frame(c, w, h, left, xLow, xHigh, xLabel, yLabel) {
      const box = { l: left, r: w - 10, t: 10, b: h - 34 };
      const sx = scale(xLow, xHigh, box.l, box.r);
      const sy = scale(-this.yTop, this.yTop, box.b, box.t);
      c.beginPath();
      c.rect(box.l, box.t, box.r - box.l, box.b - box.t);
      c.save();
      c.clip();
      return { box, sx, sy, finish: () => {
        c.restore();
        for (const v of ticks(xLow, xHigh, 5)) this.text(c, show(v, 3), sx(v), box.b + 11, { align: "center" });
        for (const v of ticks(-this.yTop, this.yTop, 6)) this.text(c, show(v, 3), box.l - 6, sy(v), { align: "right" });
        this.text(c, xLabel, (box.l + box.r) / 2, h - 8, { align: "center", size: 12, colour: this.colour.ink });
        c.save();
        c.translate(9, (box.t + box.b) / 2);
        c.rotate(-Math.PI / 2);
        this.text(c, yLabel, 0, 0, { align: "center", size: 12, colour: this.colour.ink });
        c.restore();
        this.line(c, [[box.l, box.b + 0.5], [box.r, box.b + 0.5]], this.colour.grid);
        this.line(c, [[box.l - 0.5, box.t], [box.l - 0.5, box.b]], this.colour.grid);
      } };
    }

    phaseStill(c, w, h) {
      const p = this.settings;
      const unitName = p.alpha > 0 ? "|x| / δ" : p.alpha < 0 ? "|x| / √(2|α|/β)" : "|x|";
      const { box, sx, sy, finish } = this.frame(c, w, h, 40, 0, this.xTop, unitName, "y = S − 2/η");
      if (p.alpha > 0) { // the four stages are the four quadrants around (δ, 0)
        const quadrants = [[0, 0, 1], [0, 1, 2], [1, 1, 3], [1, 0, 4]];
        for (const [right, up, k] of quadrants) {
          c.fillStyle = this.colour[`stage${k}`];
          c.fillRect(right ? sx(1) : box.l, up ? box.t : sy(0), right ? box.r - sx(1) : sx(1) - box.l, up ? sy(0) - box.t : box.b - sy(0));
        }
        const spots = [[box.l + 8, box.b - 12, 1, "left"], [box.l + 8, box.t + 12, 2, "left"],
          [box.r - 8, box.t + 12, 3, "right"], [box.r - 8, box.b - 12, 4, "right"]];
        for (const [x, y, k, align] of spots) {
          const words = align === "right" ? `${STAGES[k]}  ${k}` : String(k);
          this.text(c, words, x, y, { align, size: 11, weight: 600 });
        }
      }
      // Level sets of H, solved for y at each |x|.
      const level = (height, colour, width, dash) => {
        const upper = [];
        for (let i = 1; i <= 400; i += 1) {
          const x = (this.xTop * this.unit * (i / 400) ** 2);
          const left = height - (p.beta * x * x) / 4 + (p.alpha === 0 ? 0 : p.alpha * Math.log(x));
          if (left >= 0) upper.push([sx(x / this.unit), sy(Math.sqrt(2 * left)), sy(-Math.sqrt(2 * left))]);
        }
        if (upper.length < 2) return;
        const loop = [...upper.map(([x, a]) => [x, a]), ...upper.reverse().map(([x, , b]) => [x, b])];
        if (p.alpha > 0) loop.push(loop[0]);
        this.line(c, loop, colour, width, dash);
      };
      const at = (x, y) => dynamics.conserved(x * this.unit, y, p);
      for (const x of p.alpha > 0 ? [0.7, 0.35, 0.1, 1e-2, 1e-4, 1e-8] : [0.3, 0.8, 1.5, 2.4, 3.5, 5]) level(at(x, 0), this.colour.grid, 1);
      level(dynamics.conserved(p.x0, p.y0, p), this.colour.muted, 1.2, [2, 3]);
      this.line(c, [[box.l, sy(0)], [box.r, sy(0)]], this.colour.threshold, 1.2, [6, 4]);
      if (p.alpha > 0) this.line(c, [[sx(1), box.t], [sx(1), box.b]], this.colour.grid, 1);
      const { x, y } = this.orbit;
      c.globalAlpha = 0.35;
      this.line(c, x.map((v, t) => [sx(Math.abs(v) / this.unit), sy(y[t])]), this.colour.gd, 1);
      c.globalAlpha = 1;
      const rest = dynamics.restPoint(p);
      if (rest) {
        c.beginPath();
        c.arc(sx(rest.x / this.unit), sy(rest.y), 4, 0, 7);
        c.fillStyle = this.colour.card;
        c.fill();
        c.strokeStyle = this.colour.ink;
        c.lineWidth = 1.6;
        c.stroke();
      }
      finish();
      this.phaseScales = { box, sx, sy };
    }

    phaseMoving(c) {
      const { box, sx, sy } = this.phaseScales;
      const { x, y } = this.orbit;
      c.save();
      c.beginPath();
      c.rect(box.l, box.t, box.r - box.l, box.b - box.t);
      c.clip();
      const points = [];
      for (let t = 0; t <= this.t; t += 1) points.push([sx(Math.abs(x[t]) / this.unit), sy(y[t])]);
      this.line(c, points, this.colour.gd, 1.6);
      c.fillStyle = this.colour.gd;
      for (let t = Math.max(0, this.t - 60); t < this.t; t += 1) {
        c.globalAlpha = 1 - (this.t - t) / 70;
        c.beginPath();
        c.arc(points[t][0], points[t][1], 2.2, 0, 7);
        c.fill();
      }
      c.globalAlpha = 1;
      this.dot(c, points[this.t][0], points[this.t][1]);
      c.restore();
    }

    dot(c, x, y, radius = 5.5) {
      c.beginPath();
      c.arc(x, y, radius, 0, 7);
      c.fillStyle = this.colour.gd;
      c.fill();
      c.strokeStyle = this.colour.card;
      c.lineWidth = 2;
      c.stroke();
    }

    valleyStill(c, w, h) {
      const p = this.settings;
      const wide = this.xTop * this.unit;
      const { box, sx, sy, finish } = this.frame(c, w, h, 40, -wide, wide, "x, across the valley", "y, along the valley");
      const lambda = p.damping / (p.eta * p.beta);
      const floor = (y) => -(p.alpha / p.beta) * y + (lambda * y * y) / 2;
      const lowest = Math.min(...Array.from({ length: 81 }, (_, i) => floor(-this.yTop + (2 * this.yTop * i) / 80)));
      const highest = dynamics.loss(wide, this.yTop, { ...p, quartic: Math.max(p.quartic, 0) });
      const count = 13;
      c.fillStyle = this.colour.wall;
      c.fillRect(box.l, box.t, box.r - box.l, box.b - box.t);
      for (let k = count; k >= 1; k -= 1) {
        const height = lowest + (highest - lowest) * (k / count) ** 2;
        const edge = [];
        for (let i = 0; i <= 240; i += 1) {
          const y = -this.yTop + (2 * this.yTop * i) / 240;
          const rest = height - floor(y);
          const stiff = 2 / p.eta + y;
          // quartic s²/4 + stiff s/2 = rest for s = x²; beyond the rim of a flattening valley the whole row is inside
          const inside = stiff * stiff + 4 * p.quartic * rest;
          if (rest < 0) continue;
          const s = inside < 0 || stiff <= 0 ? 4 * wide * wide : (4 * rest) / (stiff + Math.sqrt(inside));
          edge.push([y, Math.sqrt(Math.min(s, 4 * wide * wide))]);
        }
        if (edge.length < 2) continue;
        c.beginPath();
        edge.forEach(([y, x], i) => (i ? c.lineTo(sx(x), sy(y)) : c.moveTo(sx(x), sy(y))));
        [...edge].reverse().forEach(([y, x]) => c.lineTo(sx(-x), sy(y)));
        c.closePath();
        c.fillStyle = this.colour.floor;
        c.globalAlpha = 0.2;
        c.fill();
        c.globalAlpha = 0.75;
        c.strokeStyle = this.colour.contour;
        c.lineWidth = 0.7;
        c.stroke();
        c.globalAlpha = 1;
      }
      this.line(c, [[box.l, sy(0)], [box.r, sy(0)]], this.colour.threshold, 1.2, [6, 4]);
      this.text(c, "S = 2/η", box.r - 7, sy(0) - 8, { align: "right", size: 11, weight: 600, colour: this.colour.ink });
      this.text(c, "sharper ↑", box.r - 7, box.t + 12, { align: "right", size: 11, colour: this.colour.ink });
      this.text(c, "flatter ↓", box.r - 7, box.b - 12, { align: "right", size: 11, colour: this.colour.ink });
      // θ† rests on the floor of the valley, at the edge
      if (p.alpha > 0) {
        c.beginPath();
        c.arc(sx(0), sy(0), 4.5, 0, 7);
        c.fillStyle = this.colour.constrained;
        c.fill();
        this.text(c, "θ†", sx(0) + 8, sy(0) + 11, { size: 12, weight: 600, colour: this.colour.constrained });
      }
      finish();
      this.valleyScales = { box, sx, sy };
    }

    valleyMoving(c) {
      const { box, sx, sy } = this.valleyScales;
      const { x, y } = this.orbit;
      c.save();
      c.beginPath();
      c.rect(box.l, box.t, box.r - box.l, box.b - box.t);
      c.clip();
      const from = Math.max(0, this.t - 44);
      for (let t = from; t < this.t; t += 1) {
        const age = (this.t - t) / 46;
        c.globalAlpha = (1 - age) ** 1.5;
        this.line(c, [[sx(x[t]), sy(y[t])], [sx(x[t + 1]), sy(y[t + 1])]], this.colour.gd, 1.1);
        c.beginPath();
        c.arc(sx(x[t]), sy(y[t]), 2, 0, 7);
        c.fillStyle = this.colour.gd;
        c.fill();
      }
      c.globalAlpha = 1;
      this.dot(c, sx(x[this.t]), sy(y[this.t]));
      c.restore();
    }

    seriesStill(c, w, h) {
      const p = this.settings;
      const left = w < 480 ? 44 : 52;
      const right = w - 12;
      const gap = 16;
      const each = (h - 36 - 18 - 2 * gap) / 3;
      const { x, y } = this.orbit;
      const st = scale(0, Math.max(1, p.n), left, right);
      this.timeScale = st;
      const sharp = y.map((v) => dynamics.sharpness(v, p));
      const excess = x.map((v) => (v * v) / p.eta);
      const range = (values, pad = 0.08) => {
        let [lo, hi] = [Infinity, -Infinity];
        for (const v of values) { lo = Math.min(lo, v); hi = Math.max(hi, v); }
        const extra = (hi - lo || 1) * pad;
        return [lo - extra, hi + extra];
      };
      const limit = this.xTop * this.unit;
      const lossTop = Math.max(...this.loss.filter((v, t) => Math.abs(x[t]) <= limit), 1e-3);
      const lossLow = Math.min(...this.loss.filter((v, t) => Math.abs(y[t]) <= this.yTop), 0);
      const rows = [
        { name: "x", symbol: "x", values: x, span: [-limit, limit], bars: true },
        { name: "sharpness", symbol: "S", values: sharp, span: range([...sharp.map((v) => clamp(v, 2 / p.eta - this.yTop, 2 / p.eta + this.yTop)), 2 / p.eta]), threshold: 2 / p.eta },
        { name: "loss", symbol: "L", values: this.loss, span: range([lossLow, lossTop]), second: excess },
      ];
      // stage tints run through all rows
      let begin = 0;
      for (let t = 1; t <= this.last + 1; t += 1) {
        if (t <= this.last && this.stage[t] === this.stage[begin]) continue;
        const k = this.stage[begin];
        if (k) {
          c.fillStyle = this.colour[`stage${k}`];
          const [a, b] = [st(begin), st(Math.min(t, this.last))];
          c.fillRect(a, 18, b - a, h - 36 - 18);
          if (b - a > 13) this.text(c, String(k), (a + b) / 2, 9, { align: "center", size: 10, weight: 600 });
        }
        begin = t;
      }
      rows.forEach((row, i) => {
        row.top = 18 + i * (each + gap);
        row.scale = scale(row.span[0], row.span[1], row.top + each, row.top);
        c.save();
        c.beginPath();
        c.rect(left, row.top, right - left, each);
        c.clip();
        if (row.bars && p.alpha > 0) {
          for (const v of [this.unit, -this.unit]) this.line(c, [[left, row.scale(v)], [right, row.scale(v)]], this.colour.muted, 0.8, [2, 3]);
        }
        if (row.threshold !== undefined) this.line(c, [[left, row.scale(row.threshold)], [right, row.scale(row.threshold)]], this.colour.threshold, 1.2, [6, 4]);
        c.globalAlpha = 0.35;
        this.line(c, row.values.map((v, t) => [st(t), row.scale(v)]), this.colour.gd, 1);
        c.globalAlpha = 1;
        c.restore();
        for (const v of ticks(row.span[0], row.span[1], Math.max(2, each / 28))) this.text(c, show(v, 3), left - 6, row.scale(v), { align: "right" });
        this.line(c, [[left, row.top + each + 0.5], [right, row.top + each + 0.5]], this.colour.grid);
        this.text(c, row.name, left + 6, row.top + 9, { size: 12, weight: 600, colour: this.colour.ink });
      });
      if (p.alpha > 0) this.text(c, "±δ", right - 4, rows[0].scale(this.unit) - 7, { align: "right", size: 11 });
      this.text(c, "2/η", right - 4, rows[1].scale(2 / p.eta) - 8, { align: "right", size: 11, weight: 600, colour: this.colour.ink });
      this.text(c, "x²/η", left + 42, rows[2].top + 9, { size: 12, weight: 600, colour: this.colour.predicted });
      for (const t of ticks(0, p.n, w < 480 ? 4 : 8)) this.text(c, String(t), st(t), h - 25, { align: "center" });
      this.text(c, "step t", (left + right) / 2, h - 8, { align: "center", size: 12, colour: this.colour.ink });
      this.rows = { rows, each, left, right, st, bottom: h - 36 };
    }

    seriesMoving(c) {
      const { rows, each, left, right, st, bottom } = this.rows;
      for (const row of rows) {
        c.save();
        c.beginPath();
        c.rect(left - 1, row.top, right - left + 2, each);
        c.clip();
        const past = [];
        for (let t = 0; t <= this.t; t += 1) past.push([st(t), row.scale(row.values[t])]);
        this.line(c, past, this.colour.gd, row.bars ? 1 : 1.6);
        if (row.second) {
          this.line(c, past.map(([x], t) => [x, row.scale(row.second[t])]), this.colour.predicted, 1.4, [4, 3]);
        }
        c.restore();
      }
      const now = st(this.t);
      this.line(c, [[now, 18], [now, bottom]], this.colour.ink, 1);
      for (const row of rows) {
        const y = clamp(row.scale(row.values[this.t]), row.top, row.top + each);
        this.dot(c, now, y, 4);
      }
    }
  }

  function start() {
    const root = document.getElementById("lab");
    if (root) window.eosLab = new Lab(root);
  }
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", start);
  else start();
})();
