// The words of the page in the language of the browser, or in the one that was chosen.

import { remembered } from "./storage.js";
import { computed, signal } from "./vendor/signals.js";

export const LANGUAGES = { en: "English", ja: "日本語" };

/** @type {Record<string, Record<string, string>>} */
const texts = {};
const ready = signal(0);

/** The language that was chosen; "" is that of the browser. */
export const chosen = remembered("language", "");
export const language = computed(() => {
  const wanted = chosen.value || navigator.language.slice(0, 2);
  return wanted in LANGUAGES ? wanted : "en";
});

/** @type {Record<string, Promise<void>>} */
const loading = {};

/** Loads the texts of a language, and English, which fills in what is missing. */
export async function loadTexts() {
  await Promise.all(["en", language.value].map((name) => (loading[name] ??= load(name))));
  ready.value += 1;
}

/** @param {string} name */
async function load(name) {
  const answer = await fetch(new URL(`./i18n/${name}.json`, import.meta.url));
  texts[name] = await answer.json();
}

/**
 * The text of a key, with its {names} filled in.
 * @param {string} key
 * @param {Record<string, unknown>} [values]
 */
export function t(key, values = {}) {
  ready.value; // so that what shows texts is drawn again when they come
  const text = texts[language.value]?.[key] ?? texts.en?.[key] ?? key;
  return text.replace(/\{(\w+)\}/g, (_, name) => String(values[name] ?? ""));
}

/** Whether there is a text for a key. @param {string} key */
export function has(key) {
  return ready.value > 0 && key in texts.en;
}
