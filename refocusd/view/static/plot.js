// Focus scores of the frames shown in the last two minutes: as dots, because frames of several
// planes and channels follow one another.

const MOST = 600;
const SPAN_S = 120;

export class FocusPlot {
  constructor(canvas) {
    this.canvas = canvas;
    this.points = [];
    this.asked = false;
    new ResizeObserver(() => this.draw()).observe(canvas);
  }

  fill(points) {
    this.points = points.slice(-MOST);
    this.draw();
  }

  add(point) {
    this.points.push(point);
    if (this.points.length > MOST) this.points.splice(0, this.points.length - MOST);
    if (this.asked) return;
    this.asked = true;
    setTimeout(() => {
      this.asked = false;
      this.draw();
    }, 250);
  }

  draw() {
    const { canvas } = this;
    const ratio = window.devicePixelRatio || 1;
    const width = (canvas.width = Math.max(1, Math.round(canvas.clientWidth * ratio)));
    const height = (canvas.height = Math.max(1, Math.round(canvas.clientHeight * ratio)));
    const context = canvas.getContext("2d");
    const style = getComputedStyle(document.documentElement);
    const ink = (name) => style.getPropertyValue(name).trim();
    const bottom = height - 15 * ratio;
    const left = 42 * ratio;
    context.font = `${11 * ratio}px ${style.fontFamily}`;
    context.fillStyle = ink("--quiet");
    const last = this.points.at(-1);
    if (!last) {
      context.fillText("no frames yet", left, bottom / 2);
      return;
    }
    const newest = last.at;
    const points = this.points.filter((p) => newest - p.at <= SPAN_S);
    const span = Math.max(5, newest - points[0].at);
    const top = niceTop(Math.max(...points.map((p) => Math.max(p.before ?? 0, p.after ?? 0)), 1e-9));
    const x = (at) => left + (1 - (newest - at) / span) * (width - left - 4 * ratio);
    const y = (value) => bottom - (value / top) * (bottom - 6 * ratio);
    context.strokeStyle = ink("--line");
    context.lineWidth = ratio;
    context.textAlign = "right";
    context.textBaseline = "middle";
    for (const part of [0, 0.5, 1]) {
      context.beginPath();
      context.moveTo(left, y(part * top));
      context.lineTo(width, y(part * top));
      context.stroke();
      context.fillText(shortNumber(part * top), left - 5 * ratio, y(part * top));
    }
    context.textBaseline = "bottom";
    context.fillText("now", width - 2 * ratio, height - ratio);
    context.textAlign = "left";
    context.fillText(`${Math.round(span)} s ago`, left, height - ratio);
    const size = Math.max(1.6, 3.2 - points.length / 250) * ratio;
    for (const [name, colour] of [["before", "--raw"], ["after", "--refocused"]]) {
      context.fillStyle = ink(colour);
      for (const point of points) {
        if (point[name] !== null) context.fillRect(x(point.at) - size / 2, y(point[name]) - size / 2, size, size);
      }
    }
  }
}

function niceTop(value) {
  const decade = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 4, 5, 8, 10].find((n) => n * decade >= value) * decade;
}

export function shortNumber(value) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 1e6) return `${(value / 1e6).toFixed(1)}M`;
  if (size >= 1e4) return `${(value / 1e3).toFixed(0)}k`;
  if (size >= 100) return value.toFixed(0);
  if (size < 1e-4) return value.toExponential(0);
  return size >= 1 ? value.toFixed(size >= 10 ? 1 : 2) : value.toPrecision(2);
}
