"use strict";

/* The picture area: two pictures under one transform, a divider, zoom and pan. Knows nothing about methods or scores.

   Scale is CSS pixels per picture pixel; zoom is screen pixels per picture pixel, so that 1 shows every pixel as it is
   on any screen. The divider is a fraction of the part of the picture that is in sight. */

const MAX_ZOOM = 16;
const PIXELATED_FROM = 2;
const NEAR_DIVIDER = 22;

const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
const byId = (id) => document.getElementById(id);

class Stage {
  constructor(changed) {
    this.changed = changed;
    this.root = byId("stage");
    this.layers = byId("layers");
    this.rightLayer = byId("right-layer");
    this.pictures = [byId("left-picture"), byId("right-picture")];
    this.handle = byId("handle");
    this.frame = byId("frame");
    this.width = this.height = 1;
    this.divider = 0.5;
    this.scale = 1;
    this.x = this.y = 0;
    this.fitted = true;
    this.flipped = this.difference = false;
    this.pointers = new Map();
    this.lastScroll = -Infinity;
    this.listen();
  }

  /* Pictures ---------------------------------------------------------------------------------------------------- */

  show(left, right, width, height) {
    const sameSize = width === this.width && height === this.height;
    [this.width, this.height] = [width, height];
    [left, right].forEach((source, index) => {
      const picture = this.pictures[index];
      if (picture.src !== source) picture.src = source;
      picture.style.width = `${width}px`;
      picture.style.height = `${height}px`;
    });
    if (!sameSize) this.fit();
    this.render();
  }

  setFlipped(flipped) {
    this.flipped = flipped;
    this.root.classList.toggle("flipped", flipped);
    this.render();
  }

  setDifference(difference, gain) {
    this.difference = difference;
    this.root.classList.toggle("difference", difference);
    this.root.style.setProperty("--gain", gain);
    this.render();
  }

  setDivider(fraction) {
    this.divider = clamp(fraction, 0, 1);
    this.render();
    this.changed();
  }

  /* View -------------------------------------------------------------------------------------------------------- */

  get size() { return { width: this.root.clientWidth, height: this.root.clientHeight }; }
  get ratio() { return window.devicePixelRatio || 1; }
  get zoom() { return this.scale * this.ratio; }

  get fitScale() {
    const { width, height } = this.size;
    return Math.min(width / this.width, height / this.height, MAX_ZOOM / this.ratio);
  }

  get centre() {
    const { width, height } = this.size;
    return { x: (width / 2 - this.x) / this.scale, y: (height / 2 - this.y) / this.scale };
  }

  fit() {
    this.fitted = true;
    this.scale = this.fitScale;
    this.settle();
  }

  /* Change the scale so that the picture stays where it is under the point (x, y) of the stage. */
  scaleAt(scale, x = this.size.width / 2, y = this.size.height / 2) {
    const lowest = Math.min(this.fitScale, 1 / this.ratio);
    const next = clamp(scale, lowest, MAX_ZOOM / this.ratio);
    this.x = x - (x - this.x) * (next / this.scale);
    this.y = y - (y - this.y) * (next / this.scale);
    this.scale = next;
    this.fitted = Math.abs(next - this.fitScale) < 1e-6;
    this.settle();
  }

  look(zoom, x, y) {
    this.scaleAt(zoom / this.ratio);
    const { width, height } = this.size;
    this.x = width / 2 - x * this.scale;
    this.y = height / 2 - y * this.scale;
    this.settle();
  }

  goTo([left, top, width, height]) {
    const size = this.size;
    const scale = 0.8 * Math.min(size.width / width, size.height / height);
    this.glide();
    this.look(scale * this.ratio, left + width / 2, top + height / 2);
  }

  move(dx, dy) {
    this.x += dx;
    this.y += dy;
    this.settle();
  }

  /* Keep the picture in sight, centred along an axis where it is smaller than the stage. */
  settle() {
    const { width, height } = this.size;
    const place = (offset, extent, room) => (extent <= room ? (room - extent) / 2 : clamp(offset, room - extent, 0));
    this.x = place(this.x, this.width * this.scale, width);
    this.y = place(this.y, this.height * this.scale, height);
    this.render();
    this.changed();
  }

  glide() {
    this.layers.classList.add("glide");
    clearTimeout(this.gliding);
    this.gliding = setTimeout(() => this.layers.classList.remove("glide"), 300);
  }

  get movable() {
    const { width, height } = this.size;
    return this.width * this.scale > width + 0.5 || this.height * this.scale > height + 0.5;
  }

  get sight() {
    const left = Math.max(0, this.x);
    return { left, right: Math.min(this.size.width, this.x + this.width * this.scale) };
  }

  get dividerX() {
    const { left, right } = this.sight;
    return left + (right - left) * this.divider;
  }

