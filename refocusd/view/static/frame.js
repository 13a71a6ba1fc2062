// Frames as the view sends them: u32 header length, JSON header, raw counts, refocused counts.

const text = new TextDecoder();

export function decodeFrame(buffer) {
  const length = new DataView(buffer).getUint32(0, true);
  const header = JSON.parse(text.decode(new Uint8Array(buffer, 4, length)));
  const Counts = header.dtype === "uint8" ? Uint8Array : Uint16Array;
  const size = header.rows * header.columns;
  let at = 4 + length;
  const frame = { header, raw: null, refocused: null };
  for (const name of ["raw", "refocused"]) {
    if (header.missing.includes(name)) continue;
    frame[name] = new Counts(buffer, at, size);
    at += size * Counts.BYTES_PER_ELEMENT;
  }
  return frame;
}

// Counts at a pixel of the whole frame, or in a preview, at the nearest pixel that was sent; `x` and
// `y` say which one.
export function countsAt(frame, x, y) {
  const { step, left, top, rows, columns, width, height } = frame.header;
  if (x < 0 || y < 0 || x >= width || y >= height) return null;
  const column = Math.floor((x - left) / step);
  const row = Math.floor((y - top) / step);
  if (column < 0 || row < 0 || column >= columns || row >= rows) return null;
  const at = row * columns + column;
  return {
    x: left + column * step,
    y: top + row * step,
    raw: frame.raw ? frame.raw[at] : null,
    refocused: frame.refocused ? frame.refocused[at] : null,
  };
}

export function keyOf(axes) {
  const sorted = {};
  for (const name of Object.keys(axes).sort()) sorted[name] = axes[name];
  return JSON.stringify(sorted);
}
