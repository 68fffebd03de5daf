// The cameras page: set and end an exemption in a dialog, which live updates leave alone.
import { call, refresh, toast } from "./app.js";

const dialog = document.getElementById("exempt");
const form = document.getElementById("exempt-form");
const which = document.getElementById("exempt-which");
const yes = form.querySelector("[value=yes]");
let camera = "";

function open(name, title, text, button) {
  camera = name;
  document.getElementById("exempt-title").textContent = title;
  document.getElementById("exempt-text").textContent = text;
  yes.textContent = button;
  form.elements.reason.value = "";
  form.elements.operator.value = localStorage.getItem("hone.operator") ?? "";
  dialog.returnValue = "no";
  dialog.showModal();
  form.elements.reason.focus();
}

function begin({ exempt, release, floor }) {
  const options = [...form.elements.release.options];
  for (const one of options) one.disabled = one.hidden = Number(one.value) < Number(floor);
  form.elements.release.value = options.some((one) => one.value === release && !one.disabled) ? release : options.find((one) => !one.disabled)?.value ?? "";
  which.hidden = false;
  const others = options.some((one) => one.disabled) ? ` It has run release ${floor} and takes none below.` : "";
  open(exempt, `Exemption for ${exempt}`, `This camera runs the release below until you end it, whatever the rollout says.${others}`, "Make the exemption");
}

function end(name) {
  which.hidden = true;
  open(name, `End the exemption of ${name}?`, "The camera goes by the rollout again.", "End it");
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-exempt], button[data-end]");
  if (!button) return;
  if (button.dataset.end) end(button.dataset.end);
  else begin(button.dataset);
});

form.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.target.tagName !== "INPUT") return;
  event.preventDefault(); // the first button of the form would be taken, and that is "Back"
  form.requestSubmit(yes);
});

dialog.addEventListener("close", async () => {
  if (dialog.returnValue !== "yes") return;
  const { release, reason, operator } = form.elements;
  const body = { release: which.hidden ? 0 : Number(release.value), reason: reason.value, operator: operator.value };
  localStorage.setItem("hone.operator", operator.value.trim());
  try {
    await call(`/api/cameras/${camera}/exemption`, body);
    toast(body.release ? `${camera} runs release ${body.release} by exemption` : `${camera} goes by the rollout again`);
  } catch (error) {
    toast(error.message || "The hub cannot be reached", true);
  }
  refresh();
});
