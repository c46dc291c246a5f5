"use strict";
// Draws the interactive charts. Without it (no script, an old browser, paper) the static figures stand in their place.

const numbers = JSON.parse(document.getElementById("numbers").textContent);
const hidden = new Set(); // indices of arms that the reader has switched off
const COARSE = matchMedia("(pointer: coarse)").matches; // on touch, a drag scrolls the page
const SLOTS = 4; // blocks shown side by side
const CONFIG = { responsive: true, displaylogo: false, modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"] };
const FONT = { family: getComputedStyle(document.body).fontFamily, size: 12, color: "#3d444d" };

async function loadPlotly() {
  const element = document.getElementById("plotly");
  const packed = Uint8Array.from(atob(element.textContent), (character) => character.charCodeAt(0));
  element.remove();
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  const script = document.createElement("script");
  script.textContent = await new Response(stream).text();
  document.head.append(script);
}

// --- traces -------------------------------------------------------------------------------------------------------

const shownArms = () => numbers.arms.map((arm, index) => ({ ...arm, index })).filter((arm) => !hidden.has(arm.index));
const finite = (value) => value !== null && value !== undefined;
const usable = (value, log) => (finite(value) && (!log || value > 0) ? value : null);
const faded = (colour, alpha) => colour + Math.round(alpha * 255).toString(16).padStart(2, "0");

function band(arm, steps, low, high, log) {
  const kept = steps.map((_, i) => i).filter((i) => usable(low[i], log) !== null && finite(high[i]));
  const back = [...kept].reverse();
  return {
    x: [...kept.map((i) => steps[i]), ...back.map((i) => steps[i])],
    y: [...kept.map((i) => high[i]), ...back.map((i) => low[i])],
    fill: "toself", fillcolor: faded(arm.colour, 0.16), line: { width: 0 }, mode: "lines", hoverinfo: "skip",
  };
}

// Plotly reads some tags, and %{...} in what a pointer shows: names of arms are neither.
function literal(text) {
  return text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;").replaceAll("%", "&#37;");
}

function line(arm, steps, mean, low, high, log, percent) {
  const format = percent ? ".2%" : ".4~g";
  const range = low ? `<br>seeds %{customdata[0]:${format}} to %{customdata[1]:${format}}` : "";
  return {
    x: steps, y: mean.map((value) => usable(value, log)), name: literal(arm.name),
    customdata: low ? steps.map((_, i) => [low[i], high[i]]) : undefined,
    // What is measured at some steps only is marked there and joined across the others.
    mode: steps.length === 1 ? "markers" : mean.includes(null) ? "lines+markers" : "lines", connectgaps: true,
    line: { color: arm.colour, width: 2, dash: arm.dash },
    marker: { color: arm.colour, symbol: arm.marker, size: steps.length === 1 ? 8 : 5 },
    hovertemplate: `<b>${literal(arm.name)}</b><br>step %{x:,}: %{y:${format}}${range}<extra></extra>`,
  };
}

function curves(quantity, pick, log) {
  const traces = [];
  for (const arm of shownArms()) {
    const [mean, low, high] = ["mean", "low", "high"].map((part) => quantity[part] && pick(quantity[part][arm.index]));
    if (low) traces.push(band(arm, numbers.steps, low, high, log));
    traces.push(line(arm, numbers.steps, mean, low, high, log, quantity.percent));
  }
  return traces;
}

function axes(quantity, log, x = {}) {
  const shared = { gridcolor: "#e9ecef", linecolor: "#8c959f", ticks: "outside", ticklen: 4, tickcolor: "#8c959f", automargin: true };
  return {
    margin: { l: 46, r: 12, t: 10, b: 42 }, font: FONT, showlegend: false, hovermode: "closest",
    dragmode: COARSE ? false : "zoom", paper_bgcolor: "#fff", plot_bgcolor: "#fff", hoverlabel: { align: "left" },
    xaxis: { ...shared, showgrid: false, zeroline: false, title: { text: "training step", standoff: 6 }, nticks: 6, ...x },
    yaxis: {
      ...shared, zerolinecolor: "#8c959f", showline: true, type: log ? "log" : "linear",
      tickformat: quantity.percent ? ".2~%" : undefined,
    },
  };
}

function show(div, traces, layout) {
  if (layout.yaxis.type === "log") Object.assign(layout.yaxis, logTicks(traces));
  return Plotly.react(div, traces, layout, CONFIG);
}

// Plotly labels every digit of a short log axis and writes the powers in another size.
function logTicks(traces) {
  const seen = traces.flatMap((trace) => trace.y).filter((value) => value > 0).map(Math.log10);
  const [low, high] = [seen.reduce((a, b) => Math.min(a, b), Infinity), seen.reduce((a, b) => Math.max(a, b), -Infinity)];
  if (high - low < 0.7) return {}; // nothing at all, or too short for the ticks below
  const digits = high - low < 2 ? [1, 2, 5] : [1];
  const stride = Math.max(1, Math.ceil((high - low) / 6));
  const tickvals = [];
  for (let power = Math.floor(low) - stride; power <= high + 1; power += stride) tickvals.push(...digits.map((digit) => digit * 10 ** power));
  return { tickvals, ticktext: tickvals.map(decimal) };
}

function decimal(value) {
  if (value >= 0.0099 && value < 1000) return String(Number(value.toPrecision(1)));
  const [digit, power] = value.toExponential(0).split("e");
  const raised = [...String(Number(power))].map((sign) => "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"["-0123456789".indexOf(sign)]).join("");
  return (digit === "1" ? "" : `${digit}·`) + `10${raised}`;
}

const RDBU = ["#053061", "#4393c3", "#f7f7f7", "#d6604d", "#67001f"].map((colour, i) => [i / 4, colour]);
const deepValues = (nested) => (Array.isArray(nested) ? nested.flatMap(deepValues) : [nested]).filter(finite);

// --- charts -------------------------------------------------------------------------------------------------------

const byId = (id) => document.getElementById(id);

function drawStrength(div) {
  const { label, ticks, labels, zero, span, points } = numbers.strength;
  const traces = [];
  const placed = points.filter((point) => point.place !== null);
  for (const kind of new Set(placed.map((point) => point.kind))) {
    const row = placed.filter((point) => point.kind === kind).sort((a, b) => a.place - b.place);
    traces.push({ x: row.map((p) => p.place), y: row.map((p) => p.mean), mode: "lines", line: { color: "#b1bac4", width: 1.5 }, hoverinfo: "skip" });
  }
  for (const arm of shownArms()) traces.push(...strengthTraces(arm, points[arm.index], span));
  const layout = axes({ percent: true }, false, {
    title: { text: "strength λ of the penalty", standoff: 6 }, tickvals: ticks, ticktext: labels, range: span,
  });
  if (zero !== null && ticks.length > 1) {
    const middle = (ticks[0] + ticks[1]) / 2;
    layout.annotations = [{ text: "∕∕", x: middle, xref: "x", y: 0, yref: "paper", yanchor: "middle", showarrow: false, bgcolor: "#fff" }];
  }
  layout.yaxis.title = { text: label };
  show(div, traces, layout);
}

function strengthTraces(arm, point, [left, right]) {
  if (!finite(point.mean)) return [];
  const spread = finite(point.stderr) ? ` ± ${(100 * point.stderr).toFixed(2)}` : "";
  const words = `<b>${literal(arm.name)}</b><br>${(100 * point.mean).toFixed(2)}${spread} %<extra></extra>`;
  if (point.place === null) {
    const mean = { x: [left, right], y: [point.mean, point.mean], mode: "lines", line: { color: arm.colour, width: 2, dash: arm.dash }, hovertemplate: words };
    if (!spread) return [mean];
    const [low, high] = [point.mean - point.stderr, point.mean + point.stderr].map((value) => [value, value]);
    return [band(arm, [left, right], low, high, false), mean];
  }
  return [
    { x: point.values.map(() => point.place), y: point.values, mode: "markers", marker: { color: arm.colour, opacity: 0.4, size: 6 }, hoverinfo: "skip" },
    {
      x: [point.place], y: [point.mean], mode: "markers", marker: { color: arm.colour, symbol: arm.marker, size: 11 }, hovertemplate: words,
      error_y: { array: [point.stderr ?? 0], visible: finite(point.stderr), color: arm.colour, thickness: 1.5, width: 5 },
    },
  ];
}

function drawCurve(div) {
  const quantity = numbers.curves[div.dataset.key || byId("curve").value];
  show(div, curves(quantity, (values) => values, quantity.logarithmic), axes(quantity, quantity.logarithmic));
}

function drawAsymmetry(div) {
  const quantity = numbers.asymmetry[byId("metric").value];
  const log = byId("log").checked && quantity.logarithmic;
  byId("log").disabled = !quantity.logarithmic;
  const block = Number(byId("group")?.value || 0) * SLOTS + Number(div.dataset.slot);
  const branch = Number(div.dataset.branch);
  div.closest("figure").hidden = block >= numbers.blocks.length;
  if (block >= numbers.blocks.length) return;
  div.previousElementSibling.textContent = `Block ${numbers.blocks[block]}, ${numbers.branches[branch]} mixing`;
  const layout = axes(quantity, log);
  layout.yaxis.range = sharedRange(quantity, log);
  show(div, curves(quantity, (values) => values[block][branch], log), layout);
}

function sharedRange(quantity, log) {
  const seen = shownArms().flatMap((arm) => deepValues([(quantity.low || quantity.mean)[arm.index], (quantity.high || quantity.mean)[arm.index]]));
  const values = log ? seen.filter((value) => value > 0).map(Math.log10) : seen;
  if (!values.length) return undefined;
  const [low, high] = values.reduce(([a, b], value) => [Math.min(a, value), Math.max(b, value)], [Infinity, -Infinity]);
  const room = 0.05 * (high - low) || 0.1;
  return [low - room, high + room];
}

function drawMap(div) {
  const quantity = numbers.asymmetry[byId("map-metric").value];
  const all = deepValues(quantity.mean);
  let [low, high] = all.reduce(([a, b], value) => [Math.min(a, value), Math.max(b, value)], [Infinity, -Infinity]);
  if (quantity.signed) [low, high] = [-Math.max(-low, high), Math.max(-low, high)];
  const measured = numbers.steps.map((_, i) => i).filter((i) => quantity.mean.some((arm) => arm.some((block) => block.some((row) => finite(row[i])))));
  const pick = (row) => measured.map((i) => row[i]);
  const cells = quantity.mean[Number(div.dataset.arm)];
  const rows = numbers.branches.flatMap((branch, k) => numbers.blocks.map((block, b) => ({ branch, block, values: cells[b][k] })));
  div.closest("figure").hidden = !deepValues(cells).length;
  if (div.closest("figure").hidden) return;
  byId("map-scale").className = quantity.signed ? "rdbu" : "viridis";
  byId("map-low").textContent = low.toPrecision(2).replace("-", "−");
  byId("map-high").textContent = high.toPrecision(2).replace("-", "−");
  const count = numbers.blocks.length;
  const gap = 0.4; // between the two branches
  const place = (i) => i + (i >= count ? gap : 0);
  const every = Math.ceil(count / 6);
  const ticked = rows.map((_, i) => i).filter((i) => (i % count) % every === 0);
  const layout = axes({}, false);
  layout.margin = { l: 74, r: 8, t: 4, b: 40 };
  layout.plot_bgcolor = "#e9ecef";
  layout.yaxis = { autorange: "reversed", tickvals: ticked.map(place), ticktext: ticked.map((i) => `${rows[i].branch} ${rows[i].block}`), zeroline: false, showgrid: false, ticks: "" };
  const maps = numbers.branches.map((branch, k) => ({
    type: "heatmap", x: pick(numbers.steps), y: numbers.blocks.map((_, b) => place(k * count + b)), z: numbers.blocks.map((_, b) => pick(cells[b][k])),
    text: numbers.blocks.map((block) => measured.map(() => `${branch} mixing, block ${block}`)),
    zmin: low, zmax: high > low ? high : low + 1, colorscale: quantity.signed ? RDBU : "Viridis", showscale: false,
    hovertemplate: "%{text}<br>step %{x:,}: %{z:.4~g}<extra></extra>",
  }));
  show(div, maps, layout);
}

function drawEnergy(div) {
  const quantity = numbers.energy[div.dataset.key];
  const layout = axes(quantity, false, div.dataset.against === "block" ? blockAxis() : {});
  layout.yaxis.rangemode = "tozero";
  if (deepValues(quantity.high || quantity.mean).every((value) => value === 0)) layout.yaxis.range = [0, 0.05];
  if (div.dataset.against === "block") return show(div, perBlock(quantity), layout);
  const block = byId("energy-block").value;
  const source = block === "all" ? quantity.overall : quantity;
  const pick = (values) => (block === "all" ? values : values[Number(block)]);
  return show(div, curves({ ...source, percent: quantity.percent }, pick, false), layout);
}

const blockAxis = () => ({ title: { text: "block", standoff: 6 }, range: [-0.5, numbers.blocks.length - 0.5], tickmode: "linear", dtick: Math.ceil(numbers.blocks.length / 12) });

function perBlock(quantity) {
  const last = numbers.steps.length - 1;
  const arms = shownArms().filter((arm) => quantity.mean[arm.index].some((values) => finite(values[last])));
  const format = quantity.percent ? ".2%" : ".4~g";
  return arms.map((arm, i) => {
    const at = (part) => quantity[part] && quantity[part][arm.index].map((values) => values[last]);
    const [mean, low, high] = ["mean", "low", "high"].map(at);
    const shift = arms.length > 1 ? 0.5 * (i / (arms.length - 1) - 0.5) : 0;
    return {
      x: numbers.blocks.map((_, b) => b + shift), y: mean, mode: "markers", marker: { color: arm.colour, symbol: arm.marker, size: 8 }, customdata: numbers.blocks, cliponaxis: false,
      error_y: low && { symmetric: false, array: mean.map((m, b) => high[b] - m), arrayminus: mean.map((m, b) => m - low[b]), color: arm.colour, thickness: 1.2, width: 0 },
      hovertemplate: `<b>${literal(arm.name)}</b><br>block %{customdata}: %{y:${format}}<extra></extra>`,
    };
  });
}

// --- page ---------------------------------------------------------------------------------------------------------

const DRAW = { strength: drawStrength, curve: drawCurve, asymmetry: drawAsymmetry, map: drawMap, energy: drawEnergy };

function draw(kinds) {
  for (const kind of kinds) for (const div of document.querySelectorAll(`[data-chart="${kind}"]`)) DRAW[kind](div);
}

function legends() {
  for (const legend of document.querySelectorAll(".legend")) {
    numbers.arms.forEach((arm, index) => legend.append(chip(arm, index)));
  }
}

function chip(arm, index) {
  const dashes = { dash: "6 3", dot: "2 3", dashdot: "6 3 2 3" }[arm.dash] || "none";
  const button = document.createElement("button");
  button.type = "button";
  button.dataset.arm = index;
  button.setAttribute("aria-pressed", "true");
  button.innerHTML = `<svg width="24" height="8" aria-hidden="true"><line x1="0" y1="4" x2="24" y2="4" stroke="${arm.colour}" stroke-width="3" stroke-dasharray="${dashes}"/></svg>`;
  button.append(arm.name);
  button.addEventListener("click", () => toggle(index));
  return button;
}

function toggle(index) {
  if (!hidden.delete(index)) hidden.add(index);
  for (const button of document.querySelectorAll(`.legend [data-arm="${index}"]`)) button.setAttribute("aria-pressed", String(!hidden.has(index)));
  draw(["strength", "curve", "asymmetry", "energy"]);
}

function selectStill() {
  const stills = [...document.querySelectorAll("[data-still]")];
  const chosen = stills.find((still) => still.dataset.still === byId("metric")?.value) || stills[0];
  const key = chosen?.dataset.still;
  for (const still of stills) still.classList.toggle("unselected", still.dataset.still !== key);
}

function listen() {
  const on = (ids, kind) => ids.forEach((id) => byId(id)?.addEventListener("change", () => draw([kind])));
  on(["curve"], "curve");
  on(["metric", "log", "group"], "asymmetry");
  on(["map-metric"], "map");
  on(["energy-block"], "energy");
  byId("metric")?.addEventListener("change", selectStill);
  // Paper shows everything: foldables open for printing and return to what they were.
  const folded = () => [...document.querySelectorAll("details:not([open])")];
  let opened = [];
  addEventListener("beforeprint", () => { opened = folded(); opened.forEach((details) => { details.open = true; }); });
  addEventListener("afterprint", () => opened.forEach((details) => { details.open = false; }));
}

async function start() {
  selectStill();
  listen();
  try {
    await loadPlotly();
  } catch {
    return; // the static figures stay
  }
  document.documentElement.classList.remove("static");
  legends();
  draw(Object.keys(DRAW));
  document.documentElement.dataset.drawn = "yes";
}

start();
