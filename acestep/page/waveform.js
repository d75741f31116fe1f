// Songs as pictures of their loudness.

import { audioAddress } from "./api.js";
import { html } from "./html.js";
import { useEffect, useRef } from "./vendor/preact-hooks.js";
import WaveSurfer from "./vendor/wavesurfer.js";
import Regions from "./vendor/wavesurfer-regions.js";

export const nonce = document.querySelector('meta[name="csp-nonce"]')?.getAttribute("content") ?? "";

/** Colours and shape of waveforms, by the theme. */
export function wave() {
  const style = getComputedStyle(document.documentElement);
  return {
    waveColor: style.getPropertyValue("--wave").trim(),
    progressColor: style.getPropertyValue("--accent").trim(),
    cursorColor: style.getPropertyValue("--text").trim(),
    barWidth: 2,
    barGap: 1,
    barRadius: 2,
    normalize: true,
    dragToSeek: true,
  };
}

/** Peaks as the waveform draws them: the loudest of each pair. @param {number[][] | undefined} peaks */
export function drawn(peaks) {
  return peaks?.length ? [peaks.map(([low, high]) => Math.max(Math.abs(low), Math.abs(high)))] : undefined;
}

/**
 * A waveform with one range on it, which is dragged.
 * @param {{source: import("./store.js").Source | null, start: number, end: number, onRange: (from: number, to: number) => void}} props
 */
export function RangeWaveform({ source, start, end, onRange }) {
  const place = useRef(/** @type {HTMLElement | null} */ (null));
  const region = useRef(/** @type {any} */ (null));
  const report = useRef(onRange);
  report.current = onRange;
  useEffect(() => {
    if (!source) return undefined;
    const url = source.file ? URL.createObjectURL(source.file) : audioAddress(source.link ?? "");
    const regions = Regions.create();
    const surfer = WaveSurfer.create({
      ...wave(),
      container: place.current,
      url,
      peaks: drawn(source.peaks),
      duration: source.seconds || undefined,
      height: 72,
      dragToSeek: false,
      interact: false,
      cspNonce: nonce,
      plugins: [regions],
    });
    const told = (/** @type {any} */ found) => report.current(round(found.start), round(found.end));
    surfer.on("ready", () => {
      regions.enableDragSelection({ color: "rgb(91 61 245 / 25%)" });
      if (end > start) region.current = regions.addRegion({ start, end, color: "rgb(91 61 245 / 25%)" });
    });
    regions.on("region-created", (/** @type {any} */ found) => {
      for (const other of regions.getRegions()) if (other !== found) other.remove();
      region.current = found;
      told(found);
    });
    regions.on("region-updated", told);
    return () => {
      surfer.destroy();
      if (source.file) URL.revokeObjectURL(url);
    };
  }, [source?.link, source?.file]);
  useEffect(() => {
    const found = region.current;
    if (found && end > start && (round(found.start) !== start || round(found.end) !== end))
      found.setOptions({ start, end });
  }, [start, end]);
  return html`<div class="wave pick" ref=${place}></div>`;
}

/** @param {number} seconds */
const round = (seconds) => Math.round(seconds * 10) / 10;
