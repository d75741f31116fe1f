// From the form to the body of /release_task, and from a song's recipe back to the form.
import { key } from "./api.js";
import { BLANK } from "./store.js";

export const PEAKS = 600; // points of a waveform
/** The tasks of the page; "extend" is a repaint of what comes after the source. */
export const TASKS = ["text2music", "cover", "repaint", "extend", "extract", "lego", "complete"];
export const TRACKS = [
  "vocals",
  "backing_vocals",
  "drums",
  "bass",
  "guitar",
  "keyboard",
  "percussion",
  "strings",
  "synth",
  "brass",
  "woodwinds",
  "fx",
];

/** @param {string} task */
export const needsSource = (task) => task !== "text2music";
/** @param {string} task */
export const hasWindow = (task) => task === "repaint" || task === "lego";
/** The server's name of a task. @param {string} task */
export const taskName = (task) => (task === "extend" ? "repaint" : task);

/** @param {unknown} text */
const number = (text) => (text === "" || text === null ? undefined : Number(text));

/**
 * @param {typeof BLANK} form @param {import("./store.js").Source | null} source
 * @param {import("./store.js").Source | null} reference
 * @returns {{fields: Record<string, any>, files: Record<string, File>}}
 */
export function request(form, source, reference) {
  /** @type {Record<string, any>} */
  const fields = {
    prompt: form.prompt,
    task_type: taskName(form.task),
    batch_size: Number(form.takes) || 1,
    waveform_peaks: PEAKS,
    vocal_language: form.language || undefined,
    bpm: number(form.bpm),
    key_scale: form.key || undefined,
    time_signature: form.metre || undefined,
    seed: number(form.seed),
    model: form.model || undefined,
    lyrics: form.instrumental ? "" : form.lyrics,
    thinking: form.thinking,
  };
  /** @type {Record<string, File>} */
  const files = {};
  if (form.task === "text2music") fields.audio_duration = number(form.seconds);
  if (form.task === "cover") fields.audio_cover_strength = form.strength;
  if (hasWindow(form.task) && form.end > form.start) {
    fields.repainting_start = form.start;
    fields.repainting_end = form.end;
  }
  if (form.task === "extend") {
    const length = source?.seconds ?? 0;
    fields.repainting_start = Math.max(0, length - 2); // the seam lies in what is heard already
    fields.repainting_end = length + Number(form.seconds);
  }
  if (form.task === "extract" || form.task === "lego") fields.track_name = form.track;
  if (form.task === "complete") fields.track_classes = [form.track];
  if (source && needsSource(form.task)) {
    if (source.file) files.src_audio = source.file;
    else fields.src_audio_path = source.link;
  }
  if (reference) {
    if (reference.file) files.reference_audio = reference.file;
    else fields.reference_audio_path = reference.link;
  }
  return { fields: { ...fields, ...form.advanced }, files };
}

/** What a recipe says although it is usual; "inference_steps" and the like are usual as the model has them. */
const USUAL = {
  infer_method: "ode",
  cfg_interval_start: 0,
  cfg_interval_end: 1,
  cover_noise_strength: 0,
  audio_format: "mp3",
};
const KEPT = [
  ...[
    "inference_steps",
    "guidance_scale",
    "shift",
    "timesteps",
    "infer_method",
    "cfg_interval_start",
    "cfg_interval_end",
  ],
  ...[
    "sampler_mode",
    "guidance_variant",
    "guidance_params",
    "momentum",
    "eta",
    "velocity_norm_threshold",
    "velocity_ema_factor",
  ],
  ...["dcw_mode", "dcw_scaler", "dcw_high_scaler", "latent_rescale", "latent_shift", "cover_noise_strength", "no_fsq"],
  ...["retake_seed", "retake_variance", "lora", "audio_format", "mp3_bitrate", "fade_in_duration", "fade_out_duration"],
];

/**
 * The form that asks for a song again. `defaults` are those of its model; with its seed it is the same song.
 * @param {Record<string, any>} recipe @param {Record<string, any>} defaults @param {boolean} withSeed
 */
export function formOf(recipe, defaults, withSeed) {
  const isPlain = /^\s*(\[inst(rumental)?\])?\s*$/i.test(recipe.lyrics ?? "");
  /** @type {Record<string, any>} */
  const usual = { ...USUAL, ...defaults };
  const isOwn = (/** @type {any} */ value, /** @type {string} */ name) =>
    value !== undefined && value !== null && value !== usual[name] && !(Array.isArray(value) && value.length === 0);
  const advanced = Object.fromEntries(
    KEPT.map((name) => [name, recipe[name]]).filter(([name, value]) => isOwn(value, name)),
  );
  if (withSeed && recipe.audio_code_string) advanced.audio_code_string = recipe.audio_code_string;
  return {
    ...BLANK,
    prompt: recipe.prompt ?? "",
    lyrics: isPlain ? "" : recipe.lyrics,
    instrumental: isPlain,
    language: recipe.vocal_language === "unknown" ? "" : (recipe.vocal_language ?? ""),
    bpm: recipe.bpm ?? "",
    key: recipe.key_scale ?? "",
    metre: recipe.time_signature ?? "",
    seconds: recipe.audio_duration ?? BLANK.seconds,
    model: recipe.model ?? "",
    task: recipe.task_type ?? BLANK.task,
    track: recipe.track_name || recipe.track_classes?.[0] || BLANK.track,
    strength: recipe.audio_cover_strength ?? BLANK.strength,
    start: recipe.repainting_start ?? 0,
    end: recipe.repainting_end ?? 0,
    seed: withSeed ? recipe.seed : "",
    advanced,
  };
}

/** @param {Record<string, any>} recipe @param {string} address */
export function asCurl(recipe, address) {
  const body = JSON.stringify(recipe).replaceAll("'", "'\\''");
  const allowed = key.value ? " -H 'Authorization: Bearer YOUR_KEY'" : "";
  return `curl ${address} -H 'Content-Type: application/json'${allowed} -d '${body}'`;
}

/** @param {Record<string, any>} recipe @param {string} address */
export function asPython(recipe, address) {
  const allowed = key.value ? ', headers={"Authorization": "Bearer YOUR_KEY"}' : "";
  return `import json\n\nimport httpx\n\nrecipe = json.loads(${JSON.stringify(JSON.stringify(recipe))})\nprint(httpx.post(${JSON.stringify(address)}, json=recipe${allowed}).json())\n`;
}
