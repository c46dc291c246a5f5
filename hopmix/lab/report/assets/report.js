"use strict";
// Mounts the Plotly figures of the page and shows in them what the reader chooses. Without it (no script, an old
// browser, paper) the static figures stand in their place.

const byId = (id) => document.getElementById(id);
const all = (selector) => [...document.querySelectorAll(selector)];
const { arms, charts } = JSON.parse(byId("numbers").textContent);
const hidden = new Set(); // indices of arms that the reader has switched off
const COARSE = matchMedia("(pointer: coarse)").matches; // on touch, a drag scrolls the page
const CONFIG = { responsive: true, displaylogo: false, modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"] };

async function loadPlotly() {
  const element = byId("plotly");
  const packed = Uint8Array.from(atob(element.textContent), (character) => character.charCodeAt(0));
  element.remove();
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  const script = document.createElement("script");
  script.textContent = await new Response(stream).text();
  document.head.append(script);
}

function draw(div) {
  const [group, value] = (div.closest("figure").dataset.group || ":").split(":");
  div.closest("figure").hidden = group && byId(group).value !== value;
  if (div.closest("figure").hidden) return;
  const { data, layout, panels } = charts[div.dataset.chart];
  const change = panels[div.dataset.panel][byId(div.dataset.choice)?.value ?? ""];
  const log = byId(div.dataset.log);
  if (log) log.disabled = !change.log;
  const onLog = log?.checked && change.log;
  const put = (i) => ({ ...change.data?.[i], ...(onLog && change.log_data?.[i]) });
  const merged = (trace, i) => ({ ...trace, ...put(i), visible: !hidden.has(trace.meta), error_y: { ...trace.error_y, ...put(i).error_y } });
  const font = { ...layout.font, family: getComputedStyle(document.body).fontFamily };
  const chosen = { ...layout, font, dragmode: COARSE ? false : "zoom", ...change.layout, ...(onLog && change.log) };
  Plotly.react(div, structuredClone(data.map(merged)), structuredClone(chosen), CONFIG);
}

const drawAll = () => all(".plot").forEach(draw);

function chip(arm, index) {
  const dashes = { dash: "6 3", dot: "2 3", dashdot: "6 3 2 3" }[arm.dash] || "none";
  const button = Object.assign(document.createElement("button"), { type: "button" });
  button.dataset.arm = index;
  button.setAttribute("aria-pressed", "true");
  button.innerHTML = `<svg width="24" height="8" aria-hidden="true"><line x1="0" y1="4" x2="24" y2="4" stroke="${arm.colour}" stroke-width="3" stroke-dasharray="${dashes}"/></svg>`;
  button.append(arm.name);
  button.addEventListener("click", () => {
    if (!hidden.delete(index)) hidden.add(index);
    for (const same of all(`.legend [data-arm="${index}"]`)) same.setAttribute("aria-pressed", String(!hidden.has(index)));
    drawAll();
  });
  return button;
}

function selectStill() {
  const keys = all("[data-still]").map((still) => still.dataset.still);
  const key = keys.includes(byId("metric")?.value) ? byId("metric").value : keys[0];
  for (const still of all("[data-still]")) still.classList.toggle("unselected", still.dataset.still !== key);
}

async function start() {
  selectStill();
  byId("metric")?.addEventListener("change", selectStill);
  // Paper shows everything: foldables open for printing and return to what they were.
  let opened = [];
  addEventListener("beforeprint", () => { opened = all("details:not([open])"); opened.forEach((one) => { one.open = true; }); });
  addEventListener("afterprint", () => opened.forEach((one) => { one.open = false; }));
  await loadPlotly();
  document.documentElement.classList.remove("static");
  for (const legend of all(".legend")) legend.append(...arms.map(chip));
  for (const control of all(".live select, .live input")) control.addEventListener("change", drawAll);
  drawAll();
  document.documentElement.dataset.drawn = "yes";
}

start().catch(() => {}); // the static figures stay
