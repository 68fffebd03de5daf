// Every page: relative times, buttons that call the API, and what htmx should do about live regions.

const skew = Date.parse(document.body.dataset.now) - Date.now(); // the hub's clock counts
const steps = [[60, 1, "s"], [3600, 60, "min"], [86400, 3600, "h"], [Infinity, 86400, "d"]];

export function relative(iso) {
  const seconds = (Date.now() + skew - Date.parse(iso)) / 1000;
  const away = Math.abs(seconds);
  if (away < 5) return "just now";
  const [, unit, name] = steps.find(([below]) => away < below);
  const text = `${Math.floor(away / unit)} ${name}`;
  return seconds >= 0 ? `${text} ago` : `in ${text}`;
}

export function showTimes(root = document) {
  for (const one of root.querySelectorAll("time[datetime]")) {
    const text = relative(one.dateTime);
    if (one.textContent !== text) one.textContent = text;
    one.title = new Date(one.dateTime).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "long" });
  }
}

export function toast(text, bad = false) {
  const one = document.createElement("div");
  one.className = bad ? "toast bad" : "toast";
  one.textContent = text;
  document.getElementById("toasts").append(one);
  setTimeout(() => one.remove(), bad ? 9000 : 4000);
}

export async function call(path, body, method = "POST") {
  const answer = await fetch(path, body === undefined ? {} : {
    method, headers: { "content-type": "application/json" }, body: JSON.stringify(body),
  });
  const data = await answer.json().catch(() => ({ message: `${answer.status} ${answer.statusText}` }));
  if (!answer.ok) throw Object.assign(new Error(data.message), { status: answer.status, code: data.error, fields: data.fields });
  return data;
}

function confirmed({ ask, text, yes, note, required }) {
  const dialog = document.getElementById("ask");
  const field = dialog.querySelector("input");
  dialog.querySelector("h2").textContent = ask;
  dialog.querySelector("p").textContent = text;
  dialog.querySelector("[value=yes]").textContent = yes;
  const label = dialog.querySelector("label");
  label.hidden = note === undefined;
  label.firstChild.textContent = note || "Note for the record";
  field.required = required !== undefined && note !== undefined;
  field.placeholder = field.required ? "" : "Optional";
  field.value = "";
  dialog.returnValue = "no";
  dialog.showModal();
  (note === undefined ? dialog.querySelector("[value=yes]") : field).focus();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes" ? { note: field.value } : null), { once: true });
  });
}

document.getElementById("ask").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.target.tagName !== "INPUT") return;
  event.preventDefault(); // the first button of the form would be taken, and that is "Back"
  if (event.target.reportValidity()) document.getElementById("ask").close("yes");
});

document.addEventListener("click", async (event) => {
  const button = event.target.closest("button[data-post]");
  if (!button) return;
  const body = JSON.parse(button.dataset.body);
  if (button.dataset.ask) {
    const answer = await confirmed(button.dataset);
    if (!answer) return;
    if (button.dataset.note !== undefined) body[button.dataset.field ?? "note"] = answer.note;
  }
  button.disabled = true;
  try {
    const made = await call(button.dataset.post, body);
    toast(button.dataset.done.replace("{id}", made.id));
  } catch (error) {
    toast(error.message || "The hub cannot be reached", true);
  }
  button.disabled = false;
  refresh();
});

document.addEventListener("change", (event) => {
  if (event.target.matches("[data-submit]")) event.target.form.requestSubmit();
});
document.addEventListener("submit", (event) => {
  for (const one of event.target.querySelectorAll("select")) if (one.value === "") one.disabled = true; // short addresses
});

export function refresh() {
  for (const one of document.querySelectorAll("[data-live]")) window.htmx?.trigger(one, "refresh");
}

// Live regions: a hidden page asks for nothing and catches up when it is seen again.
let missed = false;
document.addEventListener("htmx:beforeRequest", (event) => {
  if (!document.hidden) return;
  missed = true;
  event.preventDefault();
});
document.addEventListener("visibilitychange", () => {
  if (document.hidden || !missed) return;
  missed = false;
  refresh();
});
document.addEventListener("htmx:afterSwap", () => showTimes());
let grace;
document.addEventListener("htmx:sseError", () => {
  grace ??= setTimeout(() => { document.getElementById("offline").hidden = false; }, 3000);
});
document.addEventListener("htmx:sseOpen", () => {
  clearTimeout(grace);
  grace = undefined;
  document.getElementById("offline").hidden = true;
});

showTimes();
setInterval(showTimes, 5000, document);
