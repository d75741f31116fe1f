// What the user asks for: one sentence, or every field.

import { Advanced } from "./advanced.js";
import * as api from "./api.js";
import { Field, Remark } from "./field.js";
import { html } from "./html.js";
import { has, language, t } from "./i18n.js";
import { Icon } from "./icons.js";
import { needsSource, request } from "./request.js";
import {
  BLANK,
  change,
  form,
  hasPlanner,
  isSending,
  model,
  notice,
  reference,
  remarks,
  say,
  source,
  tell,
  view,
} from "./store.js";
import { Tasks } from "./tasks.js";

const TRIES = 12; // for a random sample in the language of the page
const NARROW = "(max-width: 800px)"; // as in songs.css: the songs are below the form
const EXAMPLES = 6; // sentences in the texts
const TAGS = [
  "piano",
  "guitar",
  "strings",
  "synth",
  "calm",
  "upbeat",
  "dark",
  "dreamy",
  "pop",
  "rock",
  "jazz",
  "lo-fi",
];
const SECTIONS = ["intro", "verse", "pre-chorus", "chorus", "bridge", "instrumental", "outro"];
const LANGUAGES = ["en", "ja", "zh", "ko", "es", "fr", "de", "it", "pt", "ru"];
const KEYS = ["C", "C#", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B"].flatMap((note) => [
  `${note} major`,
  `${note} minor`,
]);

/** Submits what the form says. */
export async function makeSong() {
  if (isSending.value) return;
  if (view.value === "custom" && needsSource(form.value.task) && !source.value) {
    notice.value = { text: t("source.missing"), isError: true };
    return;
  }
  if (view.value === "custom" && form.value.task === "repaint" && form.value.end <= form.value.start) {
    notice.value = { text: t("range.missing"), isError: true };
    return;
  }
  if (view.value === "custom" && form.value.task === "extend" && !source.value?.seconds) {
    notice.value = { text: t("source.unknown"), isError: true };
    return;
  }
  isSending.value = true;
  try {
    const isSimple = view.value === "simple";
    const asked = isSimple ? { ...BLANK, prompt: form.value.prompt, model: form.value.model } : form.value;
    const { fields, files } = request(asked, isSimple ? null : source.value, isSimple ? null : reference.value);
    const receipt = await api.submit(fields, files);
    remarks.value = byField(receipt.warnings ?? []);
    notice.value = null;
    if (matchMedia(NARROW).matches) document.getElementById("songs")?.scrollIntoView();
  } catch (error) {
    tell(error);
    remarks.value = byField(String(/** @type {Error} */ (error).message).split(/; (?=[a-z_]+(?:, [a-z_]+)*: )/));
  } finally {
    isSending.value = false;
  }
}

/** "bpm: is ignored" -> {bpm: "is ignored"} @param {string[]} sentences */
function byField(sentences) {
  const found = sentences.map((each) => /^([a-z_]+(?:, [a-z_]+)*): (.*)$/s.exec(each)).filter((each) => each !== null);
  return Object.fromEntries(found.flatMap(([, names, text]) => names.split(", ").map((name) => [name, text])));
}

/** @param {KeyboardEvent} event */
function submitByKey(event) {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) makeSong();
}

export function Compose() {
  const isSimple = view.value === "simple";
  return html`<section class="compose" aria-label=${t("compose")} onKeyDown=${submitByKey}>
    <div class="tabs" role="tablist">
      ${["simple", "custom"].map(
        (name) => html`<button role="tab" id=${`tab-${name}`} aria-selected=${view.value === name}
        onClick=${() => {
          view.value = name;
        }}>${t(`view.${name}`)}</button>`,
      )}
    </div>
    ${isSimple ? html`<${Simple} />` : html`<${Custom} />`}
    <button class="primary" disabled=${isSending.value} onClick=${makeSong}>${t(isSending.value ? "sending" : "make")}</button>
    <p class="hint keyboard">${t("make.hint")}</p>
  </section>`;
}

function Simple() {
  return html`<${Caption} label=${t("sentence")} />
    <div class="chips" role="group" aria-label=${t("examples")}>
      ${Array.from({ length: EXAMPLES }, (_, n) => t(`example.${n}`)).map(
        (text) => html`<button class="chip" onClick=${() => change({ prompt: text })}>${text}</button>`,
      )}
    </div>`;
}

/** @param {{label: string}} props */
function Caption({ label }) {
  return html`<label class="field">
    <span>${label}</span>
    <textarea id="prompt" rows="3" maxlength="10000" placeholder=${t("example.0")} value=${form.value.prompt}
      onInput=${(/** @type {any} */ e) => change({ prompt: e.target.value })}></textarea>
    <${Remark} name="prompt" />
  </label>`;
}

