// The mask of the open image: what the server has, with what of ours has not come back from it yet on top.

import { mask, since } from "./api.js";
import { uuid } from "./outbox.js";
import { draw, whole } from "./shapes.js";

export class Drawing {
  #base; // the mask at some version
  #confirmed = []; // operations since then, everybody's, in the server's order
  #mine = []; // ours that the server has not told us of
  #live = null; // a stroke that is not finished
  #polling = false;

  /** `changed` is told which rectangle of the bitmap is no longer as it was. */
  constructor(image, outbox, changed) {
    this.image = image;
    this.outbox = outbox;
    this.changed = changed;
    this.bitmap = { width: image.width, height: image.height, data: new Uint8Array(image.width * image.height) };
    this.past = new Past(image.id);
  }

  async load() {
    const { version, data } = await mask(this.image.i);
    this.version = version;
    this.#base = data;
    this.#confirmed = [];
    this.#mine = this.outbox.of(this.image.id);
    this.#redraw();
  }

  /** Draw an operation and send it. */
  add(shape, seconds) {
    const operation = { id: uuid(), ...shape };
    this.past.did(operation.id);
    this.#live = null;
    this.#send(operation, seconds);
    this.#show([operation]);
  }

  undo(seconds) {
    this.#turn("undo", this.past.undo(), seconds);
  }

  redo(seconds) {
    this.#turn("redo", this.past.redo(), seconds);
  }

  /** Show a stroke while it is drawn; null takes it away. */
  sketch(shape, latest) {
    this.#live = shape;
    if (shape) this.#show([latest]);
    else this.#redraw();
  }

  /** Ask for what others have drawn. */
  async poll() {
    if (this.#polling) return;
    if (!this.#base) return this.load();
    this.#polling = true;
    try {
      const arrived = this.#mine.filter(({ id }) => !this.outbox.has(id));
      const { version, operations } = await since(this.image.i, this.version);
      this.version = version;
      await this.#receive(operations, arrived);
    } finally {
      this.#polling = false;
    }
  }

  async #receive(operations, arrived) {
    const gone = new Set(ids([...operations, ...arrived]));
    const asShown = operations.every(({ id }, k) => id === this.#mine[k]?.id) && gone.size === operations.length;
    this.#confirmed.push(...operations);
    this.#mine = this.#mine.filter(({ id }) => !gone.has(id));
    const known = new Set(ids(this.#confirmed));
    if (operations.some(({ of }) => of && !known.has(of))) await this.load();
    else if (!asShown) this.#redraw();
  }

  #turn(kind, of, seconds) {
    if (!of) return;
    this.#send({ id: uuid(), kind, of }, seconds);
    this.#redraw();
  }

  #send(operation, seconds) {
    this.#mine.push(operation);
    this.outbox.add(this.image.id, { operation, seconds });
  }

  #redraw() {
    if (!this.#base) return;
    this.bitmap.data.set(this.#base);
    standing([...this.#confirmed, ...this.#mine]).forEach((operation) => draw(this.bitmap, operation));
    if (this.#live) draw(this.bitmap, this.#live);
    this.changed(whole(this.bitmap));
  }

  #show(shapes) {
    shapes.forEach((shape) => this.changed(draw(this.bitmap, shape)));
  }
}

/** The operations that mark pixels and are not taken back, in their order. */
export function standing(operations) {
  const undone = new Set();
  for (const { kind, of } of operations) {
    if (kind === "undo") undone.add(of);
    if (kind === "redo") undone.delete(of);
  }
  return operations.filter(({ id, of }) => !of && !undone.has(id));
}

const ids = (operations) => operations.map(({ id }) => id);

/** What this tab has drawn on an image, to be taken back step by step, also after the page was loaded again. */
class Past {
  constructor(image) {
    this.key = `sightline past ${image}`;
    const { done = [], undone = [] } = JSON.parse(sessionStorage.getItem(this.key) ?? "{}");
    Object.assign(this, { done, undone });
  }

  did(id) {
    this.done.push(id);
    this.undone = [];
    this.#keep();
  }

  undo() {
    return this.#move(this.done, this.undone);
  }

  redo() {
    return this.#move(this.undone, this.done);
  }

  #move(from, to) {
    if (!from.length) return null;
    to.push(from.pop());
    this.#keep();
    return to.at(-1);
  }

  #keep() {
    const { done, undone } = this;
    sessionStorage.setItem(this.key, JSON.stringify({ done, undone }));
  }
}
