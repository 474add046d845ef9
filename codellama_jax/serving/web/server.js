/** A request that failed, with a message for readers. */
class Problem extends Error {
  constructor(message, status = 0) {
    super(message);
    this.status = status;
  }
}

/** Requests to the server of this page. */
class Server {
  #key = sessionStorage.getItem("api-key");
  #askKey;
  #asking = null; // the promise of a key, while the dialog is open: several requests may need it
  #declined = false;

  /** @param askKey async function of a reason; returns a key, or null if the user gives none. */
  constructor(askKey) {
    this.#askKey = askKey;
  }

  /** The JSON of an answer. */
  async json(path, signal) {
    return await (await this.#request(path, { signal })).json();
  }

  /** Yields the events of a streamed answer, as objects. */
  async *events(path, body, signal) {
    const headers = { "Content-Type": "application/json" };
    const options = { method: "POST", headers, body: JSON.stringify({ ...body, stream: true }), signal };
    const response = await this.#request(path, options);
    for await (const data of serverSentEvents(response.body)) {
      if (data === "[DONE]") return;
      const event = JSON.parse(data);
      if (event.error) throw new Problem(event.error.message, event.error.code);
      yield event;
    }
    throw new Problem("The server ended the answer early. Is it still running?");
  }

  /** Asks again for a key that the user did not give. */
  retryKey() {
    this.#declined = false;
  }

  async #request(path, options) {
    for (;;) {
      const key = this.#key;
      const headers = { ...options.headers, ...(key && { Authorization: `Bearer ${key}` }) };
      let response;
      try {
        response = await fetch(path, { ...options, headers, cache: "no-store", credentials: "omit" });
      } catch (error) {
        if (error.name === "AbortError") throw error;
        throw new Problem("The server does not answer. Is it still running?");
      }
      if (response.ok) return response;
      if (response.status !== 401) throw await problemOf(response);
      if (this.#key === key) await this.#newKey();
    }
  }

  async #newKey() {
    if (this.#declined) throw new Problem("The server needs an API key.", 401);
    const reason = this.#key ? "The server did not accept this key." : "The server asks for an API key.";
    this.#asking ??= this.#askKey(reason).finally(() => (this.#asking = null));
    const key = await this.#asking;
    this.#declined = !key;
    if (!key) throw new Problem("The server needs an API key.", 401);
    this.#key = key;
    sessionStorage.setItem("api-key", key);
  }
}

/** Yields the data of server-sent events. */
async function* serverSentEvents(body) {
  let rest = "";
  for await (const chunk of chunks(body.pipeThrough(new TextDecoderStream()))) {
    const events = (rest + chunk).split("\n\n");
    rest = events.pop();
    for (const event of events) if (event.startsWith("data: ")) yield event.slice(6);
  }
}

/** Yields the chunks of a stream, and cancels it if the reader stops early. Safari cannot iterate over streams. */
async function* chunks(stream) {
  const reader = stream.getReader();
  try {
    for (let part = await reader.read(); !part.done; part = await reader.read()) yield part.value;
  } finally {
    await reader.cancel().catch(() => {});
  }
}

/** The problem that an answer reports. */
async function problemOf(response) {
  const { error } = await response.json().catch(() => ({}));
  const message = error?.message ?? error ?? `the server answered ${response.status} ${response.statusText}`;
  const wait = response.headers.get("Retry-After");
  const text = response.status === 429 ? `The server is busy: ${message}; wait ${wait ?? "some"} s` : String(message);
  return new Problem(sentence(text), response.status);
}

/** The text with a capital letter and a full stop. */
function sentence(text) {
  return text[0].toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? "" : ".");
}

const element = (id) => document.getElementById(id);

/** Sets a text only if it differs: screen readers announce a status again when it is set. */
function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}
