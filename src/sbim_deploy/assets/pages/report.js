// Window and level: two sliders, or dragging on an image as on a console. All images zoom together, so that a place is
// seen in each of them. Without this script the static window stays.
(() => {
  "use strict";
  const LARGEST = 8;
  const controls = document.getElementById("controls");
  const width = document.getElementById("width");
  const level = document.getElementById("level");
  const zoom = document.getElementById("zoom");
  const shown = document.getElementById("shown");
  const curves = document.querySelectorAll("#window feFuncR, #window feFuncG, #window feFuncB");
  const images = document.querySelectorAll(".panels img");
  const start = { width: Number(width.value), level: Number(level.value) };
  // The point that stays where it is, as fractions of the image: what is seen lies within the image then.
  const place = { x: 0.5, y: 0.5 };

  const within = (value, low, high) => Math.min(high, Math.max(low, value));

  function apply() {
    const low = Number(level.value) - Number(width.value) / 2;
    for (const curve of curves) {
      curve.setAttribute("slope", 100 / Number(width.value));
      curve.setAttribute("intercept", -low / Number(width.value));
    }
    const scale = Number(zoom.value);
    for (const image of images) {
      image.style.transformOrigin = `${100 * place.x}% ${100 * place.y}%`;
      image.style.transform = scale === 1 ? "" : `scale(${scale})`;
    }
    shown.textContent = `window ${Number(width.value).toFixed(0)} %, level ${Number(level.value).toFixed(0)} %, ` +
      `zoom ${scale}`;
  }

  function set(newWidth, newLevel) {
    width.value = newWidth;
    level.value = newLevel;
    apply();
  }

  // What lies at (x, y), fractions of what is seen, stays there.
  function zoomAt(x, y, newScale) {
    const scale = Number(zoom.value);
    const to = within(newScale, 1, LARGEST);
    if (to > 1) {
      const stays = (origin, seen) => within((to * (origin + (seen - origin) / scale) - seen) / (to - 1), 0, 1);
      place.x = stays(place.x, x);
      place.y = stays(place.y, y);
    }
    zoom.value = to;
    apply();
  }

  // Moves what is seen by fractions of it.
  function move(x, y) {
    const scale = Number(zoom.value);
    if (scale === 1) return;
    place.x = within(place.x + x / (scale - 1), 0, 1);
    place.y = within(place.y + y / (scale - 1), 0, 1);
    apply();
  }

  function reset() {
    zoom.value = 1;
    place.x = place.y = 0.5;
    set(start.width, start.level);
  }

  function inFrame(frame, event) {
    const box = frame.getBoundingClientRect();
    return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
  }

  function frameOf(image) {
    const frame = document.createElement("span");
    frame.className = "frame";
    frame.tabIndex = 0;
    image.replaceWith(frame);
    frame.append(image);
    return frame;
  }

  function drag(image, frame) {
    let from = null;
    const windows = image.classList.contains("mr");
    image.addEventListener("pointerdown", (event) => {
      from = { x: event.clientX, y: event.clientY, width: Number(width.value), level: Number(level.value) };
      image.setPointerCapture(event.pointerId);
      event.preventDefault();
    });
    image.addEventListener("pointermove", (event) => {
      if (from === null) return;
      if (event.shiftKey) {
        const box = frame.getBoundingClientRect();
        move((from.x - event.clientX) / box.width, (from.y - event.clientY) / box.height);
        Object.assign(from, { x: event.clientX, y: event.clientY });
      } else if (windows) {
        set(from.width + (event.clientX - from.x) / 2, from.level + (event.clientY - from.y) / 2);
      }
    });
    for (const end of ["pointerup", "pointercancel"]) {
      image.addEventListener(end, () => { from = null; });
    }
  }

  function watch(image) {
    const frame = frameOf(image);
    drag(image, frame);
    frame.addEventListener("dblclick", (event) => {
      const scale = Number(zoom.value);
      zoomAt(...inFrame(frame, event), scale >= LARGEST ? 1 : 2 * scale);
    });
    frame.addEventListener("wheel", (event) => {
      if (!event.ctrlKey) return;
      event.preventDefault();
      zoomAt(...inFrame(frame, event), Number(zoom.value) + (event.deltaY < 0 ? 0.5 : -0.5));
    }, { passive: false });
    const keys = {
      "+": () => zoomAt(0.5, 0.5, Number(zoom.value) + 0.5),
      "-": () => zoomAt(0.5, 0.5, Number(zoom.value) - 0.5),
      "0": reset,
      ArrowLeft: () => move(-0.1, 0),
      ArrowRight: () => move(0.1, 0),
      ArrowUp: () => move(0, -0.1),
      ArrowDown: () => move(0, 0.1),
    };
    frame.addEventListener("keydown", (event) => {
      if (!(event.key in keys) || (event.key.startsWith("Arrow") && Number(zoom.value) === 1)) return;
      event.preventDefault();
      keys[event.key]();
    });
  }

  for (const control of [width, level, zoom]) control.addEventListener("input", apply);
  document.getElementById("reset").addEventListener("click", reset);
  images.forEach(watch);
  controls.hidden = false;
  apply();
})();
