// The settings page. What was typed goes to the hub as a JSON merge; the hub alone judges it, and what it answers is shown.
import { call, toast } from "./app.js";

const root = document.getElementById("settings");
const name = document.getElementById("operator");
const rows = new Map([...root.querySelectorAll(".setting")].map((row) => [row.dataset.key, row]));
const field = (row) => row.querySelector("input, select");

function text(value, kind) {
  if (kind === "list" || kind === "texts") return value.join(", ");
  return kind === "json" ? JSON.stringify(value) : String(value ?? "");
}

function number(typed) {
  const value = Number(typed);
  return typed === "" || Number.isNaN(value) ? typed : value; // what is no number the hub shall refuse in its words
}

// A comma within a text, as in "line=3,shift=late", has no space behind it.
function texts(given) {
  const parts = given.split(/,\s+/).flatMap((one) => (one.includes("=") ? [one] : one.split(",")));
  return parts.map((one) => one.trim()).filter(Boolean);
}

function typed(row) {
  const { kind } = row.dataset;
  const one = field(row);
  if (kind === "switch") return one.checked;
  if (kind === "choice") return one.value; // the hub's own words, whatever spaces they have
  const given = one.value.trim();
  if (kind === "integer" || kind === "number") return number(given);
  if (kind === "texts") return texts(given);
  if (kind === "list") return given === "" ? [] : given.split(",").map((part) => number(part.trim()));
  if (kind !== "json") return given;
  try {
    return JSON.parse(given);
  } catch {
    return given;
  }
}

const content = (row) => (row.dataset.kind === "switch" ? String(field(row).checked) : field(row).value.trim());
const changed = (row) => content(row) !== row.dataset.shown;

function complain(row, words = "") {
  const place = row.querySelector(".wrong");
  place.textContent = words;
  place.hidden = !words;
  if (words) field(row).setAttribute("aria-invalid", "true");
  else field(row).removeAttribute("aria-invalid");
}

function judge(form) {
  const mine = [...form.querySelectorAll(".setting")];
  for (const row of mine) row.classList.toggle("changed", changed(row));
  form.querySelector("button.primary").disabled = !mine.some(changed);
}

// keep: what the operator has typed and not saved stays.
function show(view, keep = () => false) {
  for (const one of view.sections.flatMap((section) => section.settings)) {
    const row = rows.get(one.key);
    if (!row || keep(row)) continue;
    if (one.kind === "switch") field(row).checked = one.value;
    else field(row).value = text(one.value, one.kind);
    row.dataset.shown = content(row);
    complain(row);
    for (const pill of row.querySelectorAll("[data-source]")) pill.hidden = pill.dataset.source !== one.source;
    const back = row.querySelector("[data-clear]");
    back.hidden = one.source !== "project";
    back.textContent = `Back to ${text(one.file, one.kind) || "nothing"}`;
    back.setAttribute("aria-label", `${one.key}: ${back.textContent}, as hub.toml says`);
  }
  root.dataset.version = view.version;
  root.querySelectorAll("form").forEach(judge);
}

function merge(changes) {
  const tree = {};
  for (const [key, value] of changes) {
    const path = key.split(".");
    const last = path.pop();
    path.reduce((at, part) => (at[part] ??= {}), tree)[last] = value;
  }
  return tree;
}

async function send(changes, done) {
  const sent = new Set(changes.map(([key]) => key));
  try {
    const by = name.value.trim() || "the page";
    const view = await call(`/api/settings?operator=${encodeURIComponent(by)}`, merge(changes), "PATCH");
    show(view, (row) => !sent.has(row.dataset.key) && changed(row));
    toast(done);
    return true;
  } catch (error) {
    const wrong = Object.entries(error.fields ?? {}).filter(([key]) => rows.has(key));
    for (const [key, words] of wrong) complain(rows.get(key), words);
    if (wrong.length) {
      const first = field(rows.get(wrong[0][0]));
      first.focus();
      first.scrollIntoView({ block: "center" });
    }
    toast(wrong.length ? "Nothing was changed" : error.message || "The hub cannot be reached", true);
    return false;
  }
}

root.addEventListener("input", (event) => {
  complain(event.target.closest(".setting"));
  judge(event.target.form);
});

root.addEventListener("submit", async (event) => {
  event.preventDefault();
  const mine = [...event.target.querySelectorAll(".setting")];
  mine.forEach((row) => complain(row));
  const changes = mine.filter(changed).map((row) => [row.dataset.key, typed(row)]);
  if (changes.length) await send(changes, `${changes.length} setting${changes.length === 1 ? "" : "s"} in force`);
});

root.addEventListener("click", async (event) => {
  const button = event.target.closest("button[data-clear]");
  if (!button) return;
  const row = button.closest(".setting");
  if (await send([[row.dataset.key, null]], `${row.dataset.key} is as hub.toml says`)) field(row).focus();
});

name.value = localStorage.getItem("hone.operator") ?? "";
name.addEventListener("change", () => localStorage.setItem("hone.operator", name.value.trim()));

// Somebody else changed something: what is not being edited here follows.
document.addEventListener("htmx:afterSwap", async () => {
  if (document.getElementById("live").dataset.version !== root.dataset.version) show(await call("/api/settings"), changed);
});

show(JSON.parse(root.dataset.settings));
