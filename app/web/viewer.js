// The picture of a slide: zoom, pan, outlines by taxon. The data is what view.py's `picture` returns. A new confidence
// changes the outlines and leaves the view where it is; another slide starts from the whole.
const SVG = "http://www.w3.org/2000/svg";
let home = null, view = null, slide = null, chosen = null, dragged = false;
const part = (selector) => element.querySelector(selector);

function place(next) {
  const width = Math.min(home.width, Math.max(home.width / 60, next.width));
  const height = width * home.height / home.width;
  view = {
    width, height,
    x: Math.min(Math.max(next.x, 0), home.width - width),
    y: Math.min(Math.max(next.y, 0), home.height - height),
  };
  const svg = part(".slide");
  svg.setAttribute("viewBox", `${view.x} ${view.y} ${view.width} ${view.height}`);
  // A page must scroll under a finger where the whole slide is shown; closer, the finger moves the slide.
  svg.style.touchAction = width < home.width ? "none" : "pan-y";
  scaleBar();
}

// Pixels of the slide a pixel of the screen, and the corner of what is shown: beside it the element may be empty.
function screen() {
  const box = part(".slide").getBoundingClientRect();
  const scale = Math.max(view.width / box.width, view.height / box.height);
  return {
    scale, left: box.left + (box.width - view.width / scale) / 2, top: box.top + (box.height - view.height / scale) / 2,
  };
}

function zoom(factor, clientX, clientY) {
  const { scale, left, top } = screen();
  const fx = clientX === undefined ? 0.5 : (clientX - left) * scale / view.width;
  const fy = clientY === undefined ? 0.5 : (clientY - top) * scale / view.height;
  const width = Math.min(home.width, Math.max(home.width / 60, view.width * factor));
  const height = width * home.height / home.width;
  place({ width, x: view.x + (view.width - width) * fx, y: view.y + (view.height - height) * fy });
}

function scaleBar() {
  const bar = part(".bar"), um = props.value && props.value.umPerPx;
  bar.hidden = !um;
  if (!um) return;
  const perScreen = um * screen().scale;
  const most = Math.min(140, part(".strip").clientWidth / 4) * perScreen, power = 10 ** Math.floor(Math.log10(most));
  const length = [5, 2, 1].map((step) => step * power).find((step) => step <= most);
  bar.style.width = `${length / perScreen}px`;
  bar.firstElementChild.textContent = length < 1000 ? `${length} µm` : `${length / 1000} mm`;
}

function rectangle([x1, y1, x2, y2]) {
  const shape = document.createElementNS(SVG, "rect"), side = Math.min(x2 - x1, y2 - y1);
  for (const [name, value] of Object.entries({ x: x1, y: y1, width: x2 - x1, height: y2 - y1, rx: 0.25 * side })) {
    shape.setAttribute(name, value);
  }
  return shape;
}

function render() {
  const data = props.value;
  part(".viewer").hidden = !data;
  if (!data) { slide = null; return; }
  const svg = part(".slide"), image = part("image");
  svg.style.aspectRatio = `${data.width} / ${data.height}`;
  image.setAttribute("width", data.width);
  image.setAttribute("height", data.height);
  if (image.getAttribute("href") !== data.url) image.setAttribute("href", data.url);
  part(".halo").replaceChildren(...data.grains.map((grain) => rectangle(grain.box)));
  part(".grains").replaceChildren(...data.grains.map((grain, index) => {
    const shape = rectangle(grain.box);
    shape.style.stroke = data.taxa[grain.taxon].colour;
    shape.dataset.grain = index;
    shape.dataset.of = data.taxa[grain.taxon].name;
    shape.classList.toggle("chosen", String(grain.box) === chosen);
    return shape;
  }));
  if (slide !== data.url) {
    slide = data.url;
    chosen = null;
    home = { width: data.width, height: data.height };
    place({ x: 0, y: 0, width: home.width });
  } else {
    place(view);
  }
}

function tell(event) {
  const tip = part(".tip"), index = event.target.dataset && event.target.dataset.grain;
  tip.hidden = index === undefined;
  if (tip.hidden) return;
  const { box: [x1, y1, x2, y2], label } = props.value.grains[index], um = props.value.umPerPx;
  const size = um ? `${((x2 - x1) * um).toFixed(1)} × ${((y2 - y1) * um).toFixed(1)} µm`
    : `${Math.round(x2 - x1)} × ${Math.round(y2 - y1)} px`;
  tip.textContent = `${label}, ${size} · click or Enter: why`;
  const box = part(".slide").getBoundingClientRect(), below = event.clientY - box.top + 16;
  const above = (event.top ?? event.clientY) - box.top - tip.offsetHeight - 8;
  tip.style.left = `${Math.max(6, Math.min(event.clientX - box.left + 14, box.width - tip.offsetWidth - 6))}px`;
  tip.style.top = `${below + tip.offsetHeight + 6 > box.height ? above : below}px`;
}

