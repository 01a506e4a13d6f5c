// The playground: a client of the API like any other. It keeps the key and this session's pictures in sessionStorage, nothing else.

const POLL_MS = 700;
const PATIENCE_FOR_ID_MS = 2000;
const MISSED_POLLS = 5; // so many looks in a row may fail before the page gives up
const MAX_FILE_BYTES = 11 * 2 ** 20; // as base64 it must fit into the largest body a server takes by default
const MAX_HISTORY = 60;
const API = new URL("../", document.baseURI);

/** How each dialect is called: where the key goes, and which paths draw and look up. */
const DIALECTS = {
  goapi: {
    keyInBody: false,
    hint: "/sd",
    drawPath: (asked) => (asked.init_image ? "sd/img2img" : "sd/txt2img"),
    fetchPath: () => "sd/fetch",
    fetchBody: (id) => ({ id }),
  },
  v3: {
    keyInBody: true,
    hint: "/api/v3",
    drawPath: (asked) => {
      const action = asked.init_image ? "img2img" : "text2img";
      // Only the dreambooth paths of v3 know models.
      if (!asked.model_id) return `api/v3/${action}`;
      return asked.init_image ? "api/v3/dreambooth/img2img" : "api/v3/dreambooth";
    },
    fetchPath: (id) => `api/v3/fetch/${id}`,
    fetchBody: () => ({}),
  },
  v6: {
    keyInBody: true,
    hint: "needs a model id",
    drawPath: (asked) => (asked.init_image ? "api/v6/images/img2img" : "api/v6/images/text2img"),
    fetchPath: (id) => `api/v6/images/fetch/${id}`,
    fetchBody: () => ({}),
  },
  enterprise: {
    keyInBody: true,
    hint: "needs an enterprise key",
    drawPath: (asked) => (asked.init_image ? "api/v1/enterprise/img2img" : "api/v1/enterprise/text2img"),
    fetchPath: (id) => `api/v1/enterprise/fetch/${id}`,
    fetchBody: () => ({}),
  },
};

const at = (id) => document.getElementById(id);
const form = at("form");
let initFile = null; // {name, dataUrl}
let history = stored("history", []);
let current = null; // the drawing in work: {id, key, stop}
let modelsOf = null; // the key the list of models was asked with

/** Something to tell the user, in sentences; `fields` are the inputs it is about. */
class Refusal extends Error {
  constructor(sentences, { fields = [], status = 0, retryAfterS = 0 } = {}) {
    super(sentences.map(asSentence).join(" "));
    Object.assign(this, { fields, status, retryAfterS });
  }
}

// -- what is asked ------------------------------------------------------------------------------------------------------------------

function askedOf(form) {
  const value = (name) => form.elements[name].value.trim();
  const asked = { prompt: value("prompt"), negative_prompt: value("negative_prompt") };
  if (value("model_id")) asked.model_id = value("model_id");
  for (const name of ["width", "height", "samples", "num_inference_steps", "guidance_scale"]) {
    if (value(name)) asked[name] = Number(value(name));
  }
  asked.seed = value("seed") ? Number(value("seed")) : null;
  if (value("output_format") !== "png") asked.output_format = value("output_format"); // without it it is PNG
  const picture = initFile?.dataUrl ?? value("init_url");
  if (picture) {
    asked.init_image = picture;
    asked.strength = Number(value("strength"));
  }
  if (form.elements.instant_response.checked) asked.instant_response = true;
  return asked;
}

function requestOf(dialect, key, path, fields) {
  const headers = { "Content-Type": "application/json" };
  if (!dialect.keyInBody) headers["X-API-KEY"] = key;
  const body = dialect.keyInBody ? { key, ...fields } : fields;
  return { url: new URL(path, API).href, headers, body };
}

// -- the same as a command ------------------------------------------------------------------------------------------------------------

const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;

