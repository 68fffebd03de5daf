// The image page: a wrong label is put right where it is seen. The hub answers a repeated decision with the one in force.
import { call, refresh, toast } from "./app.js";

const who = document.getElementById("operator");
const image = Number(who.dataset.image);
let made = null; // the last decision of this page, to be taken back
let busy = false;

const buttons = () => [...document.querySelectorAll("#decide button")];

async function ask(path, body, words) {
  const operator = who.value.trim();
  if (!operator) {
    toast("Say who you are first", true);
    who.focus();
    return null;
  }
  if (busy) return null;
  busy = true;
  try {
    const answer = await call(path, { ...body, operator });
    toast(words);
    return answer;
  } catch (error) {
    toast(error.message || "The hub cannot be reached", true);
    return null;
  } finally {
    busy = false;
    refresh();
  }
}

async function decide({ kind, name }) {
  const answer = await (kind === "label"
    ? ask("/api/labels", { image, name }, `Image ${image}: ${name}`)
    : ask("/api/skips", { image }, `Image ${image}: cannot tell`));
  if (answer) made = answer.id;
}

async function undo() {
  if (made === null) toast("Nothing was decided here yet", true);
  else if (await ask("/api/undo", { label: made }, `Image ${image}: taken back`)) made = null;
}

const press = (button) => (button.dataset.kind === "undo" ? undo() : decide(button.dataset));

document.addEventListener("click", (event) => {
  const button = event.target.closest("#decide button");
  if (button) press(button);
});

addEventListener("keydown", (event) => {
  if (event.repeat || event.ctrlKey || event.altKey || event.metaKey || event.target.closest("input, dialog")) return;
  const button = buttons().find((one) => one.dataset.key === event.key.toLowerCase());
  if (!button) return;
  event.preventDefault();
  press(button);
});

who.value = localStorage.getItem("hone.operator") ?? "";
who.addEventListener("change", () => {
  made = null; // another person's decision is not this one's to take back
  localStorage.setItem("hone.operator", who.value.trim());
});
