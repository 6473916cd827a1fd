"use strict";
(() => {
const data = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const PER_PAGE = 100;

// ---- data ----------------------------------------------------------------------------------------------------------

const images = data.rows.map((row) => {
  const image = Object.assign({}, data.common);
  data.columns.forEach((column, i) => { image[column] = row[i]; });
  image.files = data.files[image.files];
  image.settings = data.settings[image.settings];
  image.gain = image.psnr == null || image.psnr_measurement == null ? null : image.psnr - image.psnr_measurement;
  image.search = [image.name, image.variant, image.error, ...(image.notes || [])].join("\n").toLowerCase();
  return image;
});
const byPath = new Map(images.map((image) => [image.path, image]));
const byName = new Map();
for (const image of images) byName.set(image.name, [...(byName.get(image.name) || []), image]);
const isBad = (image) => image.status === "failed" || image.status === "diverged";
const isUnconverged = (image) => image.converged === false;
const rank = (image) => isBad(image) ? 0 : image.status === "interrupted" ? 1 : isUnconverged(image) ? 2 : 3;
const label = (image) => image.variant == null ? image.name : `${image.name}: ${image.variant}`;

const COLUMNS = [
  {key: "name", title: "image", text: true},
  {key: "variant", title: "setting", text: true},
  {key: "status", title: "status", text: true},
  {key: "psnr_measurement", title: "degraded (dB)", digits: 2},
  {key: "psnr", title: "restored (dB)", digits: 2},
  {key: "gain", title: "gain (dB)", digits: 2, signed: true},
  {key: "ssim", title: "SSIM", digits: 3},
  {key: "coverage_90", title: "coverage of the 90 % interval", digits: 3},
  {key: "rhat_max", title: "R-hat", digits: 2},
  {key: "ess_min", title: "effective samples", digits: 0},
  {key: "stop_step", title: "step of the estimate", digits: 0},
  {key: "num_steps", title: "steps", digits: 0},
  {key: "seconds", title: "time (s)", digits: 1},
].filter((column) => images.some((image) => image[column.key] != null));

function format(value, column) {
  if (value == null) return "";
  if (typeof value !== "number") return String(value);
  const text = value.toFixed(column.digits);
  return (column.signed && value > 0 ? "+" + text : text).replace("-", "\u2212");
}

// ---- elements ------------------------------------------------------------------------------------------------------

function make(tag, attributes, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value != null && value !== false) node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child != null));
  return node;
}
const encodePath = (path) => path.split("/").map(encodeURIComponent).join("/");
const urlOf = (image, file) => encodePath(`${image.path}/${file}`);
function badges(image) {
  const found = [make("span", {class: `badge ${image.status}`}, image.status)];
  if (isUnconverged(image)) found.push(make("span", {class: "badge unconverged"}, "not converged"));
  return found;
}
// A thumbnail or a figure of few pixels is enlarged with sharp pixels.
function markSmall(event) { event.target.classList.toggle("small", event.target.naturalHeight < 80); }

// ---- list ----------------------------------------------------------------------------------------------------------

const list = {text: "", status: "", key: "", reversed: false, page: 0, shown: images};
const collator = new Intl.Collator("en", {numeric: true, sensitivity: "base"});

function compareBy(column) {
  const sign = list.reversed ? -1 : 1;
  return (a, b) => {
    const x = a[column.key], y = b[column.key];
    if (x == null || y == null) return (x == null) - (y == null);
    return sign * (column.text ? collator.compare(x, y) : x - y);
  };
}

function select() {
  const words = list.text.toLowerCase();
  let shown = images.filter((image) =>
    (!words || image.search.includes(words))
    && (!list.status || image.status === list.status || (list.status === "not converged" && isUnconverged(image))));
    if (list.key) {
    shown.sort(compareBy(COLUMNS.find((column) => column.key === list.key)));
  } else {
    shown.sort((a, b) => rank(a) - rank(b) || collator.compare(a.name, b.name));
    if (list.reversed) shown.reverse();
  }
  list.shown = shown;
  list.page = 0;
  draw();
}

