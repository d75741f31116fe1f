// The player: one bar for the whole page, which goes on while the user looks around.

import * as api from "./api.js";
import { clock } from "./format.js";
import { html } from "./html.js";
import { t } from "./i18n.js";
import { Icon } from "./icons.js";
import { remembered } from "./storage.js";
import { jobs, tell } from "./store.js";
import { computed, signal } from "./vendor/signals.js";
import { PlayerWaveform } from "./waveform.js";

/** @typedef {{link: string, title: string, index: number, peaks: number[][], seconds: number, takes: string[], lrc: any[], jobId: string}} Track */

/** @type {import("./vendor/signals.js").Signal<Track | null>} */
export const current = signal(null);
export const isPlaying = signal(false);
export const time = signal(0);
const volume = remembered("volume", 0.9);
const STEP = 5; // seconds that an arrow key moves by

/** Players of the takes that are at hand, by link, so that a switch between two needs no loading. @type {Map<string, HTMLAudioElement>} */
const decks = new Map();
const deck = computed(() => (current.value ? deckOf(current.value.link) : null));

/** @param {string} link */
function deckOf(link) {
  const known = decks.get(link);
  if (known) return known;
  const audio = new Audio();
  audio.preload = "auto";
  audio.src = api.audioAddress(link);
  audio.volume = volume.value;
  audio.dataset.link = link;
  const isOn = () => current.value?.link === link;
  audio.onplay = () => {
    if (isOn()) isPlaying.value = true;
  };
  audio.onpause = () => {
    if (isOn()) isPlaying.value = false;
  };
  audio.onended = () => {
    if (isOn()) isPlaying.value = false;
  };
  audio.ontimeupdate = () => {
    if (isOn()) time.value = audio.currentTime;
  };
  audio.onerror = () => withKey(audio, link);
  decks.set(link, audio);
  return audio;
}

/** Loads a song whose link wants the key. @param {HTMLAudioElement} audio @param {string} link */
async function withKey(audio, link) {
  if (audio.src.startsWith("blob:")) return;
  try {
    audio.src = URL.createObjectURL(await api.audioBlob(link));
    if (current.value?.link === link) await audio.play();
  } catch (error) {
    tell(error);
  }
}

/** Plays a track, or pauses it where it plays. @param {Track} track @param {number} [seconds] where it begins */
export function toggle(track, seconds) {
  const before = deck.value;
  if (current.value?.link === track.link && before) {
    if (seconds !== undefined) before.currentTime = seconds;
    if (before.paused || seconds !== undefined) play(before);
    else before.pause();
    return;
  }
  const isSibling = current.value?.takes.includes(track.link) ?? false;
  const at = seconds ?? (isSibling && before ? before.currentTime : 0);
  const wasPlaying = before !== null && !before.paused;
  if (!isSibling) forget(track.takes);
  current.value = track;
  const after = deckOf(track.link);
  after.volume = volume.value;
  if (after.readyState > 0 || at === 0) after.currentTime = at;
  else
    after.addEventListener(
      "loadedmetadata",
      () => {
        after.currentTime = at;
      },
      { once: true },
    );
  if (!isSibling || wasPlaying) play(after);
  before?.pause();
  time.value = at;
  isPlaying.value = !after.paused;
  for (const link of track.takes) deckOf(link);
}

/** @param {HTMLAudioElement} audio */
const play = (audio) =>
  audio.play().catch(() => {
    isPlaying.value = false;
  });

/** Ends the player where it plays a song of this job. @param {string} jobId */
export function stopJob(jobId) {
  if (current.value?.jobId !== jobId) return;
  forget([]);
  current.value = null;
  isPlaying.value = false;
}

/** @param {string[]} kept */
function forget(kept) {
  for (const [link, audio] of decks) {
    if (kept.includes(link)) continue;
    audio.pause();
    if (audio.src.startsWith("blob:")) URL.revokeObjectURL(audio.src);
    audio.onerror = null;
    audio.removeAttribute("src");
    decks.delete(link);
  }
}

/** The same job's take by number, at the same second. @param {number} index */
function switchTo(index) {
  const track = current.value;
  const job = track && jobs.value.get(track.jobId);
  const song = job?.result?.songs.filter((/** @type {any} */ each) => each.file)[index];
  if (!track || !song || song.file === track.link) return;
  toggle({
    ...track,
    link: song.file,
    index,
    peaks: song.waveform_peaks,
    seconds: Number(song.metas.duration),
    lrc: song.lyric_timestamps ?? [],
  });
}

/** Space, arrows, and 1 to 8 for takes. @param {KeyboardEvent} event */
export function onKey(event) {
  const target = /** @type {HTMLElement} */ (event.target);
  if (
    event.ctrlKey ||
    event.metaKey ||
    event.altKey ||
    /^(INPUT|TEXTAREA|SELECT)$/.test(target.tagName) ||
    (event.key === " " && /^(BUTTON|SUMMARY|A)$/.test(target.tagName))
  )
    return;
  const audio = deck.value;
  if (!audio || !current.value) return;
  if (event.key === " ") toggle(current.value);
  else if (event.key === "ArrowRight") audio.currentTime = Math.min(audio.duration || 0, audio.currentTime + STEP);
  else if (event.key === "ArrowLeft") audio.currentTime = Math.max(0, audio.currentTime - STEP);
  else if (/^[1-8]$/.test(event.key)) switchTo(Number(event.key) - 1);
  else return;
  event.preventDefault();
}

export function PlayerBar() {
  const track = current.value;
  if (!track) return null;
  const audio = deckOf(track.link);
  const line = track.lrc.findLast((/** @type {any} */ each) => each.start <= time.value);
  return html`<section class="player" aria-label=${t("player")}>
    <button class="play" aria-label=${t(isPlaying.value ? "pause" : "play")} onClick=${() => toggle(track)}>
      <${Icon} name=${isPlaying.value ? "pause" : "play"} /></button>
    <div class="what"><strong title=${track.title}>${track.title}</strong>
      <small>${line ? line.text : `${clock(time.value)} / ${clock(audio.duration || track.seconds)}`}</small></div>
    <${PlayerWaveform} key=${track.link} track=${track} audio=${audio} />
    ${
      track.takes.length > 1
        ? html`<div class="ab" role="group" aria-label=${t("takes")}>
      ${track.takes.map((link, n) => html`<button aria-pressed=${link === track.link} onClick=${() => switchTo(n)}>${n + 1}</button>`)}</div>`
        : null
    }
    <label class="volume"><${Icon} name="volume" /><input type="range" min="0" max="1" step="0.01" aria-label=${t("volume")} value=${volume.value}
      onInput=${(/** @type {any} */ e) => {
        volume.value = Number(e.target.value);
        for (const each of decks.values()) each.volume = volume.value;
      }} /></label>
  </section>`;
}
