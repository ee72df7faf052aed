const report = data("report");
const PAGE = 50;

// ---- what the filters leave ----

const condition = (index) => report.conditions[index];
const columnOf = Object.fromEntries(report.episodes.columns.map((name, index) => [name, index]));
const read = (row, name) => row[columnOf[name]];
const episodes = report.episodes.rows.map((row, index) => ({
  index,
  condition: condition(read(row, "condition")),
  question: report.questions[read(row, "question")],
  place: read(row, "place"),
  ...Object.fromEntries(
    report.episodes.columns
      .filter((name) => !["condition", "question", "place"].includes(name))
      .map((name) => [name, read(row, name)]),
  ),
}));

const FILTERS = ["agent", "environment", "engine", "noise"];
const values = Object.fromEntries(
  FILTERS.map((name) => [
    name,
    unique(report.conditions.map((each) => each[name])).sort(order((x) => x, 1)),
  ]),
);
const sources = unique(report.questions.map((each) => each.source)).sort();
const OUTCOMES = { right: "right", wrong: "wrong", failed: "failed" };

function chosen(name) {
  const picked = byId(`filter-${name}`).value;
  return picked === "" ? null : values[name][Number(picked)];
}

function passes(row, names = FILTERS) {
  return names.every((name) => chosen(name) === null || row[name] === chosen(name));
}

function outcome(episode) {
  if (episode.error || episode.stop_reason === "failed") return "failed";
  return episode.exact_match === 1 ? "right" : "wrong";
}

function outcomeBadge(episode) {
  const found = outcome(episode);
  const [name, text] = {
    right: ["right", "✓ right"],
    wrong: ["wrong", "✗ wrong"],
    failed: ["warn", "! failed"],
  }[found];
  return element("span", { class: `badge ${name}` }, text);
}

// ---- transcripts, read when somebody looks ----

const turnBlocks = new Map();

function turnsOf(episode) {
  const { block } = episode.condition;
  if (!turnBlocks.has(block)) turnBlocks.set(block, data(block));
  return turnBlocks.get(block)[episode.place];
}

const searchable = new Map();

function textOf(episode) {
  if (!searchable.has(episode.index)) {
    const { question } = episode;
    const said = turnsOf(episode).flatMap(([action, , query, , observation]) => [
      action,
      query,
      observation,
    ]);
    searchable.set(
      episode.index,
      [question.text, question.id, ...question.golden, episode.answer, episode.error, ...said]
        .join("\n")
        .toLowerCase(),
    );
  }
  return searchable.get(episode.index);
}

// ---- headline figures ----

function robustnessFigure(environment, engine) {
  const rows = report.robustness.filter(
    (each) => each.environment === environment && each.engine === engine,
  );
  const noises = unique(rows.flatMap((each) => each.points.map((point) => point.noise))).sort(
    (a, b) => a - b,
  );
  const series = rows.map((row) => ({
    name: row.agent,
    points: row.points.map((point) => ({
      x: point.noise,
      y: point.mean,
      low: point.low,
      high: point.high,
    })),
  }));
  const label = `Exact match against the probability of noisy documents, ${plain(engine)}`;
  const table = new SortableTable({
    label: "Area under the noise-robustness curve",
    columns: [
      { name: "Agent", value: (row) => row.agent, cell: (row) => shown(row.agent), kind: "name" },
      {
        name: "Area",
        numeric: true,
        hint: "Mean exact match over the range of p (trapezoids)",
        value: (row) => row.area && row.area.mean,
        cell: (row) => withInterval(row.area),
      },
      ...noises.map((noise) => ({
        name: `p = ${noise}`,
        numeric: true,
        value: (row) => (row.points.find((point) => point.noise === noise) || {}).mean,
        cell: (row) => fixed((row.points.find((point) => point.noise === noise) || {}).mean),
      })),
    ],
  });
  table.show(rows);
  table.sortBy(1);
  return element(
    "figure",
    { class: "panel" },
    element(
      "figcaption",
      {},
      element("h3", {}, "Noise robustness: exact match against p"),
      element("p", { class: "muted small" }, shown(engine), " · ", shown(environment)),
    ),
    plot(
      (width) =>
        lineChart(width, {
          label,
          series,
          spread: Math.min(width < 500 ? 3 : 5, 24 / series.length),
          x: { label: "probability p of noisy documents", ticks: noises },
          y: { label: "exact match", range: [0, 1] },
        }).svg,
    ),
    legend(series.map((each) => each.name)),
    element("p"),
    table.node,
  );
}

