// A song as a small picture, on which the player shows where it is.
import { html } from "./html.js";
import { current, time, toggle } from "./player.js";

const HEIGHT = 32;

/** A small outline; a click plays from there. @param {{peaks: number[][], track: import("./player.js").Track}} props */
export function Outline({ peaks, track }) {
  const isOn = current.value?.link === track.link;
  const part = isOn && track.seconds ? Math.min(1, time.value / track.seconds) : 0;
  const loudest = Math.max(0.01, ...(peaks ?? []).map(([low, high]) => Math.max(-low, high)));
  let shape = (peaks ?? [])
    .map(([low, high], x) => `M${x} ${((1 - high / loudest) * HEIGHT) / 2}V${((1 - low / loudest) * HEIGHT) / 2 + 0.5}`)
    .join("");
  const seek = (/** @type {MouseEvent} */ event) => {
    const box = /** @type {HTMLElement} */ (event.currentTarget).getBoundingClientRect();
    toggle(track, ((event.clientX - box.left) / box.width) * track.seconds);
  };
  if (!peaks?.length) shape = `M0 ${HEIGHT / 2}H1`;
  const width = Math.max(1, peaks?.length ?? 1);
  return html`<svg class="outline" viewBox=${`0 0 ${width} ${HEIGHT}`} preserveAspectRatio="none" aria-hidden="true" onClick=${seek}>
    <path class="rest" d=${shape} /><path class="played" d=${shape} pathLength="1" clip-path=${`inset(0 ${(1 - part) * 100}% 0 0)`} /></svg>`;
}
