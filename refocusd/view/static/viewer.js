// The stage: one camera for both frames, so that zoom and pan are locked together.

import { countsAt } from "./frame.js";
import { GlRenderer } from "./render_gl.js";
import { FlatRenderer } from "./render_2d.js";
import { TrustOverlay } from "./trust.js";

const MAX_SCALE = 40;
const WHEEL = 0.0016;

function makeRenderer(canvas) {
  if (!new URLSearchParams(location.search).has("2d")) {
    try {
      return new GlRenderer(canvas);
    } catch {
      // A canvas that was asked for a WebGL2 context gives no 2D context: a new one takes its place.
      const fresh = canvas.cloneNode();
      canvas.replaceWith(fresh);
      return new FlatRenderer(fresh);
    }
  }
  return new FlatRenderer(canvas);
}

export class Viewer extends EventTarget {
  constructor(stage) {
    super();
    this.stage = stage;
    this.find = (id) => document.getElementById(id);
    this.renderer = makeRenderer(this.find("canvas"));
    stage.dataset.renderer = this.renderer.name;
    this.trust = new TrustOverlay(this.find("trust"), this.find("trust-legend"));
    this.mode = "swipe";
    this.split = 0.5;
    this.camera = { x: 0, y: 0, scale: 1 };
    this.fits = true;
    this.window = { low: 0, high: 1 };
    this.mark = false;
    this.frame = this.fine = null;
    this.drawn = 0;
    this.pointers = new Map();
    this.cursor = null;
    new ResizeObserver(() => this.resize()).observe(stage);
    this.listen();
    this.resize();
  }

  // -- what is shown ------------------------------------------------------------------------

  show(frame) {
    const before = this.frame?.header;
    this.frame = frame;
    this.fine = null;
    this.renderer.setFrame(frame);
    this.trust.take(frame.header);
    const { width, height } = frame.header;
    if (!before || before.width !== width || before.height !== height) {
      this.camera.x = width / 2;
      this.camera.y = height / 2;
      this.fits = true;
    }
    if (this.fits) this.fit();
    this.drawn += 1;
    this.stage.dataset.drawn = this.drawn;
    this.stage.dataset.frame = frame.header.id;
    this.stage.classList.remove("empty");
    this.label();
    this.redraw();
  }

  showFine(fine) {
    this.fine = fine;
    this.renderer.setFine(fine);
    this.redraw();
  }

  setMode(mode) {
    this.mode = mode;
    this.stage.dataset.mode = mode;
    if (this.fits) this.fit();
    this.label();
    this.redraw();
  }

  toggleTrust() {
    this.trust.toggle();
    this.stage.dataset.trust = this.trust.on;
    this.redraw();
  }

  setSplit(split) {
    this.split = Math.min(1, Math.max(0, split));
    const divider = this.find("divider");
    divider.style.left = `${100 * this.split}%`;
    divider.setAttribute("aria-valuenow", Math.round(100 * this.split));
    this.redraw();
  }

  setWindow(window, mark) {
    this.window = window;
    this.mark = mark;
    this.redraw();
  }

  label() {
    if (!this.frame) return;
    const { state, missing } = this.frame.header;
    const tag = this.find("tag-refocused");
    tag.textContent = missing.includes("refocused")
      ? "not refocused"
      : state === "passed_through" ? "passed through" : "refocused (estimate)";
    this.find("tag-raw").textContent = missing.includes("raw") ? "raw: not on disk" : "raw";
  }

  // -- geometry -----------------------------------------------------------------------------

  get ratio() {
    return window.devicePixelRatio || 1;
  }

  // Longest side of a preview that this stage can show, px, in steps so that it seldom changes.
  get side() {
    const { width, height } = this.frame?.header ?? { width: 1, height: 1 };
    const whole = Math.max(this.stage.clientWidth, this.stage.clientHeight) * this.ratio;
    const most = this.frame ? Math.max(width, height) * this.fitScale : whole;
    return Math.min(1024, Math.max(256, 128 * Math.ceil(most / 128)));
  }

  // In device pixels.  Middles are whole numbers, so that at 1:1 each pixel of the frame is exactly
  // one pixel of the screen.
  panes() {
    const { width, height } = this.renderer.canvas;
    const down = Math.floor(height / 2);
    const whole = { left: 0, width, middle: Math.floor(width / 2), down };
    if (this.mode === "side") {
      const half = Math.floor((width - 2 * this.ratio) / 2);
      return [
        { which: "raw", left: 0, width: half, middle: Math.floor(half / 2), down },
        { which: "refocused", left: width - half, width: half, middle: width - half + Math.floor(half / 2), down },
      ];
    }
    if (this.mode !== "swipe") return [{ ...whole, which: this.mode }];
    const at = Math.round(width * this.split);
    return [
      { ...whole, which: "raw", width: at },
      { ...whole, which: "refocused", left: at, width: width - at },
    ];
  }

