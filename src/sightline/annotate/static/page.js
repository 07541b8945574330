// The page: what its parts tell each other.

import * as api from "./api.js";
import { Clock } from "./clock.js";
import { Drawing } from "./drawing.js";
import { Gallery } from "./gallery.js";
import { Keys } from "./keys.js";
import { Outbox } from "./outbox.js";
import { Stage } from "./stage.js";

const POLL = 1000; // milliseconds
const REFRESH = 15; // polls between two looks at what others have done elsewhere
const ZOOM = 1.25;

const STEPS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

const $ = (id) => document.getElementById(id);
const stage = new Stage($("stage"));
const gallery = new Gallery($("images"), $("filter-state"), $("filter-class"));
const clock = new Clock();
let project, outbox;
let open = null; // {image, drawing}

// Images ------------------------------------------------------------------------------------------------------------

async function show(i) {
  if (i === null || i === open?.image.i) return;
  stage.cancel();
  report();
  const image = project.images[i];
  const drawing = new Drawing(image, outbox, (area) => open?.drawing === drawing && stage.changed(area));
  open = { image, drawing };
  location.replace(`#${encodeURIComponent(image.id)}`);
  gallery.select(i);
  describe(image);
  $("stage").classList.add("loading");
  await Promise.all([load($("picture"), api.picture(i), image), load($("map"), image.has_map && api.map(i), image)]);
  if (open.drawing !== drawing) return;
  stage.show(drawing);
  await drawing.load().catch(complain);
  if (open.drawing !== drawing) return;
  $("stage").classList.remove("loading");
  prefetch(gallery.beside(i, 1));
}

async function load(element, source, { width, height }) {
  element.hidden = !source;
  if (!source) return element.removeAttribute("src");
  Object.assign(element, { width, height, src: source });
  await element.decode().catch(() => complain(new Error("The picture could not be loaded.")));
}

function prefetch(i) {
  if (i !== null) new Image().src = api.picture(i);
}

/** Time that no stroke has reported is reported when the image is left. */
function report() {
  if (!open) return;
  const seconds = clock.take();
  if (seconds >= 1) outbox.add(open.image.id, { seconds });
}

async function nextToDo() {
  const { next } = await api.next(open.image.i);
  if (next === null) say("Every image is annotated.");
  else await show(next);
}

function step(by) {
  const i = gallery.beside(open.image.i, by);
  if (i === null) say(by > 0 ? "This is the last image." : "This is the first image.");
  else show(i);
}

function judge(verdict) {
  const { image } = open;
  if (!image.has_map) return say("There is no map to judge.");
  image.verdict = verdict;
  outbox.add(image.id, { verdict, seconds: clock.take() });
  gallery.mark(image);
  describe(image);
  count();
}

// What is shown -----------------------------------------------------------------------------------------------------

function describe(image) {
  const score = image.score === null ? "" : ` · ${project.ranking} ${image.score.toPrecision(3)}`;
  $("name").textContent = image.id;
  $("about").textContent = `${image.label} · ${image.split} · ${image.width} × ${image.height}${score}`;
  $("verdict").hidden = $("map-controls").hidden = !image.has_map;
  $("yes").setAttribute("aria-pressed", image.verdict === "yes");
  $("no").setAttribute("aria-pressed", image.verdict === "no");
  document.title = `${image.id} – ${project.name}`;
}

function count() {
  const { images } = project;
  const done = images.filter(({ annotated }) => annotated).length;
  const judged = images.filter(({ verdict }) => verdict).length;
  Object.assign($("progress"), { max: images.length, value: done });
  $("count").textContent = `${done} of ${images.length}`;
  $("judged").textContent = judged ? `${judged} judged` : "";
}

/** The time everybody has spent, with what the server does not know yet. */
function showTime() {
  const seconds = Math.floor(project.progress.seconds + outbox.seconds + clock.seconds);
  const [hours, minutes] = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60];
  const spent = hours ? `${hours} h ${minutes} min` : minutes ? `${minutes} min ${seconds % 60} s` : `${seconds} s`;
  $("time").textContent = clock.paused ? `${spent}, paused` : spent;
}

function showState({ state, waiting }) {
  const changes = `${waiting} ${waiting === 1 ? "change" : "changes"}`;
  $("saving").dataset.state = state.replace(" ", "-");
  $("saving").textContent = {
    saved: "Saved",
    saving: "Saving …",
    offline: `Offline: ${changes} kept here, will retry`,
    "signed out": `${changes} kept here. Open a new link of the server's in this browser to go on`,
  }[state];
}

