// The one module that talks to the server.
import { remembered } from "./storage.js";

/** The folder of the page, also below a path prefix. */
const ROOT = new URL(".", document.baseURI);
const RECONNECT = [500, 1000, 2000, 4000, 5000]; // milliseconds

export const key = remembered("key", "");

/** An answer that is no success. `field` is the field of the request that it is about. */
export class ApiError extends Error {
  /** @param {number} status @param {string} message @param {{field?: string, retryAfter?: number}} [more] */
  constructor(status, message, more = {}) {
    super(message);
    this.status = status;
    this.field = more.field ?? "";
    this.retryAfter = more.retryAfter ?? 0;
  }
}

/** @param {string} path */
export function address(path) {
  return new URL(path.replace(/^\//, ""), ROOT).href;
}

/** The address of a song: links hold the prefix of a proxy, or none. @param {string} link */
export function audioAddress(link) {
  return address(link.slice(Math.max(0, link.indexOf("v1/audio"))));
}

/** @param {Record<string, string>} [more] */
function headers(more = {}) {
  return key.value ? { ...more, Authorization: `Bearer ${key.value}` } : more;
}

/**
 * @param {string} method @param {string} path @param {object | FormData} [body] @param {AbortSignal} [signal]
 * @returns {Promise<any>}
 */
async function ask(method, path, body, signal) {
  const isForm = body instanceof FormData;
  let answer;
  try {
    answer = await fetch(address(path), {
      method,
      signal,
      headers: headers(body && !isForm ? { "Content-Type": "application/json" } : {}),
      body: isForm ? body : body && JSON.stringify(body),
    });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new ApiError(0, "");
  }
  const said = await answer.json().catch(() => null);
  if (!answer.ok) {
    const message = said?.error ?? answer.statusText;
    const retryAfter = Number(answer.headers.get("Retry-After")) || 0;
    throw new ApiError(answer.status, String(message), { field: said?.extra?.field, retryAfter });
  }
  return said && "code" in said && "data" in said ? said.data : said;
}

export const get = (/** @type {string} */ path) => ask("GET", path);
export const post = (/** @type {string} */ path, /** @type {object} */ body = {}) => ask("POST", path, body);
/** Deletes also while the page is being left. @param {string} path */
export function removeWithoutWaiting(path) {
  fetch(address(path), { method: "DELETE", headers: headers(), keepalive: true }).catch(() => {});
}

export const remove = (/** @type {string} */ path) => ask("DELETE", path);

/**
 * Submits a song. Files go along as a form, whose other fields are one JSON text.
 * @param {Record<string, unknown>} fields @param {Record<string, File>} [files]
 */
export function submit(fields, files = {}) {
  if (Object.keys(files).length === 0) return post("release_task", fields);
  const form = new FormData();
  for (const [name, value] of Object.entries(fields)) {
    if (value === null || value === undefined) continue;
    form.append(name, typeof value === "object" ? JSON.stringify(value) : String(value));
  }
  for (const [name, file] of Object.entries(files)) form.append(name, file);
  return ask("POST", "release_task", form);
}

/** The bytes of a song, for players, which send no key. @param {string} link */
export async function audioBlob(link) {
  const answer = await fetch(audioAddress(link), { headers: headers() });
  if (!answer.ok) throw new ApiError(answer.status, answer.statusText);
  return answer.blob();
}

let wake = () => {};

/** Connects again at once, as with a new key. */
export const reconnect = () => wake();

/**
 * Follows the events of all jobs, for ever; connects again where the server goes away.
 * @param {(event: {kind: string, id: string, data: any}) => void} onEvent
 * @param {(isThere: boolean, error?: ApiError) => Promise<void>} onConnection before events, and where they end
 */
export async function follow(onEvent, onConnection) {
  for (let failures = 0; ; failures += 1) {
    try {
      const answer = await fetch(address("v1/events"), { headers: headers() });
      if (!answer.ok || !answer.body) throw new ApiError(answer.status, answer.statusText);
      await onConnection(true);
      failures = 0;
      for await (const event of parsed(answer.body)) onEvent(event);
      await onConnection(false);
    } catch (error) {
      await onConnection(false, error instanceof ApiError ? error : undefined);
    }
    await new Promise((done) => {
      wake = () => done(undefined);
      setTimeout(done, RECONNECT[Math.min(failures, RECONNECT.length - 1)]);
    });
  }
}

/** Server-sent events of a stream. @param {ReadableStream<Uint8Array>} body */
export async function* parsed(body) {
  const reader = body.getReader();
  const decoder = new TextDecoder();
  let text = "";
  while (true) {
    const { done, value } = await reader.read();
    if (done) return;
    text += decoder.decode(value, { stream: true });
    const blocks = text.split(/\r?\n\r?\n/);
    text = blocks.pop() ?? "";
    for (const block of blocks) {
      const event = { kind: "message", id: "", data: /** @type {any} */ (null) };
      const lines = [];
      for (const line of block.split(/\r?\n/)) {
        const [name, rest] = [line.slice(0, line.indexOf(":")), line.slice(line.indexOf(":") + 1).trimStart()];
        if (name === "event") event.kind = rest;
        else if (name === "id") event.id = rest;
        else if (name === "data") lines.push(rest);
      }
      if (lines.length) yield { ...event, data: JSON.parse(lines.join("\n")) };
    }
  }
}
