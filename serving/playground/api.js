// Talks to the endpoint that served this page: the key, requests, streams, and failures told in words.

const KEY = "manta-key";

export const key = {
  get: () => sessionStorage.getItem(KEY) ?? "",
  set: (value) => (value ? sessionStorage.setItem(KEY, value) : sessionStorage.removeItem(KEY)),
};

/** What went wrong, in words for the person at the page. `retryAfter`: seconds the endpoint asks to wait. */
export class Failure extends Error {
  constructor(words, status = 0, retryAfter = null) {
    super(words);
    this.status = status;
    this.retryAfter = retryAfter;
  }
}

/** Send a request (POST with a body, else GET). Returns the Response, or throws Failure; AbortError when stopped. */
export async function ask(path, { body, signal } = {}) {
  const headers = {};
  if (key.get()) headers.authorization = `Bearer ${key.get()}`;
  if (body) headers["content-type"] = "application/json";
  let response;
  try {
    response = await fetch(path, { method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body), signal });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Failure("The endpoint cannot be reached: it has stopped, or the network is down. Try again in a moment.");
  }
  if (!response.ok) throw await refusal(response);
  return response;
}

const WORDS = {
  401: () => (key.get() ? "The endpoint does not know this key." : "The endpoint asks for a key."),
  403: (said) => `This key may not do that. ${said}`,
  404: (said) => `The endpoint has no such thing. ${said}`,
  408: () => "The request took too long to arrive. Try again.",
  413: () => "The conversation is longer than the endpoint takes. A new chat starts afresh.",
  429: (_, wait) => `Too many requests with this key. ${again(wait)}`,
  503: (_, wait) => `The endpoint is busy or restarting. ${again(wait)}`,
};

async function refusal(response) {
  const said = await response.json().then((data) => data?.error?.message ?? "", () => "");
  const header = response.headers.get("retry-after") ?? "";
  const wait = /^\d+$/.test(header) ? Number(header) : null;
  const words = WORDS[response.status]?.(said, wait);
  const fallback = response.status >= 500
    ? "The endpoint failed to answer. Try again; if it stays so, its log says why."
    : `The endpoint refused the request (${response.status}). ${said}`;
  return new Failure((words ?? fallback).trim(), response.status, wait);
}

function again(wait) {
  return wait === null ? "Try again shortly." : `Try again in ${wait} second${wait === 1 ? "" : "s"}.`;
}

/** The JSON events of a streamed answer, until `[DONE]`. Throws Failure when the stream carries an error or breaks off. */
export async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    while (true) {
      const { done, value } = await reader.read().catch((error) => {
        if (error.name === "AbortError") throw error;
        return { done: true };
      });
      if (done) throw new Failure("The answer broke off: the connection ended before the model was done.");
      rest += value;
      const lines = rest.split(/\r?\n/);
      rest = lines.pop();
      for (const line of lines) {
        if (!line.startsWith("data:")) continue;
        const data = line.slice(5).trim();
        if (data === "[DONE]") return;
        const event = parse(data);
        if (event.error) throw new Failure(`The answer broke off. ${event.error.message ?? ""}`.trim());
        yield event;
      }
    }
  } finally {
    reader.cancel().catch(() => undefined); // it may have failed already: what matters was thrown
  }
}

function parse(data) {
  try {
    return JSON.parse(data);
  } catch {
    throw new Failure("The answer broke off: what came was not an event of a stream.");
  }
}

/** The request as a command line. The key is named, never written. */
export function curl(path, body) {
  const quoted = JSON.stringify(body, null, 2).replaceAll("'", "'\\''");
  const lines = [`curl ${new URL(path, document.baseURI)}`, "  -H 'Content-Type: application/json'"];
  if (key.get()) lines.push('  -H "Authorization: Bearer $MANTA_API_KEY"');
  if (body.stream) lines.push("  --no-buffer");
  return [...lines, `  -d '${quoted}'`].join(" \\\n");
}
