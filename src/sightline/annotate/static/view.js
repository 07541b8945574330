// Where the image lies on the stage: stage = image * scale + (x, y), in CSS pixels.

const LARGEST = 64;
const MARGIN = 16;
const KEPT = 48; // CSS pixels of the image that stay on the stage

export class View {
  scale = 1;
  x = 0;
  y = 0;

  /** Show the whole image, in the middle. */
  fit(stage, image) {
    this.stage = stage;
    this.image = image;
    const room = Math.min((stage.width - 2 * MARGIN) / image.width, (stage.height - 2 * MARGIN) / image.height);
    this.fitting = Math.min(LARGEST, Math.max(room, 1e-3));
    this.scale = this.fitting;
    this.x = (stage.width - image.width * this.scale) / 2;
    this.y = (stage.height - image.height * this.scale) / 2;
  }

  /** The stage has another size: keep its middle where it was. */
  resize(stage) {
    const untouched = this.scale === this.fitting;
    const [dx, dy] = [(stage.width - this.stage.width) / 2, (stage.height - this.stage.height) / 2];
    this.stage = stage;
    if (untouched) this.fit(stage, this.image);
    else this.pan(dx, dy);
  }

  /** Enlarge by a factor; the point of the stage stays where it is. */
  zoom(factor, [x, y] = this.middle) {
    const scale = Math.min(LARGEST, Math.max(Math.min(this.fitting, 1) / 2, this.scale * factor));
    this.x = x - ((x - this.x) * scale) / this.scale;
    this.y = y - ((y - this.y) * scale) / this.scale;
    this.scale = scale;
    this.pan(0, 0);
  }

  pan(dx, dy) {
    const { stage, image, scale } = this;
    this.x = Math.min(stage.width - KEPT, Math.max(KEPT - image.width * scale, this.x + dx));
    this.y = Math.min(stage.height - KEPT, Math.max(KEPT - image.height * scale, this.y + dy));
  }

  get middle() {
    return [this.stage.width / 2, this.stage.height / 2];
  }

  toImage([x, y]) {
    return [(x - this.x) / this.scale, (y - this.y) / this.scale];
  }

  toStage([x, y]) {
    return [x * this.scale + this.x, y * this.scale + this.y];
  }
}
