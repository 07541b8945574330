// The list of images: what is shown of it, where one is in it, what is done.

import { thumbnail } from "./api.js";

const SHOWN = {
  all: () => true,
  todo: (image) => !image.annotated,
  done: (image) => image.annotated,
  doubted: (image) => image.verdict === "no",
};

/** Events: "open" (an image). */
export class Gallery extends EventTarget {
  #items = new Map();

  constructor(list, state, label) {
    super();
    [this.list, this.state, this.label] = [list, state, label];
    state.addEventListener("change", () => this.filter());
    label.addEventListener("change", () => this.filter());
  }

  /** Take over what the server says; the list is made once, since images neither come nor go. */
  update({ images, order, classes }) {
    this.images = images;
    if (!this.#items.size) {
      this.order = order;
      this.places = new Map(order.map((i, place) => [i, place]));
      this.label.append(...classes.map((name) => new Option(name, `=${name}`)));
      order.forEach((i) => this.#items.set(i, this.#item(images[i])));
      this.list.append(...this.#items.values());
    }
    images.forEach((image) => this.mark(image));
    this.filter();
  }

  /** Show whether an image is done. */
  mark(image) {
    const item = this.#items.get(image.i);
    item.classList.toggle("done", image.annotated);
    item.dataset.verdict = image.verdict ?? "";
    const said = { yes: ", looks at the right place", no: ", looks at the wrong place" }[image.verdict] ?? "";
    item.querySelector(".state").textContent = (image.annotated ? "done" : "to do") + said;
  }

  filter() {
    const wanted = this.label.value.slice(1);
    const kept = (image) => SHOWN[this.state.value](image) && (!wanted || image.label.split(", ").includes(wanted));
    this.shown = this.order.filter((i) => kept(this.images[i]));
    const shown = new Set(this.shown);
    this.#items.forEach((item, i) => (item.hidden = !shown.has(i)));
    this.list.dataset.empty = shown.size ? "" : "No image is like that.";
  }

  /** Say which image is open. */
  select(i) {
    this.list.querySelector("[aria-current]")?.removeAttribute("aria-current");
    const button = this.#items.get(i).firstElementChild;
    button.setAttribute("aria-current", "true");
    button.scrollIntoView({ block: "nearest" });
  }

  /** The next (1) or previous (-1) image of those that are shown; null at the ends. */
  beside(i, step) {
    const ahead = (other) => step * (this.places.get(other) - this.places.get(i)) > 0;
    return (step > 0 ? this.shown.find(ahead) : this.shown.findLast(ahead)) ?? null;
  }

  #item(image) {
    const item = document.getElementById("item").content.firstElementChild.cloneNode(true);
    item.querySelector("img").src = thumbnail(image.i);
    item.querySelector(".name").textContent = image.id;
    item.querySelector(".label").textContent = image.label;
    item.querySelector("button").addEventListener("click", () => {
      this.dispatchEvent(new CustomEvent("open", { detail: image.i }));
    });
    return item;
  }
}
