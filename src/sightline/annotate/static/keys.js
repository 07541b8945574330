// Keyboard: one table says what each key does, for the page and for its help.

/** Rows of {title, keys, run}; the help shows `shown` instead of the keys where that reads better. */
export class Keys {
  constructor(rows, busy) {
    this.rows = rows;
    this.busy = busy;
    this.actions = new Map(rows.flatMap(({ keys, run }) => keys.map((key) => [key, run])));
    addEventListener("keydown", (event) => this.#down(event));
  }

  /** Fill the help's list. */
  explain(list) {
    for (const { title, keys, shown = keys } of this.rows) {
      const row = document.createElement("div");
      const [names, meaning] = ["dt", "dd"].map((name) => document.createElement(name));
      names.append(...shown.map((key) => Object.assign(document.createElement("kbd"), { textContent: key })));
      meaning.textContent = title;
      row.append(names, meaning);
      list.append(row);
    }
  }

  #down(event) {
    if ((event.altKey && !typing(event)) || event.defaultPrevented || this.busy() || taken(event)) return;
    const run = this.actions.get(named(event));
    if (!run) return;
    event.preventDefault();
    run(event);
  }
}

function named(event) {
  const name = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  if (typing(event)) return name;
  const control = event.ctrlKey || event.metaKey;
  const shift = event.shiftKey && (control || name.startsWith("Arrow"));
  return (control ? "Ctrl+" : "") + (shift ? "Shift+" : "") + name;
}

/** AltGr writes brackets on many keyboards, and calls itself Ctrl and Alt. */
function typing(event) {
  return event.getModifierState("AltGraph");
}

/** Whether what has the focus needs the key itself. */
function taken({ target, key }) {
  if (target.matches("select, [type=text]")) return true;
  if (target.matches("[type=range]")) return key.startsWith("Arrow");
  return target.matches("button, a, summary") && (key === " " || key === "Enter");
}
