// Where the server wants a key: it is asked for, and kept in this browser alone.

import { key, reconnect } from "./api.js";
import { html } from "./html.js";
import { t } from "./i18n.js";
import { loadJobs, loadServer, needsKey, notice } from "./store.js";
import { signal } from "./vendor/signals.js";

const typed = signal("");
const isWrong = signal(false);

export function KeyEntry() {
  if (!needsKey.value) return null;
  const enter = async (/** @type {Event} */ event) => {
    event.preventDefault();
    key.value = typed.value.trim();
    try {
      await Promise.all([loadServer(), loadJobs()]);
      isWrong.value = false;
      reconnect();
      notice.value = null;
    } catch {
      isWrong.value = true;
    }
  };
  return html`<form class="banner" onSubmit=${enter}>
    <label>${t("key.wanted")} <input id="key" type="password" autocomplete="current-password" value=${typed.value}
      onInput=${(/** @type {any} */ e) => {
        typed.value = e.target.value;
      }} /></label>
    <button>${t("key.use")}</button>
    <small>${isWrong.value ? html`<span class="remark" role="alert">${t("key.wrong")}</span>` : t("key.kept")}</small>
  </form>`;
}
