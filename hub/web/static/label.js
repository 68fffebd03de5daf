// The label desk. What is decided goes into an outbox in localStorage first and to the hub from there, one after the
// other, until the hub has answered: a decision survives a lost network, a restarted hub and a closed page. The API
// answers a repeated decision with the one in force, so sending again never counts twice.
import { call, relative, toast } from "./app.js";

const AHEAD = 5; // images loaded before they are needed
const classes = JSON.parse(document.getElementById("desk").dataset.classes);
const $ = (id) => document.getElementById(id);
const paths = { label: "/api/labels", skip: "/api/skips", undo: "/api/undo" };

let operator = localStorage.getItem("hone.operator") ?? "";
let queue = []; // {item, image}, loading or loaded
let current = null; // {item, image, since}
let trail = []; // decisions of this page, the last one at the end: {item, id}
let times = []; // when they were made
let waiting = null; // as the hub said, less what is in the outbox
let filling = false;
let sending = null; // id of the decision that is on its way
let wake = () => {};

// Outbox: read and written as a whole each time, so that two open pages do not overwrite each other's decisions.
const outbox = {
  read: () => JSON.parse(localStorage.getItem("hone.outbox") ?? "[]"),
  write: (all) => localStorage.setItem("hone.outbox", JSON.stringify(all)),
  add(one) { this.write([...this.read(), one]); },
  remove(id) { this.write(this.read().filter((one) => one.id !== id)); },
};

async function send() {
  if (sending !== null) return;
  for (let one, failures = 0; (one = outbox.read()[0]);) {
    const { id, kind, of, ...body } = one;
    sending = id;
    try {
      if (kind !== "undo" || body.label) settled(id, await timed(paths[kind], body));
      outbox.remove(id); // an undo without a label: what it takes back was refused
      failures = 0;
      notice("");
    } catch (error) {
      if ([404, 409, 422].includes(error.status)) {
        outbox.remove(id);
        toast(`Image ${body.image ?? ""} was not taken: ${error.message}`, true);
      } else {
        failures += 1;
        const kept = outbox.read().length;
        notice(`The hub does not answer. ${kept === 1 ? "1 decision is" : `${kept} decisions are`} kept here and sent again by itself.`);
        await pause(Math.min(10000, 500 * 2 ** failures));
      }
    }
    sending = null;
  }
  fill();
}

function settled(id, label) {
  // What was an undo "of the decision with this id" now knows the number of that decision.
  outbox.write(outbox.read().map((one) => (one.of === id ? { ...one, label: label.id } : one)));
  for (const one of trail) if (one.id === id) one.label = label.id;
}

const timed = (path, body) => Promise.race([
  call(path, body), new Promise((_, fail) => setTimeout(() => fail(new Error("no answer in time")), 15000)),
]);

function pause(milliseconds) {
  return new Promise((resolve) => {
    wake = resolve;
    setTimeout(resolve, milliseconds);
  });
}
addEventListener("online", () => wake());

async function fill() {
  if (filling || queue.length >= AHEAD) return;
  filling = true;
  try {
    const known = new Set([current?.item.id, ...queue.map((one) => one.item.id), ...outbox.read().map((one) => one.image)]);
    known.delete(undefined);
    const query = new URLSearchParams([["count", AHEAD + 1 - queue.length], ["operator", operator], ...[...known].map((id) => ["exclude", id])]);
    const found = await call(`/api/queue?${query}`);
    waiting = found.waiting;
    const taken = new Set([current?.item.id, ...queue.map((one) => one.item.id), ...outbox.read().map((one) => one.image)]);
    for (const item of found.items) if (!taken.has(item.id)) queue.push({ item, image: load(item) });
    if (sending === null) notice("");
  } catch {
    if (sending === null) notice("The hub does not answer. Trying again.");
  } finally {
    filling = false;
  }
  if (!current) next();
  tally();
}
setInterval(() => { if (!document.hidden && queue.length < AHEAD) fill(); }, 3000);
document.addEventListener("htmx:afterSwap", () => fill());

function load(item) {
  const image = new Image();
  image.alt = `Image ${item.id}`;
  image.src = item.url;
  image.ready = image.decode().then(() => true, () => false);
  return image;
}

function next() { show(queue.shift() ?? null); }

