// Jobs: refocusd's own commands, started and watched from the page instead of a terminal.

import { getJson, post } from "./feed.js";

const WHAT = {
  process: "Process: refocus a finished dataset",
  resume: "Resume: finish pending and failed frames",
  verify: "Verify: prove that no frame was lost",
  report: "Report: write a page about a dataset",
  export: "Export: write a dataset as OME-TIFF",
  calibrate: "Calibrate: measure the microscope",
  doctor: "Doctor: check this computer",
};
const MARKS = { OK: "good", "!!": "to do", "--": "not needed" };

export class Jobs {
  constructor(find) {
    this.find = find;
    this.list = [];
    this.chosen = this.next = null;
    this.otherPath = "";
    this.named = this.forDoctor = false;
    this.busy = this.again = false;
    const command = find("job-command");
    for (const [value, words] of Object.entries(WHAT)) command.append(new Option(words, value));
    for (const choice of [command, find("calibrate-from"), this.field("measure")]) choice.addEventListener("change", () => this.fit());
    find("job-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.start();
    });
    find("job-path").addEventListener("input", () => this.suggest());
    find("job-file").addEventListener("input", () => (this.named = true));
    find("job-next").addEventListener("click", () => {
      find("job-next").hidden = true;
      this.start(this.next);
    });
    find("job-cancel").addEventListener("click", () => this.cancel());
    find("jobs-open").addEventListener("click", () => this.open());
    this.fit();
  }

  open() {
    if (this.find("jobs").open) return this.find("jobs").close();
    this.find("jobs").showModal();
    this.folder = null;
    this.suggest(true);
    this.models();
    this.show();
  }

  // Show the fields that the command has.
  fit() {
    const command = this.find("job-command").value;
    // Doctor writes into the folder that it is given: never into the dataset of another command.
    if ((command === "doctor") !== this.forDoctor) {
      this.forDoctor = command === "doctor";
      [this.find("job-path").value, this.otherPath] = [this.otherPath, this.find("job-path").value];
    }
    const show = (id, shown) => (this.find(id).closest("label").hidden = !shown);
    const calibrate = command === "calibrate";
    const microscope = calibrate && this.find("calibrate-from").value === "microscope";
    const dark = calibrate && this.field("measure").value === "camera";
    show("job-quick", command === "verify");
    show("job-fill", command === "export");
    show("job-model", command === "process");
    show("job-path", !microscope);
    show("job-file", calibrate || command === "export");
    this.find("job-path").required = command !== "doctor" && !microscope;
    this.find("job-path-name").textContent =
      command === "doctor" ? "Folder for acquisitions (optional)" : dark ? "Recording in the dark" : calibrate ? "Recording: a z series" : "Folder or file of the dataset";
    this.find("job-file-name").textContent = calibrate ? "Profile to write (.json)" : "File to write (.ome.tif)";
    this.find("job-start").textContent = microscope ? "Dry run" : "Start";
    this.find("calibration").hidden = !calibrate;
    const wanted = `${this.field("measure").value}-${this.find("calibrate-from").value}`;
    for (const element of this.find("calibration").querySelectorAll("[data-for]")) {
      // A question mark marks a field that may be left empty.
      const found = element.dataset.for.split(" ").find((each) => each.replace("?", "") === wanted);
      element.hidden = !found;
      for (const input of element.querySelectorAll("input")) input.required = calibrate && Boolean(found) && !found.endsWith("?");
    }
    this.suggestFile();
  }

  field(name) {
    return this.find("job-form").elements[name];
  }

  // Suggest a file beside the dataset, until the user names another.
  suggestFile() {
    const ending = this.find("job-command").value === "export" ? ".ome.tif" : ".json";
    const given = this.find("job-file");
    if (given.value === "") this.named = false;
    const path = this.find("job-path").closest("label").hidden ? "" : this.path.replace(/([\\/]|\.ome\.\w+|\.\w+)$/, "");
    if (!this.named) given.value = path && path + ending;
  }

  get path() {
    return unquoted(this.find("job-path").value);
  }

  get calibration() {
    const about = { measure: this.field("measure").value, dry_run: this.find("calibrate-from").value === "microscope" };
    for (const input of this.find("calibration").querySelectorAll("[data-for]:not([hidden]) input[name]")) {
      if (input.value !== "") about[input.name] = input.type === "number" ? input.valueAsNumber : unquoted(input.value);
    }
    const limits = [this.find("z-low"), this.find("z-high")];
    if (!limits[0].closest("label").hidden) about.z_limits = limits.map((input) => input.valueAsNumber);
    return about;
  }

  // Suggest the entries of the folder that is being typed; at first the newest acquisition.
  async suggest(first = false) {
    this.suggestFile();
    const folder = /^.*[\\/]/.exec(this.path)?.[0] ?? "";
    if (folder === this.folder) return;
    this.folder = folder;
    try {
      const { entries, acquired } = await getJson("/api/v1/folder", { path: folder });
      if (this.folder !== folder) return;
      const offered = folder ? entries : [...acquired, ...entries];
      this.find("job-paths").replaceChildren(...offered.map((path) => new Option("", path)));
      if (first && !this.path && !this.forDoctor && acquired.length) this.find("job-path").value = acquired[0];
      this.suggestFile();
    } catch {
      // There is no such folder (yet): suggest nothing.
    }
  }

  async models() {
    const select = this.find("job-model");
    if (select.options.length > 1) return;
    const models = await getJson("/api/v1/models").then((told) => told.models, () => []); // retried at the next opening
    for (const { name, description } of models) {
      const option = new Option(name, name);
      option.title = description;
      select.append(option);
    }
    const say = () => (this.find("job-model-about").textContent = select.selectedOptions[0].title);
    select.addEventListener("change", say);
    say();
  }

  // The order that the form describes.
  get order() {
    const command = this.find("job-command").value;
    const hidden = this.find("job-path").closest("label").hidden;
    const order = { command, path: hidden ? "" : this.path };
    if (command === "verify") order.quick = this.find("job-quick").checked;
    if (command === "process") order.model = this.find("job-model").value;
    if (command === "export") order.fill = this.find("job-fill").checked;
    if (command === "calibrate") order.calibration = this.calibration;
    if (order.calibration || command === "export") order.file = unquoted(this.find("job-file").value);
    return order;
  }

  async start(order = this.order) {
    this.complain("");
    try {
      this.choose((await post("/api/v1/jobs", order)).id);
    } catch (error) {
      this.complain(error.message);
      this.show();
    }
  }

  async cancel() {
    try {
      await post(`/api/v1/jobs/${this.chosen}/cancel`, {});
    } catch (error) {
      this.complain(error.message);
    }
  }

  complain(words) {
    this.find("job-problem").textContent = words;
  }

  choose(id) {
    this.chosen = id;
    this.show();
  }

  // Take in all jobs, which the view sends after each change.
  take({ jobs }) {
    const running = jobs.find((job) => job.state === "running");
    const part = running && share(running.progress);
    this.find("jobs-open").lastElementChild.textContent = !running ? "" : part === null ? "…" : ` ${Math.floor(100 * part)} %`;
    this.list = jobs;
    if (!jobs.some((job) => job.id === this.chosen)) this.chosen = jobs.at(-1)?.id ?? null;
    this.show();
  }

  async show() {
    if (!this.find("jobs").open) return;
    this.showList();
    if (this.busy) {
      this.again = true;
      return;
    }
    this.busy = true;
    do {
      this.again = false;
      const id = this.chosen;
      try {
        if (id) this.showOne(await getJson(`/api/v1/jobs/${id}`));
      } catch (error) {
        this.complain(error.message);
      }
    } while (this.again);
    this.busy = false;
  }

  showList() {
    const list = this.find("job-list");
    while (list.children.length > this.list.length) list.lastElementChild.remove();
    [...this.list].reverse().forEach((job, i) => {
      const item = list.children[i] ?? list.appendChild(document.createElement("li"));
      const button = item.firstElementChild ?? item.appendChild(document.createElement("button"));
      button.onclick = () => this.choose(job.id);
      button.setAttribute("aria-current", job.id === this.chosen);
      put(button, `${called(job)}${job.path && ` ${name(job.path)}`}: ${said(job)}`);
    });
  }

  showOne(job) {
    if (job.id !== this.chosen) return;
    this.find("job").hidden = false;
    this.find("job").dataset.state = job.state;
    put(this.find("job-title"), `${called(job)} ${job.path}`);
    const live = job.ended_at === null;
    const bar = this.find("job-bar");
    const part = share(job.progress);
    bar.hidden = job.state !== "running";
    if (part === null) bar.removeAttribute("value");
    else bar.value = part;
    put(this.find("job-state"), said(job) + (live && job.progress ? `: ${counted(job.progress)}` : ""));
    // For screen readers: changes only with every tenth of the way.
    const spoken = `${said(job)}${live && part !== null ? `, ${10 * Math.floor(10 * part)} percent` : ""}`;
    put(this.find("job-spoken"), spoken);
    this.find("job-cancel").hidden = !live || job.state === "cancelled";
    this.next = following(job);
    this.find("job-next").hidden = !this.next;
    if (this.next) put(this.find("job-next"), this.next.calibration.measure === "use" ? "Use this profile" : "Start: the microscope moves");
    const picture = this.find("job-picture");
    const address = job.command === "calibrate" && job.reports ? `/api/v1/jobs/${job.id}/reports/0` : "";
    picture.hidden = !address;
    if (address && picture.getAttribute("src") !== address) picture.src = address;
    const links = this.find("job-reports");
    if (links.dataset.of !== `${job.id}:${job.reports}`) {
      links.dataset.of = `${job.id}:${job.reports}`;
      links.replaceChildren(...Array.from({ length: job.reports }, (_, i) => reportLink(job, i)));
    }
    const findings = job.command === "doctor" ? job.result?.findings : null;
    const pre = this.find("job-output");
    const box = this.find("job-findings");
    pre.hidden = Boolean(findings);
    box.hidden = !findings;
    if (findings) {
      if (box.dataset.of !== job.id) box.replaceChildren(...findings.map(finding));
      box.dataset.of = job.id;
    } else if (put(pre, job.output.join("\n"))) {
      pre.scrollTop = pre.scrollHeight;
    }
  }
}

