// A tab for each task the endpoint lists at /v1/tasks and this page knows: what it is asked, how its answer is shown.
// A new task is one entry of TASKS. Requests and answers have the shapes of Hugging Face's inference API.

import { ask, curl } from "./api.js";
import { announce, bar, copy, make, percent } from "./dom.js";

/** Spans of labels in the text itself, with a legend. `start` and `end` count code points, as Python does. */
function entities(found, text) {
  const points = Array.from(text);
  const hues = new Map();
  const line = make("p", { class: "entities" });
  let at = 0;
  for (const entity of [...found].sort((a, b) => a.start - b.start)) {
    if (entity.start < at) continue; // inside one that is shown already
    const label = entity.entity_group ?? entity.entity;
    if (!hues.has(label)) hues.set(label, hues.size % 6);
    line.append(points.slice(at, entity.start).join(""));
    const mark = make("mark", { class: `hue-${hues.get(label)}`, title: `${label}, ${percent(entity.score)}` });
    mark.append(points.slice(entity.start, entity.end).join(""), make("small", { text: label }));
    line.append(mark);
    at = entity.end;
  }
  line.append(points.slice(at).join(""));
  const rows = found.map((entity) =>
    bar(`${entity.entity_group ?? entity.entity}  ${points.slice(entity.start, entity.end).join("")}`, entity.score),
  );
  return found.length ? [line, ...rows] : [line, make("p", { class: "hint", text: "Nothing was found in this text." })];
}

function bars(answer) {
  return answer
    .flat()
    .sort((a, b) => b.score - a.score)
    .map((item) => bar(item.label, item.score));
}

/** For each gap its likeliest fillings; several gaps come as a list of lists. */
function fillings(answer) {
  const gaps = Array.isArray(answer[0]) ? answer : [answer];
  return gaps.flatMap((gap, number) => [
    ...(gaps.length > 1 ? [make("h3", { text: `Gap ${number + 1}` })] : []),
    ...gap.map((item) => bar(item.token_str.trim() || "␣", item.score, { title: item.sequence })),
  ]);
}

export const TASKS = {
  "token-classification": {
    tab: "Entities",
    title: "Find names in a text",
    button: "Find",
    example: () => "Marie Curie was born in Warsaw and worked at the University of Paris.",
    parameters: { aggregation_strategy: "simple" },
    show: entities,
  },
  "text-classification": {
    tab: "Classify",
    title: "Sort a text into its class",
    button: "Classify",
    example: () => "The room was clean, the staff were kind, and we would come back at once.",
    parameters: { top_k: 10 },
    show: bars,
  },
  "fill-mask": {
    tab: "Fill the gap",
    title: "Fill the gap in a sentence",
    button: "Fill",
    example: (listed) => `The capital of France is ${listed.mask_token ?? "[MASK]"}.`,
    parameters: { top_k: 8 },
    show: fillings,
  },
};

/** The panel of a task. `listed`: its entry of /v1/tasks, {id, models?, mask_token?}. */
export function panel(listed, needKey) {
  const task = TASKS[listed.id];
  const id = (part) => `${listed.id}-${part}`;
  const models = make("select", { id: id("model") }, ...(listed.models ?? []).map((name) => make("option", { text: name })));
  const input = make("textarea", { id: id("text"), rows: "4", spellcheck: "false" });
  input.value = task.example(listed);
  const go = make("button", { type: "submit", class: "main", text: task.button });
  const result = make("div", { class: "result", "aria-label": "Result", role: "region" });
  const body = () => ({
    ...(models.value ? { model: models.value } : {}),
    inputs: input.value,
    parameters: task.parameters,
  });
  const path = `v1/tasks/${listed.id}`;

  async function run() {
    go.disabled = true;
    try {
      const started = performance.now();
      const answer = await (await ask(path, { body: body() })).json();
      const took = `${Math.round(performance.now() - started)} ms`;
      result.replaceChildren(...task.show(answer, input.value), make("p", { class: "figures", text: took }));
      announce(`${task.title}: done`);
    } catch (error) {
      if (error.retryAfter === undefined) throw error;
      result.replaceChildren(make("p", { class: "problem", role: "alert", text: error.message }));
      if (error.status === 401) needKey(error.message);
    } finally {
      go.disabled = false;
    }
  }

  const form = make(
    "form",
    {
      on: {
        submit: (event) => {
          event.preventDefault();
          if (input.value.trim()) run();
        },
        keydown: (event) => {
          if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
        },
      },
    },
    make("label", { for: input.id, class: "unseen", text: "Text" }),
    input,
    make(
      "div",
      { class: "actions" },
      ...(listed.models?.length > 1 ? [make("label", { for: models.id, text: "Model" }), models] : []),
      make("button", { type: "button", text: "Copy as curl", on: { click: () => copy(curl(path, body()), "Request") } }),
      go,
    ),
  );
  return make("section", { class: "task", id: `panel-${listed.id}`, role: "tabpanel", "aria-labelledby": `tab-${listed.id}`, hidden: true },
    make("h1", { text: task.title }), form, result);
}
