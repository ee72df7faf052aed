"use strict";

// ---- data and elements ----

function data(id) {
  return JSON.parse(document.getElementById(id).textContent);
}

function byId(id) {
  return document.getElementById(id);
}

function append(parent, children) {
  for (const child of children.flat(Infinity)) {
    if (child !== null && child !== undefined && child !== false) {
      parent.append(child instanceof Node ? child : document.createTextNode(String(child)));
    }
  }
  return parent;
}

function attach(node, attributes) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (name === "on") {
      for (const [event, handler] of Object.entries(value)) node.addEventListener(event, handler);
    } else if (value !== null && value !== undefined && value !== false) {
      node.setAttribute(name, value === true ? "" : String(value));
    }
  }
  return node;
}

function element(tag, attributes, ...children) {
  return append(attach(document.createElement(tag), attributes), children);
}

function drawn(tag, attributes, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  return append(attach(node, attributes), children);
}

function fill(node, ...children) {
  node.replaceChildren();
  return append(node, children);
}

// ---- text that others wrote ----

const HIDDEN = /(?![\n\t])[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}\p{Default_Ignorable_Code_Point}\u2800]/gu;

function codePoint(character) {
  return "<U+" + character.codePointAt(0).toString(16).toUpperCase().padStart(4, "0") + ">";
}

// Returns text and elements that show every character, those without a shape by their numbers.
function visible(text) {
  const parts = [];
  let from = 0;
  for (const match of text.matchAll(HIDDEN)) {
    if (match.index > from) parts.push(text.slice(from, match.index));
    parts.push(element("span", { class: "hidden-character" }, codePoint(match[0])));
    from = match.index + match[0].length;
  }
  if (from < text.length) parts.push(text.slice(from));
  return parts;
}

function plain(text) {
  return String(text).replace(HIDDEN, codePoint);
}

// A piece of text on its own: no letter in it can change the order of its neighbours.
function shown(text, name = "text") {
  return element("bdi", { class: name, dir: "auto" }, visible(String(text)));
}

// ---- numbers ----

function fixed(value, digits = 3) {
  if (value === null || value === undefined) return "–";
  return value.toFixed(digits).replace("-", "−");
}

function withInterval(value, digits = 3, bounds = Math.max(1, digits - 1)) {
  if (!value) return "–";
  const bounded = value.low !== null && value.low !== undefined;
  return [
    fixed(value.mean, digits),
    bounded &&
      element(
        "span",
        { class: "interval" },
        ` [${fixed(value.low, bounds)}, ${fixed(value.high, bounds)}]`,
      ),
  ];
}

// A mean whose interval shows when somebody points at it.
function mean(value, digits = 3) {
  if (!value) return "–";
  const bounded = value.low !== null && value.low !== undefined;
  const title = bounded && `[${fixed(value.low, digits)}, ${fixed(value.high, digits)}]`;
  return element("span", { title }, fixed(value.mean, digits));
}

function pText(p) {
  if (p === null || p === undefined) return "–";
  return p < 0.001 ? "< 0.001" : p.toFixed(3);
}

function unique(values) {
  return [...new Set(values)];
}

// ---- tables ----

// Compares by value; what is missing comes last in either direction.
function order(value, direction) {
  return (a, b) => {
    const [x, y] = [value(a), value(b)];
    const [noX, noY] = [x, y].map((each) => each === null || each === undefined);
    if (noX || noY) return Number(noX) - Number(noY);
    const compared =
      typeof x === "number" && typeof y === "number"
        ? x - y
        : String(x).localeCompare(String(y), undefined, { numeric: true });
    return direction * compared;
  };
}

function classes(column) {
  return [column.numeric && "numeric", column.kind].filter(Boolean).join(" ");
}

// A table whose columns sort. A column: {name, value(row), cell(row), numeric, kind, hint}.
class SortableTable {
  constructor({ label, columns, onSort, tall = false }) {
    this.columns = columns;
    this.rows = [];
    this.sorted = null;
    this.direction = 1;
    this.onSort = onSort;
    this.heads = columns.map((column, index) => this.head(column, index));
    this.body = element("tbody");
    this.table = element(
      "table",
      {},
      element("thead", {}, element("tr", {}, this.heads)),
      this.body,
    );
    this.node = element(
      "div",
      {
        class: tall ? "scroll tall" : "scroll",
        tabindex: "0",
        role: "region",
        "aria-label": label,
      },
      this.table,
    );
  }

