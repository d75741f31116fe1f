// The rest of the fields, each with the server's own description and default.

import { Remark } from "./field.js";
import { html } from "./html.js";
import { t } from "./i18n.js";
import { change, fields, form, loadFields, model, tell } from "./store.js";

const GROUPS = {
  sampler: [
    "inference_steps",
    "guidance_scale",
    "shift",
    "infer_method",
    "sampler_mode",
    "guidance_variant",
    "use_adg",
    "cfg_interval_start",
    "cfg_interval_end",
    "retake_seed",
    "retake_variance",
    "cover_noise_strength",
    "repaint_strength",
  ],
  planner: [
    "lm_temperature",
    "lm_cfg_scale",
    "lm_top_k",
    "lm_top_p",
    "lm_repetition_penalty",
    "lm_negative_prompt",
    "use_cot_caption",
    "use_cot_language",
  ],
  output: [
    "audio_format",
    "mp3_bitrate",
    "fade_in_duration",
    "fade_out_duration",
    "enable_normalization",
    "normalization_db",
    "measure_loudness",
  ],
  adapters: ["lora"],
};

export function Advanced() {
  const known = fields.value;
  const changed = Object.keys(form.value.advanced).length;
  return html`<details class="advanced" onToggle=${() => loadFields().catch(tell)}>
    <summary>${t("advanced")}${changed ? ` (${changed})` : ""}</summary>
    ${Object.entries(GROUPS).map(
      ([group, names]) => html`<fieldset>
      <legend>${t(`advanced.${group}`)}</legend>
      ${names.filter((name) => known[name]).map((name) => html`<${Setting} key=${name} name=${name} described=${known[name]} />`)}
    </fieldset>`,
    )}
    ${changed ? html`<button onClick=${() => change({ advanced: {} })}>${t("advanced.reset")}</button>` : null}
  </details>`;
}

/** @param {{name: string, described: any}} props */
function Setting({ name, described }) {
  const kinds = described.anyOf ?? [described];
  const choices = kinds.find((/** @type {any} */ kind) => kind.enum)?.enum;
  const isSwitch = kinds.some((/** @type {any} */ kind) => kind.type === "boolean");
  const bounds = kinds.find((/** @type {any} */ kind) => kind.type === "number" || kind.type === "integer");
  const value = form.value.advanced[name];
  const isOff = described["x-models"]?.startsWith("base") && model.value?.is_turbo;
  const usual = described.default ?? model.value?.defaults[name] ?? t("auto");
  let input;
  if (isSwitch) {
    input = html`<select id=${name} aria-describedby=${`${name}-about`} value=${value === undefined ? "" : String(value)} disabled=${isOff}
      onChange=${(/** @type {any} */ e) => keep(name, e.target.value === "" ? undefined : e.target.value === "true")}>
      <option value="">${t("usual", { value: t(String(described.default)) })}</option>
      <option value="true">${t("true")}</option><option value="false">${t("false")}</option></select>`;
  } else if (choices) {
    input = html`<select id=${name} aria-describedby=${`${name}-about`} value=${value ?? ""} disabled=${isOff} onChange=${(/** @type {any} */ e) => keep(name, e.target.value || undefined)}>
      <option value="">${t("usual", { value: usual })}</option>
      ${choices.map((/** @type {any} */ each) => html`<option value=${each}>${each}</option>`)}</select>`;
  } else if (bounds) {
    input = html`<input id=${name} aria-describedby=${`${name}-about`} type="number" step=${bounds.type === "integer" ? 1 : "any"} min=${bounds.minimum} max=${bounds.maximum} disabled=${isOff}
      placeholder=${usual} value=${value ?? ""} onInput=${(/** @type {any} */ e) => keep(name, e.target.value === "" ? undefined : Number(e.target.value))} />`;
  } else {
    input = html`<input id=${name} aria-describedby=${`${name}-about`} type="text" disabled=${isOff} placeholder=${usual} value=${value ?? ""}
      onInput=${(/** @type {any} */ e) => keep(name, e.target.value || undefined)} />`;
  }
  return html`<div class="field setting"><label for=${name}><code>${name}</code></label>${input}
    <small id=${`${name}-about`}>${isOff ? t("advanced.turbo") : described.description}</small><${Remark} name=${name} /></div>`;
}

/** @param {string} name @param {unknown} value */
function keep(name, value) {
  const { [name]: _, ...rest } = form.value.advanced;
  change({ advanced: value === undefined ? rest : { ...rest, [name]: value } });
}
