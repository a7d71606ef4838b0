"use strict";
// Draws the charts of the page with plotly.js, which travels gzipped inside the page.
matseg.charts = (() => {
  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const specs = matseg.data.charts;
  const dashes = ["solid", "dash", "dot", "dashdot"];
  const drawn = new Map();
  const listeners = [];
  const colours = new Map();   // of classes, when a reader has chosen others
  const hidden = new Set();    // classes that are switched off
  const pointed = new Map();   // chart -> x where the reader is
  let printing = false;

  const luminance = (hex) => {
    const part = (at) => {
      const value = parseInt(hex.slice(at, at + 2), 16) / 255;
      return value <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
    };
    return 0.2126 * part(1) + 0.7152 * part(3) + 0.0722 * part(5);
  };
  const blend = (hex, other, share) => "#" + [1, 3, 5].map((at) => Math.round(
    parseInt(hex.slice(at, at + 2), 16) * (1 - share) + parseInt(other.slice(at, at + 2), 16) * share)
    .toString(16).padStart(2, "0")).join("");
  // A line must stand out from the paper (2:1 at least): black ones grow lighter in the dark, yellow ones darker in the light.
  const legible = (hex) => {
    const dark = matseg.isDark() && !printing;
    const paper = dark ? 0.014 : 1;
    const contrast = (colour) => {
      const [low, high] = [luminance(colour), paper].sort((a, b) => a - b);
      return (high + 0.05) / (low + 0.05);
    };
    let shown = hex;
    for (let step = 0; step < 12 && contrast(shown) < 2; step += 1) shown = blend(shown, dark ? "#ffffff" : "#000000", 0.15);
    return shown;
  };

  const colourOf = (series) => {
    const own = series.group !== null && colours.has(series.group) ? colours.get(series.group) : series.colour;
    return own === null ? css("--ink") : legible(own);
  };

  const modes = { points: "markers", marked: "lines+markers" };

  const hover = (spec) => (spec.y_percent ? "%{y:.3%}" : "%{y:.5~g}");

  const trace = (spec) => (series) => {
    const colour = colourOf(series);
    const base = {
      name: series.name.replace(/</g, "&lt;"), x: series.x, y: series.y,
      visible: series.group !== null && hidden.has(series.group) ? "legendonly" : true,
      hovertemplate: (series.names.length ? "%{text}<br>" : "") + hover(spec) + "<extra>%{fullData.name}</extra>",
    };
    if (series.names.length) base.text = series.names.map((name) => name.replace(/</g, "&lt;"));
    if (series.kind === "bars") return { ...base, type: "bar", marker: { color: colour, opacity: 0.75 } };
    return {
      ...base, type: "scatter", mode: modes[series.kind] ?? (series.x.length === 1 ? "markers" : "lines"),
      line: { color: colour, dash: series.dash, width: series.width, shape: series.kind === "steps" ? "hvh" : "linear" },
      marker: { color: colour, size: 8, line: { width: 1.5, color: css("--card") } },
    };
  };

  const rule = (x, line) => ({ type: "line", x0: x, x1: x, yref: "paper", y0: 0, y1: 1, line });

  // Epochs and slices are whole: no ticks between them. A logarithmic axis has labels at 1, 2 and 5.
  const ticks = (spec) => {
    if (spec.x_log) return { dtick: "D2" };
    const xs = spec.series.flatMap((series) => series.x).filter((x) => x !== null);
    const span = Math.max(...xs) - Math.min(...xs);
    return xs.length && span < 10 && xs.every(Number.isInteger) ? { tick0: 0, dtick: 1 } : {};
  };
  const countFormat = (spec) => {
    const most = Math.max(...spec.series.flatMap((series) => series.y).map(Number));
    return !spec.y_log && most >= 1e4 && most < 1e8 ? "," : undefined;
  };

  // A mark's text stands where the curves have left: above those that fall, below those that rise.
  const markPlace = (spec) => {
    const falls = ({ y }) => {
      const values = y.filter((value) => value !== null);
      return values[values.length - 1] < values[0];
    };
    return spec.series.every(falls) ? { y: 0.97, yanchor: "top" } : { y: 0.03, yanchor: "bottom" };
  };

  const layout = (spec) => {
    const [ink, soft, grid] = [css("--ink"), css("--soft"), css("--grid")];
    // the margin above holds the buttons, which must not cover points
    const axis = { gridcolor: grid, zerolinecolor: grid, linecolor: grid, tickcolor: grid, automargin: true, fixedrange: false };
    return {
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", height: spec.height,
      font: { color: soft, family: getComputedStyle(document.body).fontFamily, size: 12.5 },
      margin: { l: 56, r: 12, t: 36, b: 40 }, hovermode: "closest", barmode: "overlay", bargap: 0,
      hoverlabel: { bgcolor: css("--card"), bordercolor: css("--line"), font: { color: ink } },
      modebar: { bgcolor: "rgba(0,0,0,0)", color: soft, activecolor: css("--accent") },
      showlegend: spec.series.length > 1,
      legend: { orientation: "h", yanchor: "bottom", y: 1.01, x: 0, font: { color: ink } },
      xaxis: { ...axis, title: { text: spec.x_title, standoff: 8 }, range: spec.x_range ?? undefined,
        type: spec.x_log ? "log" : "linear", exponentformat: "power", ...ticks(spec) },
      yaxis: {
        ...axis, title: { text: spec.y_title, standoff: 8 }, type: spec.y_log ? "log" : "linear",
        range: spec.y_range ?? undefined, tickformat: spec.y_percent ? ".3~%" : countFormat(spec),
        scaleanchor: spec.square ? "x" : undefined, exponentformat: "power",
      },
      shapes: [
        ...spec.marks.map((mark) => rule(mark.x, { color: soft, width: 1, dash: "dash" })),
        ...(pointed.has(spec.id) ? [rule(pointed.get(spec.id), { color: css("--focus"), width: 2 })] : []),
      ],
      annotations: spec.marks.map((mark) => ({
        x: mark.x, yref: "paper", ...markPlace(spec), text: mark.text, showarrow: false, xanchor: "left",
        xshift: 4, font: { color: soft } })),
    };
  };

  const draw = (spec) => {
    const place = document.querySelector(`#chart-${spec.id} .plot`);
    if (!place) return;
    if (!drawn.has(spec.id)) place.textContent = "";
    const config = { responsive: true, displaylogo: false, plotlyServerURL: "",
      // named one by one: plotly.js has buttons that hand a chart to a service, and may get more
      modeBarButtons: [["toImage"], ["zoom2d", "pan2d"], ["resetScale2d"]],
      toImageButtonOptions: { format: "svg", filename: spec.id } };
    Plotly.react(place, spec.series.map(trace(spec)), layout(spec), config).then(() => {
      if (!drawn.has(spec.id)) {
        place.on("plotly_click", (event) => listeners.forEach((tell) => tell(spec.id, event.points[0].x)));
        drawn.set(spec.id, place);
        place.closest("figure").dataset.drawn = "yes";
      }
    });
  };
  const drawAll = () => { if (window.Plotly) specs.forEach(draw); };

  const fail = (reason) => document.querySelectorAll(".plot").forEach((place) => {
    place.textContent = `This chart cannot be drawn: ${reason}. Its numbers are in the table below.`;
  });

  const load = async () => {
    const packed = document.getElementById("library");
    if (!packed) return;
    if (!("DecompressionStream" in window)) { fail("the browser is older than 2023"); return; }
    const bytes = Uint8Array.from(atob(packed.textContent), (letter) => letter.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    const script = document.createElement("script");
    script.nonce = document.querySelector("script[nonce]").nonce;
    script.textContent = await new Response(stream).text();
    document.head.append(script);
    drawAll();
  };

  // Tables are made when somebody opens them: a stack of thousands of slices would make the page heavy.
  document.querySelectorAll("figure.chart details").forEach((details) => {
    details.addEventListener("toggle", () => {
      const place = details.querySelector(".scroll");
      if (!details.open || place.firstChild) return;
      const spec = specs.find((item) => item.id === details.closest("figure").dataset.chart);
      place.append(tableOf(spec));
    });
  });
  const tableOf = (spec) => {
    const rows = new Map();
    spec.series.forEach((series, column) => series.x.forEach((x, index) => {
      const key = series.names[index] ?? x;
      if (!rows.has(key)) rows.set(key, Array(spec.series.length).fill(null));
      rows.get(key)[column] = series.y[index];
    }));
    const { element } = matseg;
    const number = (value) => (value === null ? "–" : String(Number(value.toPrecision(6))));
    const head = element("tr", {}, ...[spec.x_title, ...spec.series.map((series) => series.name)]
      .map((text) => element("th", { scope: "col" }, text)));
    const body = [...rows].map(([key, values]) => element("tr", {},
      element("th", { scope: "row" }, String(key)), ...values.map((value) => element("td", {}, number(value)))));
    return element("table", {}, element("caption", {}, `${spec.title}: ${spec.y_title}`),
      element("thead", {}, head), element("tbody", {}, ...body));
  };

  matseg.onTheme.push(drawAll);
  addEventListener("beforeprint", () => { printing = true; drawAll(); });
  addEventListener("afterprint", () => { printing = false; drawAll(); });
  load().catch((error) => fail(`its drawing library did not start (${error.message})`));

  return {
    onClick: (tell) => listeners.push(tell),
    // a vertical line at x, as the place where the reader is
    point: (id, x) => {
      pointed.set(id, x);
      if (drawn.has(id)) Plotly.relayout(drawn.get(id), { shapes: layout(specs.find((item) => item.id === id)).shapes });
    },
    recolour: (group, colour) => { colours.set(group, colour); drawAll(); },
    show: (group, visible) => { if (visible) hidden.delete(group); else hidden.add(group); drawAll(); },
  };
})();
