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

function zoom(factor, clientX, clientY) {
  const box = part(".slide").getBoundingClientRect();
  const fx = clientX === undefined ? 0.5 : (clientX - box.left) / box.width;
  const fy = clientY === undefined ? 0.5 : (clientY - box.top) / box.height;
  const width = Math.min(home.width, Math.max(home.width / 60, view.width * factor));
  const height = width * home.height / home.width;
  place({ width, x: view.x + (view.width - width) * fx, y: view.y + (view.height - height) * fy });
}

function scaleBar() {
  const bar = part(".bar"), um = props.value && props.value.umPerPx;
  bar.hidden = !um;
  if (!um) return;
  const perScreen = view.width * um / part(".slide").getBoundingClientRect().width;
  const most = 140 * perScreen, power = 10 ** Math.floor(Math.log10(most));
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
  tip.textContent = `${label}, ${size} · click: why`;
  const box = part(".viewer").getBoundingClientRect();
  tip.style.left = `${Math.min(event.clientX - box.left + 14, box.width - tip.offsetWidth - 6)}px`;
  tip.style.top = `${Math.min(event.clientY - box.top + 16, box.height - tip.offsetHeight - 6)}px`;
}

// The server answers below the picture with what speaks for the grain's name.
function explain(shape) {
  const grain = props.value.grains[shape.dataset.grain];
  chosen = String(grain.box);
  for (const other of element.querySelectorAll(".grains rect")) other.classList.toggle("chosen", other === shape);
  trigger("click", { place: grain.place, conf: props.value.conf });
}

const ACTS = {
  in: () => zoom(1 / 1.5), out: () => zoom(1.5), home: () => place({ x: 0, y: 0, width: home.width }),
  boxes: () => part(".viewer").classList.toggle("bare"),
  full: () => document.fullscreenElement ? document.exitFullscreen() : part(".viewer").requestFullscreen(),
};
const KEYS = { "+": "in", "=": "in", "-": "out", "0": "home", b: "boxes", f: "full" };
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
  const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
  if (event.ctrlKey || event.metaKey || event.altKey || !(step || KEYS[event.key])) return;
  event.preventDefault();
  if (step) place({ width: view.width, x: view.x + step[0] * view.width / 8, y: view.y + step[1] * view.height / 8 });
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
  const perScreen = view.width / part(".slide").getBoundingClientRect().width;
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

// A row of the counts brings out its grains.
document.addEventListener("pointerover", (event) => {
  const row = event.target.closest && event.target.closest("[data-taxon]"), name = row && row.dataset.taxon;
  part(".viewer").classList.toggle("picking", Boolean(name));
  for (const shape of element.querySelectorAll(".grains rect")) {
    shape.classList.toggle("dim", Boolean(name) && shape.dataset.of !== name);
  }
});
window.addEventListener("resize", () => { if (view) scaleBar(); });
watch("value", render);
render();