function draw() {
  const first = list.page * PER_PAGE;
  const rows = list.shown.slice(first, first + PER_PAGE);
  $("rows").replaceChildren(...rows.map(makeRow));
  for (const cell of $("head").children) {
    const isSorted = cell.dataset.key === list.key && list.key;
    if (isSorted) cell.setAttribute("aria-sort", list.reversed ? "descending" : "ascending");
    else cell.removeAttribute("aria-sort");
    const mark = cell.querySelector(".mark");
    if (mark) mark.textContent = isSorted ? (list.reversed ? " \u2193" : " \u2191") : "";
  }
  $("sort").value = list.key;
  $("direction").textContent = list.reversed ? "\u2193" : "\u2191";
  const total = images.length, number = list.shown.length;
  $("count").textContent = number === total ? "" : `${number} of ${total}`;
  drawPaging(number);
}

function makeRow(image) {
  const picture = make("td", {class: "picture"});
  if (image.files.includes("thumbnail.jpg")) {
    const thumbnail = make("img", {
      src: urlOf(image, "thumbnail.jpg"), loading: "lazy", decoding: "async", alt: "degraded and restored image",
    });
    thumbnail.addEventListener("load", markSmall);
    picture.append(thumbnail);
  }
  const row = make("tr", {class: image.status}, picture);
  for (const column of COLUMNS) {
    const value = image[column.key];
    if (column.key === "name") {
      const why = image.error || (isUnconverged(image) ? null : image.status === "diverged" ? "the fit diverged" : null);
      row.append(make("td", {class: "text name"},
        make("a", {href: "#" + encodePath(image.path)}, image.name),
        why && make("span", {class: "why"}, why)));
    } else if (column.key === "status") {
      row.append(make("td", {class: "text"}, ...badges(image)));
    } else {
      const kind = `${column.text ? "text " : ""}figure${value == null ? " empty" : ""}`;
      row.append(make("td", {class: kind, "data-title": column.title}, format(value, column)));
    }
  }
  row.addEventListener("click", (event) => {
    if (!event.target.closest("a")) location.hash = "#" + encodePath(image.path);
  });
  return row;
}

function drawPaging(number) {
  const pages = Math.ceil(number / PER_PAGE);
  const go = (page) => () => { list.page = page; draw(); $("list").scrollIntoView(); };
  const button = (text, page) => {
    const node = make("button", {type: "button"}, text);
    node.disabled = page < 0 || page >= pages || page === list.page;
    node.addEventListener("click", go(page));
    return node;
  };
  const nodes = pages < 2 ? [] : [
    button("First", 0), button("Previous", list.page - 1),
    make("span", {}, `page ${list.page + 1} of ${pages}`),
    button("Next", list.page + 1), button("Last", pages - 1),
  ];
  if (!number) nodes.push(make("span", {}, "No image matches."));
  $("paging").replaceChildren(...nodes);
}

function startList() {
  $("head").append(make("th", {class: "text"}, make("span", {hidden: ""}, "thumbnail")));
  $("sort").append(make("option", {value: ""}, "problems first"));
  for (const column of COLUMNS) {
    const button = make("button", {type: "button"}, column.title, make("span", {class: "mark"}));
    button.addEventListener("click", () => sortBy(column.key, list.key === column.key && !list.reversed));
    $("head").append(make("th", {class: column.text ? "text" : "", "data-key": column.key, scope: "col"}, button));
    $("sort").append(make("option", {value: column.key}, column.title));
  }
  const counts = new Map();
  for (const image of images) counts.set(image.status, (counts.get(image.status) || 0) + 1);
  const unconverged = images.filter(isUnconverged).length;
  if (unconverged) counts.set("not converged", unconverged);
  $("status").append(make("option", {value: ""}, `all (${images.length})`));
  for (const [status, number] of counts) $("status").append(make("option", {value: status}, `${status} (${number})`));
  $("filter").addEventListener("input", () => { list.text = $("filter").value; select(); });
  $("status").addEventListener("change", () => { list.status = $("status").value; select(); });
  $("sort").addEventListener("change", () => sortBy($("sort").value, false));
  $("direction").addEventListener("click", () => sortBy(list.key, !list.reversed));
  $("controls").addEventListener("submit", (event) => event.preventDefault());
  $("controls").hidden = images.length < 2;
  $("list").hidden = false;
  select();
}

