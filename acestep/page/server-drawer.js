// What the server has: models, planner, memory, queue.

import * as api from "./api.js";
import { gigabytes } from "./format.js";
import { html } from "./html.js";
import { t } from "./i18n.js";
import { change, form, inventory, loadServer, model, stats, tell } from "./store.js";
import { signal } from "./vendor/signals.js";

export const isOpen = signal(false);

export function ServerDrawer() {
  if (!isOpen.value) return null;
  const found = inventory.value;
  const told = stats.value;
  if (!found || !told) return html`<aside class="server"><p>…</p></aside>`;
  const memory = told.memory;
  return html`<aside class="server" aria-label=${t("server")}>
    <section><h2>${t("models")}</h2><ul>${found.models.map(
      (/** @type {any} */ each) => html`<li>
      <span class="dot ${each.state}"></span><strong>${each.name}</strong> <small>${t(`model.${each.state}`)}${each.detail && ` · ${each.detail}`}</small>
      ${each.name === model.value?.name ? html`<small> · ${t("model.used")}</small>` : html`<button onClick=${() => change({ model: each.name })}>${t("model.use")}</button>`}
      ${each.is_loaded ? null : html`<button onClick=${() => load(each.name)}>${t("model.load")}</button>`}</li>`,
    )}</ul></section>
    <section><h2>${t("planner")}</h2><ul>${found.lm_models.map(
      (/** @type {any} */ each) => html`<li>
      <span class="dot ${each.state}"></span><strong>${each.name}</strong> <small>${t(`model.${each.state}`)}</small></li>`,
    )}</ul></section>
    ${
      memory
        ? html`<section><h2>${t("memory", { device: memory.device })}</h2>
      <${Bar} parts=${memory.parts} total=${memory.budget_bytes} />
      <small>${t("memory.peak", { peak: gigabytes(memory.peak_bytes), budget: gigabytes(memory.budget_bytes) })}</small></section>`
        : null
    }
    <section><h2>${t("queue")}</h2>
      <small>${t("queue.figures", { queued: told.jobs.queued, running: told.jobs.running, done: told.jobs.succeeded, failed: told.jobs.failed })}</small>
      <p><a href="docs">${t("docs")}</a></p></section>
  </aside>`;
}

/** @param {{parts: any[], total: number}} props */
function Bar({ parts, total }) {
  let from = 0;
  return html`<svg class="memory" viewBox="0 0 100 6" preserveAspectRatio="none" role="img" aria-label=${parts.map((part) => `${part.name} ${gigabytes(part.bytes_at_peak)}`).join(", ")}>
    <rect width="100" height="6" class="free" />
    ${parts.map((part, n) => {
      const width = (part.bytes_at_peak / total) * 100;
      from += width;
      return html`<rect class=${`part part-${n % 6}`} x=${from - width} width=${width} height="6"><title>${part.name} ${gigabytes(part.bytes_at_peak)}</title></rect>`;
    })}</svg>`;
}

/** @param {string} name */
async function load(name) {
  try {
    await api.post("v1/init", { model: name });
    await loadServer();
    if (form.value.model) change({ model: name });
  } catch (error) {
    tell(error);
  }
}
