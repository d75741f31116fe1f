// What is made of audio: the task, its source, and the part that is made anew.

import { Field } from "./field.js";
import { clock } from "./format.js";
import { html } from "./html.js";
import { t } from "./i18n.js";
import { Icon } from "./icons.js";
import { hasWindow, needsSource, TASKS, TRACKS, taskName } from "./request.js";
import { change, form, model, reference, source } from "./store.js";
import { RangeWaveform } from "./waveform.js";

export function Tasks() {
  const asked = form.value;
  const able = new Set(model.value?.tasks ?? []);
  return html`
    <${Field} name="task_type" label=${t("task")}>
      <select id="task" value=${asked.task} onChange=${(/** @type {any} */ e) => change({ task: e.target.value })}>
        ${TASKS.map(
          (task) => html`<option value=${task} disabled=${!able.has(taskName(task))}>
          ${t(`task.${task}`)}${able.has(taskName(task)) ? "" : ` (${t("task.base")})`}</option>`,
        )}
      </select></${Field}>
    <p class="hint">${t(`task.${asked.task}.hint`)}</p>
    ${needsSource(asked.task) ? html`<${Drop} kind="source" held=${source} />` : null}
    ${needsSource(asked.task) && source.value && hasWindow(asked.task) ? html`<${Range} />` : null}
    ${asked.task === "cover" ? html`<${Strength} />` : null}
    ${
      ["extract", "lego", "complete"].includes(asked.task)
        ? html`
      <${Field} name="track_name" label=${t("track")}>
        <select id="track" value=${asked.track} onChange=${(/** @type {any} */ e) => change({ track: e.target.value })}>
          ${TRACKS.map((track) => html`<option value=${track}>${t(`track.${track}`)}</option>`)}
        </select></${Field}>`
        : null
    }
    ${
      asked.task === "text2music"
        ? html`<details class="reference" open=${reference.value !== null}>
      <summary>${t("reference")}</summary><p class="hint">${t("reference.hint")}</p>
      <${Drop} kind="reference" held=${reference} /></details>`
        : null
    }`;
}

/** @param {{kind: string, held: import("./vendor/signals.js").Signal<import("./store.js").Source | null>}} props */
function Drop({ kind, held }) {
  const take = async (/** @type {File | undefined} */ file) => {
    if (!file) return;
    const seconds = await lengthOf(file);
    held.value = { kind: "file", name: file.name, file, seconds };
    if (form.value.end > seconds) change({ start: 0, end: 0 });
  };
  const found = held.value;
  return html`<div class="drop" onDragOver=${(/** @type {Event} */ e) => e.preventDefault()}
    onDrop=${(/** @type {DragEvent} */ e) => {
      e.preventDefault();
      take(e.dataTransfer?.files[0]);
    }}>
    ${
      found
        ? html`<span class="name">${found.name}${found.seconds ? ` · ${clock(found.seconds)}` : ""}</span>
        <button class="quiet" aria-label=${t("remove")} onClick=${() => {
          held.value = null;
        }}><${Icon} name="close" /></button>`
        : html`<label>${t("drop")}<input type="file" id=${kind} accept="audio/*,.mp3,.wav,.flac,.ogg,.opus,.m4a,.aac"
          onChange=${(/** @type {any} */ e) => take(e.target.files[0])} /></label>`
    }
  </div>`;
}

/** The length of an audio file, as the browser reads it; 0 where it cannot. @param {File} file @returns {Promise<number>} */
function lengthOf(file) {
  const audio = new Audio(URL.createObjectURL(file));
  return new Promise((done) => {
    const end = (/** @type {number} */ seconds) => {
      URL.revokeObjectURL(audio.src);
      done(seconds);
    };
    audio.onloadedmetadata = () => end(Number.isFinite(audio.duration) ? audio.duration : 0);
    audio.onerror = () => end(0);
  });
}

function Range() {
  const { start, end } = form.value;
  return html`<fieldset class="range"><legend>${t("range")}</legend>
    <${RangeWaveform} source=${source.value} start=${start} end=${end}
      onRange=${(/** @type {number} */ from, /** @type {number} */ to) => change({ start: from, end: to })} />
    <div class="grid">
      <${Field} name="repainting_start" label=${t("from")}><input id="from" type="number" step="0.1" min="0" value=${start}
        onInput=${(/** @type {any} */ e) => change({ start: Number(e.target.value) })} /></${Field}>
      <${Field} name="repainting_end" label=${t("to")}><input id="to" type="number" step="0.1" min="0" value=${end}
        onInput=${(/** @type {any} */ e) => change({ end: Number(e.target.value) })} /></${Field}>
    </div></fieldset>`;
}

function Strength() {
  const value = form.value.strength;
  const words = value > 0.8 ? "close" : value > 0.4 ? "free" : "loose";
  return html`<${Field} name="audio_cover_strength" label=${`${t("strength")}: ${t(`strength.${words}`)}`}>
    <input type="range" min="0" max="1" step="0.05" value=${value} onInput=${(/** @type {any} */ e) => change({ strength: Number(e.target.value) })} /></${Field}>`;
}
