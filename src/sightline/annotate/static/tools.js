// Each tool turns presses, moves and lifts, in pixels of the image, into shapes. `near` is how far from a point, in pixels of the
// image, a press still means that point.

const LONGEST = 2000; // points of one stroke
const DOUBLE = 400; // milliseconds between the presses of a double click

/** Points are sent with two decimals; what is drawn here must be what is sent. */
const rounded = (point) => point.map((value) => Math.round(100 * value) / 100);

export class Brush {
  shape = null;

  press(point, { radius, erase }) {
    this.shape = { kind: "brush", points: [rounded(point)], radius, erase };
  }

  move(point) {
    this.shape?.points.push(rounded(point));
  }

  /** The part of the stroke that the last move has added. */
  get latest() {
    return { ...this.shape, points: this.shape.points.slice(-2) };
  }

  get full() {
    return this.shape?.points.length >= LONGEST;
  }

  lift() {
    const { shape } = this;
    this.shape = null;
    return shape;
  }

  cancel() {
    this.shape = null;
  }
}

export class Box {
  shape = null;

  press(point, { erase }) {
    this.shape = { kind: "box", points: [point, point].map((corner) => corner.map(Math.round)), erase };
  }

  move(point) {
    if (this.shape) this.shape.points[1] = point.map(Math.round);
  }

  lift() {
    const { shape } = this;
    this.shape = null;
    const [[ax, ay], [bx, by]] = shape?.points ?? [[0, 0], [0, 0]];
    return ax !== bx && ay !== by ? shape : null;
  }

  cancel() {
    this.shape = null;
  }
}

/** Each lift sets a vertex; near the first one, or twice at one place, it closes the outline. */
export class Polygon {
  shape = null;
  #latest = 0;

  press(point, { erase }) {
    this.shape ??= { kind: "polygon", points: [], erase };
    this.shape.erase = erase;
  }

  move() {}

  lift(point, near) {
    if (!this.shape) return null;
    const { points } = this.shape;
    const double = performance.now() - this.#latest < DOUBLE && close(points.at(-1), point, near);
    this.#latest = performance.now();
    if (double || (points.length > 2 && close(points[0], point, near))) return this.finish();
    points.push(rounded(point));
    return null;
  }

  finish() {
    if (!this.closable) return null;
    const { shape } = this;
    this.shape = null;
    return shape;
  }

  /** Take the last vertex back. */
  back() {
    this.shape.points.pop();
    if (!this.shape.points.length) this.shape = null;
  }

  /** Another finger came down: what this one was about to do is off, the vertices stay. */
  interrupt() {
    if (!this.shape?.points.length) this.shape = null;
  }

  cancel() {
    this.shape = null;
  }

  get closable() {
    return this.shape?.points.length > 2;
  }
}

function close(a, b, near) {
  return a !== undefined && Math.hypot(a[0] - b[0], a[1] - b[1]) <= near;
}
