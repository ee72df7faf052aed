const run = data("run");
const updates = run.updates;
const steps = run.metrics.step || [];
const blocks = new Map();
let position = updates.length - 1;
let colour = "mask";

function episodesOf(update) {
  if (!blocks.has(update)) blocks.set(update, data(`update-${update}`));
  return blocks.get(update);
}

// ---- the curve ----

const EVALUATION = /^eval\/(.+)\/exact_match$/s;

function series(key, name = key) {
  const at = (column, index) => (column ? column[index] : null);
  const [low, high] = [run.metrics[`${key}_low`], run.metrics[`${key}_high`]];
  const points = steps
    .map((x, index) => ({
      x,
      y: run.metrics[key][index],
      low: at(low, index) ?? undefined,
      high: at(high, index) ?? undefined,
    }))
    .filter((each) => each.y !== null);
  return { name, points };
}

function shownSets() {
  const keys = Object.keys(run.metrics).filter(
    (key) => key !== "step" && !/_(low|high)$/.test(key),
  );
  const exams = keys.filter((key) => EVALUATION.test(key));
  const overview = [
    ...["rollout/reward", "rollout/noise"]
      .filter((key) => keys.includes(key))
      .map((key) => [
        key,
        key === "rollout/reward" ? "reward (training)" : "noise of the curriculum",
      ]),
    ...exams.map((key) => [key, `exact match, ${key.match(EVALUATION)[1]} (held out)`]),
  ];
  const sets = overview.length ? [{ label: "reward and exact match", keys: overview }] : [];
  return [...sets, ...keys.map((key) => ({ label: key, keys: [[key, key]] }))];
}

const sets = shownSets();
let redrawCurve = () => {};

function drawCurve(width) {
  const set = sets[Number(byId("metric").value)];
  if (!set) return element("p", { class: "muted" }, "No update has been written.");
  const lines = set.keys.map(([key, name]) => series(key, name));
  const numbers = lines
    .flatMap((each) => each.points.flatMap((point) => [point.y, point.low, point.high]))
    .filter((each) => each !== undefined);
  const share =
    numbers.every((each) => each >= 0 && each <= 1) && numbers.some((each) => each > 0.05);
  fill(byId("curve-legend"), legend(lines.map((each) => each.name)));
  const chart = lineChart(width, {
    label: `${plain(set.label)} by update`,
    series: lines,
    marks: lines.some((each) => each.points.length <= 60),
    x: { label: "update", range: range(steps) },
    y: { label: set.keys.length > 1 ? "" : plain(set.label), range: share ? [0, 1] : undefined },
  });
  const x = chart.across(updates[position]);
  append(chart.svg, [
    drawn("path", { d: `M${x} ${chart.top}V${chart.bottom}`, class: "cursor", id: "cursor" }),
  ]);
  chart.svg.addEventListener("click", (event) => {
    const box = chart.svg.getBoundingClientRect();
    goNearest(chart.valueAt(event.clientX - box.left));
  });
  return chart.svg;
}

// ---- the update ----

function goNearest(update) {
  const distances = updates.map((each) => Math.abs(each - update));
  go(distances.indexOf(Math.min(...distances)));
}

function go(to) {
  position = Math.min(Math.max(to, 0), updates.length - 1);
  showUpdate();
}

function stepText(update) {
  const row = steps.indexOf(update);
  const told = [
    ["reward", "rollout/reward"],
    ["exact match", "rollout/exact_match"],
    ["noise", "rollout/noise"],
  ]
    .filter(([, key]) => row >= 0 && run.metrics[key] && run.metrics[key][row] !== null)
    .map(([name, key]) => `${name} ${fixed(run.metrics[key][row])}`);
  return [`update ${update} of ${steps[steps.length - 1] ?? update}`, ...told].join(" · ");
}

function showUpdate() {
  const update = updates[position];
  byId("slider").value = position;
  byId("slider").setAttribute("aria-valuetext", `update ${update}`);
  byId("back").disabled = position === 0;
  byId("on").disabled = position === updates.length - 1;
  fill(byId("step"), stepText(update));
  fill(byId("update-name"), update);
  fill(
    byId("episodes"),
    episodesOf(update).map((each) => card(each)),
  );
  redrawCurve();
}

