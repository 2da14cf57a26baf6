// The conversation: messages out, answers streamed in, with what they cost and what went wrong.

import { ask, curl, events } from "./api.js";
import { $, announce, copy, make, toast } from "./dom.js";
import { hide, listen, TokenWriter } from "./tokens.js";

const PATH = "v1/chat/completions";
const SUGGESTIONS = [
  "Explain how rainbows form, in three sentences.",
  "Write a haiku about the sea at night.",
  "List five names for a friendly manta ray.",
];

const history = []; // [{role, content}] without the system prompt
let stopping = null; // the AbortController of the answer on its way
let askForKey = () => undefined;

/** What the next request says. */
function request(messages) {
  const number = (id) => ($(id).value.trim() === "" ? undefined : Number($(id).value));
  const system = $("system").value.trim();
  return {
    model: $("model").value,
    messages: system ? [{ role: "system", content: system }, ...messages] : messages,
    temperature: Number($("temperature").value),
    top_p: Number($("top-p").value),
    max_tokens: number("max-tokens"),
    seed: number("seed"),
    ...($("logprobs").checked ? { logprobs: true, top_logprobs: 5 } : {}),
    stream: true,
    stream_options: { include_usage: true },
  };
}

/** A conversation that stays at its end while it grows, unless the reader has scrolled up. */
function following(change) {
  const room = $("conversation");
  const atEnd = room.scrollHeight - room.scrollTop - room.clientHeight < 48;
  change();
  if (atEnd) room.scrollTop = room.scrollHeight;
}

async function send(text) {
  $("welcome").hidden = true;
  history.push({ role: "user", content: text });
  const said = make("article", { class: "said", "aria-label": "You" }, make("p", { text }));
  following(() => $("conversation").append(said));
  $("conversation").scrollTop = $("conversation").scrollHeight;
  await answer();
}

/** Ask for the next message and show it as it comes. */
async function answer() {
  const body = request(history);
  const text = make("p", { class: "answer-text waiting", role: "group", tabindex: "0", "aria-label": "Answer; arrow keys go through its tokens" });
  const figures = make("p", { class: "figures" });
  const turn = make("article", { class: "answer", "aria-label": body.model }, make("h2", { text: body.model }), text, figures);
  following(() => $("conversation").append(turn));
  const writer = new TokenWriter(text);
  const clock = { started: performance.now(), first: null, last: null };
  const outcome = { reason: null, usage: null, failure: null, stopped: false };
  working(new AbortController());
  announce("Answering");
  try {
    const response = await ask(PATH, { body, signal: stopping.signal });
    showFingerprint(response.headers.get("x-manta-fingerprint"));
    for await (const event of events(response)) read(event, writer, clock, outcome, text, figures);
  } catch (error) {
    if (error.name === "AbortError") outcome.stopped = true;
    else if (error.retryAfter !== undefined) outcome.failure = error;
    else throw error;
  } finally {
    working(null);
    text.classList.remove("waiting");
    following(() => finish(turn, text, figures, body, writer, clock, outcome));
  }
}

/** One event of the stream. */
function read(event, writer, clock, outcome, text, figures) {
  outcome.usage = event.usage ?? outcome.usage;
  const choice = event.choices?.[0];
  if (!choice) return;
  outcome.reason = choice.finish_reason ?? outcome.reason;
  const entries = choice.logprobs?.content;
  if (!choice.delta?.content && !entries?.length) return;
  clock.last = performance.now();
  clock.first ??= clock.last;
  text.classList.remove("waiting");
  following(() => {
    writer.add(choice.delta.content ?? "", entries);
    figures.textContent = costs(writer.count, clock);
  });
}

function costs(tokens, clock) {
  const parts = [`first token ${Math.round(clock.first - clock.started)} ms`];
  const seconds = (clock.last - clock.first) / 1000;
  if (tokens > 1 && seconds > 0) parts.push(`${((tokens - 1) / seconds).toFixed(1)} tokens/s`);
  parts.push(`${tokens} token${tokens === 1 ? "" : "s"}`);
  return parts.join(" · ");
}

const REASONS = { length: "cut at max tokens", content_filter: "filtered", tool_calls: "asks for a tool" };

