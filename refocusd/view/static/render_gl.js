// Draws 16-bit counts with WebGL2: integer textures, one window (black, white) for all panes.

const VERTEX = `#version 300 es
void main() {
  vec2 corner = vec2(float((gl_VertexID << 1) & 2), float(gl_VertexID & 2));
  gl_Position = vec4(corner * 2.0 - 1.0, 0.0, 1.0);
}`;

// An enlarged frame shows its pixels unchanged; in a reduced one, a few are averaged after windowing.
const FRAGMENT = `#version 300 es
precision highp float;
precision highp usampler2D;
uniform usampler2D counts, fine;
uniform vec4 place;      // of the preview: left, top, step, 0
uniform vec4 finePlace;  // of the full-resolution part: left, top, step, there is one
uniform vec2 centre, middle;
uniform float scale;     // screen pixels for one pixel of the frame
uniform vec2 window;
uniform bool mark;
out vec4 colour;
vec3 shade(float value) {
  float level = clamp((value - window.x) / max(window.y - window.x, 1e-6), 0.0, 1.0);
  if (mark && value >= window.y) return vec3(0.93, 0.30, 0.26);
  if (mark && value <= window.x) return vec3(0.16, 0.36, 0.80);
  return vec3(level);
}
bool inside(usampler2D image, vec2 spot, vec4 where) {
  vec2 size = vec2(textureSize(image, 0)) * where.z;
  vec2 local = spot - where.xy;
  return all(greaterThanEqual(local, vec2(0.0))) && all(lessThan(local, size));
}
vec3 sampled(usampler2D image, vec2 spot, vec4 where, float footprint) {
  int taps = int(clamp(ceil(footprint / where.z), 1.0, 4.0));
  ivec2 last = textureSize(image, 0) - 1;
  vec3 sum = vec3(0.0);
  for (int j = 0; j < taps; j++) for (int i = 0; i < taps; i++) {
    vec2 shift = (vec2(float(i), float(j)) + 0.5) / float(taps) - 0.5;
    vec2 at = floor((spot + (taps > 1 ? shift * footprint : vec2(0.0)) - where.xy) / where.z);
    sum += shade(float(texelFetch(image, clamp(ivec2(at), ivec2(0), last), 0).r));
  }
  return sum / float(taps * taps);
}
void main() {
  vec2 spot = (vec2(gl_FragCoord.x, -gl_FragCoord.y) - middle) / scale + centre;
  float footprint = 1.0 / scale;
  if (finePlace.w > 0.5 && inside(fine, spot, finePlace)) colour = vec4(sampled(fine, spot, finePlace, footprint), 1.0);
  else if (inside(counts, spot, place)) colour = vec4(sampled(counts, spot, place, footprint), 1.0);
  else discard;
}`;

function shader(gl, kind, source) {
  const made = gl.createShader(kind);
  gl.shaderSource(made, source);
  gl.compileShader(made);
  if (!gl.getShaderParameter(made, gl.COMPILE_STATUS)) throw new Error(gl.getShaderInfoLog(made));
  return made;
}

class Texture {
  constructor(gl) {
    this.gl = gl;
    this.size = "";
  }

  // Frames of the same size reuse the same texture memory.
  fill(pixels, columns, rows) {
    const gl = this.gl;
    const wide = pixels instanceof Uint16Array;
    const size = `${columns}x${rows}x${wide}`;
    if (size !== this.size) {
      if (this.texture) gl.deleteTexture(this.texture);
      this.texture = gl.createTexture();
      gl.bindTexture(gl.TEXTURE_2D, this.texture);
      gl.texStorage2D(gl.TEXTURE_2D, 1, wide ? gl.R16UI : gl.R8UI, columns, rows);
      gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MIN_FILTER, gl.NEAREST);
      gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MAG_FILTER, gl.NEAREST);
      this.size = size;
    }
    gl.bindTexture(gl.TEXTURE_2D, this.texture);
    gl.pixelStorei(gl.UNPACK_ALIGNMENT, 1);
    const type = wide ? gl.UNSIGNED_SHORT : gl.UNSIGNED_BYTE;
    gl.texSubImage2D(gl.TEXTURE_2D, 0, 0, 0, columns, rows, gl.RED_INTEGER, type, pixels);
  }
}

