// The state in words and numbers: verdict on the frame, pipeline, workers, events.

import { shortNumber } from "./plot.js";

const find = (id) => document.getElementById(id);

function put(id, value) {
  const element = find(id);
  const said = String(value);
  if (element.textContent !== said) element.textContent = said;
}

// Number and unit.
function duration(ms) {
  if (ms === undefined || ms === null) return ["–", "ms"];
  return ms >= 10000 ? [(ms / 1000).toFixed(ms < 100000 ? 1 : 0), "s"] : [String(ms < 10 ? ms.toFixed(1) : Math.round(ms)), "ms"];
}
const mib = (value) => (value >= 1024 ** 3 ? `${(value / 1024 ** 3).toFixed(1)} GiB` : `${Math.round(value / 1024 ** 2)} MiB`);

// -- the frame --------------------------------------------------------------------------------

export function showVerdict(frame, problem) {
  const heading = find("verdict");
  if (!frame) {
    heading.textContent = problem ? "Frame not available" : "No frame yet";
    heading.dataset.level = problem ? "bad" : "quiet";
    if (problem) find("verdict-why").textContent = problem;
    find("facts").replaceChildren();
    return;
  }
  const { header } = frame;
  const { level, title, why } = said(header);
  heading.dataset.level = level;
  heading.dataset.state = header.state;
  heading.dataset.verdict = header.facts?.verdict ?? "";
  put("verdict", title);
  put("verdict-why", why);
  showFacts(header);
}

function said({ state, reason, facts, missing, caught_up: late }) {
  const when = late ? " Caught up afterwards from the raw data." : "";
  if (missing.includes("refocused")) {
    return { level: "wait", title: "Not refocused", why: "Only the raw frame is on disk: pending, skipped by a rule, or failed." };
  }
  if (state === "passed_through") {
    const why = reason === "identity engine"
      ? "Written as it was taken: the pass-through engine estimates nothing."
      : `Written as it was taken, nothing was estimated: ${because(facts) || "already in focus"}.`;
    if (facts?.verdict === "untrusted") return { level: "bad", title: "Not trusted: raw written", why: why + when };
    return { level: "raw", title: "Passed through", why: why + when };
  }
  if (state === "refocused") {
    const what = facts?.written === "deconvolved" ? "Deconvolved" : "Refocused";
    const judged = { doubtful: ["wait", `${what} (doubtful)`], untrusted: ["bad", `${what} (not trusted)`] }[facts?.verdict];
    if (judged) return { level: judged[0], title: judged[1], why: `Take care: ${because(facts) || "no reason was given"}.${when}` };
    const odd = oddities(facts);
    const why = odd.length ? `An estimate; take care: ${odd.join(", ")}.` : "An estimate by the network, not a measurement: the raw frame stays the record.";
    return { level: odd.length ? "wait" : "refocused", title: "Refocused (estimate)", why: why + when };
  }
  return { level: "bad", title: state === "failed" ? "Failed" : state, why: reason || "This frame was not refocused." };
}

// The worker's reasons for its verdict on the frame.
const because = (facts) => (facts?.reasons ?? []).join("; ");

function oddities(facts) {
  const odd = [];
  if (!facts) return odd;
  if (facts.flux_ratio !== null && Math.abs(facts.flux_ratio - 1) > 0.1) odd.push(`flux changed by ${percent(facts.flux_ratio - 1)}`);
  if (facts.clipped > 0) odd.push(`${facts.clipped} pixels clipped`);
  if (facts.focus_after !== null && facts.focus_after < facts.focus_before) odd.push("less sharp than the raw frame");
  return odd;
}

const percent = (value) => `${value >= 0 ? "+" : "−"}${Math.abs(100 * value).toFixed(Math.abs(value) < 0.1 ? 1 : 0)} %`;

const blurSources = { profile: ", measured PSF", stack: ", PSF of a z-stack", nominal: ", by the aperture", memory: ", as before", optics: ", stated", frames: ", by frames" };

