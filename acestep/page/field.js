// A labelled field, and what the server said of it.
import { html } from "./html.js";
import { remarks } from "./store.js";

/** @param {{name: string, label: string, children?: any}} props */
export function Field({ name, label, children }) {
  return html`<div class="field"><label><span>${label}</span>${children}</label><${Remark} name=${name} /></div>`;
}

/** @param {{name: string}} props */
export function Remark({ name }) {
  const text = remarks.value[name];
  return text ? html`<small class="remark">${text}</small>` : null;
}