  resize() {
    const { canvas } = this.renderer;
    const width = Math.max(1, Math.round(this.stage.clientWidth * this.ratio));
    const height = Math.max(1, Math.round(this.stage.clientHeight * this.ratio));
    if (canvas.width !== width || canvas.height !== height) {
      canvas.width = width;
      canvas.height = height;
      // Exactly the size that is drawn: on a stage of 655.6 px the browser would resample it.
      canvas.style.width = `${width / this.ratio}px`;
      canvas.style.height = `${height / this.ratio}px`;
    }
    if (this.fits) this.fit();
    this.redraw();
  }

  get fitScale() {
    if (!this.frame) return 1;
    const { width, height } = this.frame.header;
    const pane = this.panes().at(-1);
    const room = this.mode === "side" ? pane.width : this.renderer.canvas.width;
    return Math.min(room / width, this.renderer.canvas.height / height);
  }

  fit() {
    if (!this.frame) return;
    this.fits = true;
    this.camera = {
      x: this.frame.header.width / 2,
      y: this.frame.header.height / 2,
      scale: this.fitScale,
    };
    this.moved();
  }

  // Show one pixel of the frame as one pixel of the screen.
  actual(at = null) {
    this.zoomTo(1, at);
  }

  zoomBy(factor, at = null) {
    this.zoomTo(this.camera.scale * factor, at);
  }

  zoomTo(scale, at = null) {
    if (!this.frame) return;
    const least = Math.min(this.fitScale, 1);
    const next = Math.min(MAX_SCALE, Math.max(least, scale));
    const fixed = at ?? { x: this.camera.x, y: this.camera.y };
    const change = this.camera.scale / next;
    this.camera.x = fixed.x + (this.camera.x - fixed.x) * change;
    this.camera.y = fixed.y + (this.camera.y - fixed.y) * change;
    this.camera.scale = next;
    this.fits = next <= least * 1.001 && least === this.fitScale;
    if (this.fits) this.fit();
    else this.moved();
  }

  panBy(dx, dy) {
    this.camera.x -= (dx * this.ratio) / this.camera.scale;
    this.camera.y -= (dy * this.ratio) / this.camera.scale;
    this.fits = false;
    this.moved();
  }

  moved() {
    const { width, height } = this.frame.header;
    this.camera.x = Math.min(width, Math.max(0, this.camera.x));
    this.camera.y = Math.min(height, Math.max(0, this.camera.y));
    if (this.camera.scale >= 1) {
      this.camera.x = Math.round(this.camera.x * this.camera.scale) / this.camera.scale;
      this.camera.y = Math.round(this.camera.y * this.camera.scale) / this.camera.scale;
    }
    this.stage.classList.toggle("fits", this.fits);
    this.stage.dataset.scale = this.camera.scale.toFixed(4);
    const percent = 100 * this.camera.scale;
    this.find("zoom").textContent = this.fits ? "fit" : `${percent < 10 ? percent.toFixed(1) : Math.round(percent)} %`;
    this.redraw();
    this.dispatchEvent(new Event("moved"));
  }

  // The frame's coordinates, px, of a point of the page.
  spot(clientX, clientY) {
    const box = this.stage.getBoundingClientRect();
    const x = (clientX - box.left) * this.ratio;
    const y = (clientY - box.top) * this.ratio;
    const panes = this.panes();
    const pane = panes.find((p) => x >= p.left && x < p.left + p.width) ?? panes[0];
    return {
      x: (x - pane.middle) / this.camera.scale + this.camera.x,
      y: (y - pane.down) / this.camera.scale + this.camera.y,
    };
  }

  // The visible part of the frame, in its pixels.
  visible() {
    const { width, height } = this.frame.header;
    const pane = this.panes().at(-1);
    const room = this.mode === "side" ? pane.width : this.renderer.canvas.width;
    const across = room / this.camera.scale / 2;
    const down = this.renderer.canvas.height / this.camera.scale / 2;
    const left = Math.max(0, Math.floor(this.camera.x - across));
    const top = Math.max(0, Math.floor(this.camera.y - down));
    return {
      left,
      top,
      width: Math.min(width, Math.ceil(this.camera.x + across)) - left,
      height: Math.min(height, Math.ceil(this.camera.y + down)) - top,
    };
  }

  // -- drawing ------------------------------------------------------------------------------

  redraw() {
    if (this.asked) return;
    this.asked = true;
    requestAnimationFrame(() => {
      this.asked = false;
      this.renderer.draw(this.panes(), this.camera, this.window, this.mark);
      this.trust.draw(this.renderer.canvas, this.panes(), this.camera);
      this.stage.dataset.low = this.window.low;
      this.stage.dataset.high = this.window.high;
      this.drawScale();
      this.drawReadout();
    });
  }

