// One control for each axis of the acquisition.  Moving one freezes the view at that frame; with a
// pin, the view keeps following, but only frames with that value.

const PIN = '<svg viewBox="0 0 16 16" fill="none" stroke="currentColor" stroke-width="1.6"><path d="M4.5 7V5a3.5 3.5 0 0 1 7 0v2"/><rect x="3" y="7" width="10" height="7" rx="1.5" fill="currentColor" stroke="none"/></svg>';
const ORDER = ["channel", "position", "z", "time"];
//: Up to this many names are buttons; more are a list.
const MOST_BUTTONS = 4;

export class Axes extends EventTarget {
  constructor(box) {
    super();
    this.box = box;
    this.rows = new Map();
    this.pinned = {};
    this.current = {};
  }

  // Offer these values, by axis: added to the known ones, or instead of them.
  offer(values, { replace = false } = {}) {
    if (replace) {
      for (const name of this.rows.keys()) if (!(name in values)) this.remove(name);
    }
    const rank = (name) => (ORDER.includes(name) ? ORDER.indexOf(name) : ORDER.length - 1.5);
    for (const name of Object.keys(values).sort((a, b) => rank(a) - rank(b) || a.localeCompare(b))) {
      const row = this.rows.get(name) ?? this.add(name, typeof values[name][0] === "string");
      const known = replace ? values[name] : merged(row.values, values[name]);
      if (known.length !== row.values.length || known.some((v, i) => v !== row.values[i])) {
        row.values = known;
        row.rebuild();
      }
    }
  }

  clear() {
    for (const name of [...this.rows.keys()]) this.remove(name);
    this.pinned = {};
    this.current = {};
  }

  remove(name) {
    this.rows.get(name)?.element.remove();
    this.rows.delete(name);
    delete this.pinned[name];
  }

  // Set the controls to the axes of the frame on the stage.
  show(axes) {
    this.current = { ...axes };
    for (const [name, row] of this.rows) row.show(axes[name]);
  }

  matches(axes) {
    return Object.entries(this.pinned).every(([name, value]) => axes[name] === value);
  }

  step(name, by) {
    const row = this.rows.get(name);
    if (!row || !row.values.length) return;
    const at = row.values.indexOf(this.current[name]);
    const next = row.values[(Math.max(0, at) + by + row.values.length) % row.values.length];
    this.choose(name, next);
  }

  choose(name, value) {
    this.current = { ...this.current, [name]: value };
    const isPinned = name in this.pinned;
    if (isPinned) this.pinned[name] = value;
    this.rows.get(name)?.show(value);
    this.dispatchEvent(new CustomEvent(isPinned ? "pin" : "choose", { detail: { name, value } }));
  }

  pin(name, on) {
    if (on) this.pinned[name] = this.current[name];
    else delete this.pinned[name];
    this.rows.get(name)?.showPin(on);
    this.dispatchEvent(new CustomEvent("pin", { detail: { name } }));
  }

  add(name, isNames) {
    const element = document.createElement("div");
    element.className = "axis";
    element.dataset.axis = name;
    const label = document.createElement("span");
    label.textContent = name;
    const place = document.createElement("span");
    place.style.display = "contents";
    const pin = document.createElement("button");
    pin.className = "pin";
    pin.innerHTML = PIN;
    pin.title = pin.ariaLabel = `Follow only this ${name}`;
    pin.setAttribute("aria-pressed", "false");
    pin.addEventListener("click", () => this.pin(name, !(name in this.pinned)));
    if (name === "time") pin.style.visibility = "hidden";
    element.append(label, place, pin);
    const choose = (value) => this.choose(name, value);
    const row = { element, values: [], shown: undefined };
    row.showPin = (on) => pin.setAttribute("aria-pressed", on);
    row.rebuild = () => {
      place.replaceChildren();
      const few = isNames && row.values.length <= MOST_BUTTONS;
      row.control = few ? buttons(name, row, choose) : isNames ? list(name, row, choose) : slider(name, row, choose);
      place.append(...row.control.elements);
      row.show(row.shown);
    };
    row.show = (value) => {
      row.shown = value;
      row.control?.show(value);
      // An axis with one value offers no choice.
      element.hidden = row.values.length < 2;
    };
    this.rows.set(name, row);
    this.box.append(element);
    return row;
  }
}

function merged(known, more) {
  const fresh = more.filter((value) => !known.includes(value));
  if (!fresh.length) return known;
  return [...known, ...fresh].sort((a, b) => (typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b))));
}

function slider(name, row, choose) {
  const input = document.createElement("input");
  input.type = "range";
  input.min = 0;
  input.max = Math.max(0, row.values.length - 1);
  input.ariaLabel = name;
  const output = document.createElement("output");
  input.addEventListener("input", () => choose(row.values[input.value]));
  const show = (value) => {
    const at = row.values.indexOf(value);
    if (at >= 0) input.value = at;
    output.textContent = value === undefined ? "–" : `${value} / ${row.values.at(-1)}`;
  };
  return { elements: [input, output], show };
}

function buttons(name, row, choose) {
  const group = document.createElement("div");
  group.className = "segments";
  group.setAttribute("role", "radiogroup");
  group.ariaLabel = name;
  for (const value of row.values) {
    const button = document.createElement("button");
    button.textContent = button.title = value;
    button.dataset.value = value;
    button.setAttribute("role", "radio");
    button.addEventListener("click", () => choose(value));
    group.append(button);
  }
  const show = (value) => {
    for (const button of group.children) button.setAttribute("aria-checked", button.dataset.value === value);
  };
  return { elements: [group], show };
}

function list(name, row, choose) {
  const select = document.createElement("select");
  select.ariaLabel = name;
  for (const value of row.values) select.append(new Option(value, value));
  select.addEventListener("change", () => choose(select.value));
  return { elements: [select], show: (value) => (select.value = value ?? "") };
}