// ---- an episode ----

function card(episode, title = true) {
  const right = episode.exact_match === 1;
  return element(
    "article",
    { class: "panel card" },
    title && element("h3", {}, shown(episode.question)),
    element(
      "div",
      { class: "badges" },
      element(
        "span",
        { class: `badge ${right ? "right" : "wrong"}` },
        right ? "✓ right" : "✗ wrong",
      ),
      element(
        "span",
        { class: "badge plain" },
        episode.split === "validation" ? "held out, greedy" : "training, sampled",
      ),
      episode.turns.some((each) => each.noisy) &&
        element("span", { class: "badge warn" }, "⚠ noisy documents"),
      element(
        "span",
        {},
        `reward ${fixed(episode.reward, 2)} · ended: `,
        shown(episode.stop_reason),
      ),
    ),
    element(
      "p",
      {},
      "answered ",
      episode.answer ? shown(episode.answer) : element("span", { class: "muted" }, "nothing"),
      " · right: ",
      episode.golden_answers.map((each, index) => [index ? ", " : "", shown(each)]),
    ),
    episode.tokens
      ? tokensOf(episode.tokens)
      : element("p", { class: "muted small" }, "This run kept no tokens."),
    element(
      "details",
      { open: !episode.tokens },
      element("summary", {}, `Turns (${episode.turns.length})`),
      element("ol", { class: "turns" }, episode.turns.map(turn)),
    ),
  );
}

// The numbers of each token, those of context without any.
function numbered(tokens) {
  let sampled = 0;
  return tokens.pieces.map((piece, index) => {
    const own = tokens.mask[index] === "1";
    const number = own ? sampled++ : null;
    return {
      piece,
      index,
      own,
      logprob: own ? tokens.logprobs[number] : null,
      advantage: own && tokens.advantages ? tokens.advantages[number] : null,
    };
  });
}

const CHANCES = [
  [0.99, "p ≥ 0.99"],
  [0.9, "0.9 to 0.99"],
  [0.5, "0.5 to 0.9"],
  [0.1, "0.1 to 0.5"],
  [0.01, "0.01 to 0.1"],
  [0, "p < 0.01"],
];
const SIZES = [
  [1.5, 3],
  [0.5, 2],
  [0, 1],
];

function hue(token) {
  if (!token.own) return "context";
  if (colour === "mask") return "own";
  if (colour === "logprob")
    return `lp-${CHANCES.findIndex(([least]) => Math.exp(token.logprob) >= least)}`;
  if (colour === "advantage" && token.advantage) {
    const size = SIZES.find(([least]) => Math.abs(token.advantage) > least)[1];
    return `${token.advantage > 0 ? "plus" : "minus"}-${size}`;
  }
  return "even";
}

const KEYS = {
  mask: [
    ["own", "sampled by the policy"],
    ["context", "read: prompt and documents"],
  ],
  logprob: CHANCES.map(([, text], index) => [`lp-${index}`, text]),
  advantage: [
    ["minus-3", "below −1.5"],
    ["minus-2", "−1.5 to −0.5"],
    ["minus-1", "−0.5 to 0"],
    ["even", "0, or nothing learned"],
    ["plus-1", "0 to 0.5"],
    ["plus-2", "0.5 to 1.5"],
    ["plus-3", "above 1.5"],
  ],
  none: [],
};

function about(token) {
  const piece =
    token.piece === "" ? "part of the next token's character" : JSON.stringify(token.piece);
  if (!token.own) return `token ${token.index}: ${piece} · read, not sampled`;
  const advantage =
    token.advantage === null
      ? "nothing was learned from it"
      : `advantage ${signed(token.advantage)}`;
  return `token ${token.index}: ${piece} · sampled · log-probability ${fixed(token.logprob, 4)} (p = ${fixed(Math.exp(token.logprob), 3)}) · ${advantage}`;
}

function signed(value) {
  return (value > 0 ? "+" : "") + fixed(value, 4);
}

function tokenClass(token) {
  return `token ${hue(token)}`;
}

// The piece as it is; a sign that is no part of the text stands where lines end.
function pieceNodes(piece) {
  return piece
    .split("\n")
    .map((line, index) => [
      index > 0 && [element("span", { class: "line-end", "aria-hidden": "true" }), "\n"],
      visible(line),
    ]);
}