/** As bash, zsh and dash read it. The body comes by a here-document, which no quotes in a prompt and no long picture can break. */
function curlOf(request, { shortened }) {
  const short = (name, value) =>
    shortened && typeof value === "string" && value.startsWith("data:") ? `${value.slice(0, 40)}… (${value.length} characters)` : value;
  const headers = Object.entries(request.headers).map(([name, value]) => `  -H ${quoted(`${name}: ${value}`)} \\`);
  const body = JSON.stringify(request.body, short, 2);
  return [`curl -X POST ${quoted(request.url)} \\`, ...headers, "  --data-binary @- <<'JSON'", body, "JSON"].join("\n");
}

function currentRequest(key) {
  const dialect = DIALECTS[form.elements.dialect.value];
  const asked = askedOf(form);
  return requestOf(dialect, key, dialect.drawPath(asked), asked);
}

function showCommand() {
  at("curl").textContent = curlOf(currentRequest("YOUR_API_KEY"), { shortened: true });
  at("dialect-hint").textContent = DIALECTS[form.elements.dialect.value].hint;
  at("strength-value").textContent = form.elements.strength.value;
}

async function copyCommand() {
  const text = curlOf(currentRequest(form.elements.key.value.trim() || "YOUR_API_KEY"), { shortened: false }) + "\n";
  const button = at("copy");
  button.textContent = (await copied(text)) ? "Copied" : "Not copied";
  setTimeout(() => (button.textContent = "Copy"), 1500);
}

async function copied(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    // Browsers offer the clipboard to https and localhost only; elsewhere the old way still works.
    const area = document.createElement("textarea");
    area.value = text;
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    at("copy").focus();
    return done;
  }
}

// -- calling the server ---------------------------------------------------------------------------------------------------------------

async function send(url, options) {
  try {
    return await fetch(url, { credentials: "omit", ...options });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refusal(["The server could not be reached"]);
  }
}

async function call(request, signal) {
  const body = JSON.stringify(request.body);
  const response = await send(request.url, { method: "POST", headers: request.headers, body, signal });
  return readAnswer(response);
}

async function callOwn(path, key, { method = "GET", signal } = {}) {
  return readAnswer(await send(new URL(path, API), { method, headers: { "X-API-KEY": key }, signal }));
}

/** The JSON of an answer. Throws a Refusal for everything that is no answer to work with. */
async function readAnswer(response) {
  const text = await response.text();
  let answer;
  try {
    answer = JSON.parse(text);
  } catch {
    throw new Refusal([`The server answered with HTTP status ${response.status} and nothing readable`], { status: response.status });
  }
  if (!response.ok || answer.status === "error" || answer.status === "failed") {
    at("answer-json").textContent = JSON.stringify(answer, null, 2);
    at("answer").hidden = false;
    throw refusalOf(answer, response);
  }
  return answer;
}

function refusalOf(answer, response) {
  const message = answer.message ?? answer.messege ?? `The server answered with HTTP status ${response.status}`;
  const isMap = typeof message === "object" && message !== null;
  const sentences = isMap ? Object.values(message).flat() : [message];
  for (const more of [answer.error, answer.tip, answer.tips]) {
    if (typeof more === "string" && more && !sentences.includes(more)) sentences.push(more);
  }
  const retryAfterS = Number(response.headers.get("Retry-After")) || 0;
  return new Refusal(sentences.map(String), { fields: isMap ? Object.keys(message) : [], status: response.status, retryAfterS });
}

function asSentence(text) {
  const trimmed = String(text).trim();
  return /[.!?]$/.test(trimmed) ? trimmed : `${trimmed}.`;
}

// -- drawing --------------------------------------------------------------------------------------------------------------------------

