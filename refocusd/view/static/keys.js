// The keyboard shortcuts, and the list of them that `?` shows.

const KEYS = [
  [" ", "Space", "freeze, or follow live", (a) => a.live()],
  ["1", "1", "swipe", (a) => a.mode("swipe")],
  ["2", "2", "side by side", (a) => a.mode("side")],
  ["3", "3", "raw only", (a) => a.mode("raw")],
  ["4", "4", "refocused only", (a) => a.mode("refocused")],
  ["b", "B (hold)", "blink: raw while held", (a) => a.blink(true)],
  ["[", "[", "divider left", (a) => a.split(-0.05)],
  ["]", "]", "divider right", (a) => a.split(0.05)],
  ["+", "+", "zoom in", (a) => a.zoom(1.25)],
  ["-", "−", "zoom out", (a) => a.zoom(0.8)],
  ["f", "F", "fit", (a) => a.fit()],
  ["z", "Z", "1:1, pixel for pixel", (a) => a.actual()],
  ["ArrowLeft", "← → ↑ ↓", "move the frame", (a) => a.pan(60, 0)],
  ["ArrowRight", "", "", (a) => a.pan(-60, 0)],
  ["ArrowUp", "", "", (a) => a.pan(0, 60)],
  ["ArrowDown", "", "", (a) => a.pan(0, -60)],
  [",", ", .", "previous, next time", (a) => a.step("time", -1)],
  [".", "", "", (a) => a.step("time", 1)],
  ["PageDown", "PgDn PgUp", "previous, next z", (a) => a.step("z", -1)],
  ["PageUp", "", "", (a) => a.step("z", 1)],
  ["c", "C", "next channel", (a) => a.step("channel", 1)],
  ["x", "X", "next position", (a) => a.step("position", 1)],
  ["a", "A", "contrast: automatic, locked", (a) => a.auto()],
  ["h", "H", "colour pixels out of range", (a) => a.clip()],
  ["s", "S", "snapshot, PNG", (a) => a.snapshot("png")],
  ["S", "Shift S", "snapshot, TIFF", (a) => a.snapshot("tif")],
  ["p", "P", "pause refocusing", (a) => a.pause()],
  ["t", "T", "trust map: where an error is likely", (a) => a.trust()],
  ["j", "J", "jobs: process, verify, calibrate", (a) => a.jobs()],
  ["d", "D", "dark, light", (a) => a.theme()],
  ["?", "?", "this list", (a) => a.help()],
];

export function listen(actions, list) {
  const byKey = new Map(KEYS.map(([key, , , act]) => [key, act]));
  byKey.set("=", byKey.get("+"));
  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    // After a dialog closes, its button keeps the focus until the page is next drawn.
    const target = event.target.closest?.("dialog:not([open])") ? document.body : event.target;
    if (target.matches?.("input[type=text], textarea")) return;
    if (target.matches?.("input[type=number], select, dialog *") && event.key !== "?") return;
    // A slider keeps its arrows; Space presses the button that has the focus.
    if (target.matches?.("input[type=range], [role=slider]") && /^(Arrow|Page|Home|End)/.test(event.key)) return;
    if (target.matches?.("button") && event.key === " ") return;
    const act = byKey.get(event.key);
    if (!act || (event.repeat && "b psStTdDhj?".includes(event.key))) return;
    event.preventDefault();
    act(actions);
  });
  addEventListener("keyup", (event) => {
    if (event.key.toLowerCase() === "b") actions.blink(false);
  });
  addEventListener("blur", () => actions.blink(false));
  for (const [, name, what] of KEYS) {
    if (!name) continue;
    const term = document.createElement("dt");
    const key = document.createElement("kbd");
    key.textContent = name;
    term.append(key);
    const words = document.createElement("dd");
    words.textContent = what;
    list.append(term, words);
  }
}