  head(column, index) {
    const button = element(
      "button",
      { type: "button", on: { click: () => this.sortBy(index) } },
      column.name,
    );
    const attributes = { scope: "col", class: classes(column), title: column.hint };
    return element("th", { ...attributes, "aria-sort": "none" }, button);
  }

  sortBy(index) {
    const first = this.columns[index].numeric ? -1 : 1;
    this.direction = this.sorted === index ? -this.direction : first;
    this.sorted = index;
    this.heads.forEach((head, each) =>
      head.setAttribute(
        "aria-sort",
        each !== index ? "none" : this.direction > 0 ? "ascending" : "descending",
      ),
    );
    if (this.onSort) this.onSort();
    else this.show(this.rows);
  }

  ordered(rows) {
    if (this.sorted === null) return [...rows];
    return [...rows].sort(order(this.columns[this.sorted].value, this.direction));
  }

  show(rows) {
    this.rows = rows;
    this.showOrdered(this.ordered(rows));
  }

  showOrdered(rows) {
    fill(
      this.body,
      rows.map((row) =>
        element(
          "tr",
          {},
          this.columns.map((column) =>
            element(
              "td",
              { class: classes(column) },
              column.cell ? column.cell(row) : column.value(row),
            ),
          ),
        ),
      ),
    );
  }
}

// ---- turns ----

// One turn: {action, kind, query, noisy, observation}.
function turn({ action, kind, query, noisy, observation }, index) {
  return element(
    "li",
    { class: `turn${noisy ? " noisy" : ""}` },
    element(
      "div",
      { class: "head" },
      element("strong", {}, `Turn ${index + 1}`),
      kindBadge(kind),
      query && element("span", {}, "query: ", shown(query)),
      noisy && element("span", { class: "badge warn" }, "⚠ noisy documents"),
    ),
    element("div", { class: "said" }, tagged(action)),
    observation && element("div", { class: "came" }, documents(observation)),
  );
}

function kindBadge(kind) {
  return element(
    "span",
    { class: `badge ${kind === "malformed" ? "wrong" : "plain"}` },
    shown(kind),
  );
}

// The text as it is, its tags paler.
function tagged(text) {
  const pieces = text.split(/(<\/?(?:think|search|answer|information)>)/);
  return element(
    "bdi",
    { class: "verbatim", dir: "auto" },
    pieces.map((piece, index) =>
      index % 2 ? element("span", { class: "tag" }, piece) : visible(piece),
    ),
  );
}

// The text as it is, the names of documents bold.
function documents(text) {
  const pieces = text.trim().split(/(<\/?information>|(?<=^|<information>)Doc \d+)/m);
  return element(
    "bdi",
    { class: "verbatim", dir: "auto" },
    pieces.map((piece, index) =>
      index % 2
        ? element("span", { class: piece.startsWith("<") ? "tag" : "document" }, piece)
        : visible(piece),
    ),
  );
}

// ---- charts ----

const MARKS = [
  (r) => drawn("circle", { r, class: "mark" }),
  (r) => drawn("rect", { x: -r, y: -r, width: 2 * r, height: 2 * r, class: "mark" }),
  (r) => drawn("path", { d: `M0 ${-1.3 * r}L${1.3 * r} ${r}H${-1.3 * r}Z`, class: "mark" }),
  (r) =>
    drawn("path", { d: `M0 ${-1.4 * r}L${1.4 * r} 0 0 ${1.4 * r} ${-1.4 * r} 0Z`, class: "mark" }),
  (r) => drawn("path", { d: `M0 ${1.3 * r}L${1.3 * r} ${-r}H${-1.3 * r}Z`, class: "mark" }),
];
const DASHES = ["", "6 3", "2 3", "8 3 2 3"];
// Where the eight colours begin anew, marks and dashes must not.
const style = (index) => index + Math.floor(index / 8);
const dashes = (index) => DASHES[style(index) % DASHES.length];

