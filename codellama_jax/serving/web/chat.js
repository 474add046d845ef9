// What an answer's end may need to say.
const NOTES = { length: "The answer was cut: it reached its longest length.", stopped: "Stopped." };

/** A conversation with the model. The whole of it is sent with each message; it ends with the tab. */
class Chat {
  #server;
  #messages = []; // as the API has them
  #request = null; // AbortController while an answer is generated

  constructor(server) {
    this.#server = server;
    element("chat-form").addEventListener("submit", (event) => {
      event.preventDefault();
      if (this.#request) this.#request.abort();
      else this.#send();
    });
    element("message").addEventListener("keydown", (event) => {
      if (event.isComposing || event.shiftKey || event.key !== "Enter") return;
      event.preventDefault();
      if (!this.#request) this.#send();
    });
    element("chat").addEventListener("keydown", (event) => event.key === "Escape" && this.#request?.abort());
    element("new-chat").addEventListener("click", () => this.#reset());
  }

  /** @param model the card of /page/state. */
  set model(model) {
    for (const id of ["log", "chat-form", "chat-keys"]) element(id).hidden = !model.chat;
    element("no-chat").hidden = Boolean(model.chat);
    setText(element("no-chat"), "This model was not trained on dialogues, so it does not chat.");
  }

  #reset() {
    this.#request?.abort();
    this.#setBusy(null);
    this.#messages = [];
    element("log").replaceChildren();
    element("new-chat").hidden = true;
    element("message").focus();
  }

  async #send() {
    const field = element("message");
    const text = field.value.trim();
    if (!text) return;
    const messages = (this.#messages = [...this.#messages, { role: "user", content: text }]);
    const [question, answer] = [this.#append("user", "You: "), this.#append("assistant", "Model: ")];
    question.textContent = text;
    element("log").scrollTop = element("log").scrollHeight;
    field.value = "";
    element("new-chat").hidden = false;
    this.#setBusy(new AbortController());
    const { signal } = this.#request;
    let [content, finish, problem, leftOut] = ["", null, "", 0];
    try {
      for await (const event of this.#server.events("/v1/chat/completions", { messages }, signal)) {
        const choice = event.choices[0];
        content += choice?.delta?.content ?? "";
        finish = choice?.finish_reason ?? finish;
        leftOut = event.turns_left_out ?? leftOut;
        this.#following(() => render(answer, content));
      }
      problem = content ? "" : "The model answered nothing.";
    } catch (error) {
      if (signal.aborted) finish = "stopped";
      else problem = error.message;
    }
    if (messages !== this.#messages) return; // a new chat has started
    this.#setBusy(null);
    setText(element("chat-state"), problem);
    if (content) {
      messages.push({ role: "assistant", content });
      const notes = [leftOut && leftOutNote(leftOut), NOTES[finish]].filter(Boolean);
      this.#following(() => answer.append(...notes.map((note) => make("small", note))));
    } else {
      this.#messages = messages.slice(0, -1);
      question.parentNode.remove();
      answer.parentNode.remove();
      field.value ||= text; // it can be sent again
    }
  }

  #setBusy(request) {
    this.#request = request;
    if (request) setText(element("chat-state"), "");
    setText(element("send"), request ? "Stop" : "Send");
    element("log").setAttribute("aria-busy", String(Boolean(request))); // an answer is announced when it is complete
  }

  /** Adds an empty message to the log. `speaker` is for screen readers: others see it by the position. */
  #append(role, speaker) {
    const [message, name, body] = [make("div", ""), make("span", speaker), make("div", "")];
    message.className = role;
    name.className = "hidden";
    message.append(name, body);
    element("log").append(message);
    return body;
  }

  /** Changes the log and follows its end, unless the user has scrolled up. */
  #following(change) {
    const log = element("log");
    const atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 80;
    change();
    if (atEnd) log.scrollTop = log.scrollHeight;
  }
}

/** Says that the model has not seen the whole conversation. */
function leftOutNote(turns) {
  const what = turns === 1 ? "question and its answer" : `${turns} questions and their answers`;
  return `The oldest ${what} did not fit the model's context and were left out.`;
}

/** Shows an answer: the text between lines that begin with ``` is code. */
function render(node, text) {
  const parts = text.split(/^```.*\n?/m);
  const nodes = parts.map((part, index) => (index % 2 ? make("pre", part) : make("p", part.trim())));
  node.replaceChildren(...nodes.filter((part) => part.textContent));
}

/** A new element with a text. */
function make(name, text) {
  const node = document.createElement(name);
  node.textContent = text;
  return node;
}