  render() {
    const snap = (value) => Math.round(value * this.ratio) / this.ratio;
    const transform = `translate(${snap(this.x)}px, ${snap(this.y)}px) scale(${this.scale})`;
    for (const picture of this.pictures) picture.style.transform = transform;
    const at = this.dividerX;
    const rest = this.size.width - at;
    const clip = this.flipped ? `inset(0 ${rest}px 0 0)` : `inset(0 0 0 ${at}px)`;
    this.rightLayer.style.clipPath = this.difference ? "none" : clip;
    this.handle.style.transform = `translateX(${at}px)`;
    this.layers.classList.toggle("pixelated", this.zoom > PIXELATED_FROM);
    this.root.classList.toggle("movable", this.movable);
  }

  outline(place) {
    this.frame.hidden = !place;
    if (!place) return;
    const [left, top, width, height] = place.map((value) => value * this.scale);
    Object.assign(this.frame.style, {
      left: `${this.x + left}px`, top: `${this.y + top}px`, width: `${width}px`, height: `${height}px`,
    });
  }

  /* Pointers ---------------------------------------------------------------------------------------------------- */

  listen() {
    const root = this.root;
    root.addEventListener("pointerdown", (event) => this.down(event));
    root.addEventListener("pointermove", (event) => this.moved(event));
    for (const type of ["pointerup", "pointercancel"]) root.addEventListener(type, (event) => this.up(event));
    root.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    root.addEventListener("dblclick", (event) => this.twice(event));
    document.addEventListener("scroll", () => { this.lastScroll = performance.now(); }, { passive: true });
    new ResizeObserver(() => (this.fitted ? this.fit() : this.settle())).observe(root);
  }

  point(event) {
    const box = this.root.getBoundingClientRect();
    return { x: event.clientX - box.left - this.root.clientLeft, y: event.clientY - box.top - this.root.clientTop };
  }

  down(event) {
    if (event.button !== 0) return;
    const point = this.point(event);
    this.pointers.set(event.pointerId, point);
    this.root.setPointerCapture(event.pointerId);
    if (this.pointers.size > 1) {
      this.mode = "pinch";
      return;
    }
    const near = Math.abs(point.x - this.dividerX) <= NEAR_DIVIDER;
    this.mode = !this.difference && (near || !this.movable || event.shiftKey) ? "divide" : "pan";
    this.root.classList.toggle("panning", this.mode === "pan" && this.movable);
    if (this.mode !== "divide") return;
    this.handle.focus({ preventScroll: true });
    event.preventDefault();
    // A finger may be about to scroll the page; a mouse is not.
    if (event.pointerType === "mouse") this.divideAt(point.x);
  }

  moved(event) {
    const before = this.pointers.get(event.pointerId);
    if (!before) return;
    const point = this.point(event);
    if (this.mode === "pinch") this.pinch(event.pointerId, point);
    else if (this.mode === "divide") this.divideAt(point.x);
    else this.move(point.x - before.x, point.y - before.y);
    this.pointers.set(event.pointerId, point);
  }

  up(event) {
    if (!this.pointers.delete(event.pointerId)) return;
    if (event.type === "pointerup" && this.mode === "divide") this.divideAt(this.point(event).x);
    // The finger that stays after a pinch moves the picture, never the divider.
    this.mode = this.pointers.size ? "pan" : null;
    this.root.classList.remove("panning");
  }

  divideAt(x) {
    const { left, right } = this.sight;
    this.setDivider((x - left) / (right - left));
  }

  pinch(id, point) {
    const other = [...this.pointers].find(([key]) => key !== id)[1];
    const before = this.pointers.get(id);
    const distance = (a, b) => Math.max(1, Math.hypot(a.x - b.x, a.y - b.y));
    const middle = (a, b) => ({ x: (a.x + b.x) / 2, y: (a.y + b.y) / 2 });
    const [from, to] = [middle(before, other), middle(point, other)];
    this.scaleAt((this.scale * distance(point, other)) / distance(before, other), from.x, from.y);
    this.move(to.x - from.x, to.y - from.y);
  }

  /* The page keeps scrolling through the stage, and scrolls on where there is nothing left to zoom out of. */
  wheel(event) {
    const out = event.deltaY > 0;
    const scrolling = performance.now() - this.lastScroll < 200;
    if (scrolling || (out && this.scale <= this.fitScale * 1.0001 && !event.ctrlKey)) return;
    event.preventDefault();
    const pixels = event.deltaY * [1, 16, 200][event.deltaMode];
    const factor = Math.exp(-clamp(pixels, -200, 200) * (event.ctrlKey ? 0.01 : 0.002));
    const next = this.scale * factor;
    const { x, y } = this.point(event);
    this.scaleAt(out ? Math.max(next, Math.min(this.scale, this.fitScale)) : next, x, y);
  }

  twice(event) {
    const { x, y } = this.point(event);
    this.glide();
    if (!this.fitted) this.fit();
    else this.scaleAt(Math.max(1, 2 * Math.round(this.zoom)) / this.ratio, x, y);
  }
}
