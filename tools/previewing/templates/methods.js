/* Pictures and methods of the preview page, computed with boxes.js from a shipped map. */
"use strict";

/* ---- pixels: every function returns a new RGBA array ---- */

/** A heat picture of values (side x side), lightest from `high` on; NaN is left clear. */
function heat(values, high) {
  const rgba = new Uint8ClampedArray(4 * pixels);
  for (let n = 0; n < pixels; n++) {
    if (Number.isNaN(values[n])) continue;
    const colour = COLOURS[Math.min(Math.round(255 * values[n] / high), 255)];
    for (let c = 0; c < 3; c++) rgba[4 * n + c] = colour[c];
    rgba[4 * n + 3] = 255;
  }
  return rgba;
}

/** Values of candidates, by top-left corner or centre, at their boxes' centres; NaN elsewhere. */
function centred(values, boxes, size, border) {
  const placed = new Float64Array(pixels).fill(NaN), columns = boxes.columns.length;
  const down = border === "clip" ? 0 : Math.floor(size[0] / 2);
  const right = border === "clip" ? 0 : Math.floor(size[1] / 2);
  for (let n = 0; n < values.length; n++) {
    placed[(Math.floor(n / columns) + down) * side + (n % columns) + right] = values[n];
  }
  return placed;
}

/** The image, green where a centre is allowed, red under dark stripes where not. */
function tint(rgba, marks) {
  const out = rgba.slice();
  for (let n = 0; n < pixels; n++) {
    if (Number.isNaN(marks[n])) continue;
    const striped = (n % side + Math.floor(n / side)) % period < period / 4;
    const over = marks[n] ? GREEN : striped ? STRIPE : RED;
    for (let c = 0; c < 3; c++) out[4 * n + c] = 0.6 * rgba[4 * n + c] + 0.4 * over[c];
  }
  return out;
}

/** `under`, with the box's pixels from fill(n, c). */
function replaced(under, box, fill) {
  const out = under.slice();
  for (let y = box.top; y < box.bottom; y++) {
    for (let x = box.left; x < box.right; x++) {
      const n = y * side + x;
      for (let c = 0; c < 3; c++) out[4 * n + c] = fill(n, c);
    }
  }
  return out;
}

const noises = new Map();

/** Normal noise around the mean colour, the same for a seed at every call. */
function noise(seed) {
  if (!noises.has(seed)) {
    const draw = uniformNumbers(seed);
    noises.set(seed, Float32Array.from({ length: 3 * pixels }, () =>
      Math.sqrt(-2 * Math.log(1 - draw())) * Math.cos(2 * Math.PI * draw())));
  }
  const values = noises.get(seed);
  return (n, c) => data.fill[c] + data.std[c] * values[3 * n + c];
}

/* ---- the methods ---- */

function mean(values, allowed) {
  let sum = 0, count = 0;
  for (let n = 0; n < values.length; n++) {
    if (allowed[n]) { sum += values[n]; count += 1; }
  }
  return sum / count;
}

function areas(boxes) {
  const out = new Float64Array(boxes.rows.length * boxes.columns.length);
  let n = 0;
  for (const [top, bottom] of boxes.rows) {
    for (const [left, right] of boxes.columns) out[n++] = (bottom - top) * (right - left);
  }
  return out;
}

/** A method on an image: the candidates, which a Keep arm allows, a box of each arm for one u. */
function choose(image, size, border, keepSide, u) {
  const boxes = candidateBoxes(size, side, side, border);
  const sums = boxSums(image.integral, boxes, side);
  const allowed = allowedBoxes(sums, settings.tau, keepSide);
  const every = new Uint8Array(allowed.length).fill(1);
  return { boxes, sums, allowed, every, size, border,
    plainBox: selectBox(boxes, drawIndex(every, u)),
    keepBox: selectBox(boxes, drawIndex(allowed, u)) };
}

const inside = (integral, box) => boxSums(integral,
  { rows: [[box.top, box.bottom]], columns: [[box.left, box.right]] }, side)[0];

/** Share of importance untouched and of area changed, by one box of a cut. */
const afterCut = (image, box) => ({
  kept: 1 - inside(image.integral, box) / (image.total || 1),
  area: (box.bottom - box.top) * (box.right - box.left) / pixels, box });

