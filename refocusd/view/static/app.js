// Connects the parts of the page with each other.

import { Axes } from "./axes.js";
import { Contrast } from "./contrast.js";
import { Feed, get, getJson, post } from "./feed.js";
import { keyOf } from "./frame.js";
import { Jobs } from "./jobs.js";
import { listen } from "./keys.js";
import { showAcquisitions, showAlert, showStatus, showVerdict } from "./panel.js";
import { FocusPlot } from "./plot.js";
import { offerSettings } from "./settings.js";
import { showDoubted } from "./trust.js";
import { Viewer } from "./viewer.js";

const find = (id) => document.getElementById(id);
const AXES_MS = 4000;
const FINE_MS = 220;
const MOST_FINE = 2048;

const feed = new Feed();
const viewer = new Viewer(find("stage"));
const contrast = new Contrast(find);
const axes = new Axes(find("axes"));
const plot = new FocusPlot(find("plot"));
const jobs = new Jobs(find);
offerSettings(find);

let following = true;
let shown = null; // the frame on the stage
let status = null;
let notice = null; // of the newest frame
let missed = 0;
let boot = null;
let axesOf = "";
let fineTimer = null;

// -- frames -----------------------------------------------------------------------------------

function take(frame, problem) {
  contrast.alone = !following || "channel" in axes.pinned;
  if (!frame) {
    if (problem && !following) showVerdict(null, problem);
    return;
  }
  shown = frame;
  if (following) missed = 0;
  contrast.take(frame);
  viewer.show(frame);
  hint(following && status?.is_behind ? "the pipeline is behind: fewer previews, frames come first" : "");
  showVerdict(frame);
  axes.offer(Object.fromEntries(Object.entries(frame.header.axes).map(([name, value]) => [name, [value]])));
  axes.show(frame.header.axes);
  if (frame.header.live && frame.header.facts) {
    const { focus_before: before, focus_after: after } = frame.header.facts;
    plot.add({ at: Date.now() / 1000, before, after });
  }
  refine();
}

function follow(on) {
  following = on;
  missed = 0;
  const button = find("live");
  button.setAttribute("aria-pressed", on);
  button.lastElementChild.textContent = on ? "Live" : "Frozen";
  if (on) {
    find("acquisition").value = "";
    latest();
  } else {
    refine();
  }
}

function latest() {
  const after = shown?.header.live ? shown.header.id : "";
  feed.want("/api/v1/frame/latest", { side: viewer.side, match: axes.pinned, after }, (frame, problem) => {
    // It may have been requested before another channel was pinned.
    if (following && (!frame || axes.matches(frame.header.axes))) take(frame, problem);
  });
}

// Shows the frame on disk that the selectors choose.
function browse() {
  const acquisition = find("acquisition").value || shown?.header.acquisition || "";
  const wanted = axes.current;
  follow(false);
  feed.want("/api/v1/frame", { acquisition, axes: keyOf(wanted), side: viewer.side }, (frame, problem) => {
    // If the selectors have moved on in the meantime, the next frame is already requested.
    if (!following && keyOf(wanted) === keyOf(axes.current)) take(frame, problem);
  });
}

// Shows one of the doubted frames.
async function revisit({ acquisition, axes: wanted }) {
  follow(false);
  find("acquisition").value = acquisition;
  await refreshAxes(acquisition, true);
  axes.show(wanted);
  browse();
}

// Fetches the visible part in full resolution if it is enlarged beyond the preview, once the stage is quiet.
function refine() {
  clearTimeout(fineTimer);
  if (!shown || shown.header.step === 1 || viewer.fine) return;
  if (viewer.camera.scale * shown.header.step <= 1.01) return;
  if (following && status?.daemon?.fps > 2) {
    hint(`preview, one pixel of ${shown.header.step}; freeze (Space) for full resolution`);
    return;
  }
  fineTimer = setTimeout(async () => {
    const { header } = shown;
    const part = viewer.visible();
    if (Math.max(part.width, part.height) > MOST_FINE || Math.min(part.width, part.height) < 1) return;
    try {
      const { decodeFrame } = await import("./frame.js");
      const answer = await get("/api/v1/frame", { acquisition: header.acquisition, axes: keyOf(header.axes), ...part });
      if (answer.ok && shown.header === header) viewer.showFine(decodeFrame(await answer.arrayBuffer()));
    } catch {
      // The preview stays.
    }
  }, FINE_MS);
}

