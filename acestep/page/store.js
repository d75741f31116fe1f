// What the page knows: the server, its jobs, and what the user is about to ask for.

import * as api from "./api.js";
import { remembered } from "./storage.js";
import { batch, computed, signal } from "./vendor/signals.js";

/** @typedef {{kind: "file" | "song", name: string, file?: File, link?: string, seconds?: number, peaks?: number[][]}} Source */
/** @typedef {Record<string, any>} Job as of /v1/jobs */

export const BLANK = {
  prompt: "",
  lyrics: "",
  instrumental: true,
  language: "",
  bpm: "",
  key: "",
  metre: "",
  seconds: 30,
  takes: 1,
  seed: "",
  model: "",
  task: "text2music",
  track: "drums",
  strength: 1,
  start: 0,
  end: 0,
  thinking: false,
  /** @type {Record<string, any>} */ advanced: {},
};
const PAGE = 40; // jobs that are fetched at once
const PATIENCE = 2000; // milliseconds without the server until it is said
const SHOWN = 6000; // milliseconds that good news is shown

export const form = remembered("form", BLANK);
export const view = remembered("view", "simple");
export const theme = remembered("theme", "");
/** @type {import("./vendor/signals.js").Signal<Source | null>} */
export const source = signal(null);
/** @type {import("./vendor/signals.js").Signal<Source | null>} */
export const reference = signal(null);

/** @type {import("./vendor/signals.js").Signal<any>} */
export const inventory = signal(null);
/** @type {import("./vendor/signals.js").Signal<any>} */
export const stats = signal(null);
/** @type {import("./vendor/signals.js").Signal<Record<string, any>>} fields of /release_task, as the server describes them */
export const fields = signal({});
/** @type {import("./vendor/signals.js").Signal<Map<string, Job>>} the newest first */
export const jobs = signal(new Map());
export const next = signal(/** @type {string | null} */ (null));
export const isOnline = signal(true);
export const needsKey = signal(false);
/** @type {import("./vendor/signals.js").Signal<{text: string, isError?: boolean, undo?: () => void} | null>} */
export const notice = signal(null);
/** Sentences about fields of the last request, by field. */
export const remarks = signal(/** @type {Record<string, string>} */ ({}));
export const isSending = signal(false);

export const model = computed(() => {
  const models = inventory.value?.models ?? [];
  return (
    models.find((/** @type {any} */ each) => each.name === form.value.model) ??
    models.find((/** @type {any} */ each) => each.is_default) ??
    models[0]
  );
});
export const hasPlanner = computed(() =>
  (inventory.value?.lm_models ?? []).some((/** @type {any} */ each) =>
    ["ready", "loading", "on_disk"].includes(each.state),
  ),
);

/** @param {Partial<typeof BLANK>} changes */
export function change(changes) {
  form.value = { ...form.value, ...changes };
}

/** @param {any} error */
export function tell(error) {
  const { status, message } = error;
  if (status === 401 || status === 403) needsKey.value = true;
  notice.value = { text: message, isError: true };
}

/** Says something that needs no answer. @param {string} text @param {() => void} [undo] */
export function say(text, undo) {
  const told = { text, undo };
  notice.value = told;
  setTimeout(() => {
    if (notice.value === told) notice.value = null;
  }, SHOWN);
}

export async function loadServer() {
  const [found, told] = await Promise.all([api.get("v1/model_inventory"), api.get("v1/stats")]);
  batch(() => {
    inventory.value = found;
    stats.value = told;
    needsKey.value = false;
  });
}

/** Once they are looked at, since the description is large. */
export async function loadFields() {
  if (Object.keys(fields.value).length > 0) return;
  const document = await api.get("openapi.json");
  fields.value = document.components.schemas.GenerateTask.properties;
}

/** @param {string | null} [after] */
export async function loadJobs(after = null) {
  const page = await api.get(`v1/jobs?limit=${PAGE}${after ? `&after=${encodeURIComponent(after)}` : ""}`);
  const kept = after ? [...jobs.value] : [];
  jobs.value = new Map([...kept, ...page.jobs.map((/** @type {Job} */ job) => [job.job_id, job])]);
  next.value = page.next;
}

/** @param {Job[]} found */
function put(...found) {
  const all = new Map([...jobs.value, ...found.map((job) => /** @type {[string, Job]} */ ([job.job_id, job]))]);
  jobs.value = new Map([...all].sort(([, a], [, b]) => b.created_at - a.created_at));
}

/** What the newest jobs are now: their places in the queue, and those that are new. */
async function refresh() {
  put(...(await api.get(`v1/jobs?limit=${PAGE}`)).jobs);
}

/** @param {string} id */
export function drop(id) {
  jobs.value = new Map([...jobs.value].filter(([known]) => known !== id));
}

/** Follows what happens on the server, also through its restarts. */
export function followServer() {
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  let offline;
  api.follow(onEvent, async (isThere, error) => {
    clearTimeout(offline);
    if (isThere || error) isOnline.value = true;
    else
      offline = setTimeout(() => {
        isOnline.value = false;
      }, PATIENCE);
    if (isThere && notice.value?.isError && !notice.value.text) notice.value = null;
    if (error?.status === 401 || error?.status === 403) needsKey.value = true;
    if (isThere) await Promise.all([loadServer(), loadJobs()]).catch(tell);
  });
}

/** @param {{kind: string, data: any}} event */
async function onEvent({ kind, data }) {
  const known = jobs.value.get(data.job_id);
  if (data.job) {
    put(data.job);
    api.get("v1/stats").then(
      (told) => {
        stats.value = told;
      },
      () => {},
    );
  } else if (kind === "progress" && known) {
    put({ ...known, status: "running", queue_position: 0, ...data });
  } else if (kind !== "progress" && kind !== "song") {
    await refresh().catch(() => {}); // the next connection refreshes too
  }
}
