// One window (black, white) for raw and refocused together, automatic or locked, for each channel.

const LOW = 0.001;
const HIGH = 0.999;
const MOST_SAMPLES = 1 << 16;
const BINS = 128;
//: Part of the way that an automatic window moves towards that of a new frame, so that it does not flicker.
const EASE = 0.3;

export class Contrast extends EventTarget {
  constructor(find) {
    super();
    this.low = find("low");
    this.high = find("high");
    this.lowNumber = find("low-n");
    this.highNumber = find("high-n");
    this.button = find("auto");
    this.note = find("window-note");
    this.canvas = find("histogram");
    this.clip = find("clip");
    this.channels = new Map();
    this.counted = { raw: new Uint32Array(65536), refocused: new Uint32Array(65536) };
    this.top = 1;
    this.due = null;
    this.alone = false; // whether only one channel is shown, not all in turn
    this.current = this.of("");
    for (const [input, end] of [[this.low, "low"], [this.high, "high"], [this.lowNumber, "low"], [this.highNumber, "high"]]) {
      input.addEventListener("input", () => this.set({ [end]: Number(input.value) }));
    }
    this.button.addEventListener("click", () => this.setAuto(!this.current.auto));
    this.clip.addEventListener("change", () => this.changed());
  }

  of(channel) {
    if (!this.channels.has(channel)) {
      // A locked window also holds for channels that come later.
      const { low, high, auto } = this.current ?? { low: 0, high: 1, auto: true };
      this.channels.set(channel, { low, high, auto, fresh: true, reach: 1 });
    }
    return this.channels.get(channel);
  }

  get window() {
    return { low: this.current.low, high: this.current.high };
  }

  get mark() {
    return this.clip.checked;
  }

  // Take in a new frame.
  take(frame) {
    const channel = String(frame.header.axes.channel ?? "");
    this.current = this.of(channel);
    this.full = frame.header.dtype === "uint8" ? 256 : 65536;
    let samples = 0;
    let top = 0;
    for (const which of ["raw", "refocused"]) {
      const table = this.counted[which].fill(0);
      const pixels = frame[which];
      if (!pixels) continue;
      const stride = Math.max(1, Math.floor(pixels.length / MOST_SAMPLES));
      for (let i = 0; i < pixels.length; i += stride) {
        table[pixels[i]] += 1;
        samples += 1;
        if (pixels[i] > top) top = pixels[i];
      }
    }
    if (!samples) return;
    this.wanted = this.percentiles(samples, top);
    // The sliders reach a little beyond the brightest pixel so far.
    const reach = Math.min(this.full, Math.ceil((Math.max(top, this.wanted.high) * 1.08) / 16) * 16);
    if (reach > this.current.reach || reach < 0.5 * this.current.reach) this.current.reach = reach;
    if (this.current.auto) {
      const ease = this.current.fresh || !frame.header.live ? 1 : EASE;
      this.current.fresh = false;
      const { low, high } = this.current;
      this.current.low = Math.round(low + ease * (this.wanted.low - low));
      this.current.high = Math.max(this.current.low + 1, Math.round(high + ease * (this.wanted.high - high)));
    }
    this.changed(true);
  }

  percentiles(samples, top) {
    const { raw, refocused } = this.counted;
    let seen = 0;
    let low = -1;
    for (let value = 0; value <= top; value++) {
      seen += raw[value] + refocused[value];
      if (low < 0 && seen >= LOW * samples) low = value;
      // A frame with a single value keeps its brightness: a saturated one is white.
      if (seen >= HIGH * samples) return value > low ? { low, high: value } : { low: 0, high: Math.max(1, value) };
    }
    return { low: Math.max(0, low), high: Math.max(1, top) };
  }

  set({ low = this.current.low, high = this.current.high }) {
    if (!Number.isFinite(low) || !Number.isFinite(high)) return;
    const black = Math.min(Math.max(0, Math.round(low)), 65534);
    const white = Math.min(Math.max(black + 1, Math.round(high)), 65536);
    // While channels alternate, the window that is set holds for all of them.
    const meant = this.alone ? [this.current] : [...this.channels.values()];
    for (const channel of meant) Object.assign(channel, { auto: false, low: black, high: white });
    this.changed();
  }

  setAuto(auto) {
    for (const channel of this.channels.values()) {
      channel.auto = auto;
      channel.fresh = true;
    }
    if (auto && this.wanted) Object.assign(this.current, this.wanted);
    this.changed();
  }

  changed(quietly = false) {
    const { low, high, auto, reach } = this.current;
    for (const input of [this.low, this.high]) input.max = Math.max(reach, high);
    for (const input of [this.low, this.high]) input.min = 0;
    this.low.value = low;
    this.high.value = high;
    for (const [input, value] of [[this.lowNumber, low], [this.highNumber, high]]) {
      if (document.activeElement !== input) input.value = value;
    }
    this.button.setAttribute("aria-pressed", auto);
    this.note.textContent = auto ? "counts, automatic" : "counts, locked";
    this.dispatchEvent(new Event("change"));
    if (!quietly) this.draw();
    // About eight times per second while frames come, including the last one.
    else this.due ??= setTimeout(() => this.draw(), 120);
  }

  draw() {
    clearTimeout(this.due);
    this.due = null;
    const { canvas } = this;
    const ratio = window.devicePixelRatio || 1;
    const width = (canvas.width = Math.max(1, Math.round(canvas.clientWidth * ratio)));
    const height = (canvas.height = Math.max(1, Math.round(canvas.clientHeight * ratio)));
    const context = canvas.getContext("2d");
    const style = getComputedStyle(document.documentElement);
    const reach = Math.max(this.current.reach, this.current.high);
    const bins = { raw: new Float32Array(BINS), refocused: new Float32Array(BINS) };
    let most = 1;
    for (const which of ["raw", "refocused"]) {
      const table = this.counted[which];
      for (let value = 0; value < reach && value < 65536; value++) {
        if (table[value]) bins[which][Math.min(BINS - 1, Math.floor((value * BINS) / reach))] += table[value];
      }
      for (const count of bins[which]) most = Math.max(most, count);
    }
    const left = (this.current.low / reach) * width;
    const right = (this.current.high / reach) * width;
    context.fillStyle = style.getPropertyValue("--raised");
    context.fillRect(left, 0, right - left, height);
    for (const [which, colour] of [["raw", "--raw"], ["refocused", "--refocused"]]) {
      context.beginPath();
      context.moveTo(0, height);
      bins[which].forEach((count, i) => {
        const y = height - (Math.log1p(count) / Math.log1p(most)) * (height - 3 * ratio);
        context.lineTo(((i + 0.5) / BINS) * width, count ? y : height);
      });
      context.lineTo(width, height);
      context.strokeStyle = context.fillStyle = style.getPropertyValue(colour);
      context.globalAlpha = 0.16;
      context.fill();
      context.globalAlpha = 1;
      context.lineWidth = 1.2 * ratio;
      context.stroke();
    }
  }
}
