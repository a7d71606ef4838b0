"use strict";
// Two layers of one image, with a seam between them that a reader moves.
(() => {
  const images = matseg.data.page ? matseg.data.page.images : [];
  const at = (id) => document.getElementById(id);
  if (!images.length) return;
  at("wipe-browser").hidden = false;
  const names = { image: "image", label: "label", prediction: "prediction", wrong: "wrong pixels" };
  const { element } = matseg;
  let current = 0;

  images.forEach((item, index) => {
    const score = item.mean_iou === null ? "" : `, mean IoU ${item.mean_iou.toFixed(3)}`;
    at("wipe-image").append(element("option", { value: String(index) }, `${item.rank}. ${item.stem}${score}`));
  });

  const wipe = () => {
    const share = `${at("wipe-at").value}%`;
    at("wipe").style.setProperty("--at", share);
    const [left, right] = ["left", "right"].map((side) => names[at(`wipe-${side}-layer`).value]);
    at("wipe-at").setAttribute("aria-valuetext", `${left} over the left ${Math.round(at("wipe-at").value)} %, ${right} right of it`);
  };

  const layer = (side) => {
    const item = images[current];
    const key = at(`wipe-${side}-layer`).value;
    const picture = at(`wipe-${side}`);
    picture.hidden = !item[key];
    if (item[key]) picture.src = item[key];
    picture.alt = `${names[key]} of ${item.stem}`;
    picture.style.imageRendering = key === "image" ? "auto" : "pixelated";
    return item[key] ? [] : [names[key]];
  };

  const show = (index) => {
    current = (index + images.length) % images.length;
    const item = images[current];
    at("wipe-image").value = String(current);
    const absent = [...new Set([...layer("left"), ...layer("right")])];
    at("wipe-absent").hidden = !absent.length;
    at("wipe-absent").textContent = absent.length ? `Not there any more: ${absent.join(", ")}` : "";
    at("wipe-where").replaceChildren(element("b", {}, item.stem), item.reason,
      ...(item.ring ? [element("span", { class: "tag" }, item.ring.text)] : []));
    at("wipe-problems").replaceChildren(...item.problems.map((text) => element("p", { class: "notice bad" }, text)));
    at("ring").hidden = !(item.ring && at("ring-on").checked);
    if (item.ring) Object.assign(at("ring").style, { left: `${item.ring.x}%`, top: `${item.ring.y}%` });
    size();
    wipe();
  };

  const size = () => {
    const [height, width] = images[current].shape;
    at("wipe").style.aspectRatio = `${width} / ${height}`;
    at("wipe").style.width = `calc(min(100%, 80vh * ${width / height}) * ${at("wipe-zoom").value})`;
  };

  at("wipe-at").addEventListener("input", wipe);
  at("wipe-image").addEventListener("change", () => show(Number(at("wipe-image").value)));
  ["left", "right"].forEach((side) => at(`wipe-${side}-layer`).addEventListener("change", () => show(current)));
  at("wipe-zoom").addEventListener("input", size);
  at("ring-on").addEventListener("change", () => show(current));
  at("wipe-at").addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    const key = event.key.toLowerCase();
    if (key === "n") show(current + 1);
    else if (key === "p") show(current - 1);
    else if (/^[1-4]$/.test(key)) { at("wipe-right-layer").selectedIndex = Number(key) - 1; show(current); }
    else return;
    event.preventDefault();
  });
  document.querySelectorAll("[data-show]").forEach((button) => button.addEventListener("click", () => {
    show(images.findIndex((item) => item.stem === button.dataset.show));
    at("images").scrollIntoView();
    at("wipe-at").focus({ preventScroll: true });
  }));
  show(0);
})();
