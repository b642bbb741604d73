// Window and level: two sliders, or dragging on an image as on a console. Without it the static window stays.
(() => {
  "use strict";
  const controls = document.getElementById("controls");
  const width = document.getElementById("width");
  const level = document.getElementById("level");
  const shown = document.getElementById("shown");
  const curves = document.querySelectorAll("#window feFuncR, #window feFuncG, #window feFuncB");
  const start = { width: Number(width.value), level: Number(level.value) };

  function apply() {
    const low = Number(level.value) - Number(width.value) / 2;
    for (const curve of curves) {
      curve.setAttribute("slope", 100 / Number(width.value));
      curve.setAttribute("intercept", -low / Number(width.value));
    }
    shown.textContent = `window ${Number(width.value).toFixed(0)} %, level ${Number(level.value).toFixed(0)} %`;
  }

  function set(newWidth, newLevel) {
    width.value = newWidth;
    level.value = newLevel;
    apply();
  }

  function drag(image) {
    let from = null;
    image.addEventListener("pointerdown", (event) => {
      from = { x: event.clientX, y: event.clientY, width: Number(width.value), level: Number(level.value) };
      image.setPointerCapture(event.pointerId);
      event.preventDefault();
    });
    image.addEventListener("pointermove", (event) => {
      if (from === null) return;
      set(from.width + (event.clientX - from.x) / 2, from.level + (event.clientY - from.y) / 2);
    });
    for (const end of ["pointerup", "pointercancel"]) {
      image.addEventListener(end, () => { from = null; });
    }
    image.addEventListener("dblclick", () => set(start.width, start.level));
  }

  width.addEventListener("input", apply);
  level.addEventListener("input", apply);
  document.getElementById("reset").addEventListener("click", () => set(start.width, start.level));
  document.querySelectorAll("img.mr").forEach(drag);
  controls.hidden = false;
  apply();
})();
