// The mask as it is shown: in tiles, since browsers limit the size of one canvas, and since most tiles stay empty.

const SIDE = 512;

export class Tiles {
  #tiles = new Map();

  constructor(bitmap, colour) {
    this.bitmap = bitmap;
    this.colour = colour;
  }

  /** Take over what has changed within a rectangle. */
  refresh({ left, top, right, bottom }) {
    for (let y = Math.floor(top / SIDE) * SIDE; y < bottom; y += SIDE) {
      for (let x = Math.floor(left / SIDE) * SIDE; x < right; x += SIDE) {
        this.#update(x, y, {
          left: Math.max(left, x),
          top: Math.max(top, y),
          right: Math.min(right, x + SIDE),
          bottom: Math.min(bottom, y + SIDE),
        });
      }
    }
  }

  /** Draw what is in sight; edges of tiles fall on device pixels, or seams would show. */
  paint(context, view, ratio) {
    const { width, height } = context.canvas;
    const at = (value, offset) => Math.round((value * view.scale + offset) * ratio);
    context.clearRect(0, 0, width, height);
    context.imageSmoothingEnabled = view.scale * ratio < 1;
    for (const { x, y, canvas } of this.#tiles.values()) {
      const [left, top] = [at(x, view.x), at(y, view.y)];
      const [right, bottom] = [at(x + canvas.width, view.x), at(y + canvas.height, view.y)];
      if (right > 0 && bottom > 0 && left < width && top < height) {
        context.drawImage(canvas, left, top, right - left, bottom - top);
      }
    }
  }

  #update(x, y, area) {
    const [width, height] = [area.right - area.left, area.bottom - area.top];
    if (width <= 0 || height <= 0) return;
    const colours = new Uint32Array(width * height);
    const anything = this.#colour(colours, area, width);
    if (!anything && !this.#tiles.has(`${x} ${y}`)) return;
    const pixels = new ImageData(new Uint8ClampedArray(colours.buffer), width, height);
    this.#tile(x, y).getContext("2d").putImageData(pixels, area.left - x, area.top - y);
  }

  #colour(colours, area, width) {
    let anything = false;
    for (let row = area.top, k = 0; row < area.bottom; row++) {
      const from = row * this.bitmap.width + area.left;
      for (let p = from; p < from + width; p++, k++) {
        if (this.bitmap.data[p]) {
          colours[k] = this.colour;
          anything = true;
        }
      }
    }
    return anything;
  }

  #tile(x, y) {
    const key = `${x} ${y}`;
    if (!this.#tiles.has(key)) {
      const canvas = document.createElement("canvas");
      canvas.width = Math.min(SIDE, this.bitmap.width - x);
      canvas.height = Math.min(SIDE, this.bitmap.height - y);
      this.#tiles.set(key, { x, y, canvas });
    }
    return this.#tiles.get(key).canvas;
  }
}
