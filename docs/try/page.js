// The page: takes a file, has the worker reconstruct it, and shows the images.

import { npyBytes } from "./files/npy.js";

const $ = (id) => document.getElementById(id);
const WORKER = new URL("worker.js", import.meta.url).href;

let worker = null, file = null, nSlices = 0, result = null, scanName = "";

// A worker of a blob is bound by this page's Content-Security-Policy; one of a file would have that of its server.
function startWorker() {
  const script = new Blob([`import ${JSON.stringify(WORKER)};`], { type: "text/javascript" });
  const address = URL.createObjectURL(script);
  worker = new Worker(address, { type: "module" });
  worker.addEventListener("message", ({ data: { kind, ...message } }) => heard[kind](message));
  worker.addEventListener("error", () => {
    heard.failed({ message: "the browser could not start the page's scripts: reload the page, or use a newer browser" });
  });
}

function ask(command, options) {
  if (!worker) startWorker();
  worker.postMessage({ command, ...options });
}

const heard = {
  looked({ description, nSlices: found }) {
    nSlices = found;
    $("slice").max = nSlices - 1;
    $("slice").value = Math.min(Number($("slice").value), nSlices - 1);
    $("scan").textContent = `${scanName}: ${description}`;
    $("scan").hidden = false;
    setState("ready", "Press Reconstruct.");
  },
  stage({ name, share }) {
    $("progress").value = share;
    $("status").textContent = `${name[0].toUpperCase()}${name.slice(1)}`;
  },
  failed({ message }) {
    $("error").textContent = message;
    $("error").hidden = false;
    setState(nSlices ? "ready" : "idle", "");
    document.documentElement.dataset.state = "failed";
  },
  done(message) {
    result = message;
    const { preparation, loading, sampling } = result.seconds;
    setState("ready", `Done in ${(preparation + loading + sampling).toFixed(1)} s.`);
    showResult();
    $("result-title").focus();
    document.documentElement.dataset.state = "done";
    document.dispatchEvent(new CustomEvent("reconstructed", { detail: result }));
  },
};

function setState(state, status) {
  const isBusy = state === "busy";
  document.documentElement.dataset.state = state;
  $("input").disabled = isBusy;
  $("slice").disabled = isBusy || nSlices < 2;
  $("start").disabled = isBusy || !nSlices;
  $("cancel").disabled = !isBusy;
  $("progress").hidden = !isBusy;
  $("status").textContent = status;
  if (isBusy) $("error").hidden = true;
}

function take(chosen, name) {
  file = chosen;
  scanName = name;
  nSlices = 0;
  $("slice").value = 0;
  $("scan").hidden = true;
  setState("busy", "Looking into the file");
  ask("look", { file });
}

$("file").addEventListener("change", () => {
  const chosen = $("file").files[0];
  if (chosen) take(chosen, chosen.name);
});

$("demo").addEventListener("click", async () => {
  setState("busy", "Loading the demo scan");
  try {
    const answer = await fetch("built/demo.npy");
    if (!answer.ok) throw new Error(answer.statusText);
    take(new File([await answer.arrayBuffer()], "demo.npy"), "a simulated head, a quarter of its lines measured");
  } catch {
    heard.failed({ message: "the demo scan cannot be loaded: is the page's folder whole? Build it again" });
  }
});

for (const [name, over] of [["dragover", true], ["dragleave", false], ["drop", false]]) {
  document.addEventListener(name, (event) => {
    event.preventDefault();
    $("drop").classList.toggle("over", over);
    const dropped = name === "drop" && event.dataTransfer.files[0];
    if (dropped && !$("input").disabled) take(dropped, dropped.name);
  });
}

$("form").addEventListener("submit", (event) => {
  event.preventDefault();
  if ($("start").disabled) return;
  setState("busy", "Starting");
  $("cancel").focus();
  ask("reconstruct", {
    file,
    slice: Number($("slice").value),
    seed: Number($("seed").value),
    wantsWebGpu: $("webgpu").checked,
  });
});

$("cancel").addEventListener("click", () => {
  worker.terminate();
  worker = null;
  setState(nSlices ? "ready" : "idle", "Cancelled.");
  document.documentElement.dataset.state = "cancelled";
  $(nSlices ? "start" : "file").focus();
});

for (const id of ["level", "window", "gain"]) $(id).addEventListener("input", draw);

function showResult() {
  $("result").hidden = false;
  draw();
  const { image, seconds, faults } = result;
  $("faults").replaceChildren(...faults.map((each) => withText("li", each)));
  $("faults").hidden = !faults.length;
  const percent = (share) => `${(100 * share).toFixed(1)} %`;
  const facts = {
    Preset: `${result.plan.preset}: ${result.plan.sampler}, ${result.plan.calls} network calls, model ${result.plan.model}`,
    "Slice and seed": `${result.slice} and ${result.seed}`,
    "Residual |Ax − y| / |y|": `${percent(result.residual)}, where the noise alone leaves ${percent(result.explained)}`,
    Noise: `standard deviation ${result.noise.toPrecision(3)} in each part, from ${result.noiseSource}`,
    "Coil maps": `by ${result.mapSource}, ${result.nLines} calibration lines`,
    Size: image.shape.join(" x "),
    Engine: result.engine,
    Seconds: `${seconds.preparation.toFixed(1)} to prepare, ${seconds.loading.toFixed(1)} to load the model, ${seconds.sampling.toFixed(1)} to sample`,
  };
  $("facts").replaceChildren(
    ...Object.entries(facts).flatMap(([name, value]) => [withText("dt", name), withText("dd", value)]),
  );
  URL.revokeObjectURL($("save").href);
  $("save").href = URL.createObjectURL(new Blob([npyBytes(image)]));
  $("save").download = `${file.name.replace(/\.\w+$/, "")}-slice-${result.slice}.npy`;
}

function withText(name, text) {
  const element = document.createElement(name);
  element.textContent = text;
  return element;
}

// 50 and 100 show from 0 to the brightest hundredth of the reconstruction.
function draw() {
  const level = $("level").value / 50, width = $("window").value / 100, gain = Number($("gain").value);
  const from = result.scale * (level / 2 - width / 2), to = result.scale * (level / 2 + width / 2);
  $("gain-shown").textContent = gain;
  const shown = `shown from ${from.toPrecision(3)} to ${to.toPrecision(3)}`;
  paint($("zero-filled"), result.zeroFilled, from, to, `Zero-filled image of the input, ${shown}`);
  paint($("image"), result.image, from, to, `Reconstructed image, ${shown}`);
  const most = result.scale / gain;
  const words = `Residual of the data as an image, ${gain} times brighter: shown from 0 to ${most.toPrecision(3)}`;
  paint($("residual"), result.residualImage, 0, most, words);
}

function paint(canvas, { shape: [rows, columns], data }, from, to, words) {
  canvas.width = columns;
  canvas.height = rows;
  canvas.setAttribute("aria-label", words);
  const pixels = new ImageData(columns, rows);
  for (let i = 0; i < rows * columns; i++) {
    const grey = (255 * (Math.hypot(data[2 * i], data[2 * i + 1]) - from)) / (to - from);
    pixels.data.set([grey, grey, grey, 255], 4 * i); // clamped
  }
  canvas.getContext("2d").putImageData(pixels, 0, 0);
}

$("webgpu").disabled = !navigator.gpu;
setState("idle", "");