function show(one) {
  current = one;
  const box = $("frame-image");
  $("caption").replaceChildren();
  $("guess").replaceChildren();
  enable(false);
  $("desk").classList.toggle("idle", !one);
  if (!one) {
    box.replaceChildren(empty());
    return;
  }
  const { item, image } = one;
  box.replaceChildren(image);
  image.ready.then((fine) => {
    if (current !== one) return;
    if (!fine) box.replaceChildren(text("p", `Image ${item.id} cannot be shown. Skip it.`));
    one.since = performance.now();
    enable(true);
  });
  const facts = [`Image ${item.id}`, item.camera || "imported", relative(item.captured_at),
    item.width ? `${item.width} × ${item.height}` : "", item.why === "pair" ? "" : item.why.replaceAll("_", " "), ...Object.keys(item.flags).map((flag) => flag.replaceAll("_", " "))];
  $("caption").append(...facts.filter(Boolean).map((fact) => text("span", fact)));
  guess(item);
}

function guess(item) {
  if (item.ask) {
    $("guess").append(text("p", "This image was decided before. What was said of it stays hidden.", "sub"));
    return;
  }
  if (item.urgent && item.blind) {
    $("guess").append(text("p", "Two releases differ", "big"), text("p", "They call this frame differently, and the rollout waits for what you see. What they said stays hidden until you have decided.", "sub"));
    return;
  }
  if (item.blind) {
    $("guess").append(text("p", "Asked blind", "big"), text("p", "This image is of the random sample that measures the model. What the model said is shown once it is labelled.", "sub"));
    return;
  }
  const best = Object.entries(item.scores).sort((a, b) => b[1] - a[1]).slice(0, 4);
  if (!best.length) {
    $("guess").append(text("p", "No model has seen this image.", "sub"));
    return;
  }
  const list = document.createElement("ul");
  list.className = "scores";
  for (const [index, [name, score]] of best.entries()) {
    const line = document.createElement("li");
    line.append(text("span", name), bar(score, index === 0), text("span", score.toFixed(2), "num"));
    list.append(line);
  }
  const big = text("p", item.guess, "big");
  big.append(" ", text("small", `score ${item.score.toFixed(2)}`, "num"));
  // The score knows how far an image is from the training images; the probabilities do not.
  big.title = "How far the model can be trusted here: low when it is torn, or when the image is unlike its training images";
  $("guess").append(text("p", `The model guesses${item.release ? `, release ${item.release}` : ""}`, "sub"), big, list);
}

function bar(share, strong) {
  const make = (name, values) => {
    const one = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(values)) one.setAttribute(key, value);
    return one;
  };
  const svg = make("svg", { class: strong ? "sharebar accent" : "sharebar", width: "100%", height: 6, "aria-hidden": "true" });
  svg.append(make("rect", { class: "rail", width: "100%", height: 6, rx: 3 }), make("rect", { class: "fill", width: `${100 * share}%`, height: 6, rx: 3 }));
  return svg;
}

function empty() {
  const box = document.createElement("div");
  box.className = "empty";
  box.append(text("h3", waiting === null ? "Asking the hub for images" : "Nothing waits for a label"));
  if (waiting !== null) box.append(text("p", "Cameras send the next frames that they are unsure about. They appear here by themselves."));
  return box;
}

function decide(kind, name) {
  if (!current?.since || !operator) return;
  const { item, since } = current;
  const one = { id: crypto.getRandomValues(new Uint32Array(2)).join("-"), kind, image: item.id, operator, ...(item.ask && { ask: item.ask }) };
  if (kind === "label") Object.assign(one, { name, seconds: Math.min(86400, Math.round(performance.now() - since) / 1000) });
  outbox.add(one);
  trail.push({ item, id: one.id });
  times.push(performance.now());
  if (waiting) waiting -= 1;
  $("last").textContent = kind === "label" ? `Image ${item.id}: ${name}` : `Image ${item.id}: skipped`;
  next();
  tally();
  send();
  fill();
}

async function undo() {
  if (!operator) return;
  const last = trail.pop();
  if (!last) return undoEarlier();
  times.pop();
  if (sending !== last.id && outbox.read().some((one) => one.id === last.id)) outbox.remove(last.id);
  else outbox.add({ id: `undo-${last.id}`, kind: "undo", of: last.id, operator, ...(last.label && { label: last.label }) });
  if (waiting !== null) waiting += 1;
  again(last.item);
  tally();
  send();
}

