// The loss curve of a run: drawn by uPlot from the API, followed while the run goes on.
import { call } from "./app.js";

const box = document.getElementById("curve");
const last = document.getElementById("curve-last");
const dark = matchMedia("(prefers-color-scheme: dark)");
let plot;
let shown = "";

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

function draw(curve) {
  plot?.destroy();
  plot = undefined;
  box.replaceChildren();
  if (curve.length < 2) {
    const text = document.createElement("p");
    text.className = "empty";
    text.textContent = "The curve appears here with the first steps of the training.";
    box.append(text);
    last.textContent = "";
    return;
  }
  const axis = { stroke: colour("--muted"), grid: { stroke: colour("--line"), width: 1 }, ticks: { show: false }, font: "12px system-ui" };
  plot = new uPlot({
    width: box.clientWidth, height: box.clientHeight, legend: { show: false }, cursor: { y: false },
    scales: { x: { time: false } },
    axes: [{ ...axis, size: 28 }, { ...axis, size: 52 }],
    series: [{}, { stroke: colour("--accent"), width: 2, points: { show: curve.length < 30, size: 5 } }],
  }, [curve.map((_, step) => step + 1), curve], box);
  last.textContent = `${curve.length} steps, ${curve[0].toFixed(3)} to ${curve.at(-1).toFixed(3)}`;
}

async function follow() {
  const run = await call(`/api/runs/${box.dataset.run}`);
  const text = JSON.stringify(run.curve);
  if (text === shown) return;
  shown = text;
  draw(run.curve);
}

new ResizeObserver(() => plot?.setSize({ width: box.clientWidth, height: box.clientHeight })).observe(box);
dark.addEventListener("change", () => { if (shown) draw(JSON.parse(shown)); });
document.addEventListener("htmx:afterSwap", () => follow().catch(() => {}));
follow().catch(() => {});