function put(element, words) {
  if (element.textContent === words) return false;
  element.textContent = words;
  return true;
}

// Windows Explorer copies paths in quotes.
export const unquoted = (text) => text.trim().replace(/^"(.*)"$/, "$1");
const called = ({ command, calibration }) => (calibration ? `${command} ${calibration.measure}${calibration.dry_run ? " (dry run)" : ""}` : command);
const name = (path) => path.split(/[\\/]/).filter(Boolean).at(-1) ?? path;
const share = (progress) => (progress?.total ? Math.min(1, progress.done / progress.total) : null);
const counted = ({ what, done, total }) => `${what}, ${done}${total === null ? "" : ` of ${total}`}`;

function said({ state, status, ended_at: ended }) {
  if (state === "queued") return "waiting";
  if (state === "running") return "running";
  if (state === "cancelled") return ended === null ? "being cancelled" : "cancelled";
  return status === 0 ? "done" : status === 1 ? "done, with problems" : "not done";
}

// The job that may follow a successful calibration: the same without dry run, or to use the profile.
function following({ command, path, file, status, calibration }) {
  if (!calibration || status !== 0 || calibration.measure === "use") return null;
  if (calibration.dry_run) return { command, path, file, calibration: { ...calibration, dry_run: false } };
  return { command, path: file, calibration: { measure: "use" } };
}

function reportLink(job, number) {
  const link = document.createElement("a");
  link.href = `/api/v1/jobs/${job.id}/reports/${number}`;
  link.target = "_blank";
  link.rel = "noopener";
  link.textContent = job.command === "calibrate" ? "Open the picture" : job.reports > 1 ? `Open report ${number + 1}` : "Open the report";
  return link;
}

function finding({ mark, name: what, says, advice }) {
  const item = document.createElement("li");
  item.dataset.mark = MARKS[mark];
  const state = document.createElement("span");
  state.className = "mark";
  state.textContent = MARKS[mark];
  const words = document.createElement("div");
  const title = document.createElement("b");
  title.textContent = what;
  words.append(title, ` ${says}`);
  if (advice) words.appendChild(document.createElement("p")).textContent = advice;
  item.append(state, words);
  return item;
}