function gapFigure(environment, simulator, real) {
  const rows = report.sim_to_real.filter(
    (each) =>
      each.environment === environment && each.simulator === simulator && each.real === real,
  );
  const agents = unique(report.robustness.concat(rows).map((each) => each.agent));
  const table = new SortableTable({
    label: "Simulator-to-real gap",
    columns: [
      { name: "Agent", value: (row) => row.agent, cell: (row) => shown(row.agent), kind: "name" },
      {
        name: "Gap",
        numeric: true,
        value: (row) => row.gap.mean,
        cell: (row) => withInterval(row.gap),
      },
    ],
  });
  table.show(rows);
  return element(
    "figure",
    { class: "panel" },
    element(
      "figcaption",
      {},
      element("h3", {}, "Simulator-to-real gap"),
      element(
        "p",
        { class: "muted small" },
        "exact match with ",
        shown(simulator),
        " at p = 0 minus that with ",
        shown(real),
        " · ",
        shown(environment),
      ),
    ),
    plot((width) =>
      dotChart(width, {
        label: "Simulator-to-real gap by agent",
        zero: true,
        rows: rows.map((row) => ({
          name: row.agent,
          group: agents.indexOf(row.agent),
          ...row.gap,
        })),
        axis: { label: "difference in exact match" },
      }),
    ),
    element("p"),
    table.node,
  );
}

function showHeadlines() {
  const curves = unique(
    report.robustness.map((each) => JSON.stringify([each.environment, each.engine])),
  );
  const gaps = unique(
    report.sim_to_real.map((each) => JSON.stringify([each.environment, each.simulator, each.real])),
  );
  const figures = [
    ...curves.map((each) => robustnessFigure(...JSON.parse(each))),
    ...gaps.map((each) => gapFigure(...JSON.parse(each))),
  ];
  fill(
    byId("headline-figures"),
    figures.length
      ? figures
      : element(
          "p",
          { class: "muted" },
          "No engine was asked at several noise probabilities, and none of the engines simulates another.",
        ),
  );
}

// ---- conditions ----

function metric(name, title, digits = 3, hint = "", cell = mean) {
  return {
    name: title,
    numeric: true,
    hint,
    value: (row) => row.metrics[name] && row.metrics[name].mean,
    cell: (row) => cell(row.metrics[name], digits),
  };
}

const severalPlaces = values.environment.length > 1;
const where = [
  {
    name: "Engine",
    value: (row) => row.engine,
    cell: (row) => shown(row.engine),
    kind: "name broad",
  },
  {
    name: "Noise",
    numeric: true,
    value: (row) => row.noise,
    kind: "broad",
    hint: "Probability of noisy documents",
  },
];
if (severalPlaces) {
  where.push({
    name: "Environment",
    value: (row) => row.environment,
    cell: (row) => shown(row.environment),
    kind: "name broad",
  });
}

// What a narrow window shows of these columns: a line under the name.
function whereLine(row) {
  return element(
    "div",
    { class: "small muted narrow" },
    shown(row.engine),
    ` · p\u00a0=\u00a0${row.noise}`,
    severalPlaces && [" · ", shown(row.environment)],
  );
}

const agentColumn = {
  name: "Agent",
  value: (row) => row.agent,
  kind: "name",
  cell: (row) => [shown(row.agent), whereLine(row)],
};

const conditionTable = new SortableTable({
  label: "Agents and conditions",
  tall: true,
  columns: [
    agentColumn,
    ...where,
    metric("exact_match", "EM", 3, "Exact match; 95 % interval", withInterval),
    metric("f1", "F1", 3, "Token F1; 95 % interval", withInterval),
    metric(
      "sub_exact_match",
      "SubEM",
      3,
      "A golden answer is part of the answer; 95 % interval",
      withInterval,
    ),
    metric("searches", "Searches", 2, "Queries an episode"),
    metric("tokens", "Tokens", 1, "Tokens that the agent wrote, an episode"),
    metric("invalid", "Invalid", 2, "Malformed actions an episode"),
    metric("seconds", "Seconds", 2, "Wall time an episode"),
    {
      name: "Episodes",
      numeric: true,
      value: (row) => row.num_episodes,
      hint: "Failed ones count as wrong",
      cell: (row) => [
        row.num_failed > 0 && [
          element("span", { class: "badge warn" }, `! ${row.num_failed} failed`),
          " ",
        ],
        row.num_episodes,
      ],
    },
  ],
});

const partTable = new SortableTable({
  label: "Exact match by source and by hops",
  columns: [
    agentColumn,
    ...where,
    { name: "Part", value: (row) => row.part, cell: (row) => shown(row.part), kind: "name" },
    {
      name: "EM",
      numeric: true,
      value: (row) => row.score && row.score.mean,
      cell: (row) => withInterval(row.score),
    },
    { name: "Episodes", numeric: true, value: (row) => row.num },
  ],
});