function hint(words) {
  if (find("hint").textContent !== words) find("hint").textContent = words;
}

// -- events -----------------------------------------------------------------------------------

feed.addEventListener("notice", ({ detail }) => {
  notice = detail;
  const values = Object.entries(detail.axes).map(([name, value]) => [name, [value]]);
  if (detail.acquisition === axesOf) axes.offer(Object.fromEntries(values));
  if (following && axes.matches(detail.axes)) latest();
  else if (!following) hint(frozen(++missed));
  if (following) refreshAxes(detail.acquisition);
});

function frozen(newer) {
  return newer ? `frozen; ${newer === 1 ? "a newer frame" : `${newer} newer frames`}` : "";
}

feed.addEventListener("status", ({ detail }) => {
  status = detail;
  if (boot !== detail.boot) {
    boot = detail.boot;
    getJson("/api/v1/history").then(({ focus }) => plot.fill(focus)).catch(() => {});
    if (following) latest();
  }
  showStatus(detail);
  showAcquisitions(detail.daemon, shown?.header.acquisition);
  showDoubted(find("doubted"), detail.daemon?.doubted ?? [], revisit);
  if (!shown) hint(detail.daemon ? "waiting for the first frame" : "waiting for the daemon");
  document.documentElement.dataset.state = detail.link.state;
});

feed.addEventListener("jobs", ({ detail }) => jobs.take(detail));

feed.addEventListener("state", ({ detail }) => {
  document.documentElement.dataset.feed = detail;
  if (detail !== "lost") return;
  const pill = find("link");
  pill.dataset.level = "bad";
  pill.lastElementChild.textContent = "view lost";
  showAlert("The live view's process does not answer; trying again every second. The acquisition is not affected.");
});

let axesAt = 0;
let axesTimer = null;

async function refreshAxes(acquisition, now = false) {
  clearTimeout(axesTimer);
  // A notice comes before its frame is on disk, and the next notice may take long: look again later.
  if (!now) axesTimer = setTimeout(() => refreshAxes(acquisition, true), AXES_MS);
  if (!now && acquisition === axesOf && performance.now() - axesAt < AXES_MS) return;
  axesAt = performance.now();
  if (acquisition !== axesOf) axes.clear();
  axesOf = acquisition;
  try {
    const known = await getJson("/api/v1/axes", { acquisition });
    if (known.acquisition === axesOf || !axesOf) axes.offer(known.axes, { replace: known.frames > 0 && !following });
  } catch {
    // Nothing is on disk yet: only the values of live frames are offered.
  }
  if (shown) axes.show(following ? shown.header.axes : axes.current);
}

// -- controls ---------------------------------------------------------------------------------

axes.addEventListener("choose", browse);
axes.addEventListener("pin", () => (following ? latest() : browse()));
contrast.addEventListener("change", () => viewer.setWindow(contrast.window, contrast.mark));
viewer.addEventListener("moved", () => {
  if (viewer.fine && !covers(viewer.fine.header, viewer.visible())) viewer.showFine(null);
  refine();
});

function covers(header, part) {
  return part.left >= header.left && part.top >= header.top
    && part.left + part.width <= header.left + header.columns && part.top + part.height <= header.top + header.rows;
}

function setMode(mode) {
  for (const button of document.querySelectorAll("[data-mode][role=radio]")) button.setAttribute("aria-checked", button.dataset.mode === mode);
  viewer.setMode(mode);
}

for (const button of document.querySelectorAll("[data-mode][role=radio]")) {
  button.addEventListener("click", () => setMode(button.dataset.mode));
}

find("acquisition").addEventListener("change", async ({ target }) => {
  const acquisition = target.value;
  if (!acquisition) return follow(true);
  follow(false);
  target.value = acquisition;
  await refreshAxes(acquisition, true);
  const first = Object.fromEntries([...axes.rows].map(([name, row]) => [name, row.values[0]]));
  if (!Object.keys(first).length) return showVerdict(null, "Nothing of this acquisition is on disk (yet).");
  axes.show(first);
  browse();
});