/** The end of an answer: its figures, what may be done with it, or what went wrong. */
function finish(turn, text, figures, body, writer, clock, { reason, usage, failure, stopped }) {
  if (!turn.isConnected) return; // a new chat has begun meanwhile
  const content = text.textContent;
  const asked = [...history];
  const button = (label, act) => make("button", { type: "button", text: label, on: { click: act } });
  const actions = make("span", { class: "turn-actions" });
  // A question without an answer is not told again: many chat templates want the two to alternate.
  if (content) {
    history.push({ role: "assistant", content });
    actions.append(button("Copy", () => copy(content, "Answer")));
  } else {
    history.pop();
  }
  actions.append(button("curl", () => copy(curl(PATH, body), "Request")));
  const retry = button(failure ? "Try again" : "Once more", () => {
    if (stopping) return;
    // Turns are in order: whatever came after this one's question goes too.
    while (turn.nextSibling) turn.nextSibling.remove();
    turn.remove();
    history.splice(0, history.length, ...asked);
    answer();
  });
  actions.append(retry);
  const ended = stopped ? "stopped" : REASONS[reason];
  const costed = clock.first === null ? [] : [costs(usage?.completion_tokens ?? writer.count, clock)];
  figures.replaceChildren([...costed, ...(ended ? [ended] : [])].join(" · "), actions);
  if (!content) text.remove();
  if (failure) {
    figures.before(make("p", { class: "problem", role: "alert", text: failure.message }));
    if (failure.retryAfter) countDown(retry, failure.retryAfter);
    if (failure.status === 401) askForKey(failure.message);
  } else {
    announce(stopped ? "Stopped" : `Answer complete: ${content}`);
  }
}

/** A button that may be pressed when the endpoint said it would listen again. */
function countDown(button, seconds) {
  const label = button.textContent;
  const until = performance.now() + 1000 * seconds;
  button.disabled = true;
  const tick = () => {
    const left = Math.ceil((until - performance.now()) / 1000);
    button.disabled = left > 0;
    button.textContent = left > 0 ? `${label} in ${left} s` : label;
    if (left > 0 && button.isConnected) setTimeout(tick, 250);
  };
  tick();
}

function working(controller) {
  stopping = controller;
  $("send").hidden = Boolean(controller);
  $("stop").hidden = !controller;
  $("conversation").setAttribute("aria-busy", String(Boolean(controller)));
}

function showFingerprint(fingerprint) {
  if (!fingerprint) return;
  $("served").hidden = false;
  $("fingerprint").textContent = fingerprint.slice(0, 12);
  $("fingerprint").title = fingerprint;
}

function clear() {
  stopping?.abort();
  hide();
  history.length = 0;
  for (const turn of $("conversation").querySelectorAll("article")) turn.remove();
  $("welcome").hidden = false;
  $("message").focus();
}

function grow() {
  const box = $("message");
  box.style.height = "auto";
  box.style.height = `${box.scrollHeight}px`;
  $("send").disabled = !box.value.trim();
}

/** Connect the chat's controls. `needKey(words)` is called when the endpoint asks for another key. */
export function start(needKey) {
  askForKey = needKey;
  listen($("conversation"));
  $("suggestions").append(
    ...SUGGESTIONS.map((text) => make("button", { type: "button", text, on: { click: () => stopping ?? send(text) } })),
  );
  $("composer").addEventListener("submit", (event) => {
    event.preventDefault();
    const text = $("message").value.trim();
    if (!text || stopping) return;
    $("message").value = "";
    grow();
    send(text);
  });
  $("message").addEventListener("input", grow);
  $("message").addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    $("composer").requestSubmit();
  });
  $("stop").addEventListener("click", () => stopping?.abort());
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    hide();
    stopping?.abort();
  });
  $("new-chat").addEventListener("click", clear);
  $("curl").addEventListener("click", () => {
    const draft = $("message").value.trim();
    const next = draft ? [...history, { role: "user", content: draft }] : history;
    if (next.length) copy(curl(PATH, request(next)), "Request");
    else toast("Write a message first: the request would be empty");
  });
  $("tint").addEventListener("change", () => document.body.classList.toggle("tinted", $("tint").checked));
  for (const id of ["temperature", "top-p"]) {
    const tell = () => ($(`${id}-shown`).textContent = Number($(id).value).toFixed(2));
    $(id).addEventListener("input", tell);
    tell();
  }
  grow();
}
