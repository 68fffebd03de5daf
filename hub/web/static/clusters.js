// One decision for many images that look alike. A decision has an id of its own: when no answer comes it is sent again
// with the same id, and the hub counts it once; by that id all of it is taken back.
import { call, toast } from "./app.js";

const page = document.getElementById("clusters");
const classes = JSON.parse(page.dataset.classes);
const $ = (id) => document.getElementById(id);

let operator = localStorage.getItem("hone.operator") ?? "";
let groups = []; // {size, images}
let at = 0;
let picked = new Set();
let trail = []; // decisions of this page: {bulk, words}
let busy = false;

async function load() {
  try {
    groups = await call("/api/clusters");
    notice("");
  } catch {
    groups = [];
    notice("The hub does not answer. Load this page again.");
  }
  open(0);
}

function open(number) {
  at = Math.max(0, Math.min(number, groups.length - 1));
  picked = new Set();
  $("groups").replaceChildren(...groups.map((group, index) => {
    const tab = document.createElement("button");
    tab.type = "button";
    tab.className = "grouptab";
    tab.setAttribute("role", "tab");
    tab.setAttribute("aria-selected", String(index === at));
    tab.setAttribute("aria-label", `Group ${index + 1}, ${group.size} images`);
    const image = document.createElement("img");
    image.src = thumb(group.images[0]);
    image.alt = "";
    tab.append(image, text("span", group.size, "num"));
    tab.addEventListener("click", () => open(index));
    return tab;
  }));
  $("groups").children[at]?.scrollIntoView({ block: "nearest", inline: "nearest" });
  const images = groups[at]?.images ?? [];
  $("tiles").replaceChildren(...(images.length ? images.map(tile) : [empty()]));
  tally();
}

const thumb = (item) => `/api/images/${item.id}/file?width=320`;

function tile(item) {
  const line = document.createElement("li");
  const box = document.createElement("button");
  box.type = "button";
  box.className = "tile pick";
  box.dataset.id = item.id;
  box.setAttribute("aria-pressed", "false");
  const image = document.createElement("img");
  image.src = thumb(item);
  image.alt = `Image ${item.id}`;
  image.width = image.height = 160;
  const words = text("span", "", "tiletext");
  words.append(text("span", item.guess || "no guess", "muted"), text("span", item.guess ? item.score.toFixed(2) : "", "num muted"));
  box.append(image, words);
  box.addEventListener("click", () => pick(item.id));
  line.append(box);
  return line;
}

function empty() {
  const line = document.createElement("li");
  line.className = "empty";
  line.append(text("h3", "Nothing waits for a label"), text("p", "Images come here once the hub has looked at them."));
  return line;
}

function pick(id) {
  if (!picked.delete(id)) picked.add(id);
  tally();
}

function all() {
  const images = groups[at]?.images ?? [];
  picked = picked.size === images.length ? new Set() : new Set(images.map((one) => one.id));
  tally();
}

function tally() {
  for (const one of $("tiles").querySelectorAll(".pick")) one.setAttribute("aria-pressed", String(picked.has(Number(one.dataset.id))));
  $("picked").textContent = picked.size;
  $("shown").textContent = groups[at]?.images.length ?? 0;
  for (const one of $("buttons").querySelectorAll("[data-name]")) one.setAttribute("aria-disabled", String(!picked.size || !operator || busy));
  $("undo").setAttribute("aria-disabled", String(!trail.length || busy));
}

async function decide(name) {
  if (!picked.size || !operator || busy) return;
  const images = [...picked];
  const bulk = [...crypto.getRandomValues(new Uint32Array(4))].map((one) => one.toString(16).padStart(8, "0")).join("");
  const made = await sure("/api/bulk", { images, name, operator, bulk });
  if (!made) return;
  trail.push({ bulk });
  const group = groups[at];
  group.images = group.images.filter((one) => !picked.has(one.id));
  group.size -= images.length;
  const left = images.length - made.length;
  if (group.images.length) open(at);
  else await load(); // the rest of a large group, or the groups that are left
  $("last").textContent = `${made.length} ${name || "skipped"}${left ? `, ${left} had been decided already` : ""}`;
}

async function undo() {
  if (!trail.length || busy) return;
  const { bulk } = trail.at(-1);
  const made = await sure("/api/bulk/undo", { bulk, operator });
  if (!made) return;
  trail.pop();
  await load();
  $("last").textContent = `${made.length} taken back`;
}

async function sure(path, body) { // the same body again until there is an answer
  busy = true;
  tally();
  try {
    for (let failures = 0; ;) {
      try {
        const answer = await call(path, body);
        notice("");
        return answer;
      } catch (error) {
        if (error.status && error.status < 500) {
          toast(error.message, true);
          return null;
        }
        failures += 1;
        notice("The hub does not answer. The decision is kept on this page and sent again by itself.");
        await new Promise((resolve) => setTimeout(resolve, Math.min(10000, 500 * 2 ** failures)));
      }
    }
  } finally {
    busy = false;
    tally();
  }
}

function notice(words) {
  $("notice").textContent = words;
  $("notice").hidden = !words;
}

function text(tag, words, kind = "") {
  const one = document.createElement(tag);
  one.textContent = words;
  one.className = kind;
  return one;
}

function button(key, words, act, name) {
  const one = document.createElement("button");
  one.type = "button";
  one.className = "quiet";
  if (name !== undefined) one.dataset.name = name;
  if (key) one.append(text("kbd", key));
  one.append(words);
  one.addEventListener("click", act);
  $("buttons").append(one);
  return one;
}
const keys = new Map([["a", all], ["s", () => decide("")], ["u", undo], ["n", () => open(at + 1)], ["p", () => open(at - 1)]]);
button("A", "All", all);
for (const [index, name] of classes.entries()) {
  const act = () => decide(name);
  if (index < 9) keys.set(String(index + 1), act);
  button(index < 9 ? String(index + 1) : "", name, act, name);
}
button("S", "Cannot tell", () => decide(""), "");
button("U", "Undo", undo).id = "undo";

function step(way) { // by the tiles as they lie on the screen
  const tiles = [...$("tiles").querySelectorAll(".pick")];
  if (!tiles.length) return;
  const here = tiles.indexOf(document.activeElement);
  const across = tiles.filter((one) => one.offsetTop === tiles[0].offsetTop).length;
  const by = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -across, ArrowDown: across }[way];
  const next = here < 0 ? 0 : here + by;
  tiles[Math.max(0, Math.min(next, tiles.length - 1))].focus();
}

addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey || event.target.closest("input, dialog")) return;
  if (event.key.startsWith("Arrow")) {
    event.preventDefault();
    step(event.key);
    return;
  }
  const act = event.repeat ? null : keys.get(event.key.toLowerCase());
  if (!act) return;
  event.preventDefault();
  act();
});

function named() {
  $("operator").value = operator;
  $("who-ok").hidden = Boolean(operator);
  if (!operator) $("operator").focus();
  tally();
}
$("who").addEventListener("submit", (event) => {
  event.preventDefault();
  $("operator").blur();
});
$("operator").addEventListener("change", () => {
  const name = $("operator").value.trim();
  if (name && name !== operator) trail = []; // another person's decisions are not this one's to take back
  operator = name || operator;
  localStorage.setItem("hone.operator", operator);
  named();
});
named();
load();
