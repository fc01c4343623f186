"use strict";

/* Scores: of the picture shown, and the table of all pictures. */

const make = (tag, attributes = {}, ...children) => {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === false || value === null || value === undefined) continue;
    if (name === "class") element.className = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children);
  return element;
};

const numberOf = (score) => (score === null || score === undefined ? null : Number(score));

const written = (value, metric) => {
  if (value === null) return "\u2013";
  if (!Number.isFinite(value)) return value > 0 ? "\u221e" : "\u2212\u221e";
  return value.toFixed(metric.digits).replace("-", "\u2212");
};

const arrow = (metric) => (metric.lower ? "\u2193" : "\u2191");

/* Which of `values` to mark: the best as written, unless all are alike. */
const bestOf = (values, metric) => {
  const known = values.filter((value) => value !== null);
  const best = metric.lower ? Math.min(...known) : Math.max(...known);
  const marks = values.map((value) => value !== null && written(value, metric) === written(best, metric));
  return marks.filter(Boolean).length < known.length ? marks : values.map(() => false);
};

const scoreText = (value, metric, best) => {
  const text = written(value, metric);
  return best ? [make("strong", {}, text), make("span", { class: "unseen" }, " best")] : [text];
};

/* Methods with a score in `metric` on some picture, as indices. */
const scoredLabels = (data, metric) =>
  [...data.labels.keys()].filter((label) => data.images.some((image) => image.scores[label][metric] !== null));

const renderScores = (root, data, image, shown) => {
  // Long names get the width of two columns rather than four lines.
  root.style.setProperty("--least", data.labels.some((label) => label.length > 14) ? "230px" : "150px");
  root.replaceChildren(...data.metrics.map((metric, index) => {
    const labels = scoredLabels(data, index);
    const values = labels.map((label) => numberOf(image.scores[label][index]));
    const marks = bestOf(values, metric);
    const rows = labels.map((label, at) => make("div", { class: shown.includes(label) ? "shown" : null },
      make("dt", { dir: "auto", title: data.labels[label] }, data.labels[label]),
      make("dd", { class: marks[at] ? "number best" : "number" }, ...scoreText(values[at], metric, marks[at]))));
    const unit = metric.unit ? make("span", { class: "quiet" }, ` ${metric.unit}`) : "";
    return make("section", {}, make("h3", { title: metric.lower ? "lower is better" : "higher is better" },
      metric.title, unit, make("span", { class: "quiet" }, ` ${arrow(metric)}`)), make("dl", {}, ...rows));
  }));
};

class ScoreTable {
  constructor(root, data, select) {
    this.root = root;
    this.data = data;
    this.select = select;
    this.sorted = { column: null, descending: false };
    this.columns = data.metrics.flatMap((metric, index) =>
      scoredLabels(data, index).map((label, at) => ({ metric, index, label, first: at === 0 })));
    this.names = new Intl.Collator(undefined, { numeric: true });
    this.headings = new Map();
    this.body = make("tbody");
    this.rows = data.images.map((image, index) => this.row(image, index));
    root.append(this.head(), this.body, make("tfoot", {}, this.meanRow()));
    this.body.append(...this.rows);
  }

  head() {
    const groups = this.data.metrics.map((metric, index) => {
      const span = this.columns.filter((column) => column.index === index).length;
      return make("th", { scope: "colgroup", colspan: span, class: "first" }, metric.title,
        make("span", { class: "quiet" }, `${metric.unit ? ` ${metric.unit}` : ""} ${arrow(metric)}`));
    });
    const spans = (cell) => Number(cell.getAttribute("colspan")) > 0;
    const top = make("tr", {}, make("th", { scope: "col", rowspan: 2, class: "name" }), ...groups.filter(spans));
    top.firstChild.append(this.sorter(top.firstChild, "name", "Picture"));
    const second = make("tr", {}, ...this.columns.map((column, at) => {
      const cell = make("th", { scope: "col", class: column.first ? "first" : null });
      cell.append(this.sorter(cell, at, this.data.labels[column.label]));
      return cell;
    }));
    return make("thead", {}, top, second);
  }

  sorter(cell, column, text) {
    const button = make("button", { type: "button", class: "sorter" }, make("bdi", {}, text));
    button.addEventListener("click", () => this.sort(column));
    this.headings.set(column, cell);
    return button;
  }

  row(image, index) {
    const button = make("button", { type: "button", class: "link", dir: "auto" }, image.name);
    const row = make("tr", {}, make("th", { scope: "row", class: "name" }, button), ...this.cells(
      (column) => numberOf(image.scores[column.label][column.index])));
    // Bubbles from the button, so that the keyboard does the same.
    row.addEventListener("click", () => this.select(index));
    return row;
  }

  cells(valueOf) {
    const values = this.columns.map(valueOf);
    const marks = this.data.metrics.flatMap((metric, index) =>
      bestOf(values.filter((_, at) => this.columns[at].index === index), metric));
    return this.columns.map((column, at) => make("td", { class: column.first ? "number first" : "number" },
      ...scoreText(values[at], column.metric, marks[at])));
  }

  /* Means of one metric are over the same pictures for every method, or they would not compare. */
  meanRow() {
    const count = this.data.metrics.map((_, index) => this.scoredImages(index).length);
    byId("mean-note").textContent = count.some((value) => value < this.data.images.length)
      ? "A mean is over the pictures that every method has a score for." : "";
    return make("tr", {}, make("th", { scope: "row", class: "name" }, "Mean"), ...this.cells((column) => {
      const images = this.scoredImages(column.index);
      const sum = images.reduce((total, image) => total + Number(image.scores[column.label][column.index]), 0);
      return images.length ? sum / images.length : null;
    }));
  }

  scoredImages(index) {
    const labels = scoredLabels(this.data, index);
    return this.data.images.filter((image) => labels.every((label) => image.scores[label][index] !== null));
  }

  sort(column) {
    const descending = this.sorted.column === column && !this.sorted.descending;
    this.sorted = { column, descending };
    const order = this.data.images.map((_, index) => index).sort(this.comparison(column, descending));
    this.body.append(...order.map((index) => this.rows[index]));
    for (const cell of this.headings.values()) cell.removeAttribute("aria-sort");
    this.headings.get(column).setAttribute("aria-sort", descending ? "descending" : "ascending");
  }

  /* What has no score comes last either way. */
  comparison(column, descending) {
    const { images } = this.data;
    const sign = descending ? -1 : 1;
    if (column === "name") return (a, b) => sign * this.names.compare(images[a].name, images[b].name);
    const { label, index } = this.columns[column];
    const value = (image) => numberOf(images[image].scores[label][index]);
    return (a, b) => {
      const [left, right] = [value(a), value(b)];
      if (left === null || right === null) return (left === null) - (right === null);
      return left === right ? 0 : sign * (left < right ? -1 : 1);
    };
  }

  mark(index) {
    this.rows.forEach((row, at) => {
      if (at === index) row.setAttribute("aria-current", "true");
      else row.removeAttribute("aria-current");
    });
  }
}