function showTools() {
  document.querySelectorAll("[data-tool]").forEach((button) => {
    button.setAttribute("aria-pressed", button.dataset.tool === stage.tool);
  });
  $("size").value = Math.log2(stage.radius);
  $("size-value").textContent = `${2 * stage.radius} px`;
  $("zoom-value").textContent = `${Math.round(100 * stage.view.scale)} %`;
  $("outline").hidden = !stage.outlining;
  $("next-to-do").hidden = stage.outlining;
  $("close-outline").disabled = !stage.active.closable;
}

function say(message) {
  $("said").textContent = message;
  $("said").hidden = false;
  clearTimeout(say.timer);
  say.timer = setTimeout(() => ($("said").hidden = true), 6000);
}

function complain(error) {
  say(error instanceof api.Refused ? error.message : `The server cannot be reached. ${error.message}`);
}

// What people do ----------------------------------------------------------------------------------------------------

function undo() {
  if (stage.outlining) stage.back();
  else open.drawing.undo(clock.take());
}

function redo() {
  open.drawing.redo(clock.take());
}

function grow(factor) {
  const radius = stage.radius * factor;
  const whole = factor > 1 ? Math.ceil(2 * radius) : Math.floor(2 * radius);
  setRadius(whole / 2);
}

function setRadius(radius) {
  stage.resizeBrush(Math.min(256, Math.max(0.5, radius)));
  showTools();
}

function setOpacity(layer, value) {
  $(layer).style.opacity = value / 100;
}

function toggleMap() {
  if (!open.image.has_map) return say("There is no map of this image.");
  $("show-map").checked = !$("show-map").checked;
  showMap();
}

function showMap() {
  $("map").classList.toggle("off", !$("show-map").checked);
}

function toggleMask(hidden = $("show-mask").checked) {
  $("show-mask").checked = !hidden;
  $("mask").classList.toggle("off", hidden);
}

function toggleList() {
  const shown = document.body.classList.toggle("list");
  $("toggle-list").setAttribute("aria-expanded", shown);
}

async function exportAll() {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(await api.exported());
  link.download = `${project.name}.json`;
  link.click();
  setTimeout(URL.revokeObjectURL, 60_000, link.href);
}

const ROWS = [
  { title: "brush", keys: ["b"], run: () => choose("brush") },
  { title: "eraser; Shift or the right button erases with any tool", keys: ["e"], run: () => choose("eraser") },
  { title: "box", keys: ["r"], run: () => choose("box") },
  { title: "polygon: click its corners", keys: ["p"], run: () => choose("polygon") },
  { title: "close the polygon; so does a double click", keys: ["Enter"], run: () => stage.finish() },
  { title: "give up what is being drawn", keys: ["Escape"], run: () => stage.cancel() },
  { title: "undo, of what you have drawn here", keys: ["Ctrl+z", "u"], shown: ["Ctrl Z", "u"], run: undo },
  { title: "redo", keys: ["Ctrl+y", "Ctrl+Shift+z"], shown: ["Ctrl Y"], run: redo },
  { title: "smaller brush", keys: ["["], run: () => grow(1 / 1.25) },
  { title: "larger brush", keys: ["]"], run: () => grow(1.25) },
  { title: "next image", keys: ["ArrowRight"], shown: ["→"], run: () => step(1) },
  { title: "previous image", keys: ["ArrowLeft"], shown: ["←"], run: () => step(-1) },
  { title: "next image without a mask, in ranked order", keys: ["n"], run: () => nextToDo().catch(complain) },
  { title: "the model looks at the right place", keys: ["y"], run: () => judge("yes") },
  { title: "the model looks at the wrong place", keys: ["x"], run: () => judge("no") },
  { title: "show or hide the map", keys: ["m"], run: toggleMap },
  { title: "show or hide the mask", keys: ["h"], run: () => toggleMask() },
  { title: "zoom in; so does the wheel", keys: ["+", "="], shown: ["+"], run: () => stage.zoom(ZOOM) },
  { title: "zoom out", keys: ["-"], run: () => stage.zoom(1 / ZOOM) },
  { title: "the whole image", keys: ["0"], run: () => stage.fit() },
  { title: "hold and drag to move the image; so do two fingers", keys: [" "], shown: ["Space"], run: () => stage.hold(true) },
  {
    title: "move a crosshair, to draw without a pointer",
    keys: ["Left", "Right", "Up", "Down"].map((way) => `Shift+Arrow${way}`),
    shown: ["Shift", "← ↑ → ↓"],
    run: ({ key }) => stage.steer(...STEPS[key]),
  },
  { title: "press or lift the tool at the crosshair", keys: ["c"], run: () => stage.click() },
  { title: "the list of images, on small screens", keys: ["l"], run: toggleList },
  { title: "this help", keys: ["?"], run: () => $("help").showModal() },
];