function Custom() {
  const asked = form.value;
  return html`<${Tasks} />
    <${Caption} label=${t("caption")} />
    <div class="chips" role="group" aria-label=${t("tags")}>
      ${TAGS.map((tag) => html`<button class="chip" onClick=${() => addTag(tag)}>${t(`tag.${tag}`)}</button>`)}
    </div>
    ${
      hasPlanner.value
        ? html`<div class="row">
      <button onClick=${rollDice}><${Icon} name="dice" /> ${t("dice")}</button>
      <button disabled=${!asked.prompt.trim()} onClick=${improve}><${Icon} name="magic" /> ${t("improve")}</button>
    </div>`
        : null
    }
    <${Lyrics} />
    <div class="grid">
      <${Field} name="audio_duration" label=${t("length")}>
        <input type="number" min="10" max=${model.value?.limits.max_audio_duration ?? 600} value=${asked.seconds}
          disabled=${needsSource(asked.task) && asked.task !== "extend"} onInput=${set("seconds")} /></${Field}>
      <${Field} name="batch_size" label=${t("takes")}>
        <input type="number" min="1" max=${model.value?.limits.max_batch_size ?? 8} value=${asked.takes} onInput=${set("takes")} /></${Field}>
      <${Field} name="bpm" label=${t("bpm")}>
        <input type="number" min="30" max="300" placeholder=${t("auto")} value=${asked.bpm} onInput=${set("bpm")} /></${Field}>
      <${Field} name="key_scale" label=${t("key")}>
        <select value=${asked.key} onChange=${set("key")}>${options(KEYS, (key) => key)}</select></${Field}>
      <${Field} name="time_signature" label=${t("metre")}>
        <select value=${asked.metre} onChange=${set("metre")}>${options(["2", "3", "4", "6"], (each) => ({ 6: "6/8" })[each] ?? `${each}/4`)}</select></${Field}>
      <${Field} name="seed" label=${t("seed")}>
        <input type="number" min="0" placeholder=${t("random")} value=${asked.seed} onInput=${set("seed")} /></${Field}>
    </div>
    ${
      hasPlanner.value && asked.task === "text2music"
        ? html`<label class="check">
      <input type="checkbox" checked=${asked.thinking} onChange=${(/** @type {any} */ e) => change({ thinking: e.target.checked })} />
      ${t("thinking")}</label>`
        : null
    }
    <${Advanced} />`;
}

function Lyrics() {
  const asked = form.value;
  const isNano = model.value?.name.includes("nano");
  return html`<fieldset class="lyrics">
    <legend>${t("lyrics")}</legend>
    <label class="check"><input type="checkbox" checked=${asked.instrumental}
      onChange=${(/** @type {any} */ e) => change({ instrumental: e.target.checked })} /> ${t("instrumental")}</label>
    ${
      asked.instrumental
        ? null
        : html`
      ${isNano ? html`<p class="hint">${t("nano.silent")}</p>` : null}
      <div class="chips" role="group" aria-label=${t("sections")}>
        ${SECTIONS.map((name) => html`<button class="chip" onClick=${() => addSection(name)}>[${name}]</button>`)}
      </div>
      <textarea id="lyrics" aria-label=${t("lyrics")} rows="8" maxlength="50000" placeholder=${t("lyrics.hint")} value=${asked.lyrics}
        onInput=${set("lyrics")}></textarea>
      <${Remark} name="lyrics" />
      <${Field} name="vocal_language" label=${t("sung")}>
        <select value=${asked.language} onChange=${set("language")}>${options(LANGUAGES, nameOf)}</select></${Field}>`
    }
  </fieldset>`;
}

/** @param {string} code */
const nameOf = (code) => new Intl.DisplayNames([document.documentElement.lang], { type: "language" }).of(code) ?? code;

/** @param {string[]} values @param {(value: string) => string} name */
function options(values, name) {
  return [
    html`<option value="">${t("auto")}</option>`,
    ...values.map((value) => html`<option value=${value}>${name(value)}</option>`),
  ];
}

/** @param {string} name */
const set = (name) => (/** @type {any} */ event) => change({ [name]: event.target.value });

/** @param {string} tag */
function addTag(tag) {
  const word = has(`tag.${tag}`) ? t(`tag.${tag}`) : tag;
  const text = form.value.prompt.trim();
  change({ prompt: text ? `${text.replace(/[,、。.]$/, "")}${language.value === "ja" ? "、" : ", "}${word}` : word });
}

/** @param {string} name */
function addSection(name) {
  const text = form.value.lyrics;
  change({ lyrics: `${text}${text && !text.endsWith("\n") ? "\n\n" : ""}[${name}]\n` });
  document.getElementById("lyrics")?.focus();
}

async function rollDice() {
  try {
    const before = form.value;
    const sample = await sampleInOwnLanguage();
    say(t("improved"), () => {
      form.value = before;
    });
    change({
      prompt: sample.caption ?? sample.prompt ?? sample.description ?? "",
      lyrics: sample.lyrics ?? "",
      instrumental: sample.instrumental ?? !sample.lyrics,
      bpm: sample.bpm ?? "",
      key: sample.key_scale ?? "",
      metre: sample.time_signature ?? "",
    });
  } catch (error) {
    tell(error);
  }
}

/** A sample in the language of the page, as far as a few tries find one. */
async function sampleInOwnLanguage() {
  for (let left = TRIES; ; left -= 1) {
    const sample = await api.post("create_random_sample");
    if (left === 0 || [language.value, "unknown", undefined].includes(sample.vocal_language)) return sample;
  }
}

async function improve() {
  const { prompt, lyrics, instrumental } = form.value;
  try {
    const better = await api.post("format_input", { prompt, lyrics: instrumental ? "" : lyrics });
    const before = form.value;
    change({
      prompt: better.caption || prompt,
      lyrics: instrumental ? lyrics : better.lyrics || lyrics,
      bpm: better.bpm ?? before.bpm,
      key: better.key_scale ?? before.key,
      metre: better.time_signature ?? before.metre,
    });
    say(t("improved"), () => {
      form.value = before;
    });
  } catch (error) {
    tell(error);
  }
}
