/* The self-stabilization lab: sliders, transport and linked pictures of `EosDynamics.iterate`.
 *
 * A plain script, so that it runs from file:// too.  The whole orbit is computed whenever a parameter changes (a few
 * hundred multiplications); playing only moves a cursor along it.
 */
(function () {
  "use strict";

  const dynamics = EosDynamics;
  const { clamp, show, element, button, group, press, slider, choice, quantities, announcer, palette, restyled,
    oncePerFrame } = window.EosWidgets;

  // ------------------------------------------------------------------------------------------------ what can be set
  const PARAMETERS = [
    { key: "eta", symbol: "η", name: "learning rate", low: 0.005, high: 0.2, log: true },
    { key: "alpha", symbol: "α", name: "progressive sharpening", low: -1, high: 4, step: 0.05 },
    { key: "beta", symbol: "β", name: "self-stabilization", low: 0.1, high: 10, log: true },
    { key: "x0", symbol: "x₀", name: "start along u", low: 1e-4, high: 6, log: true },
    { key: "y0", symbol: "y₀", name: "start of the excess sharpness", low: -4, high: 4, step: 0.05 },
    { key: "damping", symbol: "d", name: "damping of y per step", low: 0, high: 0.05, step: 0.0005 },
    { key: "quartic", symbol: "q", name: "quartic term of the valley", low: -0.2, high: 0.2, step: 0.005 },
    { key: "kappa", symbol: "κ", name: "skewness of the valley", low: 0, high: 6, step: 0.05 },
  ];
  const HORIZONS = [200, 400, 800, 1600]; // steps computed
  const SPEEDS = [10, 30, 60, 120]; // steps a second
  const BASE = { eta: 0.05, alpha: 1, beta: 1, x0: 0.01, y0: -1.5, damping: 0.005, quartic: 0, kappa: 0, n: 400 };
  const STAGES = ["", "progressive sharpening", "blow-up", "self-stabilization", "return to stability"];

  // `until` plays one stage and stops where it ends; `note` says what to look for.
  const PRESETS = [
    { id: "stage1", group: "stage", label: "Progressive sharpening", until: 1, set: { x0: 0.02, y0: -2 },
      note: "y climbs by about ηα per step while |x| is too small to push back. The stage ends where the sharpness passes 2/η." },
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
    { id: "skew", group: "whole", label: "Skew: settles undamped", set: { x0: 0.3, y0: 0, damping: 0, kappa: 6, n: 800 },
      note: "One wall is steeper than the other. With κ > 2 that alone turns the spiral inwards, without any damping of y." },
    { id: "leave", group: "whole", label: "α < 0: leaves the edge", set: { alpha: -0.5, x0: 0.02, y0: 2, damping: 0 },
      note: "Where the gradient flow would lower the sharpness there is nothing to balance: one burst, and then y falls indefinitely." },
  ];

  // Two directions: A = diag(1, α₂), so that ε = η
  const PAIR = [
    { key: "eta", symbol: "ε = η", name: "learning rate", low: 0.005, high: 0.1, log: true },
    { key: "coupling", symbol: "g", name: "coupling of the two", low: 0, high: 2, step: 0.05 },
    { key: "second", symbol: "α₂", name: "sharpening of the second", low: -0.5, high: 1, step: 0.05 },
    { key: "damping", symbol: "d", name: "damping of Y per step", low: 0, high: 0.1, step: 0.001 },
  ];
  const PAIR_BASE = { eta: 0.05, coupling: 1.4, second: 0.6, damping: 0.005, z0: [0.5, 0.3] };
  const PAIR_STEPS = 4000;

  // Maps small enough to solve: the cubic map of (x² − 1)²/4 and gradient descent on log cosh(xy)
  const MAPS = [
    { key: "a", symbol: "a", name: "step size ηS_min/2, one number", low: 0.5, high: 2.05, step: 0.005 },
    { key: "x0", symbol: "x₀", name: "start", low: 0.05, high: 1.4, step: 0.01 },
    { key: "eta", symbol: "η", name: "step size, two factors", low: 0.03, high: 0.3, log: true },
    { key: "p0", symbol: "p₀", name: "start, xy", low: 0.02, high: 2, log: true },
    { key: "steep", symbol: "1/q₀", name: "start, steepness over 2/η", low: 1.05, high: 2, step: 0.01 },
  ];
  const MAPS_BASE = { a: 1.1, x0: 0.4, eta: 0.125, p0: 0.3, steep: 1.4 };
  const MAPS_STEPS = 60;
  const valleySteps = (eta) => Math.round(6 / (eta * eta)); // the way along the curve takes of the order 1/(3η²)

  const ICONS = {
    reset: "M3 3v10M13.5 3v10L5.5 8z", back: "M11.5 3v10L4.5 8z", play: "M4 2v12l10-6z", step: "M4.5 3v10l7-5z",
    pause: "M3.5 2.5h3.4v11H3.5zM9.1 2.5h3.4v11H9.1z", next: "M2.5 3v10l6-5zM8.5 3v10l6-5z",
  };
  // How the pictures draw the step itself, what is still to come, and levels across.
  const NOW = { fill: "gd", stroke: "plot-card", width: 2 };
  const FUTURE = { stroke: "gd", alpha: 0.35 };
  const THRESHOLD = { stroke: "threshold", width: 1.2, dash: [6, 4] };
  const RADIUS = { stroke: "ink-soft", width: 0.8, dash: [2, 3] };

  const largest = (values) => values.reduce((most, v) => Math.max(most, Math.abs(v)), 0);

  /** Name and picture of a button of the transport. */
  function dress(node, icon, label) {
    if (node.title === label) return;
    node.title = label;
    node.setAttribute("aria-label", label);
    node.innerHTML = `<svg viewBox="0 0 16 16" aria-hidden="true"><path d="${ICONS[icon]}"/></svg>`;
  }

  /** A slider for a parameter; `act` gets its value. */
  function control(prefix, { key, symbol, name, low, high, log, step }, act) {
    const [to, from] = log ? [Math.log10, (v) => 10 ** v] : [Number, Number];
    const limits = { class: "lab-range", min: to(low), max: to(high), step: log ? 0.005 : step };
    // At the ends of a logarithmic slider the exact bound; in between four digits are what a link should carry.
    const { box, set } = slider(`${prefix}-${key}`, "lab-control", [element("i", {}, symbol), ` ${name}`], limits,
      (raw) => act(clamp(Number(from(raw).toPrecision(4)), low, high)));
    return { box, show: (value) => set(to(value), show(value)) };
  }

  /** A picture's box, kept in `boxes`, with its caption. */
  function figure(boxes, id, title, hint, ...inside) {
    const box = boxes[id] = element("div", { id: `lab-${id}`, class: "plots", role: "img" }, ...inside);
    const caption = element("figcaption", {}, element("b", {}, title), " ", element("span", {}, hint));
    return element("figure", { class: `lab-figure lab-figure-${id}` }, caption, box);
  }

  // --------------------------------------------------------------------------------------------- state and its address
  /** What the address gives, like a preset: settings `set` and step `t`; null where it gives no setting. */
  function readHash() {
    const fields = new URLSearchParams(window.location.hash.slice(1));
    const set = {};
    for (const { key, low, high } of PARAMETERS) {
      const value = fields.has(key) ? Number(fields.get(key)) : NaN;
      if (Number.isFinite(value)) set[key] = clamp(value, low, high);
    }
    const [n, t] = [Number(fields.get("n")), Number(fields.get("t"))];
    if (HORIZONS.includes(n)) set.n = n;
    return Object.keys(set).length ? { set, t: Number.isInteger(t) && t > 0 ? t : 0 } : null;
  }

  class Lab {
    constructor(root) {
      Object.assign(this, { root, playing: false, speed: 60, carry: 0, settings: {} });
      this.quiet = window.matchMedia("(prefers-reduced-motion: reduce)");
      this.colour = palette(root);
      this.refresh = oncePerFrame(() => this.showNow());
      this.live = announcer("lab");
      this.say = this.live.say;
      root.replaceChildren(this.buildPresets(), this.buildTransport(), this.buildPictures(), this.buildValues(), this.live.node);
      this.begin(readHash() ?? PRESETS.find(({ id }) => id === "cycles"));
      this.observe();
      root.setAttribute("data-ready", "true");
    }

    // -------------------------------------------------------------------------------------------------- the page parts
    buildPresets() {
      const choose = (preset) => {
        this.begin(preset);
        this.say(`${preset.label}. ${preset.note}`);
        this.play();
      };
      const badge = (until) => (until ? [element("span", { class: "lab-badge", "data-stage": until }, until)] : []);
      this.chips = new Map(PRESETS.map((preset) => [preset, button(
        { class: "lab-chip", "data-preset": preset.id, onclick: () => choose(preset) }, ...badge(preset.until), preset.label)]));
      const chips = (kind, title) => group(`lab-chips lab-chips-${kind}`, title,
        element("span", { class: "lab-chips-title", "aria-hidden": "true" }, title),
        ...PRESETS.filter((preset) => preset.group === kind).map((preset) => this.chips.get(preset)));
      this.note = element("p", { class: "lab-note" });
      return element("div", { class: "lab-presets" }, chips("stage", "One stage"), chips("whole", "Whole runs"), this.note);
    }

    buildTransport() {
      const icon = (id, label, onclick, kind = "") => {
        const node = button({ class: `lab-button ${kind}`, id: `lab-${id}`, onclick });
        dress(node, id, label);
        return node;
      };
      this.playButton = icon("play", "Play", () => (this.playing ? this.pause() : this.play()), "lab-play");
      this.scrub = slider("lab-t", "", [], { class: "lab-range lab-scrub", "aria-label": "Step t" }, (t) => this.goTo(t));
      this.scrub.output.className = "lab-clock";
      this.stageTag = element("span", { class: "lab-stage" });
      return group("lab-transport", "Run", icon("reset", "Reset to step 0", () => this.reset()),
        icon("back", "One step back", () => this.goTo(this.t - 1)), this.playButton,
        icon("step", "One step", () => this.goTo(this.t + 1)), icon("next", "To the next stage", () => this.nextStage()),
        this.scrub.input, this.scrub.output, this.stageTag);
    }

    buildPictures() {
      [this.pictures, this.boxes] = [[], {}];
      const picture = (box, look) => {
        this.pictures.push(new window.EosPicture(box, this.colour, look));
        return box;
      };
      const row = (name, level) => element("div", { class: "lab-row" },
        element("p", {}, element("b", {}, name), element("span", {}, level)), picture(element("div"), () => this.seriesLook(name)));
      const figures = [
        figure(this.boxes, "phase", "Phase plane", "size of the oscillation against excess sharpness"),
        figure(this.boxes, "valley", "The valley from above", "contours of the loss; dark is high"),
        figure(this.boxes, "series", "In time", "drag to move in time",
          row("x", "±δ"), row("sharpness", "2/η"), row("loss", "x²/η")),
      ];
      picture(this.boxes.phase, () => this.phaseLook());
      picture(this.boxes.valley, () => this.valleyLook());
      return element("div", { class: "lab-pictures" }, ...figures, this.buildControls());
    }

    buildControls() {
      this.sliders = PARAMETERS.map((each) => control("lab", each, (value) => {
        Object.assign(this, { preset: null, until: 0 });
        this.change({ [each.key]: value });
      }));
      const options = (id, label, values, unit, act) =>
        choice(`lab-${id}`, "lab-control lab-choice", label, values.map((v) => [v, `${v}${unit}`]), act);
      this.horizon = options("n", "steps computed", HORIZONS, "", (n) => this.change({ n }));
      const speed = options("speed", "speed of play", SPEEDS, " steps/s", (v) => (this.speed = v));
      speed.select.value = this.speed;
      return element("div", { class: "lab-controls" }, ...this.sliders.map(({ box }) => box), this.horizon.box, speed.box);
    }

    buildValues() {
      this.address = element("input", { type: "text", readonly: true, id: "lab-address", "aria-label": "Link to this state",
        onfocus: () => this.address.select() });
      const link = element("div", { class: "lab-link" }, element("label", { for: "lab-address" }, "Link to this state"), this.address,
        button({ class: "lab-chip", id: "lab-copy", onclick: () => this.copyLink() }, "Copy link"));
      this.values = element("div", { class: "lab-values" });
      return element("div", { class: "lab-bottom" }, link, this.values);
    }

    observe() {
      restyled(this.root, () => this.repaint());
      const motion = () => {
        this.playButton.hidden = this.quiet.matches;
        if (this.quiet.matches) this.pause();
      };
      this.quiet.addEventListener("change", motion);
      motion();
      window.addEventListener("hashchange", () => {
        const linked = readHash();
        if (linked) this.begin(linked);
      });
      document.addEventListener("visibilitychange", () => document.hidden && this.pause());
      if (this.quiet.matches || window.location.hash) return;
      // Starts by itself, once, when most of the lab is first seen; Pause is the first control in reach.
      const watcher = new IntersectionObserver((entries) => {
        if (!entries.some((entry) => entry.isIntersecting)) return;
        watcher.disconnect();
        this.play();
      }, { threshold: 0.6 });
      watcher.observe(this.boxes.phase);
      for (const touch of ["pointerdown", "keydown"]) this.root.addEventListener(touch, () => watcher.disconnect(), { capture: true });
    }

    // ------------------------------------------------------------------------------------------------------- computing
    /** Begin with a preset, or what a link gives; the settings that it does not name are those of the base. */
    begin(preset) {
      this.pause();
      Object.assign(this, { preset, t: preset.t ?? 0, until: preset.until ?? 0 });
      this.change({ ...BASE, ...preset.set });
    }

    /** Compute the run with some settings changed. */
    change(settings) {
      const p = Object.assign(this.settings, settings);
      this.orbit = dynamics.iterate(p, p.n);
      const { x, y } = this.orbit;
      this.unit = dynamics.lengthUnit(p);
      this.stage = dynamics.stages(x, y, p);
      this.loss = x.map((v, t) => dynamics.loss(v, y[t], p));
      this.last = x.length - 1;
      this.t = clamp(this.t, 0, this.last);
      // Axes: what the run covers, within reason where it runs away.
      const height = Math.sqrt(Math.abs(p.alpha));
      this.xTop = clamp((1.08 * largest(x)) / this.unit, 2.2, 9);
      this.yTop = clamp(1.08 * largest(y), 1.2 * Math.max(0.224, height), 14 * Math.max(0.5, height));
      this.root.toggleAttribute("data-no-radius", !(p.alpha > 0)); // no δ to name beside the x in time
      this.scrub.input.max = this.last;
      PARAMETERS.forEach(({ key }, i) => this.sliders[i].show(p[key]));
      this.horizon.select.value = p.n;
      press(this.chips, (each) => each === this.preset);
      const own = this.orbit.status === "diverged" ? `This orbit diverges at step ${this.last + 1}: the picture ends there.`
        : "Your own setting. The faint curve is where the run is going to go.";
      this.note.textContent = this.preset?.note ?? own;
      this.repaint();
      this.saveSoon();
    }

    // ----------------------------------------------------------------------------------------------------------- moving
    play() {
      if (this.playing || this.quiet.matches) return;
      if (this.t >= this.last) this.t = 0;
      Object.assign(this, { playing: true, carry: 0 });
      let before = null;
      const frame = (now) => {
        if (!this.playing) return;
        // Stage presets are short: they play slowly enough for single bounces to be seen.
        const rate = this.until ? Math.min(this.speed, this.until >= 3 ? 12 : 30) : this.speed;
        this.carry += (Math.min(now - (before ?? now), 100) * rate) / 1000;
        before = now;
        for (; this.carry >= 1 && this.playing; this.carry -= 1) this.advance();
        this.refresh();
        window.requestAnimationFrame(frame);
      };
      window.requestAnimationFrame(frame);
      this.refresh();
    }

    advance() {
      const stage = this.stage[this.t];
      const next = this.stage[this.t + 1];
      if (this.t >= this.last) this.pause(`End of the run at step ${this.t}. ${this.describe()}`);
      else this.t += 1;
      if (!this.playing || next === stage) return;
      if (stage === this.until) {
        this.until = 0;
        this.pause(`Stage ${stage}, ${STAGES[stage]}, ends at step ${this.t}. ${this.describe()}`);
      } else this.say(`Step ${this.t}: ${next ? `stage ${next}, ${STAGES[next]}` : "off the edge"}.`);
    }

    pause(message = null) {
      if (!this.playing) return;
      this.playing = false;
      this.say(message ?? `Paused. ${this.describe()}`);
      this.saveSoon();
      this.refresh();
    }

    reset() {
      this.until = this.preset?.until ?? 0;
      this.goTo(0);
    }

    nextStage() {
      const next = this.stage.findIndex((k, t) => t > this.t && k !== this.stage[this.t]);
      this.goTo(next < 0 ? this.last : next);
    }

    goTo(t) {
      this.playing = false;
      this.t = clamp(t, 0, this.last);
      this.refresh();
      this.say(this.describe());
      this.saveSoon();
    }

    describe() {
      const [k, { eta }] = [this.stage[this.t], this.settings];
      return `Step ${this.t}${k ? `, stage ${k}, ${STAGES[k]}` : ""}: x ${show(this.orbit.x[this.t])}, sharpness ` +
        `${show(2 / eta + this.orbit.y[this.t])} against 2/η ${show(2 / eta)}, loss ${show(this.loss[this.t])}.`;
    }

    /** Put the state into the field of the link, and, when it rests, into the address. */
    saveSoon() {
      window.clearTimeout(this.saving);
      const hash = `#${Object.entries(this.settings).map(([key, value]) => `${key}=${value}`).join("&")}&t=${this.t}`;
      this.address.value = window.location.href.replace(/#.*$/, "") + hash;
      if (!this.root.dataset.ready) return; // an untouched page keeps a clean address
      this.saving = window.setTimeout(() => {
        try {
          if (!this.playing) window.history.replaceState(null, "", hash);
        } catch (error) { // an address that the browser guards: the link field still carries the state
        }
      }, 250);
    }

    async copyLink() {
      this.saveSoon();
      this.address.focus();
      this.address.select();
      const copied = await navigator.clipboard?.writeText(this.address.value).then(() => true, () => false);
      const done = copied || document.execCommand("copy");
      this.say(done ? "Link copied." : "The link is selected: copy it with the keyboard.");
    }

    // ---------------------------------------------------------------------------------------------------------- showing
    /** Paint everything anew in the next frame. */
    repaint() {
      for (const picture of this.pictures) picture.stale = true;
      this.refresh();
    }

    /** Show the step in words, numbers and pictures. */
    showNow() {
      const { settings: p, t, orbit } = this;
      const [x, y] = [orbit.x[t], orbit.y[t]];
      const [delta, eps] = [dynamics.radius(p), dynamics.epsilon(p)];
      this.values.replaceChildren(quantities("At this step", "lab-value", 7, [
        ["t", "step t", t], ["x", "x_t", x], ["r", "X_t = |x_t| / δ", Math.abs(x) / delta], ["y", "y_t", y],
        ["s", "sharpness 2/η + y_t", dynamics.sharpness(y, p)], ["l", "loss L_t", this.loss[t]], ["e", "excess x_t²/η", (x * x) / p.eta],
        ["h", "H − H₀", dynamics.conserved(x, y, p) - dynamics.conserved(p.x0, p.y0, p)],
      ]), quantities("Of this run", "lab-value", 7, [
        ["delta", "δ = √(2α/β)", delta], ["eps", "ε = η√α", eps], ["crit", "damping threshold", dynamics.threshold(p)],
        ["period", "period near (δ, 0), √2π/ε", dynamics.smallPeriod(p)],
        ["peak", "first peak by H₀, in δ", dynamics.peak(p.x0, p.y0, p) / delta],
        ["seen", "largest |x| so far, in δ", largest(orbit.x.slice(0, t + 1)) / delta],
      ]));
      this.scrub.set(t, `t = ${t}`, `step ${t} of ${this.last}`);
      const k = this.stage[t];
      this.stageTag.dataset.stage = k;
      this.stageTag.textContent = k ? `${k} ${STAGES[k]}` : "off the edge";
      dress(this.playButton, ...(this.playing ? ["pause", "Pause"] : ["play", "Play"]));
      for (const picture of this.pictures) picture.paint();
      if (this.playing) return;
      const words = this.describe();
      const labels = {
        phase: `Phase plane of |x|/δ and y with level sets and the orbit. ${words}`,
        valley: `Contours of the loss valley with the iterate at x ${show(x)}, y ${show(y)}.`,
        series: `x, sharpness and loss against the step, ${this.last + 1} values. ${words}`,
      };
      for (const [id, label] of Object.entries(labels)) this.boxes[id].setAttribute("aria-label", label);
    }

    // --------------------------------------------------------------------------------------------------------- pictures
    phaseLook() {
      const { settings: p, unit, orbit: { x, y } } = this;
      const track = x.map((v, t) => [Math.abs(v) / unit, y[t]]);
      /** A level set of H, solved for y at each |x|. */
      const level = (pen, height, style) => {
        const across = Array.from({ length: 400 }, (_, i) => this.xTop * ((i + 1) / 400) ** 2);
        const upper = across.map((v) => [v, Math.sqrt(2 * (height - dynamics.conserved(v * unit, 0, p)))]).filter(([, v]) => v >= 0);
        const loop = [...upper, ...upper.map(([v, w]) => [v, -w]).reverse()];
        pen.path(p.alpha > 0 ? [...loop, ...loop.slice(0, 1)] : loop, style);
      };
      const behind = (pen) => {
        const quadrants = [[1, 0, -1], [2, 0, 1], [3, 1, 1], [4, 1, -1]]; // around (δ, 0): the four stages
        for (const [k, far, up] of p.alpha > 0 ? quadrants : []) {
          pen.part(far ? [1, Infinity] : [0, 1], [0, up * Infinity], { fill: `lab-stage${k}` });
          const [words, aside] = far ? [`${STAGES[k]}  ${k}`, [-8, 12 * up]] : [k, [8, 12 * up]];
          pen.text(words, [far * this.xTop, up * this.yTop], aside, { align: far ? "right" : "left", weight: 600 });
        }
        for (const v of p.alpha > 0 ? [0.7, 0.35, 0.1, 1e-2, 1e-4, 1e-8] : [0.3, 0.8, 1.5, 2.4, 3.5, 5]) {
          level(pen, dynamics.conserved(v * unit, 0, p), { stroke: "plot-grid" });
        }
        level(pen, dynamics.conserved(p.x0, p.y0, p), { stroke: "ink-soft", width: 1.2, dash: [2, 3] });
        pen.path([[0, 0], [this.xTop, 0]], THRESHOLD);
        if (p.alpha > 0) pen.path([[1, -this.yTop], [1, this.yTop]], { stroke: "plot-grid" });
        pen.path(track, FUTURE);
        const rest = dynamics.restPoint(p);
        if (rest) pen.disc([rest.x / unit, rest.y], 4, { fill: "plot-card", stroke: "ink", width: 1.6 });
      };
      const before = (pen) => {
        pen.path(track.slice(0, this.t + 1), { stroke: "gd", width: 1.6 });
        for (let t = Math.max(0, this.t - 60); t < this.t; t += 1) {
          pen.disc(track[t], 2.2, { fill: "gd", alpha: 1 - (this.t - t) / 70 });
        }
        pen.disc(track[this.t], 5.5, NOW);
      };
      const xName = p.alpha > 0 ? "X = |x| / δ" : p.alpha < 0 ? "|x| / √(2|α|/β)" : "|x|";
      return { x: [0, this.xTop], y: [-this.yTop, this.yTop], xName, yName: "y = S − 2/η", behind, before };
    }

    valleyLook() {
      const { settings: p, yTop, orbit: { x, y } } = this;
      const wide = this.xTop * this.unit;
      const rows = Array.from({ length: 241 }, (_, i) => yTop * (i / 120 - 1));
      /** One wall at a height, at each y whose floor lies below it. */
      const wall = (height, sign) => rows.filter((v) => height >= dynamics.floor(v, p))
        .map((v) => [sign * dynamics.reach(height - dynamics.floor(v, p), v, sign, 2 * wide, p), v]);
      const behind = (pen) => {
        const lowest = Math.min(...rows.map((v) => dynamics.floor(v, p)));
        const highest = dynamics.loss(wide, yTop, { ...p, kappa: 0, quartic: Math.max(p.quartic, 0) });
        pen.part([-wide, wide], [-yTop, yTop], { fill: "lab-wall" });
        for (let k = 13; k >= 1; k -= 1) {
          const [right, left] = [1, -1].map((sign) => wall(lowest + (highest - lowest) * (k / 13) ** 2, sign));
          const rim = [...right, ...left.reverse(), ...right.slice(0, 1)];
          pen.path(rim, { fill: "lab-floor", alpha: 0.2 });
          pen.path(rim, { stroke: "lab-contour", width: 0.7, alpha: 0.75 });
        }
        pen.path([[-wide, 0], [wide, 0]], THRESHOLD);
        const aside = { align: "right", colour: "ink" };
        pen.text("S = 2/η", [wide, 0], [-7, -8], { ...aside, weight: 600 });
        pen.text("sharper ↑", [wide, yTop], [-7, 12], aside);
        pen.text("flatter ↓", [wide, -yTop], [-7, -12], aside);
        if (p.alpha <= 0) return;
        pen.disc([0, 0], 4.5, { fill: "constrained" }); // θ† rests on the floor of the valley, at the edge
        pen.text("θ†", [0, 0], [8, 11], { size: 12, weight: 600, colour: "constrained" });
      };
      const before = (pen) => {
        for (let t = Math.max(0, this.t - 44); t < this.t; t += 1) {
          const alpha = (1 - (this.t - t) / 46) ** 1.5;
          pen.path([[x[t], y[t]], [x[t + 1], y[t + 1]]], { stroke: "gd", width: 1.1, alpha });
          pen.disc([x[t], y[t]], 2, { fill: "gd", alpha });
        }
        pen.disc([x[this.t], y[this.t]], 5.5, NOW);
      };
      return { x: [-wide, wide], y: [-yTop, yTop], xName: "x, across the valley", yName: "y, along the valley", behind, before };
    }

    /** One of the three in time: the stages' tints, levels across, the curve, faint where the run is going to go. */
    seriesLook(row) {
      const { settings: p, orbit: { x, y }, loss, yTop, stage } = this;
      const [edge, limit, ends] = [2 / p.eta, this.xTop * this.unit, [0, p.n]];
      const around = (values) => {
        const [low, high] = [Math.min(...values), Math.max(...values)];
        const pad = 0.08 * (high - low || 1);
        return [low - pad, high + pad];
      };
      const seen = loss.filter((_, t) => Math.abs(x[t]) <= limit && Math.abs(y[t]) <= yTop); // what runs away sets no range
      const { values, range, levels = [], width = 1.6, second = [], xName } = {
        x: { values: x, range: [-limit, limit], width: 1, levels: p.alpha > 0 ? [[this.unit, RADIUS], [-this.unit, RADIUS]] : [] },
        sharpness: { values: y.map((v) => edge + v), levels: [[edge, THRESHOLD]],
          range: around([0, ...y].map((v) => edge + clamp(v, -yTop, yTop))) },
        loss: { values: loss, range: around([0, 1e-3, ...seen]), second: x.map((v) => (v * v) / p.eta), xName: "step t" },
      }[row];
      const [curve, other] = [values, second].map((each) => each.map((v, t) => [t, v]));
      const begins = stage.flatMap((k, t) => (k === stage[t - 1] ? [] : [t]));
      const spans = begins.map((t, i) => [stage[t], t, begins[i + 1] ?? this.last]).filter(([k]) => k);
      const broad = spans.filter(([, begin, end]) => end - begin > 0.03 * p.n); // enough for its number
      const numbers = { splits: () => broad.map(([, begin, end]) => (begin + end) / 2), values: () => broad.map(([k]) => String(k)) };
      const behind = (pen) => {
        for (const [k, begin, end] of spans) pen.part([begin, end], range, { fill: `lab-stage${k}` });
        for (const [level, style] of levels) pen.path(ends.map((t) => [t, level]), style);
        pen.path(curve, FUTURE);
      };
      const before = (pen) => {
        pen.path(curve.slice(0, this.t + 1), { stroke: "gd", width });
        pen.path(other.slice(0, this.t + 1), { stroke: "good", width: 1.4, dash: [4, 3] });
        pen.path(range.map((v) => [this.t, v]), { stroke: "ink" });
        pen.disc([this.t, clamp(values[this.t], ...range)], 4, NOW);
      };
      const pointed = (name, t, event) => (event.buttons & 1) && this.goTo(Math.round(t));
      return { x: ends, y: range, xName, top: row === "x" && numbers, behind, before, pointed };
    }
  }

  /** Two directions at the edge: the orbit of z, the cone in which zzᵀ averages to Σ, and both means in numbers. */
  class PairLab {
    constructor(root) {
      Object.assign(this, { root, settings: { ...PAIR_BASE }, boxes: {} });
      this.refresh = oncePerFrame(() => this.showNow());
      this.live = announcer("lab-pair");
      this.sliders = PAIR.map((each) => control("lab-pair", each, (value) => this.change({ [each.key]: value })));
      this.scrub = slider("lab-pair-t", "", [], { class: "lab-range lab-scrub", "aria-label": "Step t, two directions" }, (t) => {
        this.t = t;
        this.live.say(this.describe());
        this.refresh();
      });
      this.scrub.output.className = "lab-clock";
      this.note = element("p", { class: "lab-note" });
      this.values = element("div", { class: "lab-values" });
      const figures = [figure(this.boxes, "pair-orbit", "Orbit", "z₁ against z₂, up to step t"),
        figure(this.boxes, "pair-cone", "Section of the cone", "zzᵀ/|z|² on the rim; ⟨zzᵀ⟩ dot, Σ ring")];
      root.replaceChildren(group("lab-transport", "Run, two directions", this.scrub.input, this.scrub.output),
        element("div", { class: "lab-pictures" }, ...figures, element("div", { class: "lab-controls" },
          ...this.sliders.map(({ box }) => box))), this.note, this.values, this.live.node);
      const colour = palette(root);
      this.pictures = [["pair-orbit", () => this.orbitLook()], ["pair-cone", () => this.coneLook()]]
        .map(([id, look]) => new window.EosPicture(this.boxes[id], colour, look));
      restyled(root, () => this.repaint());
      this.change({});
      root.setAttribute("data-ready", "true");
    }

    /** Compute the run with some settings changed, and show its end. */
    change(settings) {
      const p = this.problem = dynamics.pairProblem(Object.assign(this.settings, settings));
      this.orbit = dynamics.pairIterate(p, PAIR_STEPS);
      this.t = this.last = this.scrub.input.max = this.orbit.z.length - 1;
      this.top = Math.min(1.08 * largest(this.orbit.z.flat()), 12);
      PAIR.forEach(({ key }, i) => this.sliders[i].show(this.settings[key]));
      this.note.textContent = this.orbit.status === "finished" ? "" : `This orbit diverges at step ${this.last + 1}: the spikes grow.`;
      if (this.root.dataset.ready) this.live.say(this.describe()); // nothing before a reader has touched it
      this.repaint();
    }

    repaint() {
      for (const picture of this.pictures) picture.stale = true;
      this.refresh();
    }

    /** Distance of the mean of zzᵀ so far from Σ, relative to Σ. */
    apart() {
      const { t, orbit: { mean }, problem: { sigma } } = this;
      return Math.hypot(...mean[t].map((v, i) => v - sigma[i])) / Math.hypot(...sigma);
    }

    describe() {
      return `Step ${this.t}: the mean of z z transposed is ${show(100 * this.apart(), 2)} percent from Sigma, ` +
        `mean largest eigenvalue of Y ${show(this.orbit.top[this.t], 2)}. ${this.note.textContent}`;
    }

    showNow() {
      const { t, orbit: { z, y, top }, settings: { eta } } = this;
      this.values.replaceChildren(quantities("At this step", "lab-pair", 4, [["step", "step t", t], ["z1", "z₁", z[t][0]], ["z2", "z₂", z[t][1]],
        ["now", "λ_max(Y)", dynamics.pairTop(y[t])]]), quantities("Means up to this step", "lab-pair", 4, [
        ["apart", "‖⟨zzᵀ⟩ − Σ‖ / ‖Σ‖", this.apart()], ["top", "⟨λ_max(Y)⟩", top[t]], ["sharpness", "2/η + ⟨λ_max(Y)⟩", 2 / eta + top[t]],
        ["edge", "threshold 2/η", 2 / eta]]));
      this.scrub.set(t, `t = ${t}`, `step ${t} of ${this.last}`);
      for (const picture of this.pictures) picture.paint();
      this.boxes["pair-orbit"].setAttribute("aria-label", `Orbit in the plane of z₁ and z₂. ${this.describe()}`);
      this.boxes["pair-cone"].setAttribute("aria-label", `Disk of symmetric 2 by 2 matrices of trace 1. ${this.describe()}`);
    }

    /** Ranges, ±`size` at least, with one scale on both axes. */
    square({ clientWidth, clientHeight }, size) {
      const ratio = (clientWidth - 66) / (clientHeight - 46);
      const [wide, high] = [size * Math.max(1, ratio), size * Math.max(1, 1 / ratio)];
      return { x: [-wide, wide], y: [-high, high] };
    }

    orbitLook() {
      const { orbit: { z } } = this;
      const before = (pen) => {
        pen.path(z.slice(0, this.t + 1), { stroke: "gd", width: 1, alpha: 0.6 });
        pen.disc(z[this.t], 5.5, NOW);
      };
      const behind = (pen) => pen.path(z, { stroke: "gd", alpha: 0.15 });
      return { ...this.square(this.boxes["pair-orbit"], this.top), xName: "z₁", yName: "z₂", behind, before };
    }

    coneLook() {
      const { orbit: { z, mean }, problem: { sigma } } = this;
      const place = ([a, b, c]) => [(a - c) / (a + c), (Math.SQRT2 * b) / (a + c)];
      const rim = ([a, b]) => place([a * a, Math.SQRT2 * a * b, b * b]);
      const behind = (pen) => {
        const around = Array.from({ length: 181 }, (_, i) => rim([Math.cos(i * Math.PI / 180), Math.sin(i * Math.PI / 180)]));
        pen.path(around, { fill: "lab-stage1", stroke: "ink-soft", width: 1.2 });
        pen.text("first only", [1, 0], [-9, 0], { align: "right" });
        pen.text("second only", [-1, 0], [9, 0]);
      };
      const before = (pen) => {
        for (const each of z.slice(Math.max(0, this.t - 300), this.t)) pen.disc(rim(each), 2.5, { fill: "gd", alpha: 0.12 });
        pen.path(mean.slice(0, this.t + 1).map(place), { stroke: "good", width: 1.2 });
        pen.disc(rim(z[this.t]), 5.5, NOW);
        pen.disc(place(sigma), 7, { stroke: "constrained", width: 2 });
        pen.text("Σ", place(sigma), [11, -11], { size: 12, weight: 600, colour: "constrained" });
        pen.disc(place(mean[this.t]), 4, { fill: "good" });
      };
      return { ...this.square(this.boxes["pair-cone"], 1.12), xName: "(z₁² − z₂²)/|z|²", yName: "2z₁z₂/|z|²", behind, before };
    }
  }

  /** Maps small enough to solve: a bifurcation diagram with the present orbit, and the plane in which all starts align. */
  class MapsLab {
    constructor(root) {
      Object.assign(this, { root, settings: { ...MAPS_BASE }, boxes: {} });
      this.refresh = oncePerFrame(() => this.showNow());
      this.live = announcer("lab-maps");
      this.sliders = MAPS.map((each) => control("lab-maps", each, (value) => this.change({ [each.key]: value })));
      this.note = element("p", { class: "lab-note" });
      this.values = element("div", { class: "lab-values" });
      const figures = [figure(this.boxes, "maps-tree", "Where it settles", "late x against a, and four thresholds"),
        figure(this.boxes, "maps-orbit", "One number in time", "x by step, L = (x² − 1)²/4"),
        figure(this.boxes, "maps-plane", "Two factors", "|p| = |xy| against q = 2/(ηy²), L = log cosh(xy)"),
        figure(this.boxes, "maps-edge", "Its sharpness in time", "in units of 2/η, by step")];
      root.replaceChildren(element("div", { class: "lab-pictures" }, ...figures,
        element("div", { class: "lab-controls" }, ...this.sliders.map(({ box }) => box))), this.note, this.values, this.live.node);
      const colour = palette(root);
      const looks = { "maps-tree": () => this.treeLook(), "maps-orbit": () => this.orbitLook(), "maps-plane": () => this.planeLook(),
        "maps-edge": () => this.edgeLook() };
      this.pictures = Object.entries(looks).map(([id, look]) => new window.EosPicture(this.boxes[id], colour, look));
      restyled(root, () => this.repaint(this.pictures));
      this.change({});
      this.repaint(this.pictures);
      root.setAttribute("data-ready", "true");
    }

    /** Compute both orbits with some settings changed. */
    change(settings) {
      const { a, x0, ...rest } = Object.assign(this.settings, settings);
      this.orbit = dynamics.cubicOrbit(x0, a, 2000);
      this.last = valleySteps(rest.eta);
      this.valley = dynamics.valleyOrbit(rest, this.last);
      MAPS.forEach(({ key }, i) => this.sliders[i].show(this.settings[key]));
      if (this.root.dataset.ready) this.live.say(this.describe());
      this.repaint(this.pictures.slice(1)); // what lies behind the diagram stays
    }

    repaint(pictures) {
      for (const picture of pictures) picture.stale = true;
      this.refresh();
    }

    /** The last iterates, none if the orbit diverges. */
    late() {
      return this.orbit.length > 2000 ? this.orbit.slice(-64) : [];
    }

    phase() {
      const { settings: { a } } = this;
      const { monotone, minimum, cycle, bounded } = dynamics.cubicPhases;
      if (this.orbit.length <= 2000) return "diverges";
      if (a > bounded) return "almost all starts diverge";
      if (a > cycle) return "cycles of four and more, or chaos";
      if (a > minimum) return "2-cycle";
      return a > monotone ? "settles; the loss can rise on the way" : "settles; the loss always falls";
    }

    describe() {
      const { valley: { edge }, settings: { a, eta } } = this;
      return `a = ${show(a)}: ${this.phase()}. Two factors end at ${show(edge[this.last], 5)} of 2/η, ` +
        `predicted ${show(dynamics.finalSharpness(eta), 5)}.`;
    }

    showNow() {
      const { settings: { a, eta }, valley: { p, q, edge } } = this;
      const late = this.late();
      const cycle = dynamics.cubicCycle(a);
      const sharp = late.reduce((sum, x) => sum + (a * (3 * x * x - 1)) / 2, 0) / late.length;
      this.note.textContent = this.describe();
      this.values.replaceChildren(quantities("One number", "lab-maps", 5, [["low", "lowest late x", Math.min(...late)],
        ["high", "highest late x", Math.max(...late)], ["cycle-low", "2-cycle, x₁", cycle ? cycle[0] : NaN],
        ["cycle-high", "2-cycle, x₂", cycle ? cycle[1] : NaN], ["mean", "mean of ηS/2", sharp]]),
      quantities("Two factors", "lab-maps", 5, [["end", `ηS/2 after ${this.last} steps`, edge[this.last]],
        ["predicted", "1 − ¾η²", dynamics.finalSharpness(eta)],
        ["apart", "q − tanh(p)/p after 30 steps", q[30] - dynamics.alignmentCurve(p[30])]]));
      for (const picture of this.pictures) picture.paint();
      for (const [id, words] of [["tree", "Bifurcation diagram"], ["orbit", "Orbit of one number"], ["plane", "Plane of p and q"],
        ["edge", "Sharpness of two factors"]]) this.boxes[`maps-${id}`].setAttribute("aria-label", `${words}. ${this.describe()}`);
    }

    treeLook() {
      const range = [-1.6, 1.7];
      const behind = (pen) => {
        for (let a = 0.5; a <= 2; a += 0.004)
          for (const x of dynamics.cubicOrbit(0.9, a, 600).slice(560)) pen.disc([a, x], 0.5, { fill: "gd", alpha: 0.5 });
        for (const a of Object.values(dynamics.cubicPhases)) pen.path(range.map((x) => [a, x]), THRESHOLD);
      };
      const before = (pen) => {
        const { a } = this.settings;
        pen.path(range.map((x) => [a, x]), { stroke: "ink", width: 1 });
        for (const x of this.late()) pen.disc([a, x], 4, NOW);
        for (const x of dynamics.cubicCycle(a) ?? []) pen.disc([a, x], 6, { stroke: "constrained", width: 2 });
      };
      return { x: [0.5, 2.06], y: range, xName: "a = ηS_min/2", yName: "x", behind, before };
    }

    orbitLook() {
      const points = this.orbit.slice(0, MAPS_STEPS + 1).map((x, t) => [t, clamp(x, -3, 3)]);
      const top = Math.max(1.3, 1.1 * largest(points.map(([, x]) => x)));
      const low = points.some(([, x]) => x < 0) ? -top : 0;
      const behind = (pen) => {
        for (const x of dynamics.cubicCycle(this.settings.a) ?? [1]) pen.path([[0, x], [MAPS_STEPS, x]], { stroke: "constrained", width: 1.2 });
        pen.path(points, { stroke: "gd", width: 1, alpha: 0.6 });
        for (const point of points) pen.disc(point, 2.5, { fill: "gd" });
      };
      return { x: [0, MAPS_STEPS], y: [low, top], xName: "step t", yName: "x", behind, before: () => null };
    }

    planeLook() {
      const { valley: { p, q } } = this;
      const wide = Math.max(1, 1.1 * largest(p));
      const low = 0.95 * Math.min(...q, dynamics.alignmentCurve(wide));
      const behind = (pen) => {
        const curve = Array.from({ length: 101 }, (_, i) => (i * wide) / 100);
        pen.path(curve.map((each) => [each, dynamics.alignmentCurve(each)]), { stroke: "constrained", width: 2 });
        pen.path(p.map((each, t) => [Math.abs(each), q[t]]), { stroke: "gd", width: 1, alpha: 0.6 });
        p.slice(0, 400).forEach((each, t) => pen.disc([Math.abs(each), q[t]], 2, { fill: "gd" }));
        pen.disc([Math.abs(p[0]), q[0]], 5.5, NOW);
      };
      return { x: [0, wide], y: [low, 1.08], xName: "|p|", yName: "q", behind, before: () => null };
    }

    edgeLook() {
      const { valley: { edge }, settings: { eta } } = this;
      const ends = [0, this.last];
      const behind = (pen) => {
        pen.path(ends.map((t) => [t, 1]), THRESHOLD);
        pen.path(ends.map((t) => [t, dynamics.finalSharpness(eta)]), { stroke: "constrained", width: 1.4 });
        pen.path(edge.map((value, t) => [t, value]), { stroke: "gd", width: 1.6 });
      };
      const range = [0.95 * Math.min(...edge), 1.05 * Math.max(1, ...edge)];
      return { x: ends, y: range, xName: "step t", yName: "ηS/2", behind, before: () => null };
    }
  }

  const [root, pair, maps] = ["lab", "lab-pair", "lab-maps"].map((id) => document.getElementById(id));
  if (root) window.eosLab = new Lab(root);
  if (pair) window.eosPairLab = new PairLab(pair);
  if (maps) window.eosMapsLab = new MapsLab(maps);
})();