function parts(row) {
  const named = (kind, found) =>
    Object.entries(found || {}).map(([name, part]) => ({
      ...row,
      part: `${kind} ${name}`,
      score: part.exact_match,
      num: part.num_episodes,
    }));
  return [...named("source", row.by_source), ...named("hops", row.by_hops)];
}

function showConditions() {
  const rows = report.conditions.filter((row) => passes(row));
  conditionTable.show(rows);
  partTable.show(rows.flatMap(parts));
}

// ---- aggregates and comparisons ----

function showAggregates() {
  byId("aggregates-section").hidden = !report.aggregates.length;
  fill(
    byId("aggregates"),
    unique(report.aggregates.map((each) => each.environment)).flatMap((environment) => {
      const rows = report.aggregates.filter((each) => each.environment === environment);
      const profiled = rows.filter((each) => each.profile);
      const series = profiled.map((row) => ({
        name: row.agent,
        points: row.profile.thresholds.map((x, at) => ({
          x,
          y: row.profile.share[at],
          low: row.profile.low && row.profile.low[at],
          high: row.profile.high && row.profile.high[at],
        })),
      }));
      const few = profiled.every((row) => row.profile.thresholds.length <= 12);
      return [
        element(
          "figure",
          { class: "panel" },
          element(
            "figcaption",
            {},
            element("h3", {}, "Interquartile mean of exact match"),
            element("p", { class: "muted small" }, shown(environment)),
          ),
          plot((width) =>
            dotChart(width, {
              label: "Interquartile mean by agent",
              axis: { label: "interquartile mean", range: [0, 1] },
              rows: rows.map((row, group) => ({ name: row.agent, group, ...row.iqm })),
            }),
          ),
          element("p"),
          aggregateTable(rows),
        ),
        profiled.length > 0 &&
          element(
            "figure",
            { class: "panel" },
            element(
              "figcaption",
              {},
              element("h3", {}, "Performance profiles"),
              element(
                "p",
                { class: "muted small" },
                "share of scores above a threshold · ",
                shown(environment),
              ),
            ),
            plot(
              (width) =>
                lineChart(width, {
                  label: "Performance profiles",
                  series,
                  marks: few,
                  band: !few,
                  x: { label: "threshold τ", range: [0, 1] },
                  y: { label: "share of scores > τ", range: [0, 1] },
                }).svg,
            ),
            legend(series.map((each) => each.name)),
          ),
      ];
    }),
  );
}

function aggregateTable(rows) {
  const table = new SortableTable({
    label: "Aggregates",
    columns: [
      { name: "Agent", value: (row) => row.agent, cell: (row) => shown(row.agent), kind: "name" },
      {
        name: "IQM",
        numeric: true,
        value: (row) => row.iqm.mean,
        cell: (row) => withInterval(row.iqm),
      },
      {
        name: "Mean",
        numeric: true,
        value: (row) => row.mean.mean,
        cell: (row) => withInterval(row.mean),
      },
    ],
  });
  table.show(rows);
  table.sortBy(1);
  return table.node;
}

const comparisonTable = new SortableTable({
  label: "Pairs of agents",
  tall: true,
  columns: [
    {
      name: "A",
      value: (row) => row.agent_a,
      kind: "name",
      cell: (row) => [
        element(
          "span",
          { class: row.difference > 0 && row.p_holm < 0.05 && "comparison-better" },
          shown(row.agent_a),
        ),
        whereLine(row),
      ],
    },
    {
      name: "B",
      value: (row) => row.agent_b,
      kind: "name",
      cell: (row) =>
        element(
          "span",
          { class: row.difference < 0 && row.p_holm < 0.05 && "comparison-better" },
          shown(row.agent_b),
        ),
    },
    ...where,
    {
      name: "A − B",
      numeric: true,
      value: (row) => row.difference,
      cell: (row) => withInterval({ mean: row.difference, low: row.low, high: row.high }),
    },
    { name: "Pairs", numeric: true, value: (row) => row.num_pairs },
    { name: "p", numeric: true, value: (row) => row.p_value, cell: (row) => pText(row.p_value) },
    {
      name: "p (Holm)",
      numeric: true,
      value: (row) => row.p_holm,
      cell: (row) => pText(row.p_holm),
    },
    {
      name: "At 0.05",
      value: (row) => row.p_holm,
      cell: (row) =>
        row.p_holm < 0.05
          ? element("span", { class: "nowrap" }, row.difference > 0 ? "A is better" : "B is better")
          : "not resolved",
    },
  ],
});