let toastTimer = null;

function toast(words) {
  const box = find("toast");
  box.textContent = words;
  box.hidden = false;
  clearTimeout(toastTimer);
  toastTimer = setTimeout(() => (box.hidden = true), 3500);
}

async function snapshot(kind) {
  if (!shown) return;
  const { low, high } = contrast.window;
  const { acquisition, axes: at } = shown.header;
  try {
    const answer = await get(`/api/v1/snapshot.${kind}`, { acquisition, axes: keyOf(at), low, high });
    if (!answer.ok) throw new Error((await answer.json()).error);
    const name = /filename="([^"]+)"/.exec(answer.headers.get("Content-Disposition") ?? "")?.[1] ?? `refocusd.${kind}`;
    const link = document.createElement("a");
    link.href = URL.createObjectURL(await answer.blob());
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
    toast(`saved ${name}`);
  } catch (error) {
    toast(`no snapshot: ${error.message}`);
  }
}

async function ask(path, on, done) {
  try {
    await post(path, { on });
    toast(done);
  } catch (error) {
    toast(`not done: ${error.message}`);
  }
}

function pause() {
  const paused = !status?.daemon?.paused;
  ask("/api/v1/pause", paused, paused ? "refocusing is paused" : "refocusing continues");
}

function catchUp() {
  const button = find("catch-up");
  const on = button.getAttribute("aria-pressed") !== "true";
  button.setAttribute("aria-pressed", on);
  ask("/api/v1/catch-up", on, on ? "catching up whenever workers are idle" : "catching up only after acquisitions");
}

function theme() {
  const now = getComputedStyle(document.documentElement).colorScheme;
  const next = now.includes("light") ? "dark" : "light";
  document.documentElement.dataset.theme = next;
  try {
    localStorage.setItem("refocusd.theme", next);
  } catch {
    // Without storage, the theme holds for this page only.
  }
  contrast.draw();
  plot.draw();
}

let blinking = null;
const actions = {
  live: () => follow(!following),
  mode: setMode,
  split: (by) => viewer.setSplit(viewer.split + by),
  blink: (on) => {
    if (on && !blinking) {
      blinking = viewer.mode;
      setMode(blinking === "raw" ? "refocused" : "raw");
    } else if (!on && blinking) {
      setMode(blinking);
      blinking = null;
    }
  },
  zoom: (factor) => viewer.zoomBy(factor),
  fit: () => viewer.fit(),
  actual: () => viewer.actual(),
  pan: (dx, dy) => viewer.frame && viewer.panBy(dx, dy),
  auto: () => contrast.setAuto(!contrast.current.auto),
  clip: () => find("clip").click(),
  step: (name, by) => axes.step(name, by),
  snapshot,
  pause,
  jobs: () => jobs.open(),
  theme,
  trust: () => {
    viewer.toggleTrust();
    find("trust-map").setAttribute("aria-pressed", viewer.trust.on);
  },
  help: () => (find("keys").open ? find("keys").close() : find("keys").showModal()),
};

find("live").addEventListener("click", actions.live);
find("trust-map").addEventListener("click", actions.trust);
find("png").addEventListener("click", () => snapshot("png"));
find("tif").addEventListener("click", () => snapshot("tif"));
find("zoom-in").addEventListener("click", () => viewer.zoomBy(1.5));
find("zoom-out").addEventListener("click", () => viewer.zoomBy(1 / 1.5));
find("fit").addEventListener("click", () => (viewer.fits ? viewer.actual() : viewer.fit()));
find("pause").addEventListener("click", pause);
find("catch-up").addEventListener("click", catchUp);
find("theme").addEventListener("click", theme);
find("help").addEventListener("click", actions.help);
matchMedia("(prefers-color-scheme: light)").addEventListener("change", () => {
  contrast.draw();
  plot.draw();
});
listen(actions, find("key-list"));

find("stage").classList.add("empty");
hint("connecting");
feed.start();
