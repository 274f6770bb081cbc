/* Pictures that move: axes by uPlot, and inside of them what a pen draws in the picture's own coordinates. A plain script. */
(function () {
  "use strict";

  const { axes, plot, follow } = window.EosWidgets;

  /** Draws on a plot. */
  class Pen {
    constructor(plot, colour) {
      Object.assign(this, { plot, colour, context: plot.ctx, ratio: window.uPlot.pxRatio });
    }

    /** A place in pixels of the canvas. */
    at([x, y]) {
      return [this.plot.valToPos(x, "x", true), this.plot.valToPos(y, "y", true)];
    }

    /** Fill or stroke what has been traced, or all of it at some opacity. */
    paint({ fill = null, stroke = null, width = 1, dash = [], alpha = 1 }) {
      const { context, colour, ratio } = this;
      const style = { globalAlpha: alpha, lineWidth: width * ratio, lineJoin: "round" };
      Object.assign(context, style, fill && { fillStyle: colour(fill) }, stroke && { strokeStyle: colour(stroke) });
      context.setLineDash(dash.map((length) => length * ratio));
      if (fill) context.fill();
      if (stroke) context.stroke();
      context.globalAlpha = 1;
    }

    /** A line through points, or the area that they surround. */
    path(points, style) {
      this.context.beginPath();
      for (const point of points) this.context.lineTo(...this.at(point));
      this.paint(style);
    }

    disc(point, radius, style) {
      this.context.beginPath();
      this.context.arc(...this.at(point), radius * this.ratio, 0, 7);
      this.paint(style);
    }

    /** The part of the plot with x and y in two ranges, which may be unbounded. */
    part(across, along, style) {
      const inside = (scale, v) => Math.min(this.plot.scales[scale].max, Math.max(this.plot.scales[scale].min, v));
      const [[left, right], [low, high]] = [across.map((v) => inside("x", v)), along.map((v) => inside("y", v))];
      this.path([[left, low], [right, low], [right, high], [left, high]], style);
    }

    /** Words beside a point, so many pixels to the right and down. */
    text(words, point, [right, down], { align = "left", size = 11, weight = 400, colour = "ink-soft" } = {}) {
      const [x, y] = this.at(point);
      const font = `${weight} ${size * this.ratio}px ${window.getComputedStyle(this.plot.root.parentNode).fontFamily}`;
      Object.assign(this.context, { font, textAlign: align, textBaseline: "middle", fillStyle: this.colour(colour) });
      this.context.fillText(words, x + right * this.ratio, y + down * this.ratio);
    }
  }

  /** A picture in a box. `look()` gives the ranges `x` and `y` and the names of its axes, what to draw `behind`, which stays until
   * the picture is `stale`, and what moves `before` it; perhaps marks on an axis at the `top`, and what follows a pointer.
   */
  class Picture {
    constructor(box, colour, look) {
      Object.assign(this, { box, colour, look, stale: true, kept: document.createElement("canvas") });
    }

    paint() {
      if (!this.stale) this.made.redraw(false);
      else if (this.box.clientWidth > 50) this.make();
    }

    make() {
      const { box, colour, kept } = this;
      const { x: [min, max], y, xName = "", yName = "", behind, before, top, pointed } = this.look();
      const style = axes(box, colour, xName);
      const below = { ...style.x, space: 60, incrs: null, show: Boolean(xName) };
      const left = { ...style.y, grid: { show: false }, space: Math.max(22, box.clientHeight / 9), size: 38,
        label: yName, labelSize: yName ? 16 : 0, labelFont: style.x.labelFont };
      const inside = (u, draw) => {
        u.ctx.save();
        u.ctx.beginPath();
        u.ctx.rect(u.bbox.left, u.bbox.top, u.bbox.width, u.bbox.height);
        u.ctx.clip();
        draw(new Pen(u, colour));
        u.ctx.restore();
      };
      const background = (u) => {
        if (this.stale) {
          inside(u, behind);
          Object.assign(kept, { width: u.ctx.canvas.width, height: u.ctx.canvas.height }).getContext("2d").drawImage(u.ctx.canvas, 0, 0);
        } else u.ctx.drawImage(kept, 0, 0);
        this.stale = false;
      };
      this.made?.destroy();
      this.made = plot(box, [min, max], [], {
        width: box.clientWidth, height: box.clientHeight, padding: [top ? 0 : 8, 12, xName ? 0 : 4, 0],
        axes: [below, left, ...(top ? [{ ...style.x, ...top, scale: "x", side: 0, label: null, labelSize: 0, size: 16 }] : [])],
        scales: { x: { min, max }, y: { range: () => y } }, cursor: { show: false },
        hooks: { drawClear: [background], draw: [(u) => inside(u, before)] },
      });
      if (pointed) follow(this.made, pointed);
    }
  }

  window.EosPicture = Picture;
})();
