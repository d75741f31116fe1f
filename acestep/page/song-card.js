// One job: where it stands, or its songs.
import * as api from "./api.js";
import { about, clock, when } from "./format.js";
import { html } from "./html.js";
import { has, language, t } from "./i18n.js";
import { Icon } from "./icons.js";
import { Outline } from "./outline.js";
import { current, isPlaying, toggle } from "./player.js";
import { asCurl, asPython, formOf, PEAKS } from "./request.js";
import { change, inventory, say, source, tell, view } from "./store.js";

const FORMATS = ["mp3", "wav", "flac", "opus"]; // that a song is offered in

/** @typedef {import("./store.js").Job} Job */

/** @param {{job: Job, onDelete: () => void}} props */
export function JobCard({ job, onDelete }) {
  const isOpen = job.status === "queued" || job.status === "running";
  const title = job.caption || job.result?.songs[0]?.prompt || t("untitled");
  return html`<article class="card ${job.status}" aria-label=${title}>
    <header><h2 title=${title}>${title}</h2><small>${when(job.created_at)}</small>
      ${isOpen ? null : html`<button class="quiet" aria-label=${t("delete")} title=${t("delete")} onClick=${onDelete}><${Icon} name="remove" /></button>`}</header>
    ${isOpen ? html`<${Progress} job=${job} />` : null}
    ${job.status === "failed" ? html`<p class="remark" role="alert">${job.error}</p>` : null}
    ${job.status === "cancelled" ? html`<p class="hint">${t("cancelled")}</p>` : null}
    ${(job.result?.songs ?? []).map(
      (/** @type {any} */ song, /** @type {number} */ index) =>
        html`<${Take} key=${song.file} job=${job} song=${song} index=${index} title=${title} />`,
    )}
    ${(job.warnings ?? [])
      .filter((/** @type {string} */ each) => !each.includes("nano model"))
      .map((/** @type {string} */ each) => html`<small class="remark">${each}</small>`)}
    ${
      job.status === "failed" || job.status === "cancelled"
        ? html`<footer class="row"><button class="quiet" onClick=${() => api.post(`v1/jobs/${job.job_id}/retry`).catch(tell)}>
            <${Icon} name="again" /> ${t("retry")}</button></footer>`
        : null
    }
  </article>`;
}

/** @param {{job: Job}} props */
function Progress({ job }) {
  const isRunning = job.status === "running";
  const text = isRunning ? progressOf(job) : t("queued", { n: job.queue_position });
  const left = job.eta_seconds ? t("eta", { time: about(job.eta_seconds) }) : "";
  return html`<div class="progress-line">
    <progress max="1" value=${isRunning ? job.progress : undefined} aria-label=${t("progress")}></progress>
    <span>${text}${left && ` · ${left}`}</span>
    <button class="quiet" disabled=${job.is_cancelling} onClick=${() => api.post(`v1/jobs/${job.job_id}/cancel`).catch(tell)}>
      ${t(job.is_cancelling ? "cancelling" : "cancel")}</button>
  </div>`;
}

/** The server says it in English, and in more words. @param {Job} job */
const progressOf = (job) =>
  language.value !== "en" && has(`stage.${job.stage}`) ? t(`stage.${job.stage}`) : job.progress_text;

/** @param {{job: Job, song: any, index: number, title: string}} props */
function Take({ job, song, index, title }) {
  if (!song.file) return null;
  const isOn = current.value?.link === song.file;
  const track = trackOf(job, song, index, title);
  const recipe = song.recipe ?? {};
  const facts = [
    recipe.task_type && recipe.task_type !== "text2music" ? t(`task.${recipe.task_type}`) : "",
    recipe.track_name ? t(`track.${recipe.track_name}`) : "",
    track.takes.length > 1 ? t("take", { n: index + 1 }) : "",
    clock(song.metas.duration),
    song.metas.bpm !== "N/A" ? `${song.metas.bpm} BPM` : "",
    song.metas.keyscale !== "N/A" ? song.metas.keyscale : "",
  ];
  return html`<div class="take ${isOn ? "on" : ""}">
    <button class="play" aria-label=${t(isOn && isPlaying.value ? "pause" : "play.take", { n: index + 1 })} onClick=${() => toggle(track)}>
      <${Icon} name=${isOn && isPlaying.value ? "pause" : "play"} /></button>
    <${Outline} peaks=${song.waveform_peaks} track=${track} />
    <small class="facts">${facts.filter(Boolean).join(" · ")}</small>
    <${Menu} job=${job} song=${song} title=${title} />
  </div>`;
}

