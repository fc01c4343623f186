"use strict";

/* The page: which picture and which methods are shown, and everything that changes them. */

const data = JSON.parse(byId("report-data").textContent);
const state = { picture: 0, left: data.start[0], right: data.start[1], difference: false, place: -1 };
let started = false;
const stage = new Stage(viewChanged);
const table = new ScoreTable(byId("table"), data, (index) => {
  showPicture(index);
  byId("stage").scrollIntoView({ block: "center", behavior: reducedMotion() ? "auto" : "smooth" });
});

function reducedMotion() {
  return matchMedia("(prefers-reduced-motion: reduce)").matches;
}

/* Pictures ------------------------------------------------------------------------------------------------------ */

function picture() {
  return data.images[state.picture];
}

function source(label) {
  return `data:image/webp;base64,${picture().pictures[label]}`;
}

function showPicture(index) {
  const count = data.images.length;
  state.picture = ((index % count) + count) % count;
  state.place = -1;
  const image = picture();
  byId("name").textContent = image.name;
  byId("position").textContent = `${state.picture + 1} of ${count} \u00b7 ${image.width} \u00d7 ${image.height}`;
  byId("notes").replaceChildren(...image.notes.map((note) => make("li", { dir: "auto" }, note)));
  renderPlaces(image);
  table.mark(state.picture);
  markThumbnail();
  showMethods();
  stage.fit();
}

function showMethods() {
  const image = picture();
  stage.show(source(state.left), source(state.right), image.width, image.height);
  byId("left").value = state.left;
  byId("right").value = state.right;
  byId("left-picture").alt = `${image.name}, ${data.labels[state.left]}`;
  byId("right-picture").alt = `${image.name}, ${data.labels[state.right]}`;
  nameSides();
  renderScores(byId("scores"), data, image, [state.left, state.right]);
  viewChanged();
}

function nameSides() {
  const sides = stage.flipped ? [state.right, state.left] : [state.left, state.right];
  [byId("left-tag").textContent, byId("right-tag").textContent] = sides.map((label) => data.labels[label]);
}

function renderPlaces(image) {
  byId("places-group").hidden = image.places.length === 0;
  byId("places").replaceChildren(...image.places.map((place, index) => {
    const name = `Place ${index + 1} of greatest difference`;
    const button = make("button", { type: "button", "aria-label": name }, String(index + 1));
    button.addEventListener("click", () => goToPlace(index));
    for (const type of ["pointerenter", "focus"]) button.addEventListener(type, () => stage.outline(place));
    for (const type of ["pointerleave", "blur", "click"]) button.addEventListener(type, () => stage.outline(null));
    return button;
  }));
}

function goToPlace(index) {
  const { places } = picture();
  if (places.length === 0) return;
  state.place = index % places.length;
  stage.goTo(places[state.place]);
}

/* Film strip ---------------------------------------------------------------------------------------------------- */

function buildFilm() {
  byId("film").replaceChildren(...data.images.map((image, index) => {
    const button = make("button", { type: "button", title: image.name },
      make("img", { src: `data:image/webp;base64,${image.thumbnail}`, alt: "", loading: "lazy", draggable: "false" }),
      make("span", { dir: "auto" }, image.name.split("/").pop()));
    button.addEventListener("click", () => showPicture(index));
    return make("li", {}, button);
  }));
}

function markThumbnail() {
  const film = byId("film");
  [...film.children].forEach((item, index) => {
    if (index === state.picture) item.firstChild.setAttribute("aria-current", "true");
    else item.firstChild.removeAttribute("aria-current");
  });
  const current = film.children[state.picture];
  const left = current.offsetLeft - (film.clientWidth - current.offsetWidth) / 2;
  film.scrollTo({ left, behavior: started && !reducedMotion() ? "smooth" : "auto" });
}

/* View ---------------------------------------------------------------------------------------------------------- */

function viewChanged() {
  if (!started) return;
  const percent = Math.round(stage.divider * 100);
  const handle = byId("handle");
  handle.setAttribute("aria-valuenow", percent);
  handle.setAttribute("aria-valuetext",
    `${percent} % ${data.labels[state.left]}, ${100 - percent} % ${data.labels[state.right]}`);
  byId("zoom").textContent = `${Math.round(stage.zoom * 100)} %`;
  byId("fit").setAttribute("aria-pressed", stage.fitted);
  byId("actual").setAttribute("aria-pressed", Math.abs(stage.zoom - 1) < 1e-6);
  scheduleHash();
}

function zoomBy(factor) {
  stage.scaleAt(stage.scale * factor);
}

function setDifference(on) {
  state.difference = on;
  byId("difference").setAttribute("aria-pressed", on);
  byId("gain-label").hidden = !on;
  stage.setDifference(on, byId("gain").value);
  viewChanged();
}

function flip(on) {
  if (stage.flipped === on) return;
  stage.setFlipped(on);
  byId("flip").classList.toggle("held", on);
  nameSides();
}

function swap() {
  [state.left, state.right] = [state.right, state.left];
  showMethods();
}

function setTheme(dark) {
  document.documentElement.dataset.theme = dark ? "dark" : "light";
  byId("theme").setAttribute("aria-pressed", dark);
}

/* Address ------------------------------------------------------------------------------------------------------- */

let hashTimer = null;

/* Browsers refuse more than a few changes of the address a second. */
function scheduleHash() {
  clearTimeout(hashTimer);
  hashTimer = setTimeout(() => history.replaceState(null, "", `#${viewHash()}`), 250);
}