async function undoEarlier() { // a decision from before this page was opened
  try {
    const taken = await call("/api/undo", { operator });
    again(await call(`/api/images/${taken.image}`));
  } catch (error) {
    toast(error.message, true);
  }
}

function again(item) {
  queue = queue.filter((one) => one.item.id !== item.id);
  if (current) queue.unshift(current);
  show({ item, image: load(item) });
  $("last").textContent = `Image ${item.id}: taken back`;
}

function tally() {
  $("waiting").textContent = waiting ?? "–";
  $("done").textContent = trail.length;
  const lately = times.slice(-20);
  $("rate").textContent = lately.length > 2 ? Math.round((60000 * (lately.length - 1)) / (lately.at(-1) - lately[0])) : "–";
}

function notice(words) {
  if ($("notice").textContent !== words) $("notice").textContent = words;
  $("notice").hidden = !words;
}

function text(tag, words, kind = "") {
  const one = document.createElement(tag);
  one.textContent = words;
  one.className = kind;
  return one;
}

function enable(on) {
  for (const one of document.querySelectorAll("#buttons button")) {
    one.setAttribute("aria-disabled", String(!on || !operator));
    const guessed = Boolean(current?.item.guess) && one.dataset.name === current.item.guess;
    one.classList.toggle("guessed", guessed);
    one.querySelector(".hint").textContent = guessed ? "model's guess" : "";
  }
  $("skip").setAttribute("aria-disabled", String(!on || !operator));
  $("undo").setAttribute("aria-disabled", String(!operator));
}

// Keys: 1 to 9, and the first letter of a class where no other class and no command has it.
const keys = new Map([["s", () => decide("skip")], [" ", () => decide("skip")], ["u", () => undo()]]);
const letters = classes.map((name) => name[0].toLowerCase());
for (const [index, name] of classes.entries()) {
  const letter = letters[index];
  const own = letters.filter((one) => one === letter).length === 1 && !keys.has(letter) && !/\d/.test(letter);
  const button = document.createElement("button");
  button.type = "button";
  button.dataset.name = name;
  if (index < 9) button.append(text("kbd", String(index + 1)));
  button.append(text("span", name), text("span", "", "hint"));
  const press = () => {
    if (!current?.since || !operator) return;
    button.classList.add("pressed");
    setTimeout(() => button.classList.remove("pressed"), 140);
    decide("label", name);
  };
  button.addEventListener("click", press);
  if (index < 9) keys.set(String(index + 1), press);
  if (own) keys.set(letter, press);
  $("buttons").append(button);
}
$("buttons").classList.toggle("many", classes.length > 6);
$("skip").addEventListener("click", () => decide("skip"));
$("undo").addEventListener("click", () => undo());

let tapped = -Infinity;
document.querySelector(".side").addEventListener("click", (event) => { // a double tap decides one image, not two
  if (event.detail === 0) return; // from the keyboard
  if (event.timeStamp - tapped < 250) event.stopPropagation();
  else tapped = event.timeStamp;
  event.target.closest("button")?.blur(); // the next space means "skip", not this button again
}, { capture: true });

addEventListener("keydown", (event) => {
  if (event.repeat || event.ctrlKey || event.altKey || event.metaKey || event.target.closest("input, dialog")) return;
  if (event.key === " " && event.target.closest("button, a")) return;
  const act = keys.get(event.key.toLowerCase());
  if (!act) return;
  event.preventDefault();
  act();
});

function named() {
  $("operator").value = operator;
  $("who-ok").hidden = Boolean(operator);
  if (!operator) $("operator").focus();
  enable(Boolean(current?.since));
}
$("who").addEventListener("submit", (event) => {
  event.preventDefault();
  event.stopPropagation();
  $("operator").blur();
});
$("operator").addEventListener("change", () => {
  const name = $("operator").value.trim();
  if (name && name !== operator) trail = []; // another person's decisions are not this one's to take back
  operator = name || operator;
  localStorage.setItem("hone.operator", operator);
  named();
});
$("who-ok").addEventListener("click", () => $("operator").blur());

named();
show(null);
send();
fill();
