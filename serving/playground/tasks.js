// What each task that this page knows is asked, and how its answer is shown. A new task is one entry of TASKS.
// Requests and answers have the shapes of Hugging Face's inference API; see panel.js for the form around them.

import { Failure } from "./api.js";
import { bar, make, percent } from "./dom.js";

/** Spans of labels in the text itself, with a legend. `start` and `end` count code points, as Python does. */
function marked(found, text) {
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
  return line;
}

const hint = (text) => make("p", { class: "hint", text });

function entities(found, { text }) {
  const points = Array.from(text);
  const rows = found.map((entity) =>
    bar(`${entity.entity_group ?? entity.entity}  ${points.slice(entity.start, entity.end).join("")}`, entity.score),
  );
  return [marked(found, text), ...(found.length ? rows : [hint("Nothing was found in this text.")])];
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

function answered(found, { context }) {
  if (!found.answer) return [hint("The text holds no answer."), bar("none", found.score)];
  return [marked([{ ...found, entity_group: "answer" }], context), bar(found.answer, found.score)];
}

const written = (name) => (answer) => answer.map((one) => make("p", { class: "written", text: one[name] }));

/** How near each line is to the first: the cosine of their vectors. */
function nearness(vectors, { text }) {
  const [first, ...others] = vectors;
  const dot = (one, other) => one.reduce((sum, value, place) => sum + value * other[place], 0);
  const near = (other) => dot(first, other) / Math.sqrt(dot(first, first) * dot(other, other));
  const found = others.map((vector, place) => ({ label: lines(text)[place + 1], score: near(vector) }));
  return found.length ? bars(found) : [hint("Write a second line, and its nearness to the first is shown.")];
}

const lines = (text) => text.split("\n").filter((line) => line.trim());

/** Where a word stands in a text, [start, end] in code points. */
function span(text, word, what) {
  const at = word.trim() ? text.indexOf(word.trim()) : -1;
  if (at < 0) throw new Failure(`The ${what} does not stand in the text: write it as it stands there.`);
  const start = Array.from(text.slice(0, at)).length;
  return [start, start + Array.from(word.trim()).length];
}

const TEXT = { name: "text", label: "Text", rows: 4 };
const ALONE = ({ text }) => text;

// id -> tab, title, button; fields of the form; what they are as `inputs` and `parameters`; how the answer is shown.
export const TASKS = {
  "token-classification": {
    tab: "Entities",
    title: "Find names in a text",
    button: "Find",
    fields: [{ ...TEXT, example: "Marie Curie was born in Warsaw and worked at the University of Paris." }],
    inputs: ALONE,
    show: entities,
  },
  "text-classification": {
    tab: "Classify",
    title: "Sort a text into its class",
    button: "Classify",
    fields: [{ ...TEXT, example: "The room was clean, the staff were kind, and we would come back at once." }],
    inputs: ALONE,
    parameters: () => ({ top_k: 10 }),
    show: bars,
  },
  "fill-mask": {
    tab: "Fill the gap",
    title: "Fill the gap in a sentence",
    button: "Fill",
    fields: [{ ...TEXT, example: (listed) => `The capital of France is ${listed.mask_token ?? "[MASK]"}.` }],
    inputs: ALONE,
    parameters: () => ({ top_k: 8 }),
    show: fillings,
  },
  "question-answering": {
    tab: "Answer",
    title: "Find the answer in a text",
    button: "Answer",
    fields: [
      { name: "context", label: "Text", rows: 5, example: "Ada Lovelace wrote the first program in 1843, for a machine that was never built." },
      { name: "question", label: "Question", rows: 1, example: "When was the first program written?" },
    ],
    inputs: ({ context, question }) => ({ question, context }),
    show: answered,
  },
  "relation-extraction": {
    tab: "Relations",
    title: "Tell how two things in a text are related",
    button: "Tell",
    fields: [
      { ...TEXT, example: "Marie Curie was born in Warsaw." },
      { name: "head", label: "First", rows: 1, example: "Marie Curie" },
      { name: "tail", label: "Second", rows: 1, example: "Warsaw" },
    ],
    inputs: ({ text, head, tail }) => ({ text, head: span(text, head, "first"), tail: span(text, tail, "second") }),
    show: bars,
  },
  translation: {
    tab: "Translate",
    title: "Translate a text",
    button: "Translate",
    fields: [
      { ...TEXT, example: "The house is small." },
      { name: "from", label: "From", rows: 1, example: "", optional: true },
      { name: "to", label: "To", rows: 1, example: "", optional: true },
    ],
    inputs: ALONE,
    parameters: ({ from, to }) => ({ ...(from.trim() && { src_lang: from.trim() }), ...(to.trim() && { tgt_lang: to.trim() }) }),
    show: written("translation_text"),
  },
  summarization: {
    tab: "Summarise",
    title: "Say the gist of a text",
    button: "Summarise",
    fields: [{ ...TEXT, rows: 8, example: "The committee met on Tuesday. It heard three reports on the new bridge, which is late and over its budget. It will decide in May whether to go on." }],
    inputs: ALONE,
    show: written("summary_text"),
  },
  "feature-extraction": {
    tab: "Compare",
    title: "See how near texts are to the first line",
    button: "Compare",
    fields: [{ ...TEXT, rows: 5, example: "A man plays the guitar.\nSomebody makes music.\nThe market fell again today." }],
    inputs: ({ text }) => lines(text),
    show: nearness,
  },
};
