// The trust map over the refocused frame: how likely each part is wrong; and the list of frames to look at.

import { keyOf } from "./frame.js";

const AS_ACQUIRED = 255;
// From this percentage on: colour with opacity, and word.  The colour-blind can tell these colours apart.
const CLASSES = [
  [50, [176, 38, 255, 130], "likely"],
  [25, [255, 176, 0, 110], "possible"],
  [0, [0, 170, 190, 50], "unlikely"],
];

export class TrustOverlay {
  constructor(canvas, legend) {
    this.canvas = canvas;
    this.legend = legend;
    this.sheet = document.createElement("canvas");
    this.on = false;
    this.map = null;
    this.cells = null;
    for (const [least, [red, green, blue], word] of CLASSES) {
      const item = legend.appendChild(document.createElement("span"));
      item.style.setProperty("--cell", `rgb(${red} ${green} ${blue})`);
      item.textContent = least ? `${word}, ${least} % and more` : word;
    }
  }

  toggle() {
    this.on = !this.on;
    this.canvas.hidden = this.legend.hidden = !this.on;
  }

  take({ trust, state, missing }) {
    this.map = trust;
    this.cells = trust && Uint8Array.from(atob(trust.cells), (character) => character.charCodeAt(0));
    const none = missing.includes("refocused") ? "no refocused frame" : state === "passed_through" ? "as it was taken" : "no map of this frame";
    const [heading, ...colours] = this.legend.children;
    const estimated = Boolean(trust) && this.cells.some((cell) => cell !== AS_ACQUIRED);
    heading.textContent = estimated ? "Error over 10 % is" : `Error: ${none}`;
    for (const colour of colours) colour.hidden = !estimated;
    if (!trust) return;
    this.sheet.width = trust.columns;
    this.sheet.height = trust.rows;
    const image = new ImageData(trust.columns, trust.rows);
    this.cells.forEach((percent, at) => {
      if (percent !== AS_ACQUIRED) image.data.set(CLASSES.find(([least]) => percent >= least)[1], 4 * at);
    });
    this.sheet.getContext("2d").putImageData(image, 0, 0);
  }

  // Probability in percent that the frame is wrong there; null if it is unknown or nothing was estimated.
  at(x, y) {
    if (!this.map) return null;
    const { columns, cell_px: cell } = this.map;
    const percent = this.cells[Math.floor(y / cell) * columns + Math.floor(x / cell)];
    return percent === undefined || percent === AS_ACQUIRED ? null : percent;
  }

  draw(like, panes, camera) {
    if (!this.on) return;
    const { canvas, sheet, map } = this;
    canvas.width = like.width;
    canvas.height = like.height;
    canvas.style.width = like.style.width;
    canvas.style.height = like.style.height;
    if (!map) return;
    const context = canvas.getContext("2d");
    context.imageSmoothingEnabled = false;
    const scale = camera.scale * map.cell_px;
    for (const pane of panes.filter(({ which }) => which === "refocused")) {
      context.save();
      context.beginPath();
      context.rect(pane.left, 0, pane.width, canvas.height);
      context.clip();
      const left = pane.middle - camera.x * camera.scale;
      const top = pane.down - camera.y * camera.scale;
      context.drawImage(sheet, left, top, map.columns * scale, map.rows * scale);
      context.restore();
    }
  }
}

// The doubted frames, newest first, as buttons that show them.
export function showDoubted(card, frames, show) {
  const known = frames.map(({ acquisition, axes }) => acquisition + keyOf(axes)).join();
  card.hidden = !frames.length;
  if (card.dataset.known === known) return;
  card.dataset.known = known;
  card.querySelector("ol").replaceChildren(
    ...frames.map((frame) => {
      const button = document.createElement("button");
      button.dataset.verdict = frame.verdict;
      const where = document.createElement("b");
      where.textContent = Object.entries(frame.axes).map(([name, value]) => `${name} ${value}`).join(", ");
      const why = document.createElement("span");
      why.textContent = `${frame.verdict}: ${frame.reasons.join("; ") || "no reason was given"}`;
      button.append(where, why);
      button.addEventListener("click", () => show(frame));
      const item = document.createElement("li");
      item.append(button);
      return item;
    }),
  );
}
