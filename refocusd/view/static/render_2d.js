// Draws as `render_gl.js` does, with Canvas 2D where there is no WebGL2: a table from counts to grey levels.

export class FlatRenderer {
  constructor(canvas) {
    this.name = "2d";
    this.canvas = canvas;
    this.context = canvas.getContext("2d");
    if (!this.context) throw new Error("no canvas");
    this.levels = new Uint32Array(65536);
    this.sheets = {};
    this.known = "";
    this.most = 8192;
    this.frame = this.fine = null;
  }

  setFrame(frame) {
    this.frame = frame;
    this.fine = null;
    this.known = "";
  }

  setFine(frame) {
    this.fine = frame;
    this.known = "";
  }

  draw(panes, camera, window, mark) {
    const { canvas, context, frame, fine } = this;
    context.clearRect(0, 0, canvas.width, canvas.height);
    if (!frame) return;
    const wanted = `${window.low},${window.high},${mark}`;
    if (wanted !== this.known) {
      this.known = wanted;
      this.fillLevels(window, mark);
      for (const which of ["raw", "refocused"]) {
        this.paint(which, frame, which);
        this.paint(`fine-${which}`, fine, which);
      }
    }
    for (const pane of panes) {
      context.save();
      context.beginPath();
      context.rect(pane.left, 0, pane.width, canvas.height);
      context.clip();
      this.put(pane.which, frame, pane, camera);
      if (fine) this.put(`fine-${pane.which}`, fine, pane, camera);
      context.restore();
    }
  }

  fillLevels({ low, high }, mark) {
    const span = Math.max(high - low, 1e-6);
    for (let value = 0; value < 65536; value++) {
      const level = Math.round(255 * Math.min(1, Math.max(0, (value - low) / span)));
      let colour = 0xff000000 | (level << 16) | (level << 8) | level;
      if (mark && value >= high) colour = 0xff424ced;
      if (mark && value <= low) colour = 0xffcc5c29;
      this.levels[value] = colour >>> 0;
    }
  }

  paint(name, frame, which) {
    const pixels = frame && frame[which];
    const sheet = (this.sheets[name] ??= document.createElement("canvas"));
    sheet.hidden = !pixels;
    if (!pixels) return;
    const { columns, rows } = frame.header;
    if (sheet.width !== columns || sheet.height !== rows) {
      sheet.width = columns;
      sheet.height = rows;
      sheet.image = sheet.getContext("2d").createImageData(columns, rows);
    }
    const colours = new Uint32Array(sheet.image.data.buffer);
    for (let i = 0; i < pixels.length; i++) colours[i] = this.levels[pixels[i]];
    sheet.getContext("2d").putImageData(sheet.image, 0, 0);
  }

  put(name, frame, pane, camera) {
    const sheet = this.sheets[name];
    if (!sheet || sheet.hidden) return;
    const { left, top, step, columns, rows } = frame.header;
    const enlarged = camera.scale * step;
    this.context.imageSmoothingEnabled = enlarged < 1;
    this.context.drawImage(
      sheet,
      pane.middle + (left - camera.x) * camera.scale,
      pane.down + (top - camera.y) * camera.scale,
      columns * enlarged,
      rows * enlarged,
    );
  }
}