function showComparisons() {
  byId("comparisons-section").hidden = !report.comparisons.length;
  const agent = chosen("agent");
  comparisonTable.show(
    report.comparisons.filter(
      (row) =>
        passes(row, FILTERS.slice(1)) &&
        (agent === null || row.agent_a === agent || row.agent_b === agent),
    ),
  );
}

// ---- episodes ----

let page = 0;
let found = [];

const episodeTable = new SortableTable({
  label: "Episodes",
  onSort: () => {
    page = 0;
    found = episodeTable.ordered(found);
    showPage();
  },
  columns: [
    { name: "Outcome", value: outcome, cell: outcomeBadge },
    { name: "Question", value: (row) => row.question.text, cell: questionCell, kind: "question" },
    {
      name: "Agent",
      kind: "name broad",
      value: (row) => row.condition.agent,
      cell: (row) => shown(row.condition.agent),
    },
    ...where.map((column) => ({
      ...column,
      value: (row) => column.value(row.condition),
      cell: (row) => (column.cell || column.value)(row.condition),
    })),
    { name: "F1", numeric: true, value: (row) => row.f1, cell: (row) => fixed(row.f1, 2) },
    { name: "Searches", numeric: true, value: (row) => row.searches },
    { name: "Tokens", numeric: true, value: (row) => row.tokens, cell: (row) => row.tokens ?? "–" },
    { name: "Invalid", numeric: true, value: (row) => row.invalid },
    {
      name: "Seconds",
      numeric: true,
      value: (row) => row.seconds,
      cell: (row) => fixed(row.seconds, 2),
    },
  ],
});

function questionCell(episode) {
  const place = episode.condition;
  return [
    element(
      "button",
      { type: "button", class: "open", on: { click: () => openTranscript(episode) } },
      shown(episode.question.text),
    ),
    element(
      "div",
      { class: "small" },
      episode.answer
        ? ["answered ", shown(episode.answer)]
        : element("span", { class: "muted" }, "no answer"),
    ),
    element(
      "div",
      { class: "small muted narrow" },
      shown(place.agent),
      " · ",
      shown(place.engine),
      ` · p\u00a0=\u00a0${place.noise}`,
    ),
  ];
}

function showEpisodes() {
  const [picked, source, text] = [
    byId("filter-outcome").value,
    byId("filter-source").value,
    byId("filter-text").value.trim().toLowerCase(),
  ];
  const left = episodes.filter(
    (each) =>
      passes(each.condition) &&
      (picked === "" || outcome(each) === Object.keys(OUTCOMES)[Number(picked)]) &&
      (source === "" || each.question.source === sources[Number(source)]) &&
      (text === "" || textOf(each).includes(text)),
  );
  found = episodeTable.ordered(left);
  page = 0;
  showPage();
}

function showPage() {
  const last = Math.max(0, Math.ceil(found.length / PAGE) - 1);
  page = Math.min(Math.max(page, 0), last);
  episodeTable.showOrdered(found.slice(page * PAGE, (page + 1) * PAGE));
  const right = found.filter((each) => outcome(each) === "right").length;
  fill(byId("count"), `${found.length} of ${episodes.length} episodes; ${right} right.`);
  fill(byId("page"), `page ${page + 1} of ${last + 1}`);
  byId("page-back").disabled = page === 0;
  byId("page-on").disabled = page === last;
}

// ---- a transcript ----

function openTranscript(episode) {
  const dialog = byId("transcript");
  const at = found.indexOf(episode);
  const go = (step) =>
    element(
      "button",
      {
        type: "button",
        disabled: !found[at + step] || at < 0,
        on: { click: () => openTranscript(found[at + step]) },
      },
      step < 0 ? "← Previous" : "Next →",
    );
  fill(
    dialog,
    element(
      "div",
      { class: "bar" },
      go(-1),
      go(1),
      element(
        "button",
        { type: "button", class: "close", on: { click: () => dialog.close() } },
        "Close",
      ),
    ),
    element("div", { class: "inside" }, transcript(episode)),
  );
  if (!dialog.open) dialog.showModal();
  dialog.scrollTop = 0;
}

