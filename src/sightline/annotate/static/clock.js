// How long somebody has worked: not while the page is hidden, nor after a while without a touch.

const IDLE = 30; // seconds

export class Clock {
  #seconds = 0;
  #last = performance.now();
  #touched = performance.now();

  constructor() {
    for (const type of ["pointerdown", "pointermove", "wheel", "keydown"]) {
      addEventListener(type, () => this.#touch(), { passive: true, capture: true });
    }
    document.addEventListener("visibilitychange", () => this.#count(document.hidden));
  }

  get paused() {
    return document.hidden || performance.now() - this.#touched > 1000 * IDLE;
  }

  /** Of work since the last `take`. */
  get seconds() {
    this.#count(!document.hidden);
    return this.#seconds;
  }

  take() {
    const seconds = Math.round(10 * this.seconds) / 10;
    this.#seconds = 0;
    return seconds;
  }

  #touch() {
    this.#count(true);
    this.#touched = performance.now();
  }

  #count(visible) {
    const end = Math.min(performance.now(), this.#touched + 1000 * IDLE);
    if (visible) this.#seconds += Math.max(0, end - this.#last) / 1000;
    this.#last = performance.now();
  }
}