function mark(index, x, y, size = 4.5) {
  const symbol = MARKS[style(index) % MARKS.length](size);
  symbol.setAttribute("transform", `translate(${x.toFixed(1)} ${y.toFixed(1)})`);
  return symbol;
}

function legend(names) {
  return element(
    "ul",
    { class: "legend" },
    names.map((name, index) =>
      element(
        "li",
        { class: `series-${index % 8}` },
        drawn(
          "svg",
          { width: 34, height: 14, "aria-hidden": "true" },
          drawn("path", { d: "M1 7H33", class: "line", "stroke-dasharray": dashes(index) }),
          mark(index, 17, 7),
        ),
        shown(name),
      ),
    ),
  );
}

function ticks(low, high, count) {
  const raw = (high - low || 1) / count;
  const unit = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((each) => each * unit).find((each) => each >= raw * 0.999);
  const found = [];
  // Multiples, for a running sum would miss zero by a rounding error.
  for (let n = Math.ceil(low / step - 1e-9); n * step <= high + 1e-9 * step; n++) {
    found.push(Number((n * step).toPrecision(12)));
  }
  return found;
}

function range(values) {
  const found = values.filter((each) => Number.isFinite(each));
  if (!found.length) return [0, 1];
  const [low, high] = [Math.min(...found), Math.max(...found)];
  const pad = low === high ? Math.abs(low) * 0.1 || 0.5 : 0;
  return [low - pad, high + pad];
}

// Lines with intervals over numbers. Series: {name, points: [{x, y, low, high}]}.
function lineChart(width, { label, series, x, y, spread = 0, band = false, marks = true }) {
  const [height, left, right, top, bottom] = [
    Math.max(230, Math.min(320, width * 0.5)),
    48,
    14,
    10,
    40,
  ];
  const all = series.flatMap((each) => each.points);
  const [x0, x1] = x.range || range(all.map((each) => each.x));
  const [y0, y1] = y.range || range(all.flatMap((each) => [each.y, each.low, each.high]));
  const margin = (spread * (series.length - 1)) / 2 + (spread ? 8 : 0);
  const across = (at) =>
    left + margin + ((at - x0) / (x1 - x0)) * (width - left - right - 2 * margin);
  const down = (at) => height - bottom - ((at - y0) / (y1 - y0)) * (height - top - bottom);
  const svg = drawn("svg", {
    width,
    height,
    viewBox: `0 0 ${width} ${height}`,
    role: "img",
    "aria-label": label,
  });
  for (const at of y.ticks || ticks(y0, y1, 5)) {
    append(svg, [
      drawn("path", { d: `M${left} ${down(at)}H${width - right}`, class: "axis" }),
      drawn(
        "text",
        { x: left - 6, y: down(at) + 4, "text-anchor": "end" },
        String(at).replace("-", "−"),
      ),
    ]);
  }
  for (const at of x.ticks || ticks(x0, x1, width < 500 ? 5 : 8)) {
    append(svg, [
      drawn("path", { d: `M${across(at)} ${height - bottom}v5`, class: "axis" }),
      drawn(
        "text",
        { x: across(at), y: height - bottom + 18, "text-anchor": "middle" },
        String(at),
      ),
    ]);
  }
  append(svg, [
    drawn(
      "text",
      { x: (left + width - right) / 2, y: height - 4, "text-anchor": "middle" },
      x.label,
    ),
    drawn(
      "text",
      {
        x: 0,
        y: 0,
        "text-anchor": "middle",
        transform: `translate(11 ${(top + height - bottom) / 2}) rotate(-90)`,
      },
      y.label,
    ),
  ]);
  series.forEach((each, index) => {
    const shift = spread * (index - (series.length - 1) / 2);
    const place = (point) => [across(point.x) + shift, down(point.y)];
    append(svg, [drawnSeries(each, index, { place, down, band, marks })]);
  });
  return {
    svg,
    across,
    valueAt: (pixel) =>
      x0 + ((pixel - left - margin) / (width - left - right - 2 * margin)) * (x1 - x0),
    top,
    bottom: height - bottom,
  };
}