function choose(tool) {
  stage.choose(tool);
  showTools();
}

function listen() {
  const clicks = {
    undo, redo,
    previous: () => step(-1), next: () => step(1), "next-to-do": () => nextToDo().catch(complain),
    "zoom-in": () => stage.zoom(ZOOM), "zoom-out": () => stage.zoom(1 / ZOOM), fit: () => stage.fit(),
    yes: () => judge("yes"), no: () => judge("no"),
    "close-outline": () => stage.finish(), "cancel-outline": () => stage.cancel(),
    "toggle-list": toggleList, export: () => exportAll().catch(complain), "show-help": () => $("help").showModal(),
  };
  for (const [id, run] of Object.entries(clicks)) $(id).addEventListener("click", run);
  document.querySelectorAll("[data-tool]").forEach((button) => {
    button.addEventListener("click", () => choose(button.dataset.tool));
  });
  $("size").addEventListener("input", ({ target }) => setRadius(Math.round(2 ** (Number(target.value) + 1)) / 2));
  for (const layer of ["mask", "map"]) {
    $(`${layer}-opacity`).addEventListener("input", ({ target }) => setOpacity(layer, target.value));
    setOpacity(layer, $(`${layer}-opacity`).value);
  }
  $("show-mask").addEventListener("change", ({ target }) => toggleMask(!target.checked));
  $("show-map").addEventListener("change", showMap);
  new Keys(ROWS, () => !open || document.querySelector("dialog[open]")).explain($("keys"));
  addEventListener("keyup", ({ key }) => key === " " && stage.hold(false));
  addEventListener("hashchange", () => show(asked()));
  document.addEventListener("visibilitychange", () => document.hidden && report());
  stage.addEventListener("change", showTools);
  stage.addEventListener("shape", ({ detail }) => open.drawing.add(detail, clock.take()));
  gallery.addEventListener("open", ({ detail }) => {
    document.body.classList.remove("list");
    show(detail);
  });
}

// The server --------------------------------------------------------------------------------------------------------

/** The image the address names, or the first one in ranked order that is not done. */
function asked() {
  const { images, order } = project;
  const named = images.find(({ id }) => `#${encodeURIComponent(id)}` === location.hash);
  return named?.i ?? order.find((i) => !images[i].annotated) ?? order[0];
}

async function refresh() {
  const fresh = await api.project();
  project.progress = fresh.progress;
  fresh.images.forEach((image, i) => Object.assign(project.images[i], image));
  gallery.update(project);
  count();
}

function received({ image, seconds, answer }) {
  project.progress.seconds += seconds;
  const its = project.images.find(({ id }) => id === image);
  if ("annotated" in answer) its.annotated = answer.annotated;
  gallery.mark(its);
  count();
  if (open?.image === its) open.drawing.poll().catch(() => {});
}

/** While the server is away the outbox says so; here is nothing to add. */
async function watch(round = 0) {
  if (!document.hidden) {
    showTime();
    await open?.drawing.poll().catch(() => {});
    if (round % REFRESH === REFRESH - 1) await refresh().catch(() => {});
  }
  setTimeout(watch, POLL, round + 1);
}

async function begin() {
  project = await api.project();
  outbox = new Outbox(project.name, new Map(project.images.map(({ i, id }) => [id, i])));
  outbox.addEventListener("state", ({ detail }) => showState(detail));
  outbox.addEventListener("sent", ({ detail }) => received(detail));
  outbox.addEventListener("trouble", ({ detail }) => say(detail.message));
  $("project").textContent = project.name;
  gallery.update(project);
  count();
  listen();
  showTools();
  watch();
  await show(asked());
}

begin().catch(complain);
