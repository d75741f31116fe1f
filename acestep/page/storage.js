// What this browser remembers of the page. Without storage (private windows) nothing is kept.
import { effect, signal } from "./vendor/signals.js";

const PREFIX = "acestep.";

/**
 * A signal whose value survives a reload.
 * @template T
 * @param {string} name
 * @param {T} initial
 */
export function remembered(name, initial) {
  const found = signal(read(name, initial));
  effect(() => write(name, found.value));
  return found;
}

/** @template T @param {string} name @param {T} initial @returns {T} */
function read(name, initial) {
  try {
    const kept = localStorage.getItem(PREFIX + name);
    return kept === null ? initial : JSON.parse(kept);
  } catch {
    return initial;
  }
}

/** @param {string} name @param {unknown} value */
function write(name, value) {
  try {
    localStorage.setItem(PREFIX + name, JSON.stringify(value));
  } catch {
    // Nothing is kept then.
  }
}