  drawScale() {
    const bar = this.find("scale");
    const um = this.frame?.header.pixel_um;
    bar.hidden = !um;
    if (!um) return;
    const perPixel = (um * this.ratio) / this.camera.scale;
    const pane = this.panes().at(-1);
    const room = (this.mode === "side" ? pane.width : this.renderer.canvas.width) / this.ratio;
    const wanted = Math.min(room / 4, 150) * perPixel;
    const decade = 10 ** Math.floor(Math.log10(wanted));
    const length = [5, 2, 1].find((n) => n * decade <= wanted) * decade;
    bar.firstElementChild.style.width = `${length / perPixel}px`;
    bar.lastElementChild.textContent = length >= 1 ? `${length} µm` : `${Math.round(length * 1000)} nm`;
    bar.dataset.um = length;
  }

  drawReadout() {
    const box = this.find("readout");
    const at = this.cursor && this.frame ? this.spot(this.cursor.x, this.cursor.y) : null;
    const x = at ? Math.floor(at.x) : 0;
    const y = at ? Math.floor(at.y) : 0;
    const counts = at && ((this.fine && countsAt(this.fine, x, y)) ?? countsAt(this.frame, x, y));
    box.hidden = !counts;
    if (!counts) return;
    const said = (value) => (value === null ? "–" : value);
    box.innerHTML = `x ${counts.x}  y ${counts.y}   <span class="r">raw <b></b></span>   <span class="f">refocused <b></b></span>   <small>counts</small>`;
    const [raw, refocused] = box.querySelectorAll("b");
    raw.textContent = said(counts.raw);
    const { interval_counts: dark, interval_share: share, offset } = this.frame.header.facts ?? {};
    const error = dark && counts.refocused !== null ? dark + share * Math.max(0, counts.refocused - offset) : 0;
    refocused.textContent = `${said(counts.refocused)}${error ? ` ± ${error < 10 ? error.toFixed(1) : Math.round(error)}` : ""}`;
    refocused.title = error ? "90 % of true values lie within this range" : "";
    const percent = this.trust.at(counts.x, counts.y);
    if (percent !== null) box.append(`   error over 10 %: ${percent} % likely`);
    box.dataset.error = error ?? "";
    box.dataset.percent = percent ?? "";
    Object.assign(box.dataset, { x: counts.x, y: counts.y, raw: said(counts.raw), refocused: said(counts.refocused) });
  }

  // -- pointers -----------------------------------------------------------------------------

  listen() {
    const { stage } = this;
    stage.addEventListener("wheel", (event) => {
      event.preventDefault();
      const lines = event.deltaMode === 1 ? 16 : 1;
      this.zoomBy(Math.exp(-event.deltaY * lines * WHEEL), this.spot(event.clientX, event.clientY));
    }, { passive: false });
    stage.addEventListener("dblclick", (event) => {
      if (this.fits) this.actual(this.spot(event.clientX, event.clientY));
      else this.fit();
    });
    stage.addEventListener("pointerdown", (event) => this.press(event));
    stage.addEventListener("pointermove", (event) => this.move(event));
    for (const end of ["pointerup", "pointercancel"]) {
      stage.addEventListener(end, (event) => {
        this.pointers.delete(event.pointerId);
        stage.classList.toggle("dragging", this.pointers.size > 0);
      });
    }
    stage.addEventListener("pointerleave", () => {
      this.cursor = null;
      this.redraw();
    });
    const divider = this.find("divider");
    divider.addEventListener("pointerdown", (event) => {
      event.stopPropagation();
      divider.setPointerCapture(event.pointerId);
    });
    divider.addEventListener("pointermove", (event) => {
      if (!divider.hasPointerCapture(event.pointerId)) return;
      event.stopPropagation();
      const box = stage.getBoundingClientRect();
      this.setSplit((event.clientX - box.left) / box.width);
    });
    divider.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -0.02, ArrowRight: 0.02, Home: -1, End: 1 }[event.key];
      if (!step) return;
      event.preventDefault();
      event.stopPropagation();
      this.setSplit(this.split + step);
    });
  }

  press(event) {
    if (event.button > 0) return;
    this.pointers.set(event.pointerId, { x: event.clientX, y: event.clientY });
    this.cursor = { x: event.clientX, y: event.clientY };
    if (!this.fits || event.pointerType === "mouse" || this.pointers.size > 1) {
      this.stage.setPointerCapture(event.pointerId);
    }
    this.redraw();
  }

  move(event) {
    this.cursor = { x: event.clientX, y: event.clientY };
    const before = this.pointers.get(event.pointerId);
    if (before && this.frame) {
      const now = { x: event.clientX, y: event.clientY };
      if (this.pointers.size === 1) {
        if (event.pointerType === "mouse" || !this.fits) {
          this.stage.classList.add("dragging");
          this.panBy(now.x - before.x, now.y - before.y);
        }
      } else {
        const other = [...this.pointers].find(([id]) => id !== event.pointerId)[1];
        const apart = (a) => Math.max(10, Math.hypot(a.x - other.x, a.y - other.y));
        const centre = this.spot((now.x + other.x) / 2, (now.y + other.y) / 2);
        this.zoomBy(apart(now) / apart(before), centre);
        this.panBy((now.x - before.x) / 2, (now.y - before.y) / 2);
      }
      this.pointers.set(event.pointerId, now);
    }
    this.redraw();
  }
}
