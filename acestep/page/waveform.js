// Songs as pictures of their loudness.

import { audioAddress } from "./api.js";
import { html } from "./html.js";
import { useEffect, useRef } from "./vendor/preact-hooks.js";

/** What an audio element plays. @param {{track: import("./player.js").Track, audio: HTMLAudioElement}} props */
export function PlayerWaveform({ track, audio }) {
  const place = useRef(/** @type {any} */ (null));
  useEffect(() => whenLoaded(({ drawPlayer }) => drawPlayer(place.current, audio, track)), []);
  return html`<div class="wave" ref=${place}></div>`;
}

/**
 * A waveform with one range on it, which is dragged.
 * @param {{source: import("./store.js").Source | null, start: number, end: number, onRange: (from: number, to: number) => void}} props
 */
export function RangeWaveform({ source, start, end, onRange }) {
  const place = useRef(/** @type {any} */ (null));
  const picture = useRef(/** @type {ReturnType<typeof import("./drawing.js").drawRange> | null} */ (null));
  const report = useRef(onRange);
  report.current = onRange;
  useEffect(() => {
    if (!source) return undefined;
    const url = source.file ? URL.createObjectURL(source.file) : audioAddress(source.link ?? "");
    const remove = whenLoaded(({ drawRange }) => {
      picture.current = drawRange(place.current, { ...source, url }, { start, end }, (range) =>
        report.current(round(range.start), round(range.end)),
      );
      return picture.current.remove;
    });
    return () => {
      remove();
      if (source.file) URL.revokeObjectURL(url);
    };
  }, [source?.link, source?.file]);
  useEffect(() => {
    if (end > start) picture.current?.show({ start, end });
  }, [start, end]);
  return html`<div class="wave pick" ref=${place}></div>`;
}

/**
 * Draws as soon as what draws is loaded; returns what takes the picture away, whether it is there yet or not.
 * @param {(drawing: typeof import("./drawing.js")) => () => void} draw
 */
function whenLoaded(draw) {
  let remove = () => {};
  let isGone = false;
  import("./drawing.js").then((drawing) => {
    if (!isGone) remove = draw(drawing);
  });
  return () => {
    isGone = true;
    remove();
  };
}

/** @param {number} seconds */
const round = (seconds) => Math.round(seconds * 10) / 10;