function showFacts({ facts, latency_ms: latency, width, height, dtype, step, live }) {
  const list = [];
  if (facts && facts.focus_before !== null && facts.focus_before !== undefined) {
    list.push(["focus", `${shortNumber(facts.focus_before)} → ${shortNumber(facts.focus_after)}`]);
    list.push(["flux", facts.flux_ratio === null ? "–" : percent(facts.flux_ratio - 1), Math.abs(facts.flux_ratio - 1) > 0.1]);
  }
  if (facts?.blur_px) list.push(["blur", `${facts.blur_px.toFixed(1)} px ± ${Math.round(100 * facts.blur_uncertainty)} %${blurSources[facts.blur_source] ?? ""}`]);
  if (facts?.error_chance !== null && facts?.error_chance !== undefined) list.push(["error", `${Math.round(100 * facts.error_chance)} % likely`, facts.error_chance >= 0.25]);
  if (latency) list.push(["latency", duration(latency).join(" ")]);
  if (facts?.engine_ms) list.push(["engine", duration(facts.engine_ms).join(" ")]);
  list.push(["size", `${width}×${height} ${dtype === "uint8" ? 8 : 16} bit`]);
  list.push(["shown", step > 1 ? `every ${step}${["nd", "rd"][step - 2] ?? "th"} px` : live ? "every pixel" : "every px, disk"]);
  const box = find("facts");
  const known = box.querySelectorAll("dd");
  if (known.length !== list.length) {
    box.replaceChildren(...list.flatMap(() => [document.createElement("dt"), document.createElement("dd")]));
  }
  const names = box.querySelectorAll("dt");
  box.querySelectorAll("dd").forEach((value, i) => {
    if (names[i].textContent !== list[i][0]) names[i].textContent = list[i][0];
    if (value.textContent !== list[i][1]) value.textContent = list[i][1];
    value.classList.toggle("odd", Boolean(list[i][2]));
  });
}

// -- the pipeline -----------------------------------------------------------------------------

export function showStatus(status) {
  const { daemon } = status;
  showLink(status);
  find("pause").disabled = find("catch-up").disabled = !daemon;
  if (!daemon) {
    for (const id of ["fps", "p50", "p95", "queue", "pending", "failed"]) put(id, "–");
    showWorkers([], "no daemon");
  } else {
    put("fps", daemon.fps >= 99.5 ? Math.round(daemon.fps) : daemon.fps.toFixed(1));
    showLatency(daemon.stages.total);
    put("queue", shortCount(daemon.queued));
    put("pending", shortCount(daemon.pending));
    const failed = daemon.acquisitions.reduce((sum, a) => sum + a.counts.failed, 0);
    put("failed", shortCount(failed));
    find("failed").closest("div").classList.toggle("bad", failed > 0);
    const { unseen, unseen_last: last } = daemon;
    find("unseen").hidden = !unseen;
    put("unseen", unseen ? `${unseen === 1 ? "An acquisition was" : `${unseen} acquisitions were`} not seen. ${last.at(-1)}` : "");
    const used = daemon.ring_nbytes - daemon.ring_free;
    find("ring").value = daemon.ring_nbytes ? used / daemon.ring_nbytes : 0;
    put("ring-text", `${mib(used)} of ${mib(daemon.ring_nbytes)}`);
    showWorkers(daemon.workers, daemon.stopping ? "the daemon is stopping" : "no worker is running");
    const pause = find("pause");
    pause.setAttribute("aria-pressed", daemon.paused);
    put("pause", daemon.paused ? "Resume" : "Pause");
    const catchUp = find("catch-up");
    if (daemon.catch_up !== null) catchUp.setAttribute("aria-pressed", daemon.catch_up);
    const asked = catchUp.getAttribute("aria-pressed") === "true";
    put("catch-up", asked ? "Stop catch-up" : "Catch up");
  }
  showGpus(status.gpus);
  showEvents(status.events);
}

function showLatency(total) {
  for (const id of ["p50", "p95"]) {
    const [number, unit] = duration(total?.[`${id}_ms`]);
    put(id, number);
    find(id).nextElementSibling.textContent = unit;
    find(id).closest("div").title = `Hook to disk, live frames, ${total?.recent === false ? "since the daemon was started" : "last 15 s"}`;
  }
}

const shortCount = (n) => (n >= 100000 ? `${Math.round(n / 1000)}k` : n);

function showLink({ link, health, daemon }) {
  const pill = find("link");
  let level = "good";
  let words = daemon?.paused ? "paused" : "ready";
  if (link.state !== "connected") [level, words] = link.state === "lost" ? ["bad", "daemon lost"] : ["wait", "no daemon"];
  else if (!health.ready) [level, words] = [daemon?.workers.length ? "wait" : "bad", daemon?.workers.length ? "warming up" : "no worker"];
  else if (daemon?.paused) level = "wait";
  pill.dataset.level = level;
  pill.title = link.reason || health.reason || link.endpoint;
  pill.lastElementChild.textContent = words;
  if (level === "good") showAlert("");
  else if (daemon?.paused && health.ready) showAlert("Refocusing is paused. Acquisitions continue and raw frames are saved; frames that are left out are caught up later.", "wait");
  else if (level === "bad") showAlert(link.state === "lost" ? `${link.reason} Raw frames are saved by the acquisition itself.` : "No worker is running: a new one is being started. Raw frames are saved; nothing is lost.");
  else showAlert(link.state === "searching" ? link.reason : "", "wait");
}