function meansOfCut(image, chosen, allowed) {
  return { kept: 1 - mean(chosen.sums, allowed) / (image.total || 1),
    area: mean(areas(chosen.boxes), allowed) / pixels };
}

function cut(image, number, name, size, border, fill, extras) {
  const draw = uniformNumbers(7919 * settings.draw + 104729 * number + name.length);
  const chosen = choose(image, size(draw), border, "low", draw());
  const panels = extras ? extras(image, chosen) : [];
  for (const [title, box, keep] of [[name, chosen.plainBox, false],
    [`Keep${name}`, chosen.keepBox, true]]) {
    panels.push({ title, keep, rgba: replaced(image.rgba, box, fill), ...afterCut(image, box) });
  }
  return { name, panels, plain: meansOfCut(image, chosen, chosen.every),
    keep: meansOfCut(image, chosen, chosen.allowed) };
}

function allowedPanel(title, image, chosen) {
  const marks = centred(chosen.allowed, chosen.boxes, chosen.size, chosen.border);
  const share = chosen.allowed.reduce((a, b) => a + b, 0) / chosen.allowed.length;
  return { title, rgba: tint(image.rgba, marks), note: `${percent(share)} of the boxes allowed`,
    allowed: chosen.allowed.reduce((a, b) => a + b, 0) };
}

function scorePanels(image, chosen) {
  const placed = centred(chosen.sums, chosen.boxes, chosen.size, chosen.border);
  const high = chosen.sums.reduce((a, b) => Math.max(a, b), 1);
  return [{ title: "scores of the boxes", rgba: heat(placed, high), note: "by centre" },
    allowedPanel("centres KeepCutout allows", image, chosen)];
}

function paste(image, number, name) {
  const copy = copyOf(image, name);
  const draw = uniformNumbers(7919 * settings.draw + 104729 * number + 31);
  const size = [settings.size, settings.size];
  const chosen = choose(image, size, "inside", "high", draw());
  const { lost, altered } = copy;
  const changed = lost[lost.length - 1], mass = altered[altered.length - 1];
  const share = (back, area) => ({ kept: 1 - (mass - back) / (image.total || 1),
    area: (changed - area) / pixels });
  const backMean = mean(boxSums(altered, chosen.boxes, side), chosen.allowed);
  const areaMean = mean(boxSums(lost, chosen.boxes, side), chosen.allowed);
  const box = chosen.keepBox;
  const kept = replaced(copy.rgba, box, (n, c) => image.rgba[4 * n + c]);
  return { name, plain: share(0, 0), keep: share(backMean, areaMean), panels: [
    allowedPanel("centres of pastes allowed", image, chosen),
    { title: name, rgba: copy.rgba, ...share(0, 0) },
    { title: `Keep${name}`, keep: true, rgba: kept, box,
      ...share(inside(altered, box), inside(lost, box)) }] };
}

function erasedSize(draw) {
  const low = 0.3, high = 1 / 0.3, ratio = Math.sqrt(low + (high - low) * draw());
  const fit = (length) => Math.min(Math.max(Math.round(length), 1), side);
  return [fit(settings.size * ratio), fit(settings.size / ratio)];
}

function methods(image, number, images) {
  const square = () => [settings.size, settings.size];
  const even = () => [2 * Math.floor(settings.size / 2), 2 * Math.floor(settings.size / 2)];
  const other = images[(number + 1) % images.length];
  const groups = [
    cut(image, number, "Cutout", square, "clip", (n, c) => data.fill[c], scorePanels),
    cut(image, number, "RandomErasing", erasedSize, "inside", noise(settings.draw % 8),
      (one, chosen) => [allowedPanel("centres allowed", one, chosen)]),
  ];
  if (other !== image) {
    groups.push(cut(image, number, "CutMix", even, "clip", (n, c) => other.rgba[4 * n + c],
      (one, chosen) => [allowedPanel("centres allowed", one, chosen)]));
  }
  groups.push(paste(image, number, "RandAugment"));
  groups.push(paste(image, number, "AutoAugment"));
  return groups;
}