function sortBy(key, reversed) {
  list.key = key;
  list.reversed = reversed;
  select();
}

// ---- one image: the comparison of two pictures of it ----------------------------------------------------------------

const FILE_NAMES = {
  "degraded.png": "degraded", "reference.png": "reference", "median.png": "median of the networks",
  "interval_low.png": "lower end of the interval", "interval_high.png": "upper end of the interval",
};
const decibels = (value) => value == null ? "" : ` ${value.toFixed(2)} dB`;

// The pictures that can be compared: their key, which another image may share, title and address.
function picturesOf(image) {
  const found = [];
  const add = (key, title, file, from = image, psnr = null) =>
    found.push({key, title, tag: title + decibels(psnr), url: urlOf(from, file)});
  const has = (file, from = image) => from.files.includes(file);
  if (has("degraded.png")) add("degraded.png", "degraded", "degraded.png", image, image.psnr_measurement);
  for (const other of byName.get(image.name)) {
    const file = ["restored_8bit.png", "restored.png"].find((name) => has(name, other));
    const title = other.variant == null ? "restored" : other.variant;
    const key = other === image ? "restored" : `restored ${other.variant}`;
    if (file) add(key, title, file, other, other.psnr);
  }
  for (const file of Object.keys(FILE_NAMES).slice(1)) if (has(file)) add(file, FILE_NAMES[file], file);
  for (const file of image.files) {
    const match = /^samples\/0*(\d+)\.png$/.exec(file);
    if (match) add(file, `sample ${match[1]}`, file);
  }
  return found;
}

const view = {zoom: 1, x: 0.5, y: 0.5, width: 0, height: 0, left: "degraded.png", right: "restored", pictures: []};
const stage = $("stage"), panes = [...stage.querySelectorAll(".pane")];

function place() {
  const {width, height} = view;
  if (!width || !stage.clientWidth) return;
  const pane = panes[0].getBoundingClientRect();
  const scale = Math.min(pane.width / width, pane.height / height) * view.zoom;
  const clamp = (center, size, room) => {
    const half = room / (2 * size * scale);
    return half >= 0.5 ? 0.5 : Math.min(1 - half, Math.max(half, center));
  };
  view.x = clamp(view.x, width, pane.width);
  view.y = clamp(view.y, height, pane.height);
  view.scale = scale;
  const left = pane.width / 2 - view.x * width * scale, top = pane.height / 2 - view.y * height * scale;
  for (const image of [$("image-left"), $("image-right")]) {
    image.style.width = width + "px";
    image.style.height = height + "px";
    image.style.transform = `translate(${left}px, ${top}px) scale(${scale})`;
    image.style.imageRendering = scale * devicePixelRatio >= 2 ? "pixelated" : "auto";
  }
  stage.classList.toggle("zoomed", view.zoom > 1);
  $("zoom").textContent = `${Math.round(100 * scale)} %`;
  $("zoom-out").disabled = $("fit").disabled = view.zoom <= 1;
}

// Zooms so that the point of the image under (clientX, clientY) stays; without a point, about the center.
function zoomTo(zoom, clientX, clientY) {
  const before = view.scale, pane = paneAt(clientX);
  view.zoom = Math.min(Math.max(zoom, 1), Math.max(8, 40 / (before / view.zoom)));
  if (clientX !== undefined && view.width) {
    const ratio = 1 / before - 1 / (before / oldZoom * view.zoom);
    view.x += (clientX - pane.left - pane.width / 2) * ratio / view.width;
    view.y += (clientY - pane.top - pane.height / 2) * ratio / view.height;
  }
  oldZoom = view.zoom;
  place();
}
let oldZoom = 1;
function paneAt(clientX) {
  const boxes = panes.map((pane) => pane.getBoundingClientRect());
  return boxes.find((box) => clientX >= box.left && clientX <= box.right) || boxes[0];
}
function move(dx, dy) {
  view.x -= dx / (view.width * view.scale);
  view.y -= dy / (view.height * view.scale);
  place();
}
function showAll() { view.zoom = oldZoom = 1; view.x = view.y = 0.5; place(); }