async function draw() {
  showError(null);
  const key = form.elements.key.value.trim();
  if (!key) return showError(new Refusal(["Enter your API key first"], { fields: ["key"] }));
  if (/[^\x21-\x7e]/.test(key)) return showError(new Refusal(["This key has characters that no key has"], { fields: ["key"] }));
  const dialect = DIALECTS[form.elements.dialect.value];
  const asked = askedOf(form);
  const drawing = { id: null, key, stop: new AbortController(), isCancelled: false, isPreviewing: false, isDone: false };
  begin(drawing);
  try {
    const first = await call(requestOf(dialect, key, dialect.drawPath(asked), asked), drawing.stop.signal);
    drawing.id = first.id;
    if (drawing.isCancelled && first.status === "processing") await cancelOnServer(drawing);
    const last = first.status === "processing" ? await followed(drawing, dialect) : first;
    drawing.isDone = true;
    showAnswer(last);
    const pictures = picturesOf(last, first.meta ?? {}, asked);
    showPictures(pictures);
    remember(pictures);
    tell(pictures.length === 1 ? "The picture is drawn." : `${pictures.length} pictures are drawn.`);
  } catch (error) {
    drawing.isDone = true;
    showPictures([]);
    if (drawing.isCancelled) tell(drawing.id === null ? "Stopped waiting; the server may still draw it." : "Cancelled.");
    else {
      tell("");
      showError(error);
    }
  } finally {
    end(drawing);
  }
}

/** Asks until the pictures are there, and shows how far they are meanwhile. */
async function followed(drawing, dialect) {
  const { id, key, stop } = drawing;
  const request = requestOf(dialect, key, dialect.fetchPath(id), dialect.fetchBody(id));
  if (!drawing.isCancelled) tell("Accepted.");
  for (let missed = 0; ; ) {
    let pauseMs = POLL_MS;
    try {
      const job = await jobOf(drawing);
      if (job) showProgress(job);
      if (job?.preview) preview(drawing);
      if (job?.state === "cancelled") drawing.isCancelled = true;
      const answer = await call(request, stop.signal);
      if (answer.status === "success") return answer;
      missed = 0;
    } catch (error) {
      const mayPass = error instanceof Refusal && (error.status === 0 || error.status === 429 || error.status >= 500);
      if (!mayPass || ++missed >= MISSED_POLLS) throw error;
      pauseMs = Math.max(1000 * error.retryAfterS, POLL_MS * 2 ** missed);
    }
    await new Promise((resolve) => setTimeout(resolve, pauseMs));
  }
}

/** How far the job is; null when that can't be told just now, which is no reason to stop waiting for it. */
async function jobOf({ id, key, stop }) {
  try {
    return await callOwn(`jobs/${id}`, key, { signal: stop.signal });
  } catch (error) {
    if (error instanceof Refusal) return null;
    throw error;
  }
}

/** Shows the unfinished picture, where the server has one by now; nothing waits for it, and it may fail. */
async function preview(drawing) {
  const { id, key, stop } = drawing;
  if (drawing.isPreviewing) return;
  drawing.isPreviewing = true;
  try {
    const url = new URL(`jobs/${id}/preview`, API);
    // A job that has just ended is redirected to its picture, which the answer to the look-up tells anyway.
    const response = await send(url, { headers: { "X-API-KEY": key }, signal: stop.signal, redirect: "manual" });
    const picture = response.status === 200 ? await response.blob() : null;
    if (picture && current === drawing && !drawing.isDone) showPreview(URL.createObjectURL(picture));
  } catch {
    // The next look may have one.
  } finally {
    drawing.isPreviewing = false;
  }
}

async function cancel() {
  const drawing = current;
  if (!drawing) return;
  at("cancel").disabled = true;
  drawing.isCancelled = true;
  tell("Cancelling…");
  if (drawing.id !== null) return cancelOnServer(drawing);
  // Without an id there is nothing to cancel yet: it comes at once, or only with the pictures, where the call is held for them.
  const stopWaiting = () => drawing.id === null && drawing.stop.abort();
  if (form.elements.instant_response.checked) setTimeout(stopWaiting, PATIENCE_FOR_ID_MS);
  else stopWaiting();
}

async function cancelOnServer(drawing) {
  try {
    await callOwn(`jobs/${drawing.id}`, drawing.key, { method: "DELETE" });
  } catch (error) {
    drawing.isCancelled = false;
    at("cancel").disabled = false;
    showError(error);
  }
}

