// Opens the volume that the page holds in NiiVue, once it is asked for: it takes the graphics card's memory.
(() => {
  "use strict";
  const section = document.getElementById("volume");
  const button = document.getElementById("open-volume");
  const told = document.getElementById("volume-told");
  const bytes = () => Uint8Array.from(atob(document.getElementById("nifti").textContent), (each) => each.charCodeAt(0));

  async function open() {
    button.disabled = true;
    const canvas = section.querySelector("canvas");
    if (document.createElement("canvas").getContext("webgl2") === null) {
      told.textContent = "This browser draws no volumes (WebGL 2): open the file in a viewer of NIfTI.";
      section.dataset.state = "failed";
      return;
    }
    canvas.parentElement.hidden = false;
    try {
      const viewer = new niivue.Niivue({
        backColor: [0, 0, 0, 1],
        dragAndDropEnabled: false,
        isRadiologicalConvention: true,
        show3Dcrosshair: true,
        logLevel: "error",
      });
      await viewer.attachToCanvas(canvas);
      const volume = await niivue.NVImage.loadFromUrl({ url: bytes().buffer, name: section.dataset.name });
      viewer.addVolume(volume);
      section.dataset.shape = viewer.volumes[0].dims.slice(1).join(" ");
      section.dataset.state = "open";
      button.hidden = true;
    } catch (error) {
      told.textContent = `The volume cannot be shown here (${error}): open the file in a viewer of NIfTI.`;
      section.dataset.state = "failed";
    }
  }

  section.hidden = false;
  button.addEventListener("click", open);
})();
