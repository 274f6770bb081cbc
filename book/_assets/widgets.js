/* What the book's interactive pages share: elements, controls, announcements, and plots by uPlot. A plain script. */
(function () {
  "use strict";

  const clamp = (v, low, high) => Math.min(high, Math.max(low, v));
  const superscript = (n) => String(n).replace(/[-0-9]/g, (c) => "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"["-0123456789".indexOf(c)]);

  /** A number for people: `digits` significant ones, true minus sign, powers of ten written out. */
  function show(value, digits = 4) {
    if (!Number.isFinite(value)) return "–";
    const size = Math.abs(value);
    const [mantissa, exponent] = value.toExponential(digits - 1).split("e");
    const powers = size !== 0 && (size < 1e-3 || size >= 1e6);
    const text = powers ? `${mantissa}·10${superscript(Number(exponent))}` : String(Number(value.toPrecision(digits)));
    return text.replace(/^-/, "−");
  }

  /** An element; a function among its attributes hears the event that it is named after, as in `onclick`. */
  function element(tag, attributes = {}, ...children) {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (typeof value === "function") node.addEventListener(name.slice(2), value);
      else if (value !== false && value != null) node.setAttribute(name, value === true ? "" : value);
    }
    node.append(...children);
    return node;
  }

  const button = (attributes, ...children) => element("button", { type: "button", ...attributes }, ...children);
  const group = (kind, label, ...children) => element("div", { class: kind, role: "group", "aria-label": label }, ...children);

  /** A map of buttons by name: press those that `is` names. */
  function press(buttons, is) {
    for (const [name, node] of buttons) node.setAttribute("aria-pressed", String(Boolean(is(name))));
  }

  /** A slider with its label and its number; `set` moves it without a word to `act`, and shows and says the number. */
  function slider(id, kind, label, attributes, act) {
    const output = element("output", { for: id, "aria-live": "off" });
    const input = element("input", { type: "range", id, min: 0, step: 1, oninput: () => act(input.valueAsNumber), ...attributes });
    const set = (at, text = String(at), spoken = text) => {
      input.value = at;
      input.setAttribute("aria-valuetext", spoken);
      input.style.setProperty("--fill", `${((at - input.min) / Math.max(1e-9, input.max - input.min)) * 100}%`);
      output.textContent = text;
    };
    return { input, output, set, box: element("div", { class: kind }, element("label", { for: id }, ...label), output, input) };
  }

  /** A choice among texts with its label; `act` gets the number of the option's value. */
  function choice(id, kind, label, options, act) {
    const select = element("select", { id, onchange: () => act(Number(select.value)) },
      ...options.map(([value, text]) => element("option", { value }, text)));
    return { select, box: element("div", { class: kind }, element("label", { for: id }, label), select) };
  }

  /** A table: rows of a name and cells, each column with a head where there are heads. */
  function table(caption, heads, rows) {
    const header = (scope) => (words) => element("th", { scope }, words);
    const lines = rows.map(([name, ...cells]) => element("tr", {}, header("row")(name), ...cells));
    const top = heads.length ? [element("thead", {}, element("tr", {}, ...heads.map(header("col"))))] : [];
    return element("table", {}, element("caption", {}, caption), ...top, element("tbody", {}, ...lines));
  }

  /** A table of numbers [[id, name, value], …], each with the exact value as an attribute. */
  function quantities(caption, prefix, digits, rows) {
    const cell = (id, value) => element("td", { id: `${prefix}-${id}`, "data-value": value }, show(value, digits));
    return table(caption, [], rows.map(([id, name, value]) => [name, cell(id, value)]));
  }

  /** A live region for screen readers, `node`; `say` announces politely, the latest message only, one every 1.2 seconds. */
  function announcer(prefix) {
    const node = element("p", { class: `${prefix}-sr`, role: "status", "aria-live": "polite", id: `${prefix}-live` });
    let [message, waiting] = ["", null];
    const say = (text) => {
      message = text;
      waiting ??= window.setTimeout(() => {
        waiting = null;
        node.textContent = message;
      }, 1200);
    };
    return { node, say };
  }

  /** The book's colours as they stand, by the names of their tokens in book.css and the page's own style. */
  function palette(node) {
    const style = window.getComputedStyle(node); // stays up to date by itself
    return (name) => style.getPropertyValue(`--${name}`).trim();
  }

  /** Call `act` when the theme or the fonts change, and `resized` when the box does: what is drawn must be drawn anew. */
  function restyled(box, act, resized = act) {
    new MutationObserver(act).observe(document.documentElement, { attributes: true, attributeFilter: ["data-theme"] });
    new ResizeObserver(resized).observe(box);
    document.fonts.addEventListener("loadingdone", act);
  }

  /** `act`, at most once a frame however often it is asked for. */
  function oncePerFrame(act) {
    let pending = null;
    return () => {
      pending ??= window.requestAnimationFrame(() => {
        pending = null;
        act();
      });
    };
  }

  // ----------------------------------------------------------------------------------------------------------- plots
  /** Round distances between ticks on an axis of steps. */
  const ROUND = [0, 1, 2, 3, 4, 5].flatMap((power) => [1, 2, 5].map((digit) => digit * 10 ** power));
  // uPlot hears neither keys nor fingers; its own listeners are switched off, and `follow` hears for it.
  const DEAF = Object.fromEntries(["down", "move", "enter", "leave"].map((name) => [`mouse${name}`, () => null]));

  /** Axes in the style of the node that holds the plots: steps below, round values on the left. */
  function axes(node, colour, label) {
    const font = window.getComputedStyle(node).fontFamily;
    const narrow = node.clientWidth < 520;
    const values = (_, at) => at.map((v) => show(v, 4));
    const axis = { stroke: colour("ink-soft"), font: `11px ${font}`, ticks: { show: false }, values };
    const x = { ...axis, grid: { show: false }, space: narrow ? 50 : 80, size: 20, gap: 4, incrs: ROUND,
      label, labelSize: 18, labelGap: 0, labelFont: `12px ${font}` };
    const y = { ...axis, grid: { stroke: colour("plot-grid"), width: 0.5 }, space: 22, size: narrow ? 46 : 58, gap: 6 };
    return { x, y, narrow };
  }

  /** A plot in a box of curves over steps, [{values, stroke, …}, …]; other options are uPlot's. */
  function plot(box, steps, curves, { scales, cursor, ...options }) {
    const look = ({ values, ...own }) => ({ pxAlign: 0, points: { show: false }, ...own });
    return new window.uPlot({
      legend: { show: false }, series: [{}, ...curves.map(look)], scales: { ...scales, x: { time: false, ...scales.x } },
      cursor: { y: false, dataIdx: (u, s, t) => t, bind: DEAF, ...cursor }, ...options,
    }, [steps, ...curves.map(({ values }) => values)], box);
  }

  /** Report what a mouse, pen or finger does over a plot ("down", "move", "up" or "cancel"), and at which step. */
  function follow(made, act) {
    for (const name of ["down", "move", "up", "cancel"]) {
      made.over.addEventListener(`pointer${name}`, (event) => {
        if (name === "down" && event.button) return;
        if (name === "down") made.over.setPointerCapture(event.pointerId);
        act(name, made.posToVal(event.clientX - made.over.getBoundingClientRect().left, "x"), event);
      });
    }
  }

  window.EosWidgets = { clamp, show, element, button, group, press, slider, choice, table, quantities, announcer, palette, restyled,
    oncePerFrame, axes, plot, follow };
})();
