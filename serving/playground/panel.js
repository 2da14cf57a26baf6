// The panel of a task: its form, its answer, and what went wrong.

import { ask, curl, Failure } from "./api.js";
import { announce, copy, make } from "./dom.js";
import { TASKS } from "./tasks.js";

/** A field of a form with its label, which is shown where there are several. */
function control(field, listed, id, alone) {
  const example = typeof field.example === "function" ? field.example(listed) : field.example;
  const shared = { id, spellcheck: "false", "data-field": field.name };
  const input = field.rows > 1 ? make("textarea", { ...shared, rows: field.rows }) : make("input", { ...shared, type: "text" });
  input.value = example;
  return [make("label", { for: id, class: alone ? "unseen" : "task-label", text: field.label }), input];
}

/** The panel of a task. `listed`: its entry of /v1/tasks, {id, models?, mask_token?}. */
export function panel(listed, needKey) {
  const task = TASKS[listed.id];
  const id = (part) => `${listed.id}-${part}`;
  const models = make("select", { id: id("model") }, ...(listed.models ?? []).map((name) => make("option", { text: name })));
  const controls = task.fields.flatMap((field) => control(field, listed, id(field.name), task.fields.length === 1));
  const inputs = controls.filter((element) => element.dataset.field);
  const go = make("button", { type: "submit", class: "main", text: task.button });
  const result = make("div", { class: "result", "aria-label": "Result", role: "region" });
  const values = () => Object.fromEntries(inputs.map((input) => [input.dataset.field, input.value]));
  const body = () => ({
    ...(models.value ? { model: models.value } : {}),
    inputs: task.inputs(values()),
    parameters: task.parameters?.(values()) ?? {},
  });
  const path = `v1/tasks/${listed.id}`;

  function complain(error) {
    if (!(error instanceof Failure)) throw error;
    result.replaceChildren(make("p", { class: "problem", role: "alert", text: error.message }));
    if (error.status === 401) needKey(error.message);
  }

  async function run() {
    go.disabled = true;
    try {
      const started = performance.now();
      const given = values();
      const answer = await (await ask(path, { body: body() })).json();
      const took = `${Math.round(performance.now() - started)} ms`;
      result.replaceChildren(...task.show(answer, given), make("p", { class: "figures", text: took }));
      announce(`${task.title}: done`);
    } catch (error) {
      complain(error);
    } finally {
      go.disabled = false;
    }
  }

  async function copyRequest() {
    try {
      await copy(curl(path, body()), "Request");
    } catch (error) {
      complain(error);
    }
  }

  const empty = () => task.fields.some((field) => !field.optional && !values()[field.name].trim());
  const form = make(
    "form",
    {
      on: {
        submit: (event) => {
          event.preventDefault();
          if (!empty()) run();
        },
        keydown: (event) => {
          if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
        },
      },
    },
    ...controls,
    make(
      "div",
      { class: "actions" },
      ...(listed.models?.length > 1 ? [make("label", { for: models.id, text: "Model" }), models] : []),
      make("button", { type: "button", text: "Copy as curl", on: { click: copyRequest } }),
      go,
    ),
  );
  return make("section", { class: "task", id: `panel-${listed.id}`, role: "tabpanel", "aria-labelledby": `tab-${listed.id}`, hidden: true },
    make("h1", { text: task.title }), form, result);
}