function showPictures() {
  for (const side of ["left", "right"]) {
    const chosen = view.pictures.find((picture) => picture.key === $(side).value);
    const image = $(`image-${side}`);
    if (chosen) image.src = chosen.url;
    else image.removeAttribute("src");
    image.alt = chosen ? chosen.title : "";
    $(`tag-${side}`).textContent = chosen ? chosen.tag : "";
  }
}

// Chooses the pictures of the two sides, as far as the image has them.
function choosePictures(wanted) {
  const fallback = {left: 0, right: Math.min(1, view.pictures.length - 1)};
  for (const side of ["left", "right"]) {
    const isKnown = view.pictures.some((picture) => picture.key === wanted[side]);
    $(side).value = isKnown ? wanted[side] : (view.pictures[fallback[side]] || {key: ""}).key;
  }
  showPictures();
}

function startCompare() {
  for (const side of ["left", "right"]) {
    $(side).addEventListener("change", () => {
      if (view.tab === "compare") view[side] = $(side).value;
      showPictures();
    });
  }
  // The right image decides the size: a degraded image may have fewer pixels, and is then enlarged.
  $("image-right").addEventListener("load", () => {
    view.width = $("image-right").naturalWidth;
    view.height = $("image-right").naturalHeight;
    place();
  });
  for (const side of ["left", "right"]) {
    $(`image-${side}`).addEventListener("error", () => { $(`tag-${side}`).textContent += " (cannot be shown)"; });
  }
  const setSplit = () => stage.style.setProperty("--split", `${$("slider").value}%`);
  $("slider").addEventListener("input", setSplit);
  setSplit();
  $("mode").addEventListener("click", () => {
    const isSplit = stage.classList.toggle("split");
    $("mode").setAttribute("aria-pressed", isSplit);
    place();
  });
  $("zoom-in").addEventListener("click", () => zoomTo(view.zoom * 1.5));
  $("zoom-out").addEventListener("click", () => zoomTo(view.zoom / 1.5));
  $("fit").addEventListener("click", showAll);
  stage.addEventListener("wheel", (event) => {
    event.preventDefault();
    zoomTo(view.zoom * Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.002)), event.clientX, event.clientY);
  }, {passive: false});
  stage.addEventListener("keydown", (event) => {
    const step = 40;
    const actions = {
      "+": () => zoomTo(view.zoom * 1.5), "=": () => zoomTo(view.zoom * 1.5), "-": () => zoomTo(view.zoom / 1.5),
      "0": showAll, ArrowLeft: () => move(step, 0), ArrowRight: () => move(-step, 0),
      ArrowUp: () => move(0, step), ArrowDown: () => move(0, -step),
    };
    if (!actions[event.key] || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    actions[event.key]();
  });
  startPointers();
  new ResizeObserver(place).observe(stage);
}

// The knob moves the divider; elsewhere one pointer moves the images and two zoom them.
function startPointers() {
  const pointers = new Map();
  let onKnob = false;
  const distance = () => {
    const [a, b] = [...pointers.values()];
    return Math.hypot(a.clientX - b.clientX, a.clientY - b.clientY);
  };
  stage.addEventListener("pointerdown", (event) => {
    if (event.button) return;
    onKnob = event.target === $("knob");
    stage.setPointerCapture(event.pointerId);
    pointers.set(event.pointerId, event);
    stage.classList.add("moving");
  });
  stage.addEventListener("pointermove", (event) => {
    const last = pointers.get(event.pointerId);
    if (!last) return;
    if (onKnob) {
      const box = stage.getBoundingClientRect();
      $("slider").value = 100 * (event.clientX - box.left) / box.width;
      $("slider").dispatchEvent(new Event("input"));
    } else if (pointers.size === 1) {
      move(event.clientX - last.clientX, event.clientY - last.clientY);
    } else if (pointers.size === 2) {
      const before = distance();
      pointers.set(event.pointerId, event);
      const [a, b] = [...pointers.values()];
      zoomTo(view.zoom * distance() / before, (a.clientX + b.clientX) / 2, (a.clientY + b.clientY) / 2);
    }
    pointers.set(event.pointerId, event);
  });
  for (const name of ["pointerup", "pointercancel"]) {
    stage.addEventListener(name, (event) => {
      pointers.delete(event.pointerId);
      if (!pointers.size) { onKnob = false; stage.classList.remove("moving"); }
    });
  }
}

