// htm bound to Preact: components are tagged templates, so that nothing has to be built.
import htm from "./vendor/htm.js";
import { h } from "./vendor/preact.js";
import "./vendor/signals.js"; // components read signals

/** @type {(strings: TemplateStringsArray, ...values: any[]) => any} */
export const html = htm.bind(h);
