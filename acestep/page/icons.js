import { html } from "./html.js";

/** Paths of 24 x 24. @type {Record<string, string>} */
const PATHS = {
  logo: "M5 10v4M9 6v12M13 9v6M17 4v16M21 10v4",
  play: "M7 5l12 7-12 7z",
  pause: "M8 5v14M16 5v14",
  close: "M6 6l12 12M18 6L6 18",
  theme: "M12 3a9 9 0 1 0 9 9 7 7 0 0 1-9-9z",
  more: "M5 12h.01M12 12h.01M19 12h.01",
  server: "M4 5h16v6H4zM4 13h16v6H4zM8 8h.01M8 16h.01",
  dice: "M4 4h16v16H4zM8.5 8.5h.01M15.5 15.5h.01M12 12h.01",
  download: "M12 4v11M7 11l5 5 5-5M5 20h14",
  again: "M4 12a8 8 0 1 1 2.5 5.8M4 20v-5h5",
  remove: "M5 7h14M9 7V4h6v3M7 7l1 13h8l1-13",
  previous: "M18 6l-9 6 9 6zM6 6v12",
  next: "M6 6l9 6-9 6zM18 6v12",
  volume: "M4 9v6h4l5 4V5L8 9zM17 9a4 4 0 0 1 0 6",
  magic: "M4 20L15 9M14 4v4M12 6h4M19 10v4M17 12h4",
  plus: "M12 5v14M5 12h14",
};

/** @param {{name: string}} props */
export function Icon({ name }) {
  return html`<svg class="icon" viewBox="0 0 24 24" aria-hidden="true"><path d=${PATHS[name]} /></svg>`;
}