// ---- one image: its figures and numbers ----------------------------------------------------------------------------

const FIGURES = [
  ["std.png", "Deviation"], ["curve.png", "Curve"], ["traces.png", "Traces"], ["calibration.png", "Calibration"],
  ["sheet.png", "Sheet"],
];
const INTERVAL = {left: "interval_low.png", right: "interval_high.png"};
let tab = "compare";

function drawTabs(image) {
  const tabs = FIGURES.filter(([file]) => image.files.includes(file));
  if (image.files.includes(INTERVAL.left)) tabs.unshift(["interval", "Interval"]);
  if (view.pictures.length) tabs.unshift(["compare", "Compare"]);
  const chosen = tabs.some(([key]) => key === tab) ? tab : tabs.length ? tabs[0][0] : "";
  const buttons = tabs.map(([key, title]) => {
    const isChosen = key === chosen;
    const panel = key.endsWith(".png") ? "figure" : "compare";
    const node = make("button", {
      type: "button", role: "tab", "aria-selected": String(isChosen), "aria-controls": panel, tabindex: isChosen ? 0 : -1,
    }, title);
    node.addEventListener("click", () => { tab = key; drawTabs(image); $("tabs").querySelector("[aria-selected=true]").focus(); });
    return node;
  });
  $("tabs").replaceChildren(...buttons);
  const isFigure = chosen.endsWith(".png");
  view.tab = chosen;
  $("compare").hidden = isFigure || !chosen;
  $("figure").hidden = !isFigure;
  if (isFigure) {
    $("figure-link").href = $("figure-image").src = urlOf(image, chosen);
    $("figure-image").alt = tabs.find(([key]) => key === chosen)[1];
  } else if (chosen) {
    choosePictures(chosen === "interval" ? INTERVAL : view);
  }
  place();
}

const NUMBERS = [
  ["psnr", "PSNR", "dB", 2], ["gain", "gain", "dB", 2, true], ["ssim", "SSIM", "", 3], ["psnr_measurement", "degraded", "dB", 2],
  ["psnr_best", "best step", "dB", 2], ["stop_step", "step of the estimate", "", 0], ["num_steps", "steps", "", 0],
  ["seconds", "time", "s", 1], ["noise_std", "noise level", "in the file", 2], ["rhat_max", "largest R-hat", "", 3],
  ["ess_min", "smallest effective sample size", "", 0], ["num_samples", "samples", "", 0],
  ["coverage_90", "coverage of the 90 % interval", "", 3], ["width_90", "mean width of the 90 % interval", "of 255", 1, false, 255],
  ["std_mean", "standard deviation, RMS", "of 255", 1, false, 255],
];
const HIDDEN = new Set(["name", "variant", "path", "files", "settings", "search", "notes", "error", "status", "config"]);