/** @param {Job} job @param {any} song @param {number} index @param {string} title */
function trackOf(job, song, index, title) {
  const takes = (job.result?.songs ?? []).filter((/** @type {any} */ each) => each.file);
  return {
    link: song.file,
    title,
    index,
    peaks: song.waveform_peaks,
    seconds: Number(song.metas.duration) || 0,
    takes: takes.map((/** @type {any} */ each) => each.file),
    lrc: song.lyric_timestamps ?? [],
    jobId: job.job_id,
  };
}

/** @param {{job: Job, song: any, title: string}} props */
function Menu({ song, title }) {
  const recipe = song.recipe;
  const body = { ...recipe, waveform_peaks: PEAKS };
  const held = {
    kind: /** @type {"song"} */ ("song"),
    name: title,
    link: song.file,
    seconds: Number(song.metas.duration) || 0,
    peaks: song.waveform_peaks,
  };
  const use = (/** @type {string} */ task, /** @type {Partial<typeof import("./store.js").BLANK>} */ more = {}) => {
    source.value = held;
    view.value = "custom";
    change({ task, start: 0, end: 0, prompt: recipe?.prompt ?? title, ...more });
    document.getElementById("prompt")?.scrollIntoView({ block: "center" });
  };
  const again = (/** @type {boolean} */ withSeed) => {
    view.value = "custom";
    source.value = null;
    const known = inventory.value?.models.find((/** @type {any} */ each) => each.name === recipe.model);
    change(formOf(recipe, known?.defaults ?? {}, withSeed));
  };
  const middle = held.seconds / 3;
  const copy = async (/** @type {string} */ text) => {
    await navigator.clipboard.writeText(text);
    say(t("copied"));
  };
  /** @type {[string, () => void][]} */
  const actions = recipe
    ? [
        ["again", () => again(false)],
        ["again.seed", () => again(true)],
        ["cover.this", () => use("cover")],
        ["repaint.this", () => use("repaint", { start: round(middle), end: round(2 * middle) })],
        ["extend.this", () => use("extend")],
        ["extract.this", () => use("extract")],
        ["copy.json", () => copy(JSON.stringify(body, null, 2))],
        ["copy.curl", () => copy(asCurl(body, api.address("release_task")))],
        ["copy.python", () => copy(asPython(body, api.address("release_task")))],
      ]
    : [];
  return html`<a class="quiet" href=${api.audioAddress(song.file)} download=${fileName(title, song.file)}
      onClick=${(/** @type {MouseEvent} */ e) => download(e, song.file, fileName(title, song.file))} aria-label=${t("download")} title=${t("download")}>
      <${Icon} name="download" /></a>
    <details class="menu" onToggle=${place}>
      <summary aria-label=${t("more")} title=${t("more")}><${Icon} name="more" /></summary>
      <ul role="menu">${actions.map(
        ([name, act]) =>
          html`<li role="none"><button role="menuitem" onClick=${(/** @type {any} */ e) => {
            e.target.closest("details").open = false;
            act();
          }}>${t(name)}</button></li>`,
      )}${FORMATS.map(
        (
          format,
        ) => html`<li role="none"><a role="menuitem" download href=${`${api.audioAddress(song.file)}&format=${format}`}
          >${t("download.as", { format: format.toUpperCase() })}</a></li>`,
      )}</ul>
    </details>`;
}

/** Opens a menu upwards where there is no room below it. @param {any} event */
function place(event) {
  const details = event.currentTarget;
  for (const other of document.querySelectorAll("details.menu[open]")) {
    if (details.open && other !== details) /** @type {HTMLDetailsElement} */ (other).open = false;
  }
  const list = details.querySelector("ul");
  const player = document.querySelector(".player")?.clientHeight ?? 0;
  list.classList.toggle("up", details.getBoundingClientRect().bottom + list.clientHeight > innerHeight - player);
}

/** Downloads a song whose link wants the key. @param {MouseEvent} event @param {string} link @param {string} name */
async function download(event, link, name) {
  if (!api.key.value) return;
  event.preventDefault();
  try {
    const anchor = document.createElement("a");
    anchor.href = URL.createObjectURL(await api.audioBlob(link));
    anchor.download = name;
    anchor.click();
    URL.revokeObjectURL(anchor.href);
  } catch (error) {
    tell(error);
  }
}

/** @param {number} seconds */
const round = (seconds) => Math.round(seconds * 10) / 10;

/** @param {string} title @param {string} link */
function fileName(title, link) {
  const ending = link.slice(link.lastIndexOf("."));
  return `${
    title
      .replace(/[\\/:*?"<>|\p{Cc}]+/gu, " ")
      .trim()
      .slice(0, 80) || "song"
  }${ending}`;
}
