/* The preview page: pictures from the shipped map, for where the sliders stand. */
"use strict";

const data = JSON.parse(document.getElementById("data").textContent);
const side = data.side, pixels = side * side;
const GREEN = [0, 160, 70], RED = [200, 0, 60], STRIPE = [30, 0, 10];
const period = Math.max(4, Math.round(side / 16));  // of the stripes
const settings = { tau: data.tau, size: data.length, magnitude: 2, draw: 0 };

/** The colours of a heat picture in 256 steps. */
const COLOURS = Array.from({ length: 256 }, (_, step) => {
  const place = (step / 255) * (data.colours.length - 1);
  const low = Math.min(Math.floor(place), data.colours.length - 2), part = place - low;
  return data.colours[low].map((c, n) => c + part * (data.colours[low + 1][n] - c));
});

const percent = (share) => `${(100 * share).toFixed(0)}\u00a0%`;
const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));

function unpackBits(text) {
  const packed = bytes(text), mask = new Uint8Array(pixels);
  for (let n = 0; n < pixels; n++) mask[n] = (packed[n >> 3] >> (7 - (n & 7))) & 1;
  return mask;
}

async function decode(uri) {
  const image = new Image();
  image.src = uri;
  await image.decode();
  const canvas = element("canvas", { width: side, height: side });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(image, 0, 0);
  return context.getImageData(0, 0, side, side).data;
}

async function load(image) {
  const raw = new DataView(bytes(image.map).buffer);
  const map = Float64Array.from({ length: pixels }, (_, n) => raw.getUint16(2 * n, true));
  const total = map.reduce((a, b) => a + b, 0);
  return { ...image, rgba: await decode(image.picture), map, total,
    integral: integralImage(map, side, side) };
}

/** The augmented copy that the settings ask for. */
function copyOf(image, policy) {
  const levels = image.copies[policy];
  return levels[Math.min(settings.magnitude, levels.length - 1)][settings.draw % data.draws];
}

/** Unpack those copies of an image, with integral images of what changes and of its importance. */
async function unpackCopies(image) {
  for (const copy of Object.keys(image.copies).map((policy) => copyOf(image, policy))) {
    if (copy.rgba) continue;
    const changed = unpackBits(copy.changed);
    const altered = Float64Array.from(changed, (one, n) => one * image.map[n]);
    Object.assign(copy, { rgba: await decode(copy.picture), lost: integralImage(changed, side, side),
      altered: integralImage(altered, side, side) });
  }
}

/* ---- the page ---- */

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

/** KeepRandAugment may break before a capital. */
function breakable(title) {
  return title.split(/(?<=[a-z])(?=[A-Z])/).flatMap((part) => [element("wbr"), part]);
}

function brightest(map) {
  return Float64Array.from(map).sort()[Math.floor(0.99 * (pixels - 1))] || 1;
}

function show(place, panel, image) {
  let figure = place.querySelector(`[data-title="${panel.title}"]`);
  if (!figure) {
    figure = element("figure", { "data-title": panel.title, class: panel.keep ? "keep" : "" },
      element("canvas", { width: side, height: side, role: "img" }), element("figcaption"));
    place.append(figure);
  }
  const canvas = figure.firstChild, caption = figure.lastChild;
  canvas.getContext("2d").putImageData(new ImageData(panel.rgba, side, side), 0, 0);
  const figures = panel.kept === undefined ? panel.note || ""
    : `${percent(panel.kept)} of importance kept,\n${percent(panel.area)} of pixels changed`;
  caption.replaceChildren(element("b", {}, ...breakable(panel.title)), element("span", { class: "soft" }, figures));
  if (panel.kept !== undefined) {
    const fill = element("i", { style: `width:${100 * Math.max(0, panel.kept)}%` });
    caption.append(element("span", { class: "meter", "aria-hidden": "true" }, fill));
  }
  canvas.setAttribute("aria-label", `${image.name}: ${panel.title}${figures && `, ${figures}`}`);
  if (panel.kept !== undefined) Object.assign(figure.dataset, { kept: panel.kept, area: panel.area });
  if (panel.box) {
    const { top, bottom, left, right } = panel.box;
    figure.dataset.box = [top, bottom, left, right].join(",");
  }
  if (panel.allowed !== undefined) figure.dataset.allowed = panel.allowed;
}

