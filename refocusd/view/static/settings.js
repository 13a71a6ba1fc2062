// Settings for the next acquisition: the daemon restarts with them.

import { getJson, post } from "./feed.js";
import { unquoted } from "./jobs.js";

export function offerSettings(find) {
  const say = (words) => (find("settings-said").textContent = words);

  const sayWhen = (after) => say(after
    ? `These take effect when ${after} has ended: the daemon restarts then.`
    : "The daemon restarts; the page reconnects by itself.");

  async function fill() {
    if (!find("settings").open) return;
    // Hidden until the settings arrive: anything typed before would be lost, and fields be sent empty.
    find("settings-form").hidden = true;
    say("");
    try {
      const [{ settings: now, backends, asked, after }, { models }] = await Promise.all([getJson("/api/v1/settings"), getJson("/api/v1/models")]);
      find("settings-form").hidden = !now;
      if (!now) return say("Only the page that `refocusd run` serves itself can change these.");
      const settings = asked || now;
      if (asked) sayWhen(after);
      const names = [...new Set([settings.model, ...models.map(({ name }) => name)])];
      find("set-model").replaceChildren(...names.map((name) => new Option(name)));
      find("set-backend").replaceChildren(...backends.map((name) => new Option(name)));
      find("set-model").value = settings.model;
      find("set-backend").value = settings.backend;
      find("set-follow").value = settings.follow.join("\n");
    } catch (error) {
      say(error.message);
    }
  }

  find("settings").addEventListener("toggle", fill);
  find("settings-form").addEventListener("submit", async (event) => {
    event.preventDefault();
    const follow = find("set-follow").value.split("\n").map(unquoted).filter(Boolean);
    try {
      const { after } = await post("/api/v1/settings", { model: find("set-model").value, backend: find("set-backend").value, follow });
      sayWhen(after);
    } catch (error) {
      say(`Not changed: ${error.message}`);
    }
  });
}
