/* The reduced dynamics of gradient descent at the edge of stability, without a page around them.
 *
 * One pure function, `step`, maps (x, y) to its successor; everything else here is computed from it or from a closed
 * formula.  x is the displacement along the leading eigenvector u, y the excess of the sharpness over 2/η at x = 0.  The same map is
 * `selfstab.theory.reduced.reduced_step`; a test compares the two.  Two directions, `pairStep`, are
 * `selfstab.theory.matrix.step` with k = 2; symmetric matrices M are written (M₁₁, √2 M₁₂, M₂₂), as by its `svec`.
 * The maps small enough to solve, `cubic…` and `valley…`, are those of `selfstab.theory.small_maps`.
 */
const EosDynamics = (function () {
  "use strict";

  /** ∇S·u, the slope of the sharpness along u: the term (∇S·u) x³/6 of the valley. */
  const skew = (p) => Math.sqrt(p.kappa * p.beta);

  /** One step of gradient descent in the two reduced coordinates.
   *
   * p = {eta, alpha, beta, damping, quartic, kappa}, with ∇S·u = √(kappa β):
   *   x' = −(1 + ηy) x − η (∇S·u) x²/2 − η quartic x³,    y' = (1 − damping) y + η (α − βx²/2)
   */
  const step = ({ x, y }, p) => ({
    x: -(1 + p.eta * y) * x - p.eta * (skew(p) / 2 + p.quartic * x) * x * x,
    y: (1 - p.damping) * y + p.eta * (p.alpha - (p.beta * x * x) / 2),
  });

  /** Radius δ = √(2α/β) of the two-cycle; NaN where α ≤ 0, because there is none. */
  const radius = (p) => (p.alpha > 0 ? Math.sqrt((2 * p.alpha) / p.beta) : NaN);

  /** The length that x is measured in on the axes: δ, or the same with |α| where δ does not exist. */
  const lengthUnit = (p) => (p.alpha === 0 ? 1 : Math.sqrt((2 * Math.abs(p.alpha)) / p.beta));

  /** The small parameter ε = η√α; NaN where α ≤ 0. */
  const epsilon = (p) => (p.alpha > 0 ? p.eta * Math.sqrt(p.alpha) : NaN);

  /** Curvature of the toy loss along the eigenvector at x = 0. */
  const sharpness = (y, p) => 2 / p.eta + y;

  /** The toy loss on the valley's floor, x = 0. */
  const floor = (y, p) => (p.damping * y * y) / (2 * p.eta * p.beta) - (p.alpha / p.beta) * y;

  /** The toy loss on which gradient descent is exactly `step`, up to a constant:
   *  ½(2/η + y)x² + (∇S·u) x³/6 + quartic x⁴/4 − (α/β) y + damping y²/(2ηβ).
   */
  const loss = (x, y, p) => wall(x, y, p) + floor(y, p);

  /** Its height above the floor. */
  const wall = (x, y, p) => (sharpness(y, p) / 2 + ((skew(p) / 6 + (p.quartic * x) / 4) * x)) * x * x;

  /** How far from the floor a wall reaches a height, on the side of `sign`; `far` where the whole side lies below. */
  function reach(height, y, sign, far, p) {
    // The slope is x (sharpness + (∇S·u) x/2 + quartic x²): beyond its first zero the valley falls off.
    const [a, b, c] = [p.quartic, (sign * skew(p)) / 2, sharpness(y, p)];
    const root = b * b - 4 * a * c;
    const rim = c > 0 && root >= 0 ? (2 * c) / (-b + Math.sqrt(root)) : NaN;
    let [low, high] = [0, rim > 0 ? Math.min(rim, far) : far];
    if (c <= 0 || wall(sign * high, y, p) < height) return far;
    for (let i = 0; i < 40; i += 1) {
      const middle = (low + high) / 2;
      if (wall(sign * middle, y, p) < height) low = middle;
      else high = middle;
    }
    return low;
  }

  /** The quartic term that two steps feel: skewness flattens, by η(∇S·u)²/4. */
  const curved = (p) => p.quartic - (p.eta * p.kappa * p.beta) / 4;

  /** The damping above which the two-cycle attracts, (2 − κ)ε² + 2ηqδ²; NaN where α ≤ 0. */
  const threshold = (p) => 2 * epsilon(p) ** 2 + 2 * p.eta * curved(p) * radius(p) ** 2;

  /** What the ODE limit conserves: H = y²/2 + βx²/4 − α ln|x|. */
  const conserved = (x, y, p) => (y * y) / 2 + (p.beta * x * x) / 4 - (p.alpha === 0 ? 0 : p.alpha * Math.log(Math.abs(x)));

  /** Stage of every step of a track: 1 progressive sharpening, 2 blow-up, 3 self-stabilization, 4 return to stability.
   *
   * The stages are the quadrants of (|x|, y) around the fixed point (δ, 0).  A stage ends once and only forwards, as in
   * `selfstab.theory.reduced.stages`, so that a jitter at a boundary cannot send the track back.  All 0 where α ≤ 0.
   */
  function stages(x, y, p) {
    if (!(p.alpha > 0)) return x.map(() => 0);
    const delta = radius(p);
    let current = Math.abs(x[0]) > delta ? (y[0] > 0 ? 3 : 4) : y[0] > 0 ? 2 : 1;
    return x.map((value, t) => {
      const size = Math.abs(value);
      const ends = [y[t] > 0, size > delta, y[t] < 0, size < delta];
      if (t > 0 && ends[current - 1]) current = (current % 4) + 1;
      return current;
    });
  }

  /** Largest |x| on the level set of H through (x, y), by Newton's method; NaN where α ≤ 0. */
  function peak(x, y, p) {
    if (!(p.alpha > 0) || x === 0) return NaN;
    const delta = radius(p);
    // In X = |x|/δ the level is X²/2 − ln X = h, with h ≥ ½; the root beyond X = 1 is wanted.
    const ratio = Math.abs(x) / delta;
    const h = (y * y) / (2 * p.alpha) + (ratio * ratio) / 2 - Math.log(ratio);
    let big = Math.sqrt(2 * h) + 1;
    for (let i = 0; i < 60; i += 1) {
      const change = ((big * big) / 2 - Math.log(big) - h) / (big - 1 / big);
      if (!(Math.abs(change) > 1e-15 * big)) break; // or 0/0, at the rest point itself
      big -= change;
    }
    return delta * Math.max(big, 1);
  }

  /** Where the map hops between ±x at constant y: (δ, 0), moved by a quartic term; null where there is none.
   *  In a skew valley to leading order, and the mean of the two points. */
  function restPoint(p) {
    const square = (p.eta * p.alpha) / ((p.eta * p.beta) / 2 - p.damping * curved(p));
    return p.alpha > 0 && square > 0 ? { x: Math.sqrt(square), y: -curved(p) * square } : null;
  }

  /** Steps of one small oscillation about the two-cycle, √2 π/ε; NaN where α ≤ 0. */
  const smallPeriod = (p) => (Math.SQRT2 * Math.PI) / epsilon(p);

  /** Iterate `step` from (p.x0, p.y0): arrays x, y with the start first, and a worded status.
   *
   * Ends early, with status "diverged", before the first step at which a value is not finite or |x| exceeds 1e6.
   */
  function iterate(p, steps) {
    let state = { x: p.x0, y: p.y0 };
    const [x, y] = [[state.x], [state.y]];
    for (let t = 0; t < steps; t += 1) {
      state = step(state, p);
      if (!(Math.abs(state.x) <= 1e6 && Math.abs(state.y) <= 1e6)) return { x, y, status: "diverged" };
      x.push(state.x);
      y.push(state.y);
    }
    return { x, y, status: "finished" };
  }

  const root2 = Math.SQRT2;
  const square = ([a, b]) => [a * a, root2 * a * b, b * b];

  /** One step of the map of two directions; p = {eta, damping, sharpening: A (3), gram: 𝒢 (3 rows of 3)}:
   *   z' = (I + ηY) z,    Y' = (1 − damping) Y + η (A − ½𝒢[zzᵀ])
   */
  function pairStep({ z, y }, p) {
    const [[a, b], [top, side, low], outer] = [z, y, square(z)];
    const held = p.gram.map((row) => row.reduce((sum, g, j) => sum + g * outer[j], 0) / 2);
    return {
      z: [a + p.eta * (top * a + (side / root2) * b), b + p.eta * ((side / root2) * a + low * b)],
      y: y.map((v, i) => (1 - p.damping) * v + p.eta * (p.sharpening[i] - held[i])),
    };
  }

  /** Iterate `pairStep` from z0 and Y = 0: arrays z, y, the start first; mean, top: means of zzᵀ and λ_max(Y) so far; a status. */
  function pairIterate(p, steps) {
    const orbit = { z: [], y: [], mean: [], top: [], status: "finished" };
    let [state, sums] = [{ z: p.z0, y: [0, 0, 0] }, [0, 0, 0, 0]];
    for (let t = 0; t <= steps; t += 1, state = pairStep(state, p)) {
      if (![...state.z, ...state.y].every((v) => Math.abs(v) <= 1e6)) return { ...orbit, status: "diverged" };
      sums = [...square(state.z), pairTop(state.y)].map((v, i) => sums[i] + v);
      const [top, ...mean] = [sums[3], ...sums.slice(0, 3)].map((v) => v / (t + 1));
      for (const [name, value] of Object.entries({ ...state, mean, top })) orbit[name].push(value);
    }
    return orbit;
  }

  /** λ_max of a symmetric matrix. */
  const pairTop = ([a, b, c]) => (a + c + Math.hypot(a - c, root2 * b)) / 2;

  /** The lab's problem: A = diag(1, second), 𝒢 = diag(1, coupling², 1) in these coordinates, and its Σ. */
  const pairProblem = ({ eta, damping, coupling, second, z0 }) => ({
    eta, damping, z0, sharpening: [1, 0, second], gram: [[1, 0, 0], [0, coupling * coupling, 0], [0, 0, 1]],
    sigma: [2, 0, 2 * Math.max(second, 0)],
  });

  /** Where the phases of the cubic map end, in a = ηS_min/2. */
  const cubicPhases = { monotone: 2 * root2 - 2, minimum: 1, cycle: Math.sqrt(5) - 1, bounded: 2 };

  /** Gradient descent on (x² − 1)²/4 with η = a. */
  const cubicStep = (x, a) => x * (1 + a - a * x * x);

  /** x after 0, 1, …, steps steps; ends early, before |x| exceeds 1e6. */
  function cubicOrbit(x, a, steps) {
    const path = [x];
    for (let t = 0; t < steps && Math.abs(x = cubicStep(x, a)) <= 1e6; t += 1) path.push(x);
    return path;
  }

  /** The positive 2-cycle, x₁x₂ = 1/a and (x₁ + x₂)² = 1 + 3/a; null for a ≤ 1. */
  function cubicCycle(a) {
    if (!(a > 1)) return null;
    const [total, apart] = [Math.sqrt(1 + 3 / a), Math.sqrt(1 - 1 / a)];
    return [(total - apart) / 2, (total + apart) / 2];
  }

  /** Gradient descent on log cosh(xy). */
  function valleyStep([x, y], eta) {
    const force = eta * Math.tanh(x * y);
    return [x - force * y, y - force * x];
  }

  /** From p = xy and the steepness ηy²/2 in units of the edge: arrays p, q = 2/(ηy²) and ηS/2, the start first. */
  function valleyOrbit({ eta, p0, steep }, steps) {
    const [p, q, edge] = [[], [], []];
    const y0 = Math.sqrt((2 * steep) / eta);
    for (let t = 0, at = [p0 / y0, y0]; t <= steps; t += 1, at = valleyStep(at, eta)) {
      p.push(at[0] * at[1]);
      q.push(2 / (eta * at[1] * at[1]));
      edge.push((eta * valleySharpness(at)) / 2);
    }
    return { p, q, edge };
  }

  /** The largest eigenvalue of the Hessian of log cosh(xy). */
  function valleySharpness([x, y]) {
    const [p, curved] = [x * y, 1 / Math.cosh(x * y) ** 2];
    const [along, across, mixed] = [curved * y * y, curved * x * x, curved * p + Math.tanh(p)];
    return (along + across) / 2 + Math.hypot((along - across) / 2, mixed);
  }

  /** tanh(p)/p, the curve on which all starts fall, and 1 − ¾η², the ηS/2 at which they end. */
  const alignmentCurve = (p) => (Math.abs(p) < 1e-8 ? 1 : Math.tanh(p) / p);
  const finalSharpness = (eta) => 1 - 0.75 * eta * eta;

  return { cubicPhases, cubicStep, cubicOrbit, cubicCycle, valleyStep, valleyOrbit, valleySharpness, alignmentCurve, finalSharpness, pairStep, pairIterate, pairTop, pairProblem, step, iterate, radius, lengthUnit, epsilon, sharpness, floor, loss, reach, threshold, conserved, stages, peak, restPoint, smallPeriod };
})();
if (typeof module === "object") module.exports = EosDynamics;
