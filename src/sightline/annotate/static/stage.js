// The picture, the map and the mask on top of each other, and what mouse, pen, fingers and keys do there.

import { Tiles } from "./tiles.js";
import { Box, Brush, Polygon } from "./tools.js";
import { View } from "./view.js";

const NEAR = { mouse: 8, pen: 10, touch: 18, keys: 1 }; // CSS pixels
const STEP = 8; // CSS pixels a key moves the crosshair
const COLOUR = 0xff8a14ff; // of the mask: alpha, blue, green, red

const SVG = "http://www.w3.org/2000/svg";

/** Events: "shape" (a finished one), "change" (tool, zoom or outline). */
export class Stage extends EventTarget {
  view = new View();
  tools = { brush: new Brush(), eraser: new Brush(), box: new Box(), polygon: new Polygon() };
  tool = "brush";
  radius = 12;
  drawing = null;
  #pointers = new Map();
  #gesture = null; // "draw", "pan" or "pinch"
  #cursor = null; // in CSS pixels of the stage
  #keys = false; // whether the cursor is the keys' crosshair
  #space = false;
  #pen = false; // once there was a pen, fingers no longer draw: they are the palm
  #waiting = false;

  constructor(root) {
    super();
    this.root = root;
    [this.picture, this.map, this.canvas, this.sketch] = root.querySelectorAll("#picture, #map, #mask, #sketch");
    this.context = this.canvas.getContext("2d");
    root.addEventListener("pointerdown", (event) => this.#down(event));
    root.addEventListener("pointermove", (event) => this.#move(event));
    root.addEventListener("pointerup", (event) => this.#up(event));
    root.addEventListener("pointercancel", (event) => this.#lost(event));
    root.addEventListener("pointerleave", () => this.#hover(null));
    root.addEventListener("wheel", (event) => this.#wheel(event), { passive: false });
    root.addEventListener("contextmenu", (event) => event.preventDefault());
    addEventListener("blur", () => this.hold(false));
    new ResizeObserver(() => this.#resize()).observe(root);
  }

  /** Show a drawing over its picture, both loaded. */
  show(drawing) {
    this.cancel();
    this.drawing = drawing;
    this.tiles = new Tiles(drawing.bitmap, COLOUR);
    this.#measure();
    this.view.fit(this.size, drawing.bitmap);
    this.redraw();
  }

  /** Part of the mask is no longer as it was. */
  changed(area) {
    this.tiles?.refresh(area);
    this.redraw();
  }

  choose(tool) {
    this.cancel();
    this.tool = tool;
    this.redraw();
  }

  get active() {
    return this.tools[this.tool];
  }

  get size() {
    return { width: this.root.clientWidth, height: this.root.clientHeight };
  }

  /** Whether an outline was begun and can be closed, cancelled or taken back. */
  get outlining() {
    return this.tool === "polygon" && this.active.shape !== null;
  }

  zoom(factor) {
    this.view.zoom(factor, this.#cursor ?? undefined);
    this.redraw();
  }

  fit() {
    this.view.fit(this.size, this.view.image);
    this.redraw();
  }

  resizeBrush(radius) {
    this.radius = radius;
    this.redraw();
  }

  /** The space key is down: the pointer moves the picture. */
  hold(space) {
    this.#space = space;
    this.root.classList.toggle("grab", space);
  }

  finish() {
    if (this.outlining) this.#done(this.active.finish());
  }

  back() {
    this.active.back();
    this.redraw();
  }

  cancel() {
    const sketched = this.active instanceof Brush && this.active.shape;
    this.active.cancel();
    if (sketched) this.drawing.sketch(null);
    this.redraw();
  }

  // Keys draw with a crosshair --------------------------------------------------------------------------------------

  steer(dx, dy) {
    if (!this.drawing) return;
    const [x, y] = this.#cursor ?? this.view.middle;
    this.#keys = true;
    this.#cursor = [
      Math.min(this.size.width, Math.max(0, x + STEP * dx)),
      Math.min(this.size.height, Math.max(0, y + STEP * dy)),
    ];
    this.#draw([this.#cursor]);
  }

  /** Press or lift at the crosshair. */
  click() {
    if (!this.#cursor) this.steer(0, 0);
    if (this.active.shape && this.tool !== "polygon") return this.#lift("keys");
    this.#press(this.tool === "eraser");
    if (this.tool === "polygon") this.#lift("keys");
  }

  // Pointers --------------------------------------------------------------------------------------------------------

  #down(event) {
    if (!this.drawing) return;
    this.root.setPointerCapture(event.pointerId);
    this.#pen ||= event.pointerType === "pen";
    this.#pointers.set(event.pointerId, this.#place(event));
    this.#keys = false;
    if (this.#pointers.size > 1) return this.#pinch();
    this.#cursor = this.#place(event);
    this.#gesture = this.#intent(event);
    if (this.#gesture === "draw") {
      this.#press(this.tool === "eraser" || event.shiftKey || (event.buttons & 34) > 0);
    }
    event.preventDefault();
  }

  #intent({ button, pointerType }) {
    const palm = this.#pen && pointerType === "touch";
    return button === 1 || this.#space || palm ? "pan" : "draw";
  }

  #pinch() {
    if (this.#gesture === "draw") this.#interrupt();
    this.#gesture = "pinch";
  }

  #interrupt() {
    if (this.tool === "polygon") this.active.interrupt();
    else this.cancel();
  }

  #move(event) {
    const place = this.#place(event);
    if (!this.#pointers.has(event.pointerId)) return this.#hover(place);
    const before = this.#spread();
    const last = this.#pointers.get(event.pointerId);
    this.#pointers.set(event.pointerId, place);
    if (this.#gesture === "draw") {
      const all = event.getCoalescedEvents?.() ?? [];
      this.#draw(all.length ? all.map((one) => this.#place(one)) : [place]);
    } else if (this.#gesture === "pinch" && this.#pointers.size > 1) this.#stretch(before, this.#spread());
    else this.#shift(place[0] - last[0], place[1] - last[1]);
  }

  #up(event) {
    if (!this.#pointers.delete(event.pointerId)) return;
    if (this.#gesture === "draw") this.#lift(event.pointerType);
    if (event.pointerType === "touch") this.#hover(null);
    if (!this.#pointers.size) this.#gesture = null;
  }

  #lost(event) {
    if (this.#pointers.delete(event.pointerId) && this.#gesture === "draw") this.#interrupt();
    if (!this.#pointers.size) this.#gesture = null;
  }

  #wheel(event) {
    event.preventDefault();
    if (!this.drawing) return;
    const lines = event.deltaMode === 1 ? 16 : 1;
    this.view.zoom(Math.exp((-event.deltaY * lines) / (event.ctrlKey ? 100 : 400)), this.#place(event));
    this.redraw();
  }

  #hover(place) {
    this.#cursor = place;
    this.#keys = false;
    this.redraw();
  }

  #place({ clientX, clientY }) {
    const { left, top } = this.root.getBoundingClientRect();
    return [clientX - left, clientY - top];
  }

  /** The middle of two fingers, and how far they are apart. */
  #spread() {
    const [a, b = a] = this.#pointers.values();
    return { middle: [(a[0] + b[0]) / 2, (a[1] + b[1]) / 2], apart: Math.hypot(a[0] - b[0], a[1] - b[1]) || 1 };
  }

  #stretch(before, after) {
    this.view.zoom(after.apart / before.apart, before.middle);
    this.#shift(after.middle[0] - before.middle[0], after.middle[1] - before.middle[1]);
  }

  #shift(dx, dy) {
    this.view.pan(dx, dy);
    this.redraw();
  }

  // Drawing ---------------------------------------------------------------------------------------------------------

  #press(erase) {
    this.active.press(this.view.toImage(this.#cursor), { radius: this.radius, erase });
    if (this.active instanceof Brush) this.drawing.sketch(this.active.shape, this.active.shape);
    this.redraw();
  }

  #draw(places) {
    for (const place of places) {
      this.#cursor = place;
      this.active.move(this.view.toImage(place));
      if (this.active instanceof Brush && this.active.shape) this.#extend();
    }
    this.redraw();
  }

  #extend() {
    const { erase } = this.active.shape;
    this.drawing.sketch(this.active.shape, this.active.latest);
    if (!this.active.full) return;
    this.#done(this.active.lift());
    this.#press(erase);
  }

  #lift(pointer) {
    this.#done(this.active.lift(this.view.toImage(this.#cursor), NEAR[pointer] / this.view.scale));
  }

  #done(shape) {
    if (shape) this.dispatchEvent(new CustomEvent("shape", { detail: shape }));
    this.redraw();
  }

  // Showing ---------------------------------------------------------------------------------------------------------

  redraw() {
    if (this.#waiting) return;
    this.#waiting = true;
    requestAnimationFrame(() => {
      this.#waiting = false;
      if (this.drawing) this.#paint();
    });
  }

  #measure() {
    const ratio = devicePixelRatio;
    const [width, height] = [Math.round(this.size.width * ratio), Math.round(this.size.height * ratio)];
    if (this.canvas.width !== width || this.canvas.height !== height) Object.assign(this.canvas, { width, height });
    this.ratio = ratio;
  }

  #resize() {
    if (!this.drawing) return;
    this.#measure();
    this.view.resize(this.size);
    this.#paint(); // at once: an emptied canvas would flash
  }

  #paint() {
    const { x, y, scale } = this.view;
    for (const layer of [this.picture, this.map]) {
      layer.style.transform = `translate(${x}px, ${y}px) scale(${scale})`;
      layer.style.imageRendering = scale * this.ratio > 3 && layer === this.picture ? "pixelated" : "auto";
    }
    this.tiles.paint(this.context, this.view, this.ratio);
    this.sketch.replaceChildren(...this.#outline(), ...this.#pointer());
    this.dispatchEvent(new Event("change"));
  }

  /** What is being drawn, as far as it is no mask yet. */
  #outline() {
    const { shape } = this.active;
    if (this.tool === "box" && shape) return doubled("polygon", { points: this.#path(corners(shape.points)) });
    if (!this.outlining) return [];
    const path = this.#path(shape.points);
    const ahead = this.#cursor ? `${path} ${this.#cursor.join()}` : path;
    return [
      element("polygon", { points: ahead, class: shape.erase ? "area erase" : "area" }),
      ...doubled("polyline", { points: ahead }),
      ...shape.points.map((point, k) => this.#vertex(point, k === 0 && this.active.closable)),
    ];
  }

  #vertex(point, closing) {
    const [cx, cy] = this.view.toStage(point);
    return element("circle", { cx, cy, r: closing ? 6 : 3.5, class: "vertex" });
  }

  #pointer() {
    if (!this.#cursor || this.#gesture === "pan" || this.#gesture === "pinch") return [];
    const [cx, cy] = this.#cursor;
    const r = Math.max(1.5, this.radius * this.view.scale);
    const round = this.active instanceof Brush ? doubled("circle", { cx, cy, r }) : [];
    const cross = `M${cx - 9} ${cy}h18M${cx} ${cy - 9}v18`;
    return this.#keys ? [...round, ...doubled("path", { d: cross })] : round;
  }

  #path(points) {
    return points.map((point) => this.view.toStage(point).join()).join(" ");
  }
}

function corners([[left, top], [right, bottom]]) {
  return [[left, top], [right, top], [right, bottom], [left, bottom]];
}

/** A light line on a dark one: seen on every picture. */
function doubled(name, attributes) {
  return ["dark", "light"].map((kind) => element(name, { ...attributes, class: kind }));
}

function element(name, attributes) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}