function drawFacts(image) {
  const nodes = [];
  if (image.error) nodes.push(make("p", {class: "failure", role: "alert"}, image.error));
  else if (image.status === "diverged") nodes.push(make("p", {class: "failure"}, "The fit diverged; a lower learning rate or another seed may help."));
  const numbers = NUMBERS.filter(([key]) => image[key] != null).map(([key, title, unit, digits, signed, factor]) => make("div", {},
    make("dt", {}, title),
    make("dd", {class: key === "rhat_max" && isUnconverged(image) ? "bad" : null},
      format(image[key] * (factor || 1), {digits, signed}), unit && make("small", {}, " " + unit))));
  if (numbers.length) nodes.push(make("h3", {}, "Figures"), make("dl", {class: "numbers"}, ...numbers));
  const notes = image.notes || [];
  if (notes.length) {
    nodes.push(make("h3", {}, "Notes"), make("ul", {}, ...notes.map((note) =>
      make("li", {class: /^not converged|diverged/.test(note) ? "bad" : null}, note))));
  }
  if (image.settings) {
    const lines = image.settings.changes.map(([key, value]) => make("tr", {}, make("td", {}, key), make("td", {}, value)));
    nodes.push(make("h3", {}, "Settings"), make("p", {}, image.settings.preset + (lines.length ? ", except:" : "")));
    if (lines.length) nodes.push(make("table", {}, make("tbody", {}, ...lines)));
  }
  if (image.files.length) {
    nodes.push(make("h3", {}, "Files"), make("div", {class: "links"},
      ...image.files.map((file) => make("a", {href: urlOf(image, file)}, file))));
  }
  const rest = Object.entries(image).filter(([key, value]) => !HIDDEN.has(key) && value != null && key !== "gain");
  const shown = (value) => Array.isArray(value) ? value.join(", ") : typeof value === "object" ? JSON.stringify(value) : String(value);
  nodes.push(make("details", {}, make("summary", {}, "All keys of summary.json"), make("table", {}, make("tbody", {},
    ...rest.map(([key, value]) => make("tr", {}, make("td", {}, key), make("td", {}, shown(value))))))));
  $("facts").replaceChildren(...nodes);
  $("facts").scrollTop = 0;
}

// ---- the dialog ----------------------------------------------------------------------------------------------------

const viewer = $("viewer");
let current = null;

function open(image) {
  const isOther = !current || current.name !== image.name;
  current = image;
  $("viewer-title").textContent = label(image);
  $("viewer-status").replaceChildren(...badges(image));
  const position = list.shown.indexOf(image);
  $("viewer-position").textContent = position < 0 ? "" : `${position + 1} of ${list.shown.length}`;
  $("previous").disabled = position <= 0;
  $("next").disabled = position < 0 || position + 1 >= list.shown.length;
  view.pictures = picturesOf(image);
  for (const side of ["left", "right"]) {
    $(side).replaceChildren(...view.pictures.map((picture) => make("option", {value: picture.key}, picture.title)));
  }
  if (!viewer.open) viewer.showModal();
  drawFacts(image);
  drawTabs(image);
  if (isOther) showAll();
}

function step(offset) {
  const next = list.shown[list.shown.indexOf(current) + offset];
  if (!current || !next) return;
  history.replaceState(null, "", "#" + encodePath(next.path));
  open(next);
}

function followHash() {
  let path = "";
  try { path = decodeURIComponent(location.hash.slice(1)); } catch { /* not one of our addresses */ }
  const image = byPath.get(path);
  if (image) open(image);
  else if (viewer.open) viewer.close();
}

function startViewer() {
  $("previous").addEventListener("click", () => step(-1));
  $("next").addEventListener("click", () => step(1));
  $("close").addEventListener("click", () => viewer.close());
  viewer.addEventListener("close", () => {
    current = null;
    history.replaceState(null, "", location.pathname + location.search);
  });
  viewer.addEventListener("click", (event) => { if (event.target === viewer) viewer.close(); });
  viewer.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("select")) return;
    if (event.key === "n") step(1);
    if (event.key === "p") step(-1);
  });
  $("tabs").addEventListener("keydown", (event) => {
    const tabs = [...$("tabs").children], index = tabs.indexOf(document.activeElement);
    const offset = {ArrowRight: 1, ArrowLeft: -1}[event.key];
    if (offset && index >= 0) tabs[(index + offset + tabs.length) % tabs.length].click();
  });
  addEventListener("hashchange", followHash);
  if (images.length === 1 && !location.hash) open(images[0]);
  else followHash();
}

startList();
startCompare();
startViewer();
document.documentElement.dataset.ready = "true";
})();