export class GlRenderer {
  constructor(canvas) {
    const gl = canvas.getContext("webgl2", { alpha: true, antialias: false, depth: false });
    if (!gl) throw new Error("no WebGL2");
    this.name = "webgl2";
    this.canvas = canvas;
    this.gl = gl;
    this.program = gl.createProgram();
    gl.attachShader(this.program, shader(gl, gl.VERTEX_SHADER, VERTEX));
    gl.attachShader(this.program, shader(gl, gl.FRAGMENT_SHADER, FRAGMENT));
    gl.linkProgram(this.program);
    if (!gl.getProgramParameter(this.program, gl.LINK_STATUS)) throw new Error("no shader");
    this.at = {};
    for (const name of ["counts", "fine", "place", "finePlace", "centre", "middle", "scale", "window", "mark"]) {
      this.at[name] = gl.getUniformLocation(this.program, name);
    }
    gl.bindVertexArray(gl.createVertexArray());
    this.most = gl.getParameter(gl.MAX_TEXTURE_SIZE);
    this.textures = { raw: new Texture(gl), refocused: new Texture(gl), fineRaw: new Texture(gl), fineRefocused: new Texture(gl) };
    this.frame = this.fine = null;
  }

  setFrame(frame) {
    this.frame = frame;
    this.fine = null;
    this.upload(frame, "raw", "refocused");
  }

  setFine(frame) {
    this.fine = frame;
    if (frame) this.upload(frame, "fineRaw", "fineRefocused");
  }

  upload(frame, rawName, refocusedName) {
    const { columns, rows } = frame.header;
    if (frame.raw) this.textures[rawName].fill(frame.raw, columns, rows);
    if (frame.refocused) this.textures[refocusedName].fill(frame.refocused, columns, rows);
  }

  // Panes: {which, left, width, middle, down} in screen pixels from the top left corner; the centre of
  // the camera is at (middle, down).
  draw(panes, camera, window, mark) {
    const { gl, at, canvas, frame, fine } = this;
    gl.viewport(0, 0, canvas.width, canvas.height);
    gl.disable(gl.SCISSOR_TEST);
    gl.clearColor(0, 0, 0, 0);
    gl.clear(gl.COLOR_BUFFER_BIT);
    if (!frame) return;
    gl.useProgram(this.program);
    gl.enable(gl.SCISSOR_TEST);
    gl.uniform1f(at.scale, camera.scale);
    gl.uniform2f(at.centre, camera.x, camera.y);
    gl.uniform2f(at.window, window.low, window.high);
    gl.uniform1i(at.mark, mark ? 1 : 0);
    gl.uniform1i(at.counts, 0);
    gl.uniform1i(at.fine, 1);
    for (const pane of panes) {
      if (!frame[pane.which] || pane.width < 1) continue;
      gl.scissor(pane.left, 0, pane.width, canvas.height);
      // gl_FragCoord counts from the bottom.
      gl.uniform2f(at.middle, pane.middle, pane.down - canvas.height);
      this.bind(0, this.textures[pane.which], at.place, frame.header, 0);
      const hasFine = Boolean(fine && fine[pane.which]);
      const name = pane.which === "raw" ? "fineRaw" : "fineRefocused";
      this.bind(1, hasFine ? this.textures[name] : this.textures[pane.which], at.finePlace, (hasFine ? fine : frame).header, hasFine ? 1 : 0);
      gl.drawArrays(gl.TRIANGLES, 0, 3);
    }
  }

  bind(unit, texture, where, header, there) {
    const gl = this.gl;
    gl.activeTexture(gl.TEXTURE0 + unit);
    gl.bindTexture(gl.TEXTURE_2D, texture.texture);
    gl.uniform4f(where, header.left, header.top, header.step, there);
  }
}