function transcript(episode) {
  const { question, condition: place } = episode;
  const fact = (name, ...value) => [element("dt", {}, name), element("dd", {}, value)];
  return [
    element("h2", { id: "transcript-question" }, shown(question.text)),
    element(
      "p",
      {},
      outcomeBadge(episode),
      " ",
      shown(place.agent),
      " · ",
      shown(place.engine),
      ` · p\u00a0=\u00a0${place.noise} · `,
      shown(place.environment),
      ` · seed ${episode.seed}`,
    ),
    element(
      "dl",
      { class: "facts" },
      fact(
        "Answer",
        episode.answer ? shown(episode.answer) : element("span", { class: "muted" }, "none"),
      ),
      fact(
        question.golden.length > 1 ? "Golden answers" : "Golden answer",
        question.golden.map((each, index) => [index ? " · " : "", shown(each)]),
      ),
      fact(
        "Scores",
        `EM ${episode.exact_match} · F1 ${fixed(episode.f1, 2)} · SubEM ${episode.sub_exact_match} · reward ${fixed(episode.reward, 2)}`,
      ),
      fact(
        "Effort",
        `${episode.searches} ${episode.searches === 1 ? "search" : "searches"} · ${episode.tokens ?? "unknown"} tokens · ${episode.invalid} invalid · ${fixed(episode.seconds, 2)} s`,
      ),
      fact(
        "Question",
        shown(question.source),
        " / ",
        shown(question.id),
        question.hops ? ` · ${question.hops} ${question.hops === 1 ? "hop" : "hops"}` : "",
      ),
      fact("Ended", shown(episode.stop_reason)),
      episode.error ? fact("Error", shown(episode.error, "verbatim")) : [],
    ),
    element(
      "ol",
      { class: "turns" },
      turnsOf(episode).map(([action, kind, query, noisy, observation], index) =>
        turn({ action, kind, query, noisy, observation }, index),
      ),
    ),
    others(episode),
  ];
}

function others(episode) {
  const same = episodes.filter((each) => each.question === episode.question && each !== episode);
  return (
    same.length > 0 &&
    element(
      "details",
      {},
      element("summary", {}, `The same question elsewhere (${same.length})`),
      element(
        "div",
        { class: "others" },
        same.map((each) =>
          element(
            "button",
            { type: "button", on: { click: () => openTranscript(each) } },
            outcomeBadge(each),
            " ",
            shown(each.condition.agent),
            " · ",
            shown(each.condition.engine),
            ` · p\u00a0=\u00a0${each.condition.noise}`,
          ),
        ),
      ),
    )
  );
}

// ---- the page ----

function showHead() {
  fill(byId("title"), shown(report.title));
  const failed = report.conditions.reduce((sum, each) => sum + each.num_failed, 0);
  fill(
    byId("summary"),
    `${values.agent.length} agents · ${report.conditions.length} conditions · ` +
      `${report.questions.length} questions · ${episodes.length} episodes${failed ? ` · ${failed} failed, counted as wrong` : ""}`,
  );
  if (report.notes.length) {
    fill(
      byId("notes"),
      element(
        "div",
        { class: "panel" },
        element("h3", {}, "What was left out, and what differs"),
        element(
          "ul",
          {},
          report.notes.map((note) => element("li", {}, shown(note))),
        ),
      ),
    );
  }
}

function showProvenance() {
  fill(
    byId("provenance"),
    report.provenance.map((each) =>
      element(
        "details",
        { open: report.provenance.length === 1 },
        element("summary", {}, shown(each.name)),
        element(
          "pre",
          {},
          visible(JSON.stringify({ config: each.config, provenance: each.provenance }, null, 2)),
        ),
      ),
    ),
  );
}

function later(action, wait) {
  let timer = 0;
  return () => {
    clearTimeout(timer);
    timer = setTimeout(action, wait);
  };
}

function start() {
  for (const name of FILTERS) {
    choices(byId(`filter-${name}`), values[name], "all");
    byId(`filter-${name}`).addEventListener("change", () => {
      showConditions();
      showComparisons();
      showEpisodes();
    });
  }
  byId("filter-environment").parentElement.hidden = !severalPlaces;
  choices(byId("filter-outcome"), Object.values(OUTCOMES), "all");
  choices(byId("filter-source"), sources, "all");
  for (const name of ["outcome", "source"])
    byId(`filter-${name}`).addEventListener("change", showEpisodes);
  byId("filter-text").addEventListener("input", later(showEpisodes, 150));
  byId("page-back").addEventListener("click", () => {
    page -= 1;
    showPage();
  });
  byId("page-on").addEventListener("click", () => {
    page += 1;
    showPage();
  });
  fill(byId("conditions"), conditionTable.node);
  fill(byId("parts-table"), partTable.node);
  fill(byId("comparisons"), comparisonTable.node);
  fill(byId("episodes"), episodeTable.node);
  showHead();
  showHeadlines();
  showConditions();
  showAggregates();
  showComparisons();
  showEpisodes();
  showProvenance();
}

start();
