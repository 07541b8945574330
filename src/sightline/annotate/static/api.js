// What the page asks of its server.

/** The server answered, and said no. */
export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

async function ask(path, options = {}) {
  const response = await fetch(path, { signal: AbortSignal.timeout(60_000), ...options });
  if (!response.ok) throw new Refused(response.status, await reason(response));
  return response;
}

async function reason(response) {
  const text = await response.text();
  try {
    return JSON.parse(text).error;
  } catch {
    return text || response.statusText;
  }
}

function post(path, body) {
  const headers = { "Content-Type": "application/json" };
  return ask(path, { method: "POST", headers, body: JSON.stringify(body) });
}

const json = async (response) => (await response).json();
const of = (i, what) => `/api/images/${i}/${what}`;

export const picture = (i) => of(i, "picture");
export const thumbnail = (i) => of(i, "thumbnail");
export const map = (i) => of(i, "map");
export const project = () => json(ask("/api/project"));
export const next = (i) => json(ask(`/api/next?after=${i}`));
export const since = (i, version) => json(ask(of(i, `operations?since=${version}`)));
export const operate = (i, operations, seconds) => json(post(of(i, "operations"), { operations, seconds }));
export const judge = (i, verdict, seconds) => json(post(of(i, "verdict"), { verdict, seconds }));
export const exported = async () => (await post("/api/export", {})).blob();

/** The mask as everybody has drawn it so far: {version, data}, one byte a pixel. */
export async function mask(i) {
  const response = await ask(of(i, "mask"), { cache: "no-store" });
  const picture = await createImageBitmap(await response.blob());
  return { version: Number(response.headers.get("X-Version")), data: bytes(picture) };
}

/** One channel of a picture, read in strips: browsers limit the size of one canvas. */
function bytes(picture) {
  const { width, height } = picture;
  const strip = document.createElement("canvas");
  strip.width = width;
  strip.height = Math.min(height, Math.ceil(4e6 / width));
  const context = strip.getContext("2d", { willReadFrequently: true });
  const data = new Uint8Array(width * height);
  for (let top = 0; top < height; top += strip.height) {
    context.drawImage(picture, 0, -top);
    const rows = Math.min(strip.height, height - top);
    const pixels = new Uint32Array(context.getImageData(0, 0, width, rows).data.buffer);
    for (let k = 0; k < pixels.length; k++) data[top * width + k] = pixels[k] & 255;
  }
  return data;
}