function section(article, name, columns) {
  let place = article.querySelector(`[data-group="${name}"]`);
  if (!place) {
    place = element("div", { class: "panels" });
    const style = `--columns:${columns}`;
    article.lastChild.append(element("section", { "data-group": name, style },
      element("h3", {}, name), place));
    return place;
  }
  return place.lastChild;
}

const status = document.getElementById("status");
let asked = 0;

/** Draw every image for the present settings; a later call ends an earlier one. */
async function update(images, articles) {
  const mine = ++asked, rows = new Map();
  status.textContent = "drawing \u2026";
  document.getElementById("tau-shown").textContent = settings.tau.toFixed(2);
  document.getElementById("size-shown").textContent = `${settings.size} px`;
  document.getElementById("magnitude-shown").textContent = data.magnitudes[settings.magnitude];
  for (const [number, image] of images.entries()) {
    await unpackCopies(image);
    await new Promise((go) => setTimeout(go, 0));  // the browser shows what is drawn
    if (mine !== asked) return;
    for (const group of methods(image, number, images)) {
      const title = group.name === "RandAugment"
        ? `RandAugment ${data.magnitudes[settings.magnitude]}` : group.name;
      if (!rows.has(title)) rows.set(title, []);
      rows.get(title).push(group);
      const place = section(articles[number], group.name, group.panels.length);
      for (const panel of group.panels) show(place, panel, image);
    }
  }
  const average = (groups, arm, key) =>
    percent(groups.reduce((sum, group) => sum + group[arm][key], 0) / groups.length);
  document.querySelector("#fidelity tbody").replaceChildren(...[...rows].map(([title, groups]) =>
    element("tr", {}, element("th", { scope: "row" }, title),
      ...[["plain", "kept"], ["keep", "kept"], ["plain", "area"], ["keep", "area"]]
        .map(([arm, key]) => element("td", {}, average(groups, arm, key))))));
  status.textContent = "";
}

/** Settings from the address, such as #tau=0.3&size=20&magnitude=12&draw=2. */
function readAddress() {
  const given = new URLSearchParams(location.hash.slice(1));
  const number = (name, low, high) => given.has(name) && Number.isFinite(Number(given.get(name)))
    ? Math.min(Math.max(Number(given.get(name)), low), high) : undefined;
  settings.tau = number("tau", 0, 1) ?? settings.tau;
  settings.size = Math.round(number("size", 1, side) ?? settings.size);
  settings.draw = Math.round(number("draw", 0, 1e6) ?? settings.draw);
  const level = data.magnitudes.indexOf(Number(given.get("magnitude")));
  if (level >= 0) settings.magnitude = level;
  for (const name of ["tau", "size", "magnitude"]) {
    document.getElementById(name).value = settings[name];
  }
}

async function main() {
  const images = await Promise.all(data.images.map(load));
  const articles = images.map((image) => {
    const article = element("article", { class: "card" }, element("h2", {}, image.name),
      element("p", { class: "soft" }, `The map explains: ${image.explained}`),
      element("div", { class: "groups" }));
    document.getElementById("images").append(article);
    const place = section(article, "What the network looks at", 2);
    show(place, { title: "image", rgba: image.rgba }, image);
    show(place, { title: "importance", rgba: heat(image.map, brightest(image.map)),
      note: "light above its 99 % quantile" }, image);
    return article;
  });
  const refresh = () => update(images, articles);
  for (const name of ["tau", "size", "magnitude"]) {
    document.getElementById(name).addEventListener("input", (event) => {
      settings[name] = Number(event.target.value);
      refresh();
    });
  }
  document.getElementById("draw").addEventListener("click", () => {
    settings.draw += 1;
    refresh();
  });
  addEventListener("hashchange", () => { readAddress(); refresh(); });
  readAddress();
  await refresh();
  document.body.dataset.ready = "yes";
}

main();
