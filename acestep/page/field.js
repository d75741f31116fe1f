// A labelled field, and what the server said of it.
import { html } from "./html.js";
import { remarks } from "./store.js";

/** @param {{name: string, label: string, children?: any}} props */
export function Field({ name, label, children }) {
  return html`<label class="field"><span>${label}</span>${children}<${Remark} name=${name} /></label>`;
}

/** @param {{name: string}} props */
export function Remark({ name }) {
  const text = remarks.value[name];
  return text ? html`<small class="remark">${text}</small>` : null;
}
