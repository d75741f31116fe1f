// The page as a whole: header, what is asked for, the songs, and the player.
import { Compose } from "./compose.js";
import { html } from "./html.js";
import { chosen, LANGUAGES, language, t } from "./i18n.js";
import { Icon } from "./icons.js";
import { KeyEntry } from "./key-entry.js";
import { onKey, PlayerBar } from "./player.js";
import { isOpen as isServerOpen, ServerDrawer } from "./server-drawer.js";
import { Songs } from "./songs.js";
import { isOnline, model, notice, theme } from "./store.js";

document.addEventListener("keydown", onKey);
document.addEventListener("keydown", ({ key }) => key === "Escape" && closeMenus(null));
document.addEventListener("click", ({ target }) => closeMenus(/** @type {Element} */ (target)));
for (const kind of ["dragover", "drop"]) document.addEventListener(kind, (event) => event.preventDefault());

/** Closes the menus but the one that an element is in. @param {Element | null} inside */
function closeMenus(inside) {
  for (const menu of document.querySelectorAll("details.menu[open]")) {
    if (!inside || !menu.contains(inside)) /** @type {HTMLDetailsElement} */ (menu).open = false;
  }
}

export function App() {
  return html`
    <header class="top">
      <h1><${Icon} name="logo" /> ACE-Step</h1>
      <${ModelBadge} />
      <nav aria-label=${t("settings")}>
        <select aria-label=${t("language")} value=${chosen.value || language.value}
          onChange=${(/** @type {any} */ e) => {
            chosen.value = e.target.value;
          }}>
          ${Object.entries(LANGUAGES).map(([id, name]) => html`<option value=${id}>${name}</option>`)}
        </select>
        <button class="quiet" title=${t("theme")} aria-label=${t("theme")} onClick=${switchTheme}><${Icon} name="theme" /></button>
        <button class="quiet" title=${t("server")} aria-label=${t("server")} aria-expanded=${isServerOpen.value}
          onClick=${() => {
            isServerOpen.value = !isServerOpen.value;
          }}><${Icon} name="server" /></button>
      </nav>
    </header>
    ${isOnline.value ? null : html`<p class="banner" role="status">${t("offline")}</p>`}
    <${KeyEntry} />
    <${ServerDrawer} />
    <main>
      <${Compose} />
      <${Songs} />
    </main>
    <${Notice} />
    <${PlayerBar} />
  `;
}

function switchTheme() {
  const isDark = theme.value ? theme.value === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  theme.value = isDark ? "light" : "dark";
}

function ModelBadge() {
  const found = model.value;
  if (!found) return html`<span class="badge">…</span>`;
  const isNano = found.name.includes("nano");
  const state = found.state === "ready" ? "" : t(`model.${found.state}`);
  return html`<details class="badge">
    <summary><span class="dot ${found.state}"></span>${found.name}${state && ` · ${state}`}</summary>
    <p>${isNano ? t("nano") : t("model.about", { name: found.name, steps: found.defaults.inference_steps })}</p>
    ${isNano ? html`<p><code>uv run acestep-download acestep-v15-turbo</code></p>` : null}
  </details>`;
}

function Notice() {
  const told = notice.value;
  if (!told) return null;
  const text = told.isError && !told.text ? t("offline") : told.text;
  return html`<div class="notice ${told.isError ? "error" : ""}" role=${told.isError ? "alert" : "status"}>
    <span>${text}</span>
    ${
      told.undo
        ? html`<button onClick=${() => {
            told.undo?.();
            notice.value = null;
          }}>${t("undo")}</button>`
        : null
    }
    <button class="quiet" aria-label=${t("close")} onClick=${() => {
      notice.value = null;
    }}><${Icon} name="close" /></button>
  </div>`;
}