function viewHash() {
  const view = new URLSearchParams({
    picture: picture().name, left: data.labels[state.left], right: data.labels[state.right],
    at: (stage.divider * 100).toFixed(1),
  });
  if (!stage.fitted) {
    const { x, y } = stage.centre;
    for (const [name, value] of Object.entries({ zoom: stage.zoom * 100, x, y })) view.set(name, value.toFixed(1));
  }
  if (state.difference) view.set("difference", byId("gain").value);
  return view.toString();
}

/* Anything unknown in the address is passed over. */
function restoreView() {
  const view = new URLSearchParams(location.hash.slice(1));
  const find = (list, value, otherwise) => (list.includes(value) ? list.indexOf(value) : otherwise);
  const number = (name) => (view.has(name) && Number.isFinite(Number(view.get(name))) ? Number(view.get(name)) : null);
  state.left = find(data.labels, view.get("left"), state.left);
  state.right = find(data.labels, view.get("right"), state.right);
  showPicture(find(data.images.map((image) => image.name), view.get("picture"), state.picture));
  if (number("at") !== null) stage.setDivider(number("at") / 100);
  if (number("zoom") > 0) {
    const { width, height } = picture();
    stage.look(number("zoom") / 100, number("x") ?? width / 2, number("y") ?? height / 2);
  }
  const gain = byId("gain");
  if ([...gain.options].some((option) => option.value === view.get("difference"))) gain.value = view.get("difference");
  setDifference(view.has("difference"));
}

/* Keys ---------------------------------------------------------------------------------------------------------- */

const keys = {
  ArrowLeft: () => stage.setDivider(stage.divider - 0.01),
  ArrowRight: () => stage.setDivider(stage.divider + 0.01),
  Home: () => stage.setDivider(0),
  End: () => stage.setDivider(1),
  n: () => showPicture(state.picture + 1),
  p: () => showPicture(state.picture - 1),
  f: () => flip(true),
  s: swap,
  d: () => setDifference(!state.difference),
  "+": () => zoomBy(Math.SQRT2),
  "=": () => zoomBy(Math.SQRT2),
  "-": () => zoomBy(Math.SQRT1_2),
  0: () => stage.fit(),
  1: () => stage.scaleAt(1 / stage.ratio),
  z: () => goToPlace(state.place + 1),
  t: () => setTheme(byId("theme").getAttribute("aria-pressed") !== "true"),
  "?": () => byId("help").showModal(),
};
const sliderKeys = {
  ArrowDown: keys.ArrowLeft,
  ArrowUp: keys.ArrowRight,
  PageDown: () => stage.setDivider(stage.divider - 0.1),
  PageUp: () => stage.setDivider(stage.divider + 0.1),
};
const moves = { ArrowLeft: [60, 0], ArrowRight: [-60, 0], ArrowUp: [0, 60], ArrowDown: [0, -60] };

function keyDown(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || byId("help").open) return;
  const target = event.target;
  const ownKeys = target.closest("select, .scroll");
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  if (ownKeys && (target.matches("select") || key.length > 1)) return;
  let action = keys[key];
  if (event.shiftKey && moves[key]) action = () => stage.move(...moves[key]);
  else if (target === byId("handle") && sliderKeys[key]) action = sliderKeys[key];
  if (!action) return;
  event.preventDefault();
  action();
}

/* Start --------------------------------------------------------------------------------------------------------- */

function listenToFlip() {
  const button = byId("flip");
  button.addEventListener("pointerdown", () => flip(true));
  for (const type of ["pointerup", "pointercancel", "pointerleave", "blur"]) {
    button.addEventListener(type, () => flip(false));
  }
  button.addEventListener("contextmenu", (event) => event.preventDefault());
  button.addEventListener("keydown", (event) => {
    if (event.key !== " " && event.key !== "Enter") return;
    event.preventDefault();
    flip(true);
  });
  document.addEventListener("keyup", () => flip(false));
  window.addEventListener("blur", () => flip(false));
}

function listen() {
  const clicks = {
    previous: keys.p, next: keys.n, swap, fit: keys[0], actual: keys[1], "zoom-in": keys["+"], "zoom-out": keys["-"],
    difference: keys.d, theme: keys.t, "open-help": keys["?"],
  };
  for (const [id, action] of Object.entries(clicks)) byId(id).addEventListener("click", action);
  for (const side of ["left", "right"]) {
    byId(side).append(...data.labels.map((label, index) => make("option", { value: index }, label)));
    byId(side).addEventListener("change", (event) => {
      state[side] = Number(event.target.value);
      showMethods();
    });
  }
  byId("gain").addEventListener("change", () => setDifference(true));
  byId("help").addEventListener("click", (event) => {
    if (event.target === byId("help")) byId("help").close();
  });
  listenToFlip();
  document.addEventListener("keydown", keyDown);
  window.addEventListener("hashchange", restoreView);
}

function followSystemTheme() {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  setTheme(dark.matches);
  dark.addEventListener("change", () => setTheme(dark.matches));
}

function start() {
  const count = (number, word) => `${number} ${word}${number === 1 ? "" : "s"}`;
  const widest = Math.max(...data.images.map((image) => image.width / image.height));
  byId("stage").style.setProperty("--shape", clamp(widest, 1, 1.6));
  byId("summary").textContent = `${count(data.images.length, "picture")}, ${count(data.labels.length, "method")}`;
  const single = data.images.length === 1;
  document.querySelector("main").classList.toggle("bare", table.columns.length === 0);
  byId("all").hidden = single || table.columns.length === 0;
  document.querySelector(".film").hidden = single;
  for (const id of ["previous", "next"]) byId(id).hidden = single;
  followSystemTheme();
  listen();
  buildFilm();
  restoreView();
  started = true;
  viewChanged();
}

start();