function tokensOf(tokens) {
  const all = numbered(tokens);
  const readout = element("output", { class: "readout" });
  const nodes = all.map((token, index) =>
    element(
      "span",
      { class: tokenClass(token), tabindex: index ? "-1" : "0", "data-token": index },
      pieceNodes(token.piece),
    ),
  );
  const tell = (node) => {
    const index = Number(node.dataset.token);
    fill(readout, element("bdi", {}, visible(about(all[index]))));
  };
  const focus = (from, to) => {
    const next = nodes[Math.min(Math.max(to, 0), nodes.length - 1)];
    nodes[from].tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
  };
  const keys = {
    ArrowRight: 1,
    ArrowDown: 1,
    ArrowLeft: -1,
    ArrowUp: -1,
    Home: -Infinity,
    End: Infinity,
  };
  const find = (event) => event.target.closest("[data-token]");
  const box = element(
    "div",
    {
      class: "tokens",
      dir: "auto",
      role: "group",
      "aria-label": "Tokens",
      on: {
        mouseover: (event) => find(event) && tell(find(event)),
        focusin: (event) => find(event) && tell(find(event)),
        keydown: (event) => {
          if (!(event.key in keys) || !find(event)) return;
          event.preventDefault();
          const from = Number(find(event).dataset.token);
          focus(from, from + keys[event.key]);
        },
      },
    },
    nodes,
  );
  box.recolour = () =>
    nodes.forEach((node, index) => node.setAttribute("class", tokenClass(all[index])));
  return [box, readout];
}

function showKey() {
  fill(
    byId("key"),
    KEYS[colour].map(([name, text]) => element("li", { class: name }, text)),
  );
}

function recolour() {
  colour = document.querySelector("input[name=colour]:checked").value;
  for (const box of document.querySelectorAll(".tokens")) box.recolour();
  showKey();
}

// ---- two updates side by side ----

function showSides() {
  const question = run.questions[Number(byId("question").value)];
  for (const side of ["left", "right"]) {
    const update = question.updates[Number(byId(`${side}-update`).value)];
    const episode = episodesOf(update).find(
      (each) => each.question_id === question.id && each.split === question.split,
    );
    fill(byId(side), element("h3", {}, `Update ${update}`), card(episode, false));
  }
}

function chooseQuestion() {
  const question = run.questions[Number(byId("question").value)];
  for (const side of ["left", "right"]) choices(byId(`${side}-update`), question.updates);
  byId("right-update").value = question.updates.length - 1;
  showSides();
}

// ---- the page ----

function showHead() {
  fill(byId("title"), "Training run ", shown(run.name));
  const config = run.config.config || {};
  const named = ["algorithm", "policy", "engine", "env_id", "seed"]
    .filter((name) => config[name] !== undefined)
    .map((name) => `${name} ${plain(config[name])}`);
  const last = steps.length ? [`${steps[steps.length - 1]} updates`] : [];
  const left = run.num_left_out ? [`episodes of ${run.num_left_out} updates were left out`] : [];
  fill(byId("summary"), [...named, ...last, ...left].join(" · "));
  fill(byId("config"), visible(JSON.stringify(run.config, null, 2)));
}

function start() {
  showHead();
  choices(
    byId("metric"),
    sets.map((each) => each.label),
  );
  byId("metric").addEventListener("change", () => redrawCurve());
  byId("slider").max = Math.max(0, updates.length - 1);
  byId("slider").addEventListener("input", (event) => go(Number(event.target.value)));
  byId("back").addEventListener("click", () => go(position - 1));
  byId("on").addEventListener("click", () => go(position + 1));
  byId("colours").addEventListener("change", recolour);
  showKey();
  if (updates.length) {
    redrawCurve = responsive(byId("curve"), drawCurve);
    showUpdate();
  }
  byId("compare-section").hidden = !run.questions.length;
  if (run.questions.length) {
    choices(
      byId("question"),
      run.questions.map((each) => `${each.text} (${each.split})`),
    );
    byId("question").addEventListener("change", chooseQuestion);
    for (const side of ["left", "right"])
      byId(`${side}-update`).addEventListener("change", showSides);
    chooseQuestion();
  }
}

start();
