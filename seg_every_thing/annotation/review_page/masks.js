"use strict";
/* Masks: loaded in chunks as <script>s, since pages of file:// may fetch nothing, drawn from runs. */

const chunks = new Map(); // number -> { promise, resolve }

const chunk = (number) => {
  if (!chunks.has(number)) {
    const entry = {};
    entry.promise = new Promise((resolve, reject) => Object.assign(entry, { resolve, reject }));
    chunks.set(number, entry);
    const script = document.createElement("script");
    script.src = `review_files/masks/${number}.js`;
    script.onerror = () => entry.reject(new Error(`${script.src} is missing`));
    document.head.append(script);
  }
  return chunks.get(number);
};

/** Called by the chunks: runs of each of their objects. */
Review.masks = (number, runs) => chunk(number).resolve(runs);

/** Runs (outside, inside, outside, ...; down the columns) of an object's mask in its crop. */
Review.runsOf = async (object) => {
  const size = Review.run.objects_per_chunk;
  return (await chunk(Math.floor(object.index / size)).promise)[object.index % size];
};

const INSIDE = [255, 45, 120, 96]; // RGBA
const EDGE = [255, 45, 120, 255];

/** Draw a mask: a tint, and along its edge a line that can be seen in a tile, too. */
Review.drawMask = (canvas, [width, height], runs) => {
  const inside = new Uint8Array(width * height);
  let at = 0;
  runs.forEach((run, i) => {
    if (i % 2) inside.fill(1, at, at + run);
    at += run;
  });
  const image = new ImageData(width, height);
  const line = Math.max(1, Math.round(Math.max(width, height) / 128));
  for (let x = 0; x < width; x += 1) {
    for (let y = 0; y < height; y += 1) {
      const here = x * height + y;
      if (inside[here]) {
        const surrounded =
          x >= line && x < width - line && y >= line && y < height - line &&
          inside[here - line] && inside[here + line] &&
          inside[here - line * height] && inside[here + line * height];
        image.data.set(surrounded ? INSIDE : EDGE, 4 * (y * width + x));
      }
    }
  }
  canvas.width = width;
  canvas.height = height;
  canvas.getContext("2d").putImageData(image, 0, 0);
};

/** A crop with its box and its mask, as large as the square it is put in allows. */
Review.frame = (object, alt, failed) => {
  const frame = document.getElementById("frame").content.firstElementChild.cloneNode(true);
  const [image, canvas, box] = frame.children;
  const [width, height] = object.size;
  const longer = Math.max(width, height);
  frame.style.width = `${(100 * width) / longer}%`;
  frame.style.height = `${(100 * height) / longer}%`;
  if (!object.picture) {
    image.remove();
    frame.classList.add("without-picture");
  } else {
    image.alt = alt;
    image.src = `review_files/crops/${Math.floor(object.index / 1000)}/${object.index}.jpg`;
    image.onerror = () => failed(new Error("a picture is missing"));
  }
  const [left, top, right, bottom] = object.window;
  const [x, y, w, h] = object.box;
  box.style.left = `${(100 * (x - left)) / (right - left)}%`;
  box.style.top = `${(100 * (y - top)) / (bottom - top)}%`;
  box.style.width = `${(100 * w) / (right - left)}%`;
  box.style.height = `${(100 * h) / (bottom - top)}%`;
  Review.runsOf(object).then((runs) => Review.drawMask(canvas, object.size, runs), failed);
  return frame;
};
