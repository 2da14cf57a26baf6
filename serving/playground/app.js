// The page as a whole: the key, the theme, the settings, which models and tasks the endpoint offers, and their tabs.

import { ask, key } from "./api.js";
import * as chat from "./chat.js";
import { $, make } from "./dom.js";
import { panel } from "./panel.js";
import { TASKS } from "./tasks.js";

// --- key ---

function needKey(words) {
  $("key-error").hidden = !words;
  $("key-error").textContent = words ?? "";
  $("key").value = "";
  if (!$("key-dialog").open) $("key-dialog").showModal();
}

function tellKey() {
  $("key-label").textContent = key.get() ? "Key set" : "Key";
  $("key-button").classList.toggle("set", Boolean(key.get()));
}

$("key-button").addEventListener("click", () => needKey());
$("key-cancel").addEventListener("click", () => $("key-dialog").close());
$("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  key.set($("key").value.trim());
  $("key").value = "";
  $("key-dialog").close();
  tellKey();
  load();
});

// --- theme and settings ---

const system = matchMedia("(prefers-color-scheme: dark)");
const isDark = () => (document.documentElement.dataset.theme ?? (system.matches ? "dark" : "light")) === "dark";
const tellTheme = () => $("theme-button").setAttribute("aria-pressed", String(isDark()));

$("theme-button").addEventListener("click", () => {
  const theme = isDark() ? "light" : "dark";
  document.documentElement.dataset.theme = theme;
  localStorage.setItem("manta-theme", theme);
  tellTheme();
});
system.addEventListener("change", tellTheme);

function showSettings(open) {
  $("settings").hidden = !open;
  $("settings-button").setAttribute("aria-expanded", String(open));
}

const narrow = matchMedia("(max-width: 56rem)"); // the settings lie over the conversation
$("settings-button").addEventListener("click", () => showSettings($("settings").hidden));
$("settings").addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || !narrow.matches) return;
  showSettings(false);
  $("settings-button").focus();
});

// --- tabs ---

function open(name) {
  for (const tab of $("tabs").children) {
    const chosen = tab.dataset.name === name;
    tab.setAttribute("aria-selected", String(chosen));
    tab.tabIndex = chosen ? 0 : -1;
    if (chosen) tab.scrollIntoView({ block: "nearest", inline: "nearest" });
    $(`panel-${tab.dataset.name}`).hidden = !chosen;
  }
  const chatting = name === "chat";
  $("panels").hidden = chatting;
  $("settings-button").hidden = !chatting;
  document.body.classList.toggle("chatting", chatting);
}

$("tabs").addEventListener("keydown", (event) => {
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (!step) return;
  const tabs = [...$("tabs").children];
  const next = tabs[(tabs.indexOf(document.activeElement) + step + tabs.length) % tabs.length];
  open(next.dataset.name);
  next.focus();
});

/** Show a tab for each listed task that this page knows, and the chat where a model is left to talk to. */
function showTabs(tasks, chats) {
  const known = tasks.filter(({ id }) => Object.hasOwn(TASKS, id));
  const names = [...(chats || !known.length ? [["chat", "Chat"]] : []), ...known.map(({ id }) => [id, TASKS[id].tab])];
  $("panels").replaceChildren(...known.map((listed) => panel(listed, needKey)));
  $("tabs").replaceChildren(
    ...names.map(([name, label]) =>
      make("button", {
        type: "button", role: "tab", id: `tab-${name}`, "data-name": name, "aria-controls": `panel-${name}`, text: label,
        on: { click: () => open(name) },
      }),
    ),
  );
  $("tabs").hidden = names.length < 2;
  $("panel-chat").hidden = names[0][0] !== "chat";
  if (names.length > 1) {
    $("panel-chat").setAttribute("role", "tabpanel");
    $("panel-chat").setAttribute("aria-labelledby", "tab-chat");
  }
  open(names[0][0]);
}

// --- what the endpoint offers ---

/** The tasks an endpoint lists; none where it knows no such path. */
async function listTasks() {
  try {
    return (await (await ask("v1/tasks")).json()).data ?? [];
  } catch (error) {
    if (error.status === 404) return [];
    throw error;
  }
}

async function load() {
  let models, tasks;
  try {
    models = (await (await ask("v1/models")).json()).data;
    tasks = await listTasks();
  } catch (error) {
    if (error.retryAfter === undefined) throw error;
    $("welcome-model").textContent = "the model";
    $("offline").hidden = error.status === 401;
    $("offline").textContent = error.message;
    if (error.status === 401) needKey(error.message);
    return;
  }
  $("offline").hidden = true;
  const taken = new Set(tasks.flatMap((task) => task.models ?? []));
  const talkers = models.filter(({ id }) => !taken.has(id));
  $("model").replaceChildren(...talkers.map(({ id }) => make("option", { text: id, value: id })));
  const describe = () => {
    const chosen = talkers.find(({ id }) => id === $("model").value);
    $("welcome-model").textContent = chosen?.id ?? "the model";
    // Half of what the model can hold, so that a conversation has room beside its answers.
    if (!$("max-tokens").dataset.chosen) $("max-tokens").value = Math.min(512, Math.floor((chosen?.max_model_len ?? 1024) / 2));
  };
  $("model").onchange = describe;
  describe();
  showTabs(tasks, talkers.length > 0);
  $("message").focus();
}

$("max-tokens").addEventListener("input", () => ($("max-tokens").dataset.chosen = "yes"));
chat.start(needKey);
tellTheme();
tellKey();
showSettings(!narrow.matches);
load();
