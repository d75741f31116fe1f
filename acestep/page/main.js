import { App } from "./app.js";
import { html } from "./html.js";
import { language, loadTexts } from "./i18n.js";
import { followServer, theme } from "./store.js";
import { render } from "./vendor/preact.js";
import { effect } from "./vendor/signals.js";

effect(() => {
  document.documentElement.lang = language.value;
  loadTexts();
});
effect(() => {
  if (theme.value) document.documentElement.dataset.theme = theme.value;
  else delete document.documentElement.dataset.theme;
});

await loadTexts();
const root = /** @type {HTMLElement} */ (document.getElementById("app"));
root.replaceChildren();
render(html`<${App} />`, root);
followServer();
