// A camera in another language that knows no more than docs/protocol.md; "§" names the page's sections.
//
// node camera.mjs '{"folder": "images", "camera": "site/cam-1", "port": 1883, "password_file": "password",
//     "project": "cells", "chunk_size": 65536, "attach": true, "patience_s": 10, "leave_out": {"a.png": [1]}}'
//
// Uploads each image of the folder and deletes it when it is stored; what is refused goes to folder/refused. leave_out:
// chunks that get lost when they are first sent, on purpose. Ends when no image is left, prints one JSON object of what
// it did, and exits with 0 when all were stored, with 1 when some were refused.
import { createHash, randomBytes } from "node:crypto";
import fs from "node:fs";
import path from "node:path";
import mqtt from "mqtt";

const WINDOW = 262144; // bytes that the broker may have left unacknowledged
const config = JSON.parse(process.argv[2]);
const topic = `hone/camera/${config.camera}`;
const boot = randomBytes(8).toString("hex");
const now = () => performance.now() / 1000;
const report = { stored: [], refused: {}, boots: [], chunks: {}, attached: 0, resend: {}, pauses: 0 };

// -- §Event ids and chunks: image and metadata stay on disk until the hub says stored or refuse

function writeAside(file, data) {
  const aside = fs.openSync(`${file}.tmp`, "w");
  fs.writeSync(aside, data);
  fs.fsyncSync(aside);
  fs.closeSync(aside);
  fs.renameSync(`${file}.tmp`, file);
  const folder = fs.openSync(path.dirname(file), "r");
  fs.fsyncSync(folder);
  fs.closeSync(folder);
}

function eventId(ms) {
  const bytes = randomBytes(16);
  bytes.writeUIntBE(ms, 0, 6);
  bytes[6] = 0x70 | (bytes[6] & 0x0f);
  bytes[8] = 0x80 | (bytes[8] & 0x3f);
  return bytes.toString("hex").replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, "$1-$2-$3-$4-$5");
}

function load(name) {
  const file = path.join(config.folder, name);
  if (!fs.existsSync(`${file}.json`)) {
    const image = fs.readFileSync(file);
    const at = new Date();
    writeAside(`${file}.json`, JSON.stringify({
      v: 1, id: eventId(at.getTime()), project: config.project, release: 0, time: at.toISOString(), label: "defect",
      score: 0.6, scores: { good: 0.4, defect: 0.6 }, why: "low_score", probability: 1, value: 0.4, size: image.length,
      sha256: createHash("sha256").update(image).digest("hex"), ext: path.extname(name).slice(1),
    }));
  }
  const event = { ...JSON.parse(fs.readFileSync(`${file}.json`)), chunk_size: config.chunk_size };
  const patience = config.patience_s;
  uploads.set(event.id, { name, file, event, step: "waiting", todo: [], flying: 0, touched: 0, patience });
  report.chunks[name] = [];
}

const uploads = new Map();
const lost = new Map(Object.entries(config.leave_out).map(([name, indices]) => [name, new Set(indices)]));
fs.readdirSync(config.folder).filter((name) => name.endsWith(".png")).sort().forEach(load);

const count = (one) => Math.ceil(one.event.size / one.event.chunk_size);
const onTheWay = () => [...uploads.values()].filter((one) => one.step !== "waiting");
const askAgain = () => onTheWay().forEach((one) => Object.assign(one, { step: "to ask", flying: 0, todo: [] }));

// -- §Liveness of the hub

const hubs = new Map();
let connected = false, connects = 0, credit = null, pauseUntil = 0, unacked = 0;

function hear(name, status, retained) {
  let hub = hubs.get(name);
  if (!status.online) return void (hub && (hub.shown = null));
  if (status.sites?.length && !status.sites.includes(config.camera.split("/")[0])) return void hubs.delete(name);
  const beat = status.beat ?? 0;
  if (hub?.boot !== status.boot) {
    hub = { boot: status.boot, beat, shown: retained ? null : now(), accepts: true };
    hubs.set(name, hub);
    report.boots.push(status.boot);
    credit = status.credit ?? null;
    pauseUntil = 0;
    askAgain();
  } else if (hub.beat === null || beat > hub.beat) {
    if (hub.beat !== null && !retained) hub.shown = now();
    hub.beat = beat;
  }
  if (hub.accepts && status.accepts === false) askAgain();
  credit ??= status.credit ?? null;
  Object.assign(hub, { beat_s: status.beat_s ?? 2, accepts: status.accepts ?? true, attach: status.attach ?? 0 });
}

const lives = (hub) => connected && hub.shown !== null && now() - hub.shown < 3.5 * hub.beat_s;

// -- §Steps: what the hub answers

function end(one, reason) {
  uploads.delete(one.event.id);
  if (reason === undefined) {
    report.stored.push(one.name);
    for (const file of [`${one.file}.json`, one.file]) fs.unlinkSync(file);
  } else {
    report.refused[one.name] = reason;
    fs.mkdirSync(path.join(config.folder, "refused"), { recursive: true });
    for (const file of [one.name, `${one.name}.json`]) {
      fs.renameSync(path.join(config.folder, file), path.join(config.folder, "refused", file));
    }
  }
}

