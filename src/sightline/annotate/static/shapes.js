// Which pixels a shape marks. A pixel belongs to a shape if its centre does; pixel (0, 0) has its centre at (0.5, 0.5).
// A bitmap is {width, height, data}: one byte a pixel, row by row, 255 where marked. Drawing returns what it may have changed, a
// rectangle {left, top, right, bottom} of whole pixels, the last two exclusive.

const MARKED = 255;
const HALF_DIAGONAL = Math.SQRT1_2; // a disc of this radius holds the centre of a pixel wherever it lies

/** Draw an operation, as the server does. */
export function draw(bitmap, { kind, points, radius, erase }) {
  const value = erase || kind === "erase" ? 0 : MARKED;
  if (kind === "box") return box(bitmap, points, value);
  if (kind === "polygon") return polygon(bitmap, points, value);
  return stroke(bitmap, points, Math.max(radius, HALF_DIAGONAL), value);
}

export function whole({ width, height }) {
  return { left: 0, top: 0, right: width, bottom: height };
}

export function union(a, b) {
  return {
    left: Math.min(a.left, b.left),
    top: Math.min(a.top, b.top),
    right: Math.max(a.right, b.right),
    bottom: Math.max(a.bottom, b.bottom),
  };
}

function stroke(bitmap, points, radius, value) {
  const segments = points.map((point, k) => capsule(bitmap, points[Math.max(0, k - 1)], point, radius, value));
  return segments.reduce(union);
}

/** All pixels within `radius` of the segment from a to b. */
function capsule({ width, height, data }, [ax, ay], [bx, by], radius, value) {
  const area = {
    left: Math.max(0, Math.floor(Math.min(ax, bx) - radius)),
    top: Math.max(0, Math.floor(Math.min(ay, by) - radius)),
    right: Math.min(width, Math.ceil(Math.max(ax, bx) + radius)),
    bottom: Math.min(height, Math.ceil(Math.max(ay, by) + radius)),
  };
  const [dx, dy] = [bx - ax, by - ay];
  const length = dx * dx + dy * dy || 1;
  for (let y = area.top; y < area.bottom; y++) {
    for (let x = area.left; x < area.right; x++) {
      const [px, py] = [x + 0.5 - ax, y + 0.5 - ay];
      const along = Math.min(1, Math.max(0, (px * dx + py * dy) / length));
      const [ex, ey] = [px - along * dx, py - along * dy];
      if (ex * ex + ey * ey <= radius * radius) data[y * width + x] = value;
    }
  }
  return area;
}

/** The pixels between two corners, at least one each way. */
function box({ width, height, data }, [[ax, ay], [bx, by]], value) {
  const [left, right] = between(ax, bx, width);
  const [top, bottom] = between(ay, by, height);
  for (let y = top; y < bottom; y++) data.fill(value, y * width + left, y * width + right);
  return { left, top, right, bottom };
}

function between(a, b, size) {
  const [low, high] = [Math.min(a, b), Math.max(a, b)];
  const [start, stop] = [rounded(low), rounded(high)];
  const edges = start === stop && low < high ? [Math.floor(low), Math.floor(low) + 1] : [start, stop];
  return edges.map((edge) => clipped(edge, size));
}

/** To the nearest whole number, halves to the even one, as Python does. */
function rounded(value) {
  const nearest = Math.round(value);
  return nearest - value === 0.5 && nearest % 2 ? nearest - 1 : nearest;
}

/** The inside of a closed outline, by the even-odd rule; of one that holds no centre the pixels of its vertices. */
function polygon({ width, height, data }, points, value) {
  const ys = points.map(([, y]) => y);
  const top = clipped(Math.ceil(Math.min(...ys) - 0.5), height);
  const bottom = clipped(Math.ceil(Math.max(...ys) - 0.5), height);
  let held = false;
  for (let y = top; y < bottom; y++) {
    const crossed = crossings(points, y + 0.5).map((x) => clipped(Math.ceil(x - 0.5), width));
    for (let k = 0; k < crossed.length; k += 2) {
      data.fill(value, y * width + crossed[k], y * width + crossed[k + 1]);
      held ||= crossed[k] < crossed[k + 1];
    }
  }
  return held ? { left: 0, top, right: width, bottom } : dots({ width, height, data }, points, value);
}

/** Where the outline crosses the height y, from left to right. */
function crossings(points, y) {
  const found = [];
  points.forEach((point, k) => {
    const next = points[(k + 1) % points.length];
    const [[ax, ay], [bx, by]] = point[1] <= next[1] ? [point, next] : [next, point];
    if (ay <= y && y < by) found.push(ax + (y - ay) * ((bx - ax) / (by - ay)));
  });
  return found.sort((a, b) => a - b);
}

function dots(bitmap, points, value) {
  for (const [x, y] of points.map((point) => point.map(Math.floor))) {
    if (x >= 0 && y >= 0 && x < bitmap.width && y < bitmap.height) bitmap.data[y * bitmap.width + x] = value;
  }
  return whole(bitmap);
}

function clipped(edge, size) {
  return Math.min(size, Math.max(0, edge));
}
