/** Asks for an API key in a dialog. Returns null if the user gives none. */
function askKey(reason) {
  const [dialog, field] = [element("key-dialog"), element("key")];
  setText(element("key-reason"), reason);
  field.value = "";
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue || null), { once: true });
  });
}

element("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  element("key-dialog").close(element("key").value.trim());
});
element("key-cancel").addEventListener("click", () => element("key-dialog").close(""));
element("enter-key").addEventListener("click", () => server.retryKey());

const server = new Server(askKey);
const text = element("text");

function reportSuggestion(state, announcement = "") {
  setText(element("suggestion-state"), state);
  setText(element("suggestion-text"), announcement);
}

const ghost = new GhostView(text, element("ghost"));
const suggestions = new Suggestions(text, ghost, element("accept"), server, reportSuggestion);
new Editor(text, (message) => reportSuggestion(message, message)); // its keys come after those of a suggestion
element("automatic").addEventListener("change", ({ target }) => (suggestions.automatic = target.checked));

const chat = new Chat(server);

function reportServer(message, isProblem, status) {
  setText(element("state"), message);
  element("state").classList.toggle("bad", isProblem);
  element("enter-key").hidden = status !== 401;
}

new Figures(server, reportServer, (model) => {
  suggestions.model = model;
  chat.model = model;
}).run();
