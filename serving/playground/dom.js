// Small helpers for the page: elements by id, elements made of text (never of HTML), a short message, the clipboard.

export const $ = (id) => document.getElementById(id);

/** An element with properties (`class`, `text`, aria and data attributes, handlers) and children. */
export function make(tag, { class: name, text, on = {}, ...attributes } = {}, ...children) {
  const element = document.createElement(tag);
  if (name) element.className = name;
  if (text !== undefined) element.textContent = text;
  for (const [key, value] of Object.entries(attributes)) {
    if (value === true) element.setAttribute(key, "");
    else if (value !== false && value !== null) element.setAttribute(key, value);
  }
  for (const [event, handler] of Object.entries(on)) element.addEventListener(event, handler);
  element.append(...children);
  return element;
}

/** Tell screen readers what happened; nothing is shown. */
export function announce(text) {
  $("status").textContent = text;
}

let fading;
/** A short message at the bottom that goes away by itself. */
export function toast(text) {
  $("toast").textContent = text;
  $("toast").hidden = false;
  clearTimeout(fading);
  fading = setTimeout(() => ($("toast").hidden = true), 2400);
}

/** Copy text. Browsers offer navigator.clipboard only on https and localhost: elsewhere a selection is copied. */
export async function copy(text, what) {
  if (navigator.clipboard) {
    await navigator.clipboard.writeText(text);
  } else {
    const area = make("textarea", { class: "unseen" });
    area.value = text;
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  toast(`${what} copied`);
}

/** A share of 1 as people read it: 99.2 %, 3.1 %, 0.04 %. */
export function percent(share) {
  const value = 100 * share;
  if (value > 0 && value < 0.01) return "< 0.01 %";
  return `${value >= 99.95 ? "100" : value >= 1 ? value.toFixed(1) : value.toFixed(2)} %`;
}

/** A bar of a share between 0 and 1 with its label and figure. */
export function bar(label, share, attributes = {}) {
  const fill = make("span", { class: "fill" });
  fill.style.setProperty("--share", Math.max(0, Math.min(1, share)));
  return make(
    "div",
    { class: "bar", ...attributes },
    make("span", { class: "bar-label", text: label, title: label }),
    make("span", { class: "track", "aria-hidden": "true" }, fill),
    make("span", { class: "figure", text: percent(share) }),
  );
}
