// An answer as tokens: each shows, on hover or by the arrow keys, how likely it was and what else the model considered.

import { $, bar, make, percent } from "./dom.js";

const facts = new WeakMap(); // span -> the stream's entries of the tokens it shows

/** Adds what a stream brings to `element`, one span a token where log-probabilities came along. */
export class TokenWriter {
  constructor(element) {
    this.element = element;
    this.pending = []; // tokens that brought no text yet: a character may take several
    this.count = 0;
  }

  /** `text`: what became visible; `entries`: its tokens, [{token, logprob, top_logprobs}], or none. */
  add(text, entries) {
    this.count += entries?.length || (text ? 1 : 0);
    this.pending.push(...(entries ?? []));
    if (!text) return;
    const whole = this.pending.map((entry) => entry.token).join("") === text;
    const groups = whole ? this.pending.map((entry) => [entry.token, [entry]]) : [[text, this.pending]];
    for (const [shown, group] of groups) {
      if (!group.length) {
        this.element.append(shown);
        continue;
      }
      const span = make("span", { class: "token", text: shown });
      span.style.setProperty("--doubt", 1 - Math.exp(Math.min(...group.map((entry) => entry.logprob))));
      facts.set(span, group);
      this.element.append(span);
    }
    this.pending = [];
  }
}

/** Line breaks and outer spaces made visible. */
function visible(token) {
  const ends = token.replace(/^ +| +$/g, (spaces) => "␣".repeat(spaces.length));
  return ends.replaceAll("\n", "⏎").replaceAll("\t", "⇥") || "(nothing)";
}

function card(entry) {
  const others = entry.top_logprobs ?? [];
  const listed = others.some((other) => other.token === entry.token) ? others : [entry, ...others];
  const rows = listed.map((other) =>
    bar(visible(other.token), Math.exp(other.logprob), other.token === entry.token ? { "data-chosen": true } : {}),
  );
  return make(
    "div",
    { class: "token-facts" },
    make(
      "p",
      { class: "token-head" },
      make("code", { text: visible(entry.token) }),
      make("strong", { text: percent(Math.exp(entry.logprob)) }),
      make("small", { text: `log-probability ${entry.logprob.toFixed(3)}` }),
    ),
    ...rows,
  );
}

let shown = null;

function show(span) {
  if (span === shown) return;
  hide();
  shown = span;
  span.classList.add("pointed");
  const box = $("token-card");
  box.replaceChildren(...facts.get(span).map(card));
  box.hidden = false;
  place();
}

/** Put the card beside its token; away with it when the token has scrolled out of sight. */
function place() {
  if (!shown) return;
  const box = $("token-card");
  const at = shown.getClientRects()[0];
  const room = $("conversation").getBoundingClientRect();
  if (!at || at.bottom < room.top || at.top > room.bottom) {
    hide();
    return;
  }
  const left = Math.max(8, Math.min(at.left, document.documentElement.clientWidth - box.offsetWidth - 8));
  const below = at.bottom + 6;
  const fits = below + box.offsetHeight < window.innerHeight - 8;
  box.style.left = `${left}px`;
  box.style.top = `${fits ? below : Math.max(8, at.top - box.offsetHeight - 6)}px`;
}

export function hide() {
  shown?.classList.remove("pointed");
  shown = null;
  $("token-card").hidden = true;
}

/** Pointing, tapping and, with the answer focused, the arrow keys show a token's card. */
export function listen(conversation) {
  const tokenOf = (target) => (target instanceof Element ? target.closest(".token") : null);
  for (const event of ["pointerover", "click"]) {
    conversation.addEventListener(event, ({ target }) => {
      const span = tokenOf(target);
      if (span) show(span);
      else hide();
    });
  }
  conversation.addEventListener("pointerleave", hide);
  conversation.addEventListener("scroll", place);
  conversation.addEventListener("focusout", hide);
  conversation.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step || !event.target.matches(".answer-text")) return;
    const spans = [...event.target.querySelectorAll(".token")];
    if (!spans.length) return;
    event.preventDefault();
    const at = spans.indexOf(shown);
    const next = spans[Math.max(0, Math.min(spans.length - 1, at + step))];
    next.scrollIntoView({ block: "nearest" });
    show(next);
    const [entry] = facts.get(next);
    $("status").textContent = `${next.textContent}: ${percent(Math.exp(entry.logprob))}`;
  });
}