function choose(shape) {
  const grain = props.value.grains[shape.dataset.grain];
  chosen = String(grain.box);
  for (const other of element.querySelectorAll(".grains rect")) other.classList.toggle("chosen", other === shape);
  return grain;
}

// To the next grain or the one before, moved into sight.
function step(by) {
  const shapes = [...part(".grains").children], at = shapes.findIndex((shape) => shape.matches(".chosen"));
  if (!shapes.length) return;
  const shape = shapes[at < 0 && by < 0 ? shapes.length - 1 : (at + by + shapes.length) % shapes.length];
  const [x1, y1, x2, y2] = choose(shape).box;
  if (x1 < view.x || y1 < view.y || x2 > view.x + view.width || y2 > view.y + view.height) {
    place({ width: view.width, x: (x1 + x2 - view.width) / 2, y: (y1 + y2 - view.height) / 2 });
  }
  const box = shape.getBoundingClientRect();
  tell({ target: shape, clientX: box.right, clientY: box.bottom, top: box.top });
}

// The server answers below the picture with what speaks for the grain's name.
function explain(shape) {
  const grain = choose(shape);
  trigger("click", { place: grain.place, conf: props.value.conf });
}

const ACTS = {
  in: () => zoom(1 / 1.5), out: () => zoom(1.5), home: () => place({ x: 0, y: 0, width: home.width }),
  next: () => step(1), before: () => step(-1),
  boxes: () => part(".viewer").classList.toggle("bare"),
  full: () => document.fullscreenElement ? document.exitFullscreen() : part(".viewer").requestFullscreen(),
};
const KEYS = { "+": "in", "=": "in", "-": "out", "0": "home", n: "next", p: "before", b: "boxes", f: "full" };
const fingers = new Map();

element.addEventListener("click", (event) => {
  const button = event.target.closest("[data-do]");
  if (button) ACTS[button.dataset.do]();
  else if (event.target.dataset && event.target.dataset.grain !== undefined && !dragged) explain(event.target);
});
element.addEventListener("dblclick", (event) => {
  if (event.target.closest(".slide")) zoom(1 / 2.5, event.clientX, event.clientY);
});
element.addEventListener("keydown", (event) => {
  const move = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
  const grain = event.key === "Enter" && event.target.matches(".viewer") && part(".chosen");
  if (event.ctrlKey || event.metaKey || event.altKey || !(move || grain || KEYS[event.key])) return;
  event.preventDefault();
  if (move) place({ width: view.width, x: view.x + move[0] * view.width / 8, y: view.y + move[1] * view.height / 8 });
  else if (grain) explain(grain);
  else ACTS[KEYS[event.key]]();
});
element.addEventListener("wheel", (event) => {
  if (!event.target.closest(".slide")) return;
  // At the whole slide, scrolling away from it moves the page on.
  if (event.deltaY > 0 && view.width >= home.width) return;
  event.preventDefault();
  zoom(Math.exp(Math.max(-0.5, Math.min(0.5, event.deltaY / 400))), event.clientX, event.clientY);
}, { passive: false });
element.addEventListener("pointerdown", (event) => {
  if (!event.target.closest(".slide")) return;
  fingers.set(event.pointerId, event);
  dragged = false;
});
element.addEventListener("pointermove", (event) => {
  tell(event);
  const before = fingers.get(event.pointerId);
  if (!before) return;
  const perScreen = screen().scale;
  if (fingers.size === 2) {
    const [other] = [...fingers.values()].filter((finger) => finger.pointerId !== event.pointerId);
    const apart = (finger) => Math.hypot(finger.clientX - other.clientX, finger.clientY - other.clientY);
    zoom(apart(before) / Math.max(1, apart(event)), other.clientX, other.clientY);
  } else if (view.width < home.width) {
    dragged = dragged || Math.hypot(event.clientX - before.clientX, event.clientY - before.clientY) > 2;
    place({
      width: view.width, x: view.x - (event.clientX - before.clientX) * perScreen,
      y: view.y - (event.clientY - before.clientY) * perScreen,
    });
  }
  fingers.set(event.pointerId, event);
});
for (const end of ["pointerup", "pointercancel", "pointerleave"]) {
  element.addEventListener(end, (event) => { fingers.delete(event.pointerId); if (end !== "pointerup") tell({ target: {} }); });
}

// Gradio puts a number beyond the slider's ends right once its field is left.
document.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && event.target.closest("#confidence")) event.target.blur();
});

// A row of the counts brings out its grains.
document.addEventListener("pointerover", (event) => {
  const row = event.target.closest && event.target.closest("[data-taxon]"), name = row && row.dataset.taxon;
  part(".viewer").classList.toggle("picking", Boolean(name));
  for (const shape of element.querySelectorAll(".grains rect")) {
    shape.classList.toggle("dim", Boolean(name) && shape.dataset.of !== name);
  }
});
new ResizeObserver(() => { tell({ target: {} }); if (view) scaleBar(); }).observe(part(".slide"));
watch("value", render);
render();