function take(reply) {
  credit = reply.credit ?? credit;
  if (reply.pause_ms != null) {
    report.pauses += 1;
    pauseUntil = now() + Math.min(reply.pause_ms, 3600000) / 1000;
    askAgain();
  }
  for (const id of reply.stored ?? []) if (uploads.has(id)) end(uploads.get(id));
  for (const [id, reason] of Object.entries(reply.refuse ?? {})) if (uploads.has(id)) end(uploads.get(id), reason);
  for (const [id, ranges] of Object.entries(reply.resend ?? {})) {
    const one = uploads.get(id);
    if (!one) client.publish(`${topic}/gone`, JSON.stringify({ v: 1, ids: [id] }), { qos: 1 });
    if (!one || one.step === "waiting" || one.step === "to ask") continue;
    (report.resend[one.name] ??= []).push(ranges);
    const wanted = new Set(one.todo);
    for (const [first, last] of ranges) for (let i = first; i <= last && i < count(one); i++) wanted.add(i);
    one.todo = [...wanted].sort((a, b) => a - b);
    Object.assign(one, { step: one.todo.length ? "sending" : one.step, touched: now(), patience: config.patience_s });
  }
}

// -- §The camera's states: what goes next

function publish(one, where, payload) {
  const connection = connects;
  unacked += payload.length;
  Object.assign(one, { flying: one.flying + 1, touched: now() });
  client.publish(`${topic}/${where}`, payload, { qos: 1 }, () => {
    unacked -= payload.length;
    if (connection === connects) Object.assign(one, { flying: Math.max(0, one.flying - 1), touched: now() });
    pump();
  });
}

function piece(one, index) {
  report.chunks[one.name].push(index);
  return fs.readFileSync(one.file).subarray(index * one.event.chunk_size, (index + 1) * one.event.chunk_size);
}

function offer(one, hub, follows) {
  one.todo = follows ? [...Array(count(one)).keys()] : [];
  let payload = Buffer.from(JSON.stringify({ ...one.event, follows }));
  if (follows && config.attach && Math.min(one.event.size, one.event.chunk_size) <= hub.attach) {
    payload = Buffer.concat([payload, Buffer.of(0), piece(one, one.todo.shift())]);
    report.attached += 1;
  }
  one.step = !follows ? "asked" : one.todo.length ? "sending" : "sent";
  publish(one, "event", payload);
}

function sendChunk(one) {
  const index = one.todo.shift();
  if (!one.todo.length) one.step = "sent";
  if (!lost.get(one.name)?.delete(index)) publish(one, `chunk/${one.event.id}/${index}`, piece(one, index));
}

function next(hub) {
  const away = onTheWay();
  for (const one of away) {
    if ((one.step === "asked" || one.step === "sent") && !one.flying && now() - one.touched > one.patience) {
      Object.assign(one, { step: "to ask", patience: Math.min(120, 2 * one.patience) });
    }
  }
  const asking = away.find((one) => one.step === "to ask");
  const sending = away.find((one) => one.step === "sending");
  if (asking || sending) return asking ? offer(asking, hub, false) : sendChunk(sending), true;
  const first = [...uploads.values()].find((one) => one.step === "waiting"); // all have the same value: by id
  const sum = away.reduce((bytes, one) => bytes + one.event.size, 0);
  if (!first || credit === 0 || (sum && sum + first.event.size > (credit ?? 0))) return false;
  return offer(first, hub, credit !== null), true;
}

function pump() {
  const hub = [...hubs.values()].find(lives);
  while (hub?.accepts && unacked < WINDOW && now() >= pauseUntil && next(hub));
  if (!uploads.size) finish();
}

// -- §Connection

const status = (online) => JSON.stringify({ v: 1, online, boot: online ? boot : "" });
const client = mqtt.connect({
  host: "127.0.0.1", port: config.port, protocolVersion: 4, clean: true, keepalive: 15, reconnectPeriod: 300,
  clientId: topic, username: config.camera, password: fs.readFileSync(config.password_file, "utf8").trim(),
  will: { topic: `${topic}/status`, payload: status(false), qos: 1, retain: true },
});
client.on("connect", () => {
  connected = true;
  connects += 1;
  credit = null;
  for (const hub of hubs.values()) Object.assign(hub, { beat: null, shown: null });
  askAgain();
  client.subscribe([`${topic}/reply`, "hone/hub/+/status"], { qos: 1 });
  client.publish(`${topic}/status`, status(true), { qos: 1, retain: true });
});
client.on("close", () => (connected = false));
client.on("error", (error) => console.error(String(error)));
client.on("message", (where, payload, packet) => {
  if (!payload.length) return;
  const message = JSON.parse(payload);
  if (where.startsWith("hone/hub/")) hear(where.split("/")[2], message, packet.retain);
  else take(message);
  pump();
});
const timer = setInterval(pump, 200);

function finish() {
  clearInterval(timer);
  if (client.disconnecting) return;
  client.publish(`${topic}/status`, status(false), { qos: 1, retain: true });
  client.end(false, {}, () => {
    console.log(JSON.stringify(report));
    process.exitCode = Object.keys(report.refused).length ? 1 : 0;
  });
}