function picturesOf(answer, meta, asked) {
  const urls = [answer.output ?? []].flat();
  const firstSeed = answer.meta?.seed ?? meta.seed ?? asked.seed;
  const seedOf = (index) => (firstSeed === null || firstSeed === undefined ? null : (Number(firstSeed) + index) % 2 ** 32);
  return urls.map((url, index) => ({ url, seed: seedOf(index), prompt: asked.prompt }));
}

// -- showing --------------------------------------------------------------------------------------------------------------------------

function begin(drawing) {
  current = drawing;
  at("draw").disabled = true;
  at("cancel").disabled = false;
  at("bar").removeAttribute("value");
  at("detail").textContent = "";
  at("progress").hidden = false;
  at("pictures").setAttribute("aria-busy", "true");
  document.querySelector(".stage").scrollIntoView({ block: "nearest" }); // on a phone it is below the form
  tell("Asking the server…");
}

function end(drawing) {
  if (current !== drawing) return;
  current = null;
  at("draw").disabled = false;
  at("cancel").disabled = true;
  at("progress").hidden = true;
  at("pictures").removeAttribute("aria-busy");
}

function showProgress(job) {
  const seconds = job.eta > 0 ? `, about ${Math.max(1, Math.round(job.eta))} s to go` : "";
  const bar = at("bar");
  if (job.state === "queued") {
    at("detail").textContent = `${job.position > 0 ? `${job.position} before this one` : "Next in the queue"}${seconds}`;
    if (!current?.isCancelled) tell("Waiting in the queue.");
  } else if (job.state === "running") {
    if (job.steps) {
      bar.max = job.steps;
      bar.value = job.step ?? 0;
    }
    at("detail").textContent = job.steps ? `Step ${job.step ?? 0} of ${job.steps}${seconds}` : `Drawing${seconds}`;
    if (!current?.isCancelled) tell("Drawing…");
  }
}

/** Only changes are told: a screen reader reads each one aloud. */
function tell(text) {
  if (at("status").textContent !== text) at("status").textContent = text;
}

function showError(error) {
  for (const input of form.querySelectorAll("[aria-invalid]")) input.removeAttribute("aria-invalid");
  const box = at("error");
  box.hidden = error === null;
  box.textContent = error === null ? "" : error instanceof Refusal ? error.message : asSentence(`This page failed: ${error.message}`);
  const inputs = (error?.fields ?? []).map((name) => form.elements[name === "init_image" ? "init_url" : name]).filter(Boolean);
  for (const input of inputs) input.setAttribute("aria-invalid", "true");
  inputs[0]?.focus();
}

function showAnswer(answer) {
  at("answer-json").textContent = JSON.stringify(answer, null, 2);
  at("answer").hidden = false;
}

function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

function showPictures(pictures) {
  releasePreview();
  at("pictures").replaceChildren(...(pictures.length ? pictures.map(figureOf) : [emptyNote]));
}

function showPreview(blobUrl) {
  releasePreview();
  at("pictures").replaceChildren(element("figure", {}, element("img", { className: "preview", src: blobUrl, alt: "Unfinished picture" })));
}

function releasePreview() {
  const shown = at("pictures").querySelector("img.preview");
  if (shown) URL.revokeObjectURL(shown.src);
}

function figureOf(picture) {
  const image = element("img", { src: picture.url, alt: picture.prompt });
  image.addEventListener("error", () => image.replaceWith(element("p", { className: "alert", textContent: "The picture could not be loaded." })));
  const open = element("a", { href: picture.url, target: "_blank", rel: "noopener", textContent: "Open" });
  const again = element("button", { type: "button", className: "quiet", textContent: "Start from this" });
  again.addEventListener("click", () => startFrom(picture.url));
  return element("figure", {}, image, element("figcaption", {}, ...seedParts(picture), again, open));
}

function seedParts(picture) {
  if (picture.seed === null) return [];
  const use = element("button", { type: "button", className: "quiet", textContent: "Use seed" });
  use.setAttribute("aria-label", `Use seed ${picture.seed}`);
  use.addEventListener("click", () => {
    form.elements.seed.value = picture.seed;
    showCommand();
    form.elements.seed.focus();
  });
  return [element("span", { className: "seed", textContent: `seed ${picture.seed}` }), use];
}

