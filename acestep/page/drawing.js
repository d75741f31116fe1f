// Waveforms by wavesurfer, which is loaded with the first that is drawn.

import WaveSurfer from "./vendor/wavesurfer.js";
import Regions from "./vendor/wavesurfer-regions.js";

const nonce = document.querySelector('meta[name="csp-nonce"]')?.getAttribute("content") ?? "";
const RANGE_COLOUR = "rgb(91 61 245 / 25%)";

/** Colours and shape of waveforms, by the theme. */
function look() {
  const style = getComputedStyle(document.documentElement);
  return {
    waveColor: style.getPropertyValue("--wave").trim(),
    progressColor: style.getPropertyValue("--accent").trim(),
    cursorColor: style.getPropertyValue("--text").trim(),
    barWidth: 2,
    barGap: 1,
    barRadius: 2,
    normalize: true,
    cspNonce: nonce,
  };
}

/** Peaks as the waveform draws them: the loudest of each pair. @param {number[][] | undefined} peaks */
function drawn(peaks) {
  return peaks?.length ? [peaks.map(([low, high]) => Math.max(Math.abs(low), Math.abs(high)))] : undefined;
}

/**
 * Draws what an audio element plays; a click or a drag seeks. Returns what takes it away again.
 * @param {HTMLElement} container @param {HTMLAudioElement} media @param {{peaks: number[][], seconds: number}} track
 */
export function drawPlayer(container, media, { peaks, seconds }) {
  const options = { container, media, peaks: drawn(peaks), duration: seconds, height: 44, dragToSeek: true };
  const surfer = WaveSurfer.create({ ...look(), ...options });
  return () => surfer.destroy();
}

/** @typedef {{start: number, end: number}} Range */

/**
 * Draws a sound on which one range is dragged.
 * @param {HTMLElement} container @param {{url: string, peaks?: number[][], seconds?: number}} sound
 * @param {Range} first @param {(range: Range) => void} onRange
 * @returns {{show: (range: Range) => void, remove: () => void}}
 */
export function drawRange(container, sound, first, onRange) {
  const regions = Regions.create();
  const options = { container, url: sound.url, peaks: drawn(sound.peaks), duration: sound.seconds || undefined };
  const surfer = WaveSurfer.create({ ...look(), ...options, height: 72, interact: false, plugins: [regions] });
  /** @type {import("./vendor/wavesurfer-regions.js").Region | null} */
  let shown = null;
  surfer.on("ready", () => {
    regions.enableDragSelection({ color: RANGE_COLOUR });
    if (first.end > first.start) shown = regions.addRegion({ ...first, color: RANGE_COLOUR });
  });
  regions.on("region-created", (region) => {
    for (const other of regions.getRegions()) if (other !== region) other.remove();
    shown = region;
    onRange(region);
  });
  regions.on("region-updated", onRange);
  return { show: (range) => shown?.setOptions(range), remove: () => surfer.destroy() };
}
