// Numbers and times as people read them.
import { language, t } from "./i18n.js";

/** 83 -> "1:23" @param {number} seconds */
export function clock(seconds) {
  const whole = Math.max(0, Math.floor(seconds || 0));
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
}

/** About how long something takes. @param {number | null | undefined} seconds */
export function about(seconds) {
  if (seconds === null || seconds === undefined) return "";
  if (seconds < 90) return t("seconds", { n: Math.max(1, Math.round(seconds)) });
  return t("minutes", { n: Math.round(seconds / 60) });
}

/** When something was. @param {number} epoch seconds */
export function when(epoch) {
  const date = new Date(epoch * 1000);
  const isToday = date.toDateString() === new Date().toDateString();
  return date.toLocaleString(
    language.value,
    isToday ? { timeStyle: "short" } : { dateStyle: "medium", timeStyle: "short" },
  );
}

/** @param {number} bytes */
export function gigabytes(bytes) {
  return `${(bytes / 2 ** 30).toFixed(bytes < 2 ** 30 ? 2 : 1)} GB`;
}
