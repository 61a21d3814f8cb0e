/* Scores of all boxes, the exact tau-quantile, one box: keepaugment/regions.py in the page.
   Whole numbers up to 65535 for importance, so every sum is exact; Math.fround rounds a score to
   32 bits as the library does, so equal scores tie there and here. Rows before columns. */
"use strict";

/** Sums of map (H x W) above and to the left of every corner: (H + 1) x (W + 1). */
function integralImage(map, height, width) {
  const sums = new Float64Array((height + 1) * (width + 1));
  for (let y = 0; y < height; y++) {
    let row = 0;
    for (let x = 0; x < width; x++) {
      row += map[y * width + x];
      sums[(y + 1) * (width + 1) + x + 1] = sums[y * (width + 1) + x + 1] + row;
    }
  }
  return sums;
}

/** First and past-the-last pixel of every place of a box of `side` on an axis. */
function boxEdges(side, length, border) {
  const edges = [];
  if (border === "clip") {
    const clamp = (p) => Math.min(Math.max(p, 0), length);
    for (let c = 0; c < length; c++) {
      const start = c - Math.floor(side / 2);
      edges.push([clamp(start), clamp(start + side)]);
    }
  } else {
    for (let start = 0; start + side <= length; start++) edges.push([start, start + side]);
  }
  return edges;
}

function candidateBoxes(size, height, width, border) {
  return { rows: boxEdges(size[0], height, border), columns: boxEdges(size[1], width, border) };
}

/** The sum inside every candidate, row by row, not rounded. */
function boxSums(integral, boxes, width) {
  const sums = new Float64Array(boxes.rows.length * boxes.columns.length);
  let n = 0;
  for (const [top, bottom] of boxes.rows) {
    const above = top * (width + 1), below = bottom * (width + 1);
    for (const [left, right] of boxes.columns) {
      sums[n++] = integral[below + right] - integral[below + left]
        - integral[above + right] + integral[above + left];
    }
  }
  return sums;
}

/** 1 where a score is at or below ("low") or at or above ("high") the tau-quantile. */
function allowedBoxes(sums, tau, side) {
  const scores = Float32Array.from(sums), sorted = scores.slice().sort();
  const millionths = (scores.length - 1) * Math.round(tau * 1e6);
  const rank = side === "low" ? Math.floor(millionths / 1e6) : Math.ceil(millionths / 1e6);
  const limit = sorted[rank];
  const allowed = new Uint8Array(scores.length);
  for (let n = 0; n < scores.length; n++) {
    allowed[n] = side === "low" ? scores[n] <= limit : scores[n] >= limit;
  }
  return allowed;
}

/** The number of one of the allowed boxes, uniformly by u in [0, 1). */
function drawIndex(allowed, u) {
  let count = 0;
  for (const one of allowed) count += one;
  let rank = Math.min(Math.floor(Math.fround(u * count)), count - 1);
  return allowed.findIndex((one) => one && rank-- === 0);
}

/** Edges of candidate number `index`. */
function selectBox(boxes, index) {
  const [top, bottom] = boxes.rows[Math.floor(index / boxes.columns.length)];
  const [left, right] = boxes.columns[index % boxes.columns.length];
  return { top, bottom, left, right };
}

/** Uniform numbers in [0, 1), 24 bits each, that follow from a seed (mulberry32). */
function uniformNumbers(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 8) / 16777216;
  };
}
