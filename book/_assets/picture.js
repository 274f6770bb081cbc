/* What the interactive pages draw with: crisp canvases, linear scales, round ticks, numbers for people. A plain script. */
(function () {
  "use strict";

  const clamp = (v, lo, hi) => Math.min(hi, Math.max(lo, v));
  const superscript = (n) => String(n).replace(/[-0-9]/g, (c) => "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"["-0123456789".indexOf(c)]);

  /** A number for people: `digits` significant ones, true minus sign, powers of ten written out. */
  function show(value, digits = 4) {
    if (!Number.isFinite(value)) return "–";
    const size = Math.abs(value);
    let text;
    if (size !== 0 && (size < 1e-3 || size >= 1e6)) {
      const [mantissa, exponent] = value.toExponential(digits - 1).split("e");
      text = `${mantissa}·10${superscript(Number(exponent))}`;
    } else {
      text = Number(value.toPrecision(digits)).toString();
    }
    return text.replace(/^-/, "−");
  }

  function element(tag, attributes = {}, ...children) {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (value === true) node.setAttribute(name, "");
      else if (value !== false && value != null) node.setAttribute(name, value);
    }
    node.append(...children);
    return node;
  }

  /** About `count` round tick positions inside [low, high]. */
  function ticks(low, high, count) {
    const raw = (high - low) / Math.max(1, count);
    const power = 10 ** Math.floor(Math.log10(raw));
    const size = [1, 2, 5, 10].find((m) => m * power >= raw) * power;
    const out = [];
    for (let v = Math.ceil(low / size - 1e-9) * size; v <= high + size * 1e-9; v += size) {
      out.push(Math.abs(v) < size * 1e-9 ? 0 : v);
    }
    return out;
  }

  /** A canvas that stays crisp: `draw(context, width, height)` works in CSS pixels whatever the device's ratio is. */
  class Picture {
    constructor(canvas, draw) {
      this.canvas = canvas;
      this.draw = draw;
      this.still = document.createElement("canvas"); // what changes only with a parameter, the size or the theme
      this.stale = true;
    }

    paint() {
      const box = this.canvas.getBoundingClientRect();
      if (box.width < 10 || box.height < 10) return;
      const ratio = clamp(window.devicePixelRatio || 1, 1, 3);
      const width = Math.round(box.width * ratio);
      const height = Math.round(box.height * ratio);
      if (this.canvas.width !== width || this.canvas.height !== height) {
        for (const c of [this.canvas, this.still]) Object.assign(c, { width, height });
        this.stale = true;
      }
      if (this.stale) {
        const still = this.still.getContext("2d");
        still.setTransform(1, 0, 0, 1, 0, 0);
        still.clearRect(0, 0, width, height);
        still.setTransform(ratio, 0, 0, ratio, 0, 0);
        this.draw.still(still, box.width, box.height);
        this.stale = false;
      }
      const context = this.canvas.getContext("2d");
      context.setTransform(1, 0, 0, 1, 0, 0);
      context.clearRect(0, 0, width, height);
      context.drawImage(this.still, 0, 0);
      context.setTransform(ratio, 0, 0, ratio, 0, 0);
      this.draw.moving(context, box.width, box.height);
    }
  }

  /** Linear map of data to pixels in both directions. */
  function scale(d0, d1, p0, p1) {
    const f = (v) => p0 + ((v - d0) / (d1 - d0)) * (p1 - p0);
    f.inverse = (p) => d0 + ((p - p0) / (p1 - p0)) * (d1 - d0);
    return f;
  }

  window.EosPicture = { clamp, show, element, ticks, scale, Picture };
})();
