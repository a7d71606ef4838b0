"use strict";
// The slice browser: labels over raw slices, and its ties to the charts along the stack.
(() => {
  const page = matseg.data.page;
  const browser = document.getElementById("browser");
  if (!page || !browser) return;
  browser.hidden = false;
  const at = (id) => document.getElementById(id);
  const [image, canvas, doubt, absent] = ["slice-image", "slice-labels", "slice-doubt", "slice-absent"].map(at);
  const { slices, classes } = page;
  const chosen = classes.map((item) => item.first);
  const visible = classes.map(() => true);
  const decoded = new Map();
  let current = -1;

  const rgb = (hex) => [1, 3, 5].map((from) => parseInt(hex.slice(from, from + 2), 16));
  const percent = (value) => `${(value * 100).toFixed(value < 0.1 ? 2 : 1)} %`;

  // Class indices of a label picture, found by the colours that its palette has.
  const decode = async (slice) => {
    if (decoded.has(slice)) return decoded.get(slice);
    const picture = new Image();
    picture.src = slice.labels;
    await picture.decode();
    const [width, height] = [picture.naturalWidth, picture.naturalHeight];
    const scratch = Object.assign(document.createElement("canvas"), { width, height });
    const context = scratch.getContext("2d", { willReadFrequently: true });
    context.drawImage(picture, 0, 0);
    const pixels = context.getImageData(0, 0, width, height).data;
    const index = new Map(page.palette.map((hex, position) => [parseInt(hex.slice(1), 16), position]));
    const labels = new Uint8Array(width * height).fill(255);
    for (let pixel = 0; pixel < labels.length; pixel += 1) {
      const found = index.get((pixels[4 * pixel] << 16) | (pixels[4 * pixel + 1] << 8) | pixels[4 * pixel + 2]);
      if (found !== undefined) labels[pixel] = found;
    }
    const result = { width, height, labels };
    decoded.set(slice, result);
    return result;
  };

  const paint = async () => {
    const slice = slices[current];
    if (!slice.labels) { canvas.width = canvas.height = 1; canvas.dataset.slice = current; return; }
    const { width, height, labels } = await decode(slice);
    if (slice !== slices[current]) return; // the reader was faster
    const outlines = at("outlines").checked;
    const table = chosen.map(rgb);
    const context = canvas.getContext("2d", { willReadFrequently: true }); // pixels are put, not drawn: keep it off the GPU
    Object.assign(canvas, { width, height });
    const shown = context.createImageData(width, height);
    const edge = (pixel, value) => (pixel % width + 1 < width && labels[pixel + 1] !== value)
      || (pixel + width < labels.length && labels[pixel + width] !== value)
      || (pixel % width > 0 && labels[pixel - 1] !== value) || (pixel >= width && labels[pixel - width] !== value);
    for (let pixel = 0; pixel < labels.length; pixel += 1) {
      const value = labels[pixel];
      if (slice.no_data && value === 255 && (pixel % width + Math.floor(pixel / width)) % 8 < 2) {
        shown.data.set([144, 144, 144, 255], 4 * pixel); // hatched: no data
      }
      if (value === 255 || !visible[value] || (outlines && !edge(pixel, value))) continue;
      shown.data.set(table[value], 4 * pixel);
      shown.data[4 * pixel + 3] = 255;
    }
    context.putImageData(shown, 0, 0);
    canvas.style.opacity = at("opacity").value / 100;
    canvas.dataset.slice = current;
    canvas.dataset.classes = visible.flatMap((on, index) => (on ? [index] : [])).join(" ");
  };

  // The whole slice fits the screen, until the reader zooms in.
  const size = () => {
    const [height, width] = slices[current].shape;
    at("layers").style.aspectRatio = `${width} / ${height}`;
    at("layers").style.width = `calc(min(100%, 80vh * ${width / height}) * ${at("zoom").value})`;
  };

  const show = (position, point = true) => {
    current = Math.max(0, Math.min(slices.length - 1, position));
    const slice = slices[current];
    const parts = classes.map((item, index) => `${item.name} ${percent(slice.fractions[index])}`).join(", ");
    image.hidden = !slice.image;
    if (slice.image) image.src = slice.image;
    image.alt = `Slice ${slice.index}, ${slice.name}, with its labels over it: ${parts}`;
    absent.hidden = Boolean(slice.image || slice.labels);
    absent.textContent = "Neither image nor labels can be shown.";
    size();
    doubt.hidden = !(slice.doubt && at("doubt").checked);
    if (slice.doubt) { doubt.src = slice.doubt; doubt.alt = `Low-confidence map of slice ${slice.index}`; }
    const { element } = matseg;
    at("where").replaceChildren(element("b", {}, slice.name), ` slice ${slice.index}, ${slice.shape[1]} × ${slice.shape[0]} pixels${
      slice.no_data ? `, ${percent(slice.no_data)} no data (hatched)` : ""}`,
      ...slice.reasons.map((reason) => element("span", { class: "tag" }, reason)));
    at("problems").replaceChildren(...slice.problems.map((text) => element("p", { class: "notice bad" }, text)));
    at("slider").value = current;
    at("previous").disabled = current === 0;
    at("next").disabled = current === slices.length - 1;
    [...at("classes").rows].forEach((row, index) => { row.cells[3].textContent = percent(slice.fractions[index]); });
    [...at("strip").children].forEach((button, index) => {
      if (index === current) {
        button.setAttribute("aria-current", "true");
        const strip = at("strip"); // by hand: scrollIntoView would move the page, too
        strip.scrollLeft = button.offsetLeft - strip.offsetLeft - (strip.clientWidth - button.clientWidth) / 2;
      } else button.removeAttribute("aria-current");
    });
    if (point) page.stack_charts.forEach((id) => matseg.charts.point(id, slice.index));
    paint();
  };

  const recolour = (index, colour) => {
    chosen[index] = colour;
    at("classes").rows[index].querySelector("input[type=color]").value = colour;
    matseg.charts.recolour(index, colour);
    document.querySelectorAll(`[data-class="${index}"]`).forEach((bar) => { bar.style.background = colour; });
  };
  const switchClass = (index) => {
    if (index >= classes.length) return;
    visible[index] = !visible[index];
    at("classes").rows[index].querySelector("input[type=checkbox]").checked = visible[index];
    paint();
  };

  const { element } = matseg;
  classes.forEach((item, index) => {
    const box = element("input", { type: "checkbox", "aria-label": `Show ${item.name}` });
    box.checked = true;
    box.addEventListener("change", () => { visible[index] = box.checked; paint(); });
    const colour = element("input", { type: "color", value: item.first, "aria-label": `Colour of ${item.name}` });
    colour.addEventListener("input", () => { recolour(index, colour.value); paint(); });
    at("classes").append(element("tr", {}, element("th", { scope: "row" }, item.name), element("td", {}, box),
      element("td", {}, colour), element("td", {})));
  });
  slices.forEach((slice, position) => {
    const button = element("button", { type: "button", "aria-label": `Slice ${slice.index}, ${slice.name}` });
    if (slice.image || slice.labels) button.append(element("img", { src: slice.image || slice.labels, alt: "", loading: "lazy" }));
    button.append(element("span", {}, String(slice.index)));
    button.addEventListener("click", () => show(position));
    at("strip").append(button);
  });

  at("slider").max = slices.length - 1;
  at("slider").addEventListener("input", () => show(Number(at("slider").value)));
  at("previous").addEventListener("click", () => show(current - 1));
  at("next").addEventListener("click", () => show(current + 1));
  at("opacity").addEventListener("input", () => { canvas.style.opacity = at("opacity").value / 100; });
  at("outlines").addEventListener("change", () => {
    if (at("outlines").checked && at("opacity").value < 90) at("opacity").value = 90;
    paint();
  });
  at("zoom").addEventListener("input", size);
  at("doubt-control").hidden = !slices.some((slice) => slice.doubt);
  at("doubt").addEventListener("change", () => show(current, false));
  at("safe-colours").addEventListener("click", () => { page.safe_palette.forEach((hex, index) => recolour(index, hex)); paint(); });
  at("own-colours").addEventListener("click", () => { classes.forEach((item, index) => recolour(index, item.colour)); paint(); });
  at("stage").addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    const fade = (by) => {
      at("opacity").value = Number(at("opacity").value) + by;
      at("opacity").dispatchEvent(new Event("input"));
    };
    const keys = {
      ArrowLeft: () => show(current - 1), ArrowRight: () => show(current + 1),
      PageUp: () => show(current - 5), PageDown: () => show(current + 5),
      Home: () => show(0), End: () => show(slices.length - 1),
      ArrowUp: () => fade(5), ArrowDown: () => fade(-5),
      o: () => at("outlines").click(), O: () => at("outlines").click(),
    };
    const act = keys[event.key] ?? (/^[1-9]$/.test(event.key) ? () => switchClass(Number(event.key) - 1) : null);
    if (!act) return;
    event.preventDefault();
    act();
  });
  // A click on a curve brings the nearest slice that the page holds.
  matseg.charts.onClick((id, x) => {
    if (!page.stack_charts.includes(id)) return;
    const distances = slices.map((slice) => Math.abs(slice.index - x));
    show(distances.indexOf(Math.min(...distances)));
    at("stage").focus();
  });
  show(Math.floor(slices.length / 2));
})();