function showHistory() {
  at("history-card").hidden = history.length === 0;
  at("history").replaceChildren(...history.map(historyItem));
}

function historyItem(picture) {
  const image = element("img", { src: picture.url, alt: picture.prompt, title: picture.prompt, loading: "lazy" });
  const link = element("a", { href: picture.url, target: "_blank", rel: "noopener" }, image);
  return element("li", {}, element("figure", {}, link, element("figcaption", {}, ...seedParts(picture))));
}

function remember(pictures) {
  history = [...pictures, ...history].slice(0, MAX_HISTORY);
  store("history", history);
  showHistory();
}

// -- the picture to start from ----------------------------------------------------------------------------------------------------------

function startFrom(url) {
  dropFile();
  form.elements.init_url.value = url;
  at("start").open = true;
  showInit();
  form.elements.strength.focus();
}

function dropFile() {
  initFile = null;
  at("init_file").value = "";
}

async function takeFile() {
  const file = at("init_file").files[0];
  showError(null);
  if (!file) dropFile();
  else if (file.size > MAX_FILE_BYTES) {
    dropFile();
    showError(new Refusal([`The file must not be larger than ${MAX_FILE_BYTES / 2 ** 20} MB`]));
  } else initFile = { name: file.name, dataUrl: await dataUrlOf(file) };
  showInit();
}

function dataUrlOf(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.addEventListener("load", () => resolve(reader.result));
    reader.addEventListener("error", () => reject(reader.error));
    reader.readAsDataURL(file);
  });
}

function showInit() {
  const address = form.elements.init_url.value.trim();
  const source = initFile?.dataUrl ?? (/^https?:\/\//.test(address) ? address : "");
  at("init").hidden = !source;
  if (source) at("init-picture").src = source;
  else at("init-picture").removeAttribute("src");
  showCommand();
}

// -- what the tab remembers -------------------------------------------------------------------------------------------------------------

function stored(name, fallback) {
  try {
    return JSON.parse(sessionStorage.getItem(`sdapi.${name}`)) ?? fallback;
  } catch {
    return fallback; // storage is switched off, or holds something else
  }
}

function store(name, value) {
  try {
    sessionStorage.setItem(`sdapi.${name}`, JSON.stringify(value));
  } catch {
    // Without storage a reload forgets; nothing else depends on it.
  }
}

/** Offers the server's models in the field; where it does not list them, the field stays free text. */
async function offerModels() {
  const key = form.elements.key.value.trim();
  if (!key || key === modelsOf) return;
  modelsOf = key;
  try {
    const request = { url: new URL("api/v4/dreambooth/model_list", API).href, headers: { "Content-Type": "application/json" }, body: { key } };
    const listed = await readAnswer(await send(request.url, { method: "POST", headers: request.headers, body: JSON.stringify(request.body) }));
    if (Array.isArray(listed)) at("models").replaceChildren(...listed.map((model) => element("option", { value: model.model_id })));
  } catch {
    modelsOf = null;
  }
}

// -- wiring -----------------------------------------------------------------------------------------------------------------------------

const emptyNote = at("empty");
form.elements.key.value = stored("key", "");
form.elements.key.addEventListener("input", () => store("key", form.elements.key.value.trim()));
form.elements.init_url.addEventListener("change", showInit);
form.elements.model_id.addEventListener("focus", offerModels);
form.addEventListener("input", showCommand);
form.addEventListener("submit", (event) => {
  event.preventDefault();
  draw();
});
at("init_file").addEventListener("change", takeFile);
at("init-remove").addEventListener("click", () => {
  dropFile();
  form.elements.init_url.value = "";
  showInit();
  at("init_file").focus();
});
at("cancel").addEventListener("click", cancel);
at("copy").addEventListener("click", copyCommand);
at("forget").addEventListener("click", () => {
  history = [];
  store("history", history);
  showHistory();
});
showHistory();
showInit();