function drawnSeries({ name, points, group }, index, { place, down, band, marks }) {
  const known = points.filter((each) => Number.isFinite(each.y));
  const colour = group === undefined ? index : group;
  const path = known
    .map((each) =>
      place(each)
        .map((at) => at.toFixed(1))
        .join(" "),
    )
    .join("L");
  const bounded = known.filter((each) => Number.isFinite(each.low) && Number.isFinite(each.high));
  const line =
    path && drawn("path", { d: `M${path}`, class: "line", "stroke-dasharray": dashes(colour) });
  const bars = band
    ? []
    : bounded.map((each) =>
        drawn("path", {
          class: "bar",
          d: `M${place(each)[0].toFixed(1)} ${down(each.low).toFixed(1)}V${down(each.high).toFixed(1)}`,
        }),
      );
  const dots = marks
    ? known.map((each) =>
        append(drawn("g", {}, mark(colour, ...place(each))), [
          drawn(
            "title",
            {},
            `${plain(name)}: ${fixed(each.y)}${Number.isFinite(each.low) ? ` [${fixed(each.low)}, ${fixed(each.high)}]` : ""} at ${each.x}`,
          ),
        ]),
      )
    : [];
  return drawn("g", { class: `series-${colour % 8}` }, line || null, bars, dots);
}

// Intervals side by side on one axis. Rows: {name, mean, low, high}.
function dotChart(width, { label, rows, axis, zero = false }) {
  const [step, top, bottom, right] = [26, 6, 40, 14];
  const left = Math.min(width * 0.38, 16 + 7.2 * Math.max(...rows.map((each) => each.name.length)));
  const height = top + bottom + step * rows.length;
  const bounds = rows.flatMap((each) => [each.mean, each.low, each.high]);
  const [x0, x1] = axis.range || range(zero ? [0, ...bounds] : bounds);
  const across = (at) => left + ((at - x0) / (x1 - x0)) * (width - left - right);
  const svg = drawn("svg", {
    width,
    height,
    viewBox: `0 0 ${width} ${height}`,
    role: "img",
    "aria-label": label,
  });
  for (const at of ticks(x0, x1, width < 500 ? 4 : 8)) {
    append(svg, [
      drawn("path", {
        d: `M${across(at)} ${top}V${height - bottom}`,
        class: zero && at === 0 ? "cursor" : "axis",
      }),
      drawn(
        "text",
        { x: across(at), y: height - bottom + 18, "text-anchor": "middle" },
        String(at).replace("-", "−"),
      ),
    ]);
  }
  append(svg, [
    drawn(
      "text",
      { x: (left + width - right) / 2, y: height - 4, "text-anchor": "middle" },
      axis.label,
    ),
  ]);
  rows.forEach((row, index) => {
    const y = top + step * (index + 0.5);
    const room = Math.floor((left - 14) / 6.9);
    const name = plain(row.name);
    append(svg, [
      drawn(
        "g",
        { class: `series-${(row.group ?? index) % 8}` },
        drawn(
          "text",
          { x: left - 8, y: y + 4, "text-anchor": "end", direction: "ltr" },
          name.length > room ? `${name.slice(0, room - 1)}…` : name,
        ),
        Number.isFinite(row.low) &&
          drawn("path", { d: `M${across(row.low)} ${y}H${across(row.high)}`, class: "line" }),
        mark(row.group ?? index, across(row.mean), y),
        drawn("title", {}, `${name}: ${fixed(row.mean)} [${fixed(row.low)}, ${fixed(row.high)}]`),
      ),
    ]);
  });
  return svg;
}

// Calls draw(width) now and whenever the node's width changes.
function responsive(node, draw) {
  let last = 0;
  const again = () => {
    const width = Math.floor(node.clientWidth);
    if (width > 0 && width !== last) {
      last = width;
      fill(node, draw(width));
    }
  };
  new ResizeObserver(again).observe(node);
  again();
  return () => {
    last = 0;
    again();
  };
}

function plot(draw) {
  const node = element("div", { class: "plot" });
  queueMicrotask(() => responsive(node, draw));
  return node;
}

function choices(select, values, all) {
  const options = values.map((value, index) => element("option", { value: index }, plain(value)));
  fill(select, all && element("option", { value: "" }, all), options);
}
