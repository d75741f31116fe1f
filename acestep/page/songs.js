// All songs: those that wait and are made, and those that are done.

import * as api from "./api.js";
import { html } from "./html.js";
import { t } from "./i18n.js";
import { stopJob } from "./player.js";
import { JobCard } from "./song-card.js";
import { drop, jobs, loadJobs, next, say, tell } from "./store.js";
import { signal } from "./vendor/signals.js";

const UNDO_MILLISECONDS = 6000;
const search = signal("");
const byModel = signal("");
const byTask = signal("");
/** Deleted here, and on the server as soon as it can no longer be undone. */
const hidden = signal(/** @type {Set<string>} */ (new Set()));

export function Songs() {
  const all = [...jobs.value.values()].filter((job) => !hidden.value.has(job.job_id));
  const shown = all.filter(matches);
  const models = [...new Set(all.map((job) => job.model).filter(Boolean))];
  const tasks = [...new Set(all.map(taskOf).filter(Boolean))];
  return html`<section class="songs" id="songs" aria-label=${t("songs")}>
    <div class="row filter">
      <input type="search" id="search" aria-label=${t("search")} placeholder=${t("search")} value=${search.value}
        onInput=${(/** @type {any} */ e) => {
          search.value = e.target.value;
        }} />
      ${
        models.length > 1
          ? html`<select aria-label=${t("filter.model")} value=${byModel.value} onChange=${(/** @type {any} */ e) => {
              byModel.value = e.target.value;
            }}>
        <option value="">${t("filter.model")}</option>${models.map((name) => html`<option value=${name}>${name}</option>`)}</select>`
          : null
      }
      ${
        tasks.length > 1
          ? html`<select aria-label=${t("filter.task")} value=${byTask.value} onChange=${(/** @type {any} */ e) => {
              byTask.value = e.target.value;
            }}>
        <option value="">${t("filter.task")}</option>${tasks.map((name) => html`<option value=${name}>${t(`task.${name}`)}</option>`)}</select>`
          : null
      }
    </div>
    ${all.length === 0 ? html`<p class="empty">${t("songs.none")}</p>` : null}
    ${all.length > 0 && shown.length === 0 ? html`<p class="empty">${t("songs.found.none")}</p>` : null}
    <ol>${shown.map((job) => html`<li key=${job.job_id}><${JobCard} job=${job} onDelete=${() => removeJob(job)} /></li>`)}</ol>
    ${next.value ? html`<button onClick=${() => loadJobs(next.value).catch(tell)}>${t("songs.more")}</button>` : null}
  </section>`;
}

/** @param {import("./store.js").Job} job */
const taskOf = (job) => job.result?.songs[0]?.recipe?.task_type ?? "";

/** @param {import("./store.js").Job} job */
function matches(job) {
  const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
  const text = [
    job.caption,
    ...(job.result?.songs ?? []).flatMap((/** @type {any} */ song) => [song.prompt, song.lyrics]),
  ]
    .join(" ")
    .toLowerCase();
  return (
    words.every((word) => text.includes(word)) &&
    (!byModel.value || job.model === byModel.value) &&
    (!byTask.value || taskOf(job) === byTask.value)
  );
}

/** Deletes a job once it can no longer be undone, or the page is left. @param {import("./store.js").Job} job */
function removeJob(job) {
  stopJob(job.job_id);
  hidden.value = new Set([...hidden.value, job.job_id]);
  clearTimeout(timer);
  timer = setTimeout(removeHidden, UNDO_MILLISECONDS);
  const count = hidden.value.size;
  say(count > 1 ? t("deleted.many", { n: count }) : t("deleted"), () => {
    clearTimeout(timer);
    hidden.value = new Set();
  });
}

/** @type {ReturnType<typeof setTimeout> | undefined} */
let timer;

async function removeHidden() {
  const deleted = hidden.value; // others may be added meanwhile
  for (const id of deleted) {
    try {
      await api.remove(`v1/jobs/${id}`);
      drop(id);
    } catch (error) {
      if (/** @type {any} */ (error).status === 404) drop(id);
      else tell(error);
    }
  }
  hidden.value = new Set([...hidden.value].filter((id) => !deleted.has(id)));
}

addEventListener("pagehide", () => {
  for (const id of hidden.value) api.removeWithoutWaiting(`v1/jobs/${id}`);
});
