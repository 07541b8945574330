// What the server has not confirmed yet. It is kept in memory and in the browser's storage, and sent until it has arrived: the
// server knows operations by their ids, so sending one twice changes nothing.

import { Refused, judge, operate } from "./api.js";

const FIRST = 1; // seconds until the next try
const LONGEST = 8;
const MOST = 20; // operations in one request; the server takes 100, but only 4 MiB

/** A version 4 UUID. crypto.randomUUID exists only under https and on localhost. */
export function uuid() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6] & 15) | 64;
  bytes[8] = (bytes[8] & 63) | 128;
  const hex = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})/, "$1-$2-$3-$4-");
}

/** Events: "state" (saved, saving, offline or signed out, and how many changes wait), "sent" (image, seconds, answer), "trouble" (message). */
export class Outbox extends EventTarget {
  #running = false;
  #awake = null;

  /** `numbers` says which number the server gives to an image's id. */
  constructor(project, numbers) {
    super();
    this.prefix = `sightline ${project} `;
    this.numbers = numbers;
    this.entries = stored(this.prefix).filter(({ image }) => numbers.has(image));
    addEventListener("online", () => this.#awake?.());
    this.#run();
  }

  /** An entry is {operation}, {verdict} or only {seconds} of work on the image. */
  add(image, entry) {
    const made = { ...entry, image, key: entry.operation?.id ?? uuid(), at: Date.now() };
    this.entries.push(made);
    keep(this.prefix, made);
    if (this.#running) this.#say(this.state);
    else this.#run();
  }

  /** The operations on an image that still wait. */
  of(image) {
    return this.entries.filter((entry) => entry.image === image && entry.operation).map(({ operation }) => operation);
  }

  /** Of work, not reported yet. */
  get seconds() {
    return total(this.entries);
  }

  has(id) {
    return this.entries.some(({ key }) => key === id);
  }

  async #run() {
    this.#running = true;
    let pause = FIRST;
    while (this.entries.length) {
      const batch = this.#batch();
      this.#say(pause === FIRST ? "saving" : this.state);
      const error = await this.#send(batch).catch((failure) => failure);
      if (error && !final(error)) {
        this.#explain(error, pause);
        await this.#wait(pause);
        pause = Math.min(LONGEST, 2 * pause);
        continue;
      }
      if (error) {
        this.#drop(batch);
        this.#tell("trouble", { message: `Not saved: ${error.message}` });
      }
      pause = FIRST;
    }
    this.#running = false;
    this.#say("saved");
  }

  /** What goes into one request: a verdict alone, or everything drawn on one image up to the next one. */
  #batch() {
    const [first] = this.entries;
    if (first.verdict) return [first];
    const end = this.entries.findIndex(({ image, verdict }) => image !== first.image || verdict);
    return this.entries.slice(0, end < 0 ? MOST : Math.min(end, MOST));
  }

  async #send(batch) {
    const [{ image, verdict }] = batch;
    const i = this.numbers.get(image);
    const seconds = total(batch);
    const operations = batch.flatMap(({ operation }) => operation ?? []);
    const answer = await (verdict ? judge(i, verdict, seconds) : operate(i, operations, seconds));
    this.#drop(batch);
    this.#tell("sent", { image, seconds, answer });
  }

  #drop(batch) {
    this.entries = this.entries.filter((entry) => !batch.includes(entry));
    batch.forEach(({ key }) => forget(this.prefix, key));
  }

  #explain(error, pause) {
    const answered = error instanceof Refused;
    if (answered && pause === FIRST) this.#tell("trouble", { message: error.message });
    this.#say(answered && error.status < 500 ? "signed out" : "offline");
  }

  #wait(seconds) {
    return new Promise((resolve) => {
      this.#awake = resolve;
      setTimeout(resolve, 1000 * seconds);
    });
  }

  #say(state) {
    this.state = state;
    this.#tell("state", { state, waiting: this.entries.length });
  }

  #tell(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}

const total = (entries) => entries.reduce((sum, { seconds }) => sum + seconds, 0);

/** Whether sending the same again can never help. */
function final(error) {
  return error instanceof Refused && error.status < 500 && ![401, 403, 408, 429].includes(error.status);
}

// Storage may be full or forbidden; then memory has to do. ---------------------------------------------------------------

function keep(prefix, entry) {
  try {
    localStorage.setItem(prefix + entry.key, JSON.stringify(entry));
  } catch {
    // see above
  }
}

function forget(prefix, key) {
  try {
    localStorage.removeItem(prefix + key);
  } catch {
    // see above
  }
}

function stored(prefix) {
  try {
    const keys = Object.keys(localStorage).filter((key) => key.startsWith(prefix));
    return keys.map((key) => JSON.parse(localStorage.getItem(key))).sort((a, b) => a.at - b.at);
  } catch {
    return [];
  }
}