export function showAlert(words, level = "bad") {
  const box = find("alert");
  box.hidden = !words;
  box.dataset.level = level;
  if (box.textContent !== words) box.textContent = words;
}

function showWorkers(workers, none) {
  const list = find("workers");
  const entries = workers.length ? workers : [{ identity: none, state: "none", none: true }];
  while (list.children.length > entries.length) list.lastElementChild.remove();
  entries.forEach((worker, i) => {
    const item = list.children[i] ?? list.appendChild(Object.assign(document.createElement("li"), { innerHTML: '<i></i><span></span><span class="about"></span>' }));
    item.dataset.state = worker.state;
    item.children[1].textContent = worker.identity;
    const { engine } = worker;
    const runs = engine ? `${engine.backend} ${engine.precision} on ${engine.device} · ${worker.rate.toFixed(0)} fps` : "";
    item.children[2].textContent = worker.none ? "" : worker.state === "starting" ? "starting: building the engine" : `${runs}${worker.remote ? " · remote" : ""}`;
    item.title = engine ? `${engine.model_id}, pid ${worker.pid}, ${worker.frames} frames` : "";
  });
}

function showGpus(gpus) {
  const box = find("gpus");
  while (box.children.length > gpus.length) box.lastElementChild.remove();
  gpus.forEach((gpu, i) => {
    const row = box.children[i] ?? box.appendChild(Object.assign(document.createElement("div"), { className: "meter", innerHTML: "<span></span><meter min=0 max=1></meter><output></output>" }));
    row.title = `${gpu.name}: memory in use by all programs${gpu.temperature_c === null ? "" : `, ${gpu.temperature_c} °C`}`;
    row.children[0].textContent = gpus.length > 1 ? `GPU ${gpu.index}` : "GPU";
    row.children[1].value = gpu.used_nbytes / gpu.total_nbytes;
    const busy = gpu.busy_percent === null ? "" : ` · ${gpu.busy_percent} %`;
    row.children[2].textContent = `${mib(gpu.used_nbytes)} of ${mib(gpu.total_nbytes)}${busy}`;
  });
}

let eventsKnown = "";

function showEvents(events) {
  const last = events.at(-1);
  const known = last ? `${events.length}:${last.at}` : "";
  if (known === eventsKnown) return;
  eventsKnown = known;
  find("events").replaceChildren(
    ...[...events].reverse().map(({ at, level, text }) => {
      const item = document.createElement("li");
      item.dataset.level = level;
      const time = document.createElement("time");
      time.textContent = new Date(at * 1000).toLocaleTimeString([], { hour12: false });
      const words = document.createElement("span");
      words.textContent = text;
      item.append(time, words);
      return item;
    }),
  );
}

// -- acquisitions -----------------------------------------------------------------------------

function showFocus(advice) {
  const line = find("focus");
  line.hidden = !advice;
  if (advice) put("focus", `Stage: ${advice.text}.`);
}

export function showAcquisitions(daemon, current) {
  const select = find("acquisition");
  const acquisitions = daemon?.acquisitions ?? [];
  const wanted = ["", ...acquisitions.map((a) => a.id).reverse()];
  if ([...select.options].map((o) => o.value).join() !== wanted.join()) {
    const chosen = select.value;
    select.replaceChildren(new Option("newest acquisition", ""), ...[...acquisitions].reverse().map((a) => new Option(a.name, a.id)));
    select.value = wanted.includes(chosen) ? chosen : "";
  }
  const badge = find("acquisition-state");
  const shown = acquisitions.find((a) => a.id === current) ?? acquisitions.at(-1);
  badge.hidden = !shown;
  showFocus(shown?.state === "ended" ? null : shown?.focus);
  // Warnings of all open acquisitions: a full disk matters whichever of them is shown.
  const warnings = acquisitions.filter((a) => a.state !== "ended").flatMap((a) => a.warnings.map((words) => `${a.name}: ${words}`));
  find("warnings").hidden = !warnings.length;
  put("warnings", warnings.join("; "));
  if (shown) {
    const { counts } = shown;
    const done = counts.refocused + counts.passed_through + counts.skipped + counts.failed;
    badge.textContent = `${select.value ? "" : `${shown.name} · `}${shown.state} · ${done} of ${counts.acquired} frames`;
    badge.title = [shown.name, ...shown.warnings].join("\n");
  }
}
