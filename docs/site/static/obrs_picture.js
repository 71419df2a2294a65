"use strict";

/* The controls and the drawing of docs/obrs_picture.md, inside the element `obrs-picture`. All
   numbers come from obrs.js. The page loads nothing else and sends nothing. */
(() => {
  const root = document.getElementById("obrs-picture");
  if (!root) return;

  const TOKENS_MAX = 12;
  const START = { sharpness: 2, mismatch: 1, lam: 0.8 };
  const EXAMPLES = {
    "Eight tokens": null, // START
    "Four tokens of the theory page": { p: [4, 2, 1, 1], q: [1, 1, 1, 1], lam: 0.625 },
    "p = q": { p: [4, 3, 2, 1], q: [4, 3, 2, 1], lam: 0.8 },
    "A token that q never proposes": { p: [4, 3, 2, 1], q: [3, 0, 4, 3], lam: 0.8 },
    "A token that p excludes": { p: [5, 3, 2, 0], q: [3, 3, 2, 2], lam: 0.8 },
    "No shared token": { p: [2, 1, 0, 0], q: [0, 0, 1, 2], lam: 0.8 },
  };
  const PLOT = 160; // height of the bars' area
  const ROW = 17; // height of a row of text below it
  const MARGIN = { left: 36, right: 6, top: 10 };

  const state = start();

  // Elements

  function make(name, attributes = {}, ...children) {
    const svg = ["svg", "g", "rect", "line", "path", "text", "circle", "title", "pattern", "defs"];
    const element = svg.includes(name)
      ? document.createElementNS("http://www.w3.org/2000/svg", name)
      : document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    element.append(...children);
    return element;
  }

  function shown(x, digits = 4) {
    if (x === null) return "none";
    return Number.isFinite(x) ? x.toFixed(digits) : "∞";
  }

  /* The number as text, and with all its digits in the attribute that tests read. */
  function put(element, x) {
    element.textContent = shown(x);
    element.dataset.value = String(x);
  }

  // State

  function start() {
    const { lam, sharpness, mismatch } = START;
    return { ...obrs.two_distributions(sharpness, mismatch), lam };
  }

  function from_address(search) {
    const given = new URLSearchParams(search);
    const wrong = [];
    for (const name of ["p", "q"]) {
      if (!given.has(name)) continue;
      const x = given.get(name).split(",").map(Number);
      const good = x.length >= 2 && x.length <= TOKENS_MAX && x.every((w) => w >= 0 && w <= 1e6);
      if (good && x.some((w) => w > 0)) state[name] = obrs.normalised(x);
      else wrong.push(`${name} needs 2 to ${TOKENS_MAX} numbers in [0, 1e6], not all 0`);
    }
    if (given.has("lam")) {
      const lam = Number(given.get("lam"));
      if (lam > 0 && Number.isFinite(lam)) state.lam = lam;
      else wrong.push("lam needs a number above 0");
    }
    if (state.p.length !== state.q.length) {
      wrong.push(`p has ${state.p.length} tokens and q has ${state.q.length}`);
    }
    if (wrong.length) Object.assign(state, start());
    return wrong;
  }

  // Controls

  function slider(label, range, value, on_input) {
    const input = make("input", { type: "range", ...range });
    input.value = value;
    const output = make("span", { class: "value", "aria-hidden": "true" }, shown(value, 2));
    input.addEventListener("input", () => {
      output.textContent = shown(Number(input.value), 2);
      on_input(Number(input.value));
    });
    return { row: make("label", {}, make("span", {}, label), input, output), input, output };
  }

  function lam_control() {
    const range = make("input", { type: "range", id: "obrs-lam", min: 0.02, max: 2, step: 0.01 });
    const number = make("input", { type: "number", id: "obrs-lam-number", min: 0, step: "any" });
    number.setAttribute("aria-label", "lam as a number");
    function change(input) {
      const lam = Number(input.value);
      const good = lam > 0 && Number.isFinite(lam);
      number.setCustomValidity(good ? "" : "lam is a number above 0");
      if (good) {
        state.lam = lam;
        update(input);
      }
    }
    for (const input of [range, number]) input.addEventListener("input", () => change(input));
    const label = make("label", { for: "obrs-lam" }, "threshold lam");
    return { row: make("div", { class: "lam" }, label, range, number), range, number };
  }

  function family_controls() {
    const both = { ...START };
    const change = (name) => (value) => {
      both[name] = value;
      Object.assign(state, obrs.two_distributions(both.sharpness, both.mismatch));
      update();
    };
    const mismatch = slider(
      "mismatch",
      { id: "obrs-mismatch", min: 0, max: 2.5, step: 0.05 },
      START.mismatch,
      change("mismatch"),
    );
    const sharpness = slider(
      "sharpness of p",
      { id: "obrs-sharpness", min: 0, max: 6, step: 0.1 },
      START.sharpness,
      change("sharpness"),
    );
    return make("div", { class: "family" }, mismatch.row, sharpness.row);
  }

  function example_buttons() {
    const buttons = Object.entries(EXAMPLES).map(([name, example]) => {
      const button = make("button", { type: "button" }, name);
      button.addEventListener("click", () => {
        const { p, q, lam } = example ?? start();
        Object.assign(state, { p: obrs.normalised(p), q: obrs.normalised(q), lam });
        update();
      });
      return button;
    });
    const group = { class: "examples", role: "group", "aria-label": "Examples" };
    return make("div", group, ...buttons);
  }

  /* A slider for each probability of p and of q, made anew when the number of tokens changes. */
  function token_controls() {
    const rows = make("div", { class: "tokens" });
    let inputs = [];
    function build() {
      inputs = [];
      const lines = state.p.map((_, i) => {
        const both = ["p", "q"].map((name) => {
          const { row, input, output } = slider(
            `${name} of token ${i + 1}`,
            { min: 0, max: 1, step: 0.01, id: `obrs-${name}-${i + 1}` },
            0,
            (value) => {
              state[name] = obrs.with_token(state[name], i, value);
              update(input);
            },
          );
          inputs.push({ name, i, input, output });
          return row;
        });
        return make("div", {}, ...both);
      });
      rows.replaceChildren(...lines);
    }
    function refresh(source) {
      if (inputs.length !== 2 * state.p.length) build();
      for (const { name, i, input, output } of inputs) {
        if (input !== source) input.value = state[name][i];
        output.textContent = shown(state[name][i], 2);
      }
    }
    const text = "Each probability by itself. The others of the same distribution share the rest.";
    const details = make("details", {}, make("summary", {}, "Set each token"), make("p", {}, text));
    details.append(rows);
    return { details, refresh };
  }

  // Numbers

  const TILES = [
    ["z", "Z", "acceptance rate"],
    ["kl_p_q", "KL(p‖q)", "before, nats"],
    ["kl_p_q_tilde", "KL(p‖q̃)", "accepted tokens, nats"],
    ["kl_p_s", "KL(p‖s)", "drafted rollouts, nats"],
    ["mu", "mu", "lower clip of s is p/mu"],
  ];

  function tiles() {
    const list = make("dl");
    const fields = {};
    for (const [key, name, meaning] of TILES) {
      fields[key] = make("dd", { id: `obrs-${key}` });
      const term = make("dt", {}, name, " ", make("small", {}, meaning));
      list.append(make("div", {}, term, fields[key]));
    }
    return { list, fields };
  }

  const COLUMNS = ["token", "p", "q", "a", "q̃", "s"];

  function table_of(result) {
    const body = make("tbody");
    state.p.forEach((p_i, i) => {
      const row = make("tr", {}, make("th", { scope: "row" }, String(i + 1)));
      const { a, q_tilde, draft } = result;
      const values = [p_i, state.q[i], a[i], q_tilde && q_tilde[i], draft && draft.s[i]];
      for (const x of values) {
        const cell = make("td");
        put(cell, x);
        row.append(cell);
      }
      body.append(row);
    });
    const head = make("tr", {}, ...COLUMNS.map((name) => make("th", { scope: "col" }, name)));
    const caption = make("caption", {}, "The numbers of the picture");
    return [caption, make("thead", {}, head), body];
  }

  function sentence(result) {
    const lam = `lam = ${Number(state.lam.toPrecision(4))}`;
    if (result.q_tilde === null) {
      return `p and q share no token. Every token is rejected at ${lam}, and q̃ does not exist.`;
    }
    const rate = `At ${lam}, OBRS accepts ${shown(100 * result.z, 1)} % of the tokens of q.`;
    const kl = ["kl_p_q", "kl_p_q_tilde", "kl_p_s"].map((key) => shown(result[key], 3));
    const before = `${rate} KL from p is ${kl[0]} nats for q`;
    if (!result.draft) {
      return `${before} and ${kl[1]} for the accepted tokens. Drafted rollouts need lam ≤ 1.`;
    }
    return `${before}, ${kl[1]} for the accepted tokens and ${kl[2]} for drafted rollouts.`;
  }

  // Drawing

  /* At most six round values from 0 to at least `top`. */
  function ticks(top) {
    const rough = top / 4;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 2.5, 5, 10].map((x) => x * power).find((x) => x >= rough * 0.999);
    const count = Math.ceil((top / step) * 0.999) + 1;
    return Array.from({ length: count }, (_, i) => Number((i * step).toPrecision(4)));
  }

  function text(x, y, content, attributes = {}) {
    return make("text", { x, y, ...attributes }, content);
  }

  /* An empty chart of the width of its figure, with a y-axis from 0 and rows of text below.
     y(value) is a height, y_row(i) that of a row. */
  function chart(figure, top, description, rows) {
    const width = Math.max(240, Math.floor(figure.clientWidth || 340));
    const height = MARGIN.top + PLOT + 6 + rows * ROW;
    const marks = ticks(top);
    const y_of = (value) => MARGIN.top + PLOT * (1 - value / marks[marks.length - 1]);
    const y_row = (i) => MARGIN.top + PLOT + (i + 1) * ROW;
    const svg = make("svg", { width, height, viewBox: `0 0 ${width} ${height}` });
    svg.setAttribute("role", "img");
    svg.setAttribute("aria-label", description);
    for (const value of marks) {
      const y = y_of(value);
      const at = { x1: MARGIN.left, x2: width - MARGIN.right, y1: y, y2: y };
      svg.append(make("line", { class: "grid", ...at }));
      svg.append(text(MARGIN.left - 5, y + 4, String(value), { "text-anchor": "end" }));
    }
    return { svg, width, y: y_of, y_row };
  }

  /* Stripes for the parts that are rejected or drawn anew: colour is not the only difference. */
  function stripes(id, kind, angle) {
    const pattern = make("pattern", { id, width: 5, height: 5, patternUnits: "userSpaceOnUse" });
    pattern.setAttribute("patternTransform", `rotate(${angle})`);
    pattern.append(make("rect", { width: 5, height: 5, class: `${kind} ground` }));
    pattern.append(make("rect", { width: 2, height: 5, class: `${kind} stripe` }));
    return make("defs", {}, pattern);
  }

  /* A bar for p and one of two stacked parts beside it, for each token. */
  function bars(figure, top, description, columns, last_row) {
    const { svg, width, y, y_row } = chart(figure, top, description, last_row ? 2 : 1);
    const id = `${figure.id}-stripes`;
    const kind = figure.dataset.stripes;
    svg.append(stripes(id, kind, kind === "rejected" ? 45 : -45));
    const group = (width - MARGIN.left - MARGIN.right) / state.p.length;
    const bar = Math.min(26, 0.38 * group);
    function box(x, low, high, attributes) {
      const height = Math.max(0, y(low) - y(high));
      svg.append(make("rect", { x, y: y(high), width: bar, height, ...attributes }));
    }
    state.p.forEach((p_i, i) => {
      const middle = MARGIN.left + (i + 0.5) * group;
      box(middle - bar - 0.5, 0, p_i, { class: "target" });
      if (columns) {
        const { solid, striped, mark } = columns[i];
        box(middle + 0.5, 0, solid, { class: "accepted" });
        if (striped > 0) {
          const style = { class: `${kind} edge`, fill: `url(#${id})` };
          box(middle + 0.5, solid, solid + striped, style);
        }
        if (mark !== undefined && y(mark) >= 0) {
          const at = { y1: y(mark), y2: y(mark), x1: middle - 1, x2: middle + bar + 2 };
          svg.append(make("line", { class: "cap", ...at }));
        }
      }
      svg.append(text(middle, y_row(0), String(i + 1), { "text-anchor": "middle" }));
      if (last_row) {
        svg.append(text(middle, y_row(1), last_row.values[i], { "text-anchor": "middle" }));
      }
    });
    svg.append(text(0, y_row(0), "token"));
    if (last_row) svg.append(text(0, y_row(1), last_row.name));
    return svg;
  }

  /* KL against the acceptance rate, of the accepted tokens and of drafted rollouts. */
  function trade_off(figure, result) {
    const { p, q } = state;
    const lams = Array.from({ length: 241 }, (_, i) => 10 ** (-2 + i / 60)); // 0.01 to 100
    const lines = {
      accepted: obrs.curve(p, q, lams, "q_tilde"),
      redrawn: obrs.curve(p, q, [...lams.filter((lam) => lam < 1), 1], "draft"),
    };
    const finite = Number.isFinite(result.kl_p_q) ? [result.kl_p_q] : [];
    const largest = Math.max(...finite, result.kl_p_q_tilde ?? 0, result.kl_p_s ?? 0);
    const top = Number.isFinite(largest) && largest > 1e-9 ? largest : 1;
    const description = `Lines of KL from p against the acceptance rate. ${sentence(result)}`;
    const { svg, width, y, y_row } = chart(figure, top, description, 2);
    const x = (rate) => MARGIN.left + rate * (width - MARGIN.left - MARGIN.right - 8);
    for (const [kind, points] of Object.entries(lines)) {
      const inside = points.filter(([, kl]) => y(kl) >= 0);
      const path = inside.map(([z, kl]) => `${x(z).toFixed(2)} ${y(kl).toFixed(2)}`);
      svg.append(make("path", { class: `line ${kind}`, d: `M${path.join("L") || "0 0"}` }));
    }
    const dots = { accepted: result.kl_p_q_tilde, redrawn: result.kl_p_s };
    for (const [kind, kl] of Object.entries(dots)) {
      if (kl === null || !Number.isFinite(kl)) continue;
      svg.append(make("circle", { class: `dot ${kind}`, cx: x(result.z), cy: y(kl), r: 5 }));
    }
    for (const rate of [0, 0.25, 0.5, 0.75, 1]) {
      svg.append(text(x(rate), y_row(0), String(rate), { "text-anchor": "middle" }));
    }
    svg.append(text(x(0.5), y_row(1), "acceptance rate", { "text-anchor": "middle" }));
    return svg;
  }

  function figure_of(id, stripes_kind, title, legend) {
    const keys = legend.map(([kind, name]) =>
      make("span", { class: "key" }, make("i", { class: `swatch ${kind}` }), name),
    );
    const caption = make("figcaption", {}, make("strong", {}, title), make("span", {}, ...keys));
    const drawing = make("div", { id: `obrs-${id}`, "data-stripes": stripes_kind });
    return { figure: make("figure", {}, caption, drawing), drawing };
  }

  const figures = {
    proposal: figure_of("proposal", "rejected", "q, and what OBRS accepts of it", [
      ["target", "p"],
      ["accepted", "accepted, min(q, p/lam)"],
      ["rejected", "rejected"],
      ["cap", "p/lam"],
    ]),
    accepted: figure_of("accepted", "rejected", "q̃, the accepted tokens", [
      ["target", "p"],
      ["accepted", "q̃ = min(q, p/lam) / Z"],
    ]),
    drafted: figure_of("drafted", "redrawn", "s, drafted rollouts", [
      ["target", "p"],
      ["accepted", "accepted draft, q a"],
      ["redrawn", "drawn anew, (p/mu − q)⁺"],
    ]),
    trade: figure_of("trade", "rejected", "KL from p against the acceptance rate", [
      ["line accepted", "KL(p‖q̃)"],
      ["line redrawn", "KL(p‖s)"],
    ]),
  };

  function draw(result) {
    const { p, q, lam } = state;
    const { q_tilde, draft, a } = result;
    const top = Math.max(...p, ...q, ...(q_tilde ?? []), ...(draft ? draft.s : []));
    const parts = p.map((p_i, i) => {
      const solid = Math.min(q[i], p_i / lam);
      return { solid, striped: q[i] - solid, mark: p_i / lam };
    });
    const rows = { name: "a", values: a.map((x) => shown(x, 2)) };
    const see = "The numbers are in the table below.";
    const drafted = draft && p.map((p_i, i) => {
      const solid = Math.min(q[i], p_i / lam);
      return { solid, striped: Math.max(0, draft.s[i] - solid) };
    });
    const drawn = {
      proposal: (f) => bars(f, top, `Bars of p, and of q in two parts. ${see}`, parts, rows),
      accepted: (f) => {
        const columns = q_tilde && q_tilde.map((x) => ({ solid: x, striped: 0 }));
        return bars(f, top, `Bars of p and of q̃. ${see}`, columns, null);
      },
      drafted: (f) => bars(f, top, `Bars of p, and of s in two parts. ${see}`, drafted, null),
      trade: (f) => trade_off(f, result),
    };
    for (const [name, { drawing }] of Object.entries(figures)) {
      const notes = [];
      if (name === "accepted" && !q_tilde) notes.push("p and q share no token: q̃ does not exist.");
      if (name === "drafted" && !draft) notes.push("Drafting needs lam ≤ 1.");
      if (name === "trade" && result.kl_p_q_tilde === Infinity) {
        notes.push("KL(p‖q̃) is infinite for every lam: a token has q = 0 < p.");
      }
      const note = notes.map((words) => make("p", { class: "note" }, words));
      drawing.replaceChildren(drawn[name](drawing), ...note);
    }
  }

  // The page

  const wrong = from_address(location.search);
  const lam = lam_control();
  const tokens = token_controls();
  const numbers = tiles();
  const status = make("p", { role: "status" });
  const table = make("table");

  function update(source = null) {
    for (const input of [lam.range, lam.number]) {
      if (input !== source) input.value = Number(state.lam.toPrecision(12));
    }
    lam.number.dataset.value = String(state.lam);
    tokens.refresh(source);
    const result = obrs.picture(state.p, state.q, state.lam);
    const values = { ...result, mu: result.draft && result.draft.mu };
    for (const [key, field] of Object.entries(numbers.fields)) put(field, values[key]);
    status.textContent = sentence(result);
    table.replaceChildren(...table_of(result));
    draw(result);
  }

  const problem = wrong.map((words) => {
    const text = `In the address, ${words}. The page starts with its own numbers instead.`;
    return make("p", { role: "alert" }, text);
  });
  root.replaceChildren(
    ...problem,
    make("div", { class: "controls" }, family_controls(), example_buttons()),
    tokens.details,
    lam.row,
    status,
    numbers.list,
    make("div", { class: "figures" }, ...Object.values(figures).map((f) => f.figure)),
    make("div", { class: "numbers" }, table),
  );
  update();
  let width = root.clientWidth;
  window.addEventListener("resize", () => {
    if (root.clientWidth === width) return;
    width = root.clientWidth;
    update();
  });
})();
