const DEBOUNCE = 150; // ms of silence before a request
const MAX_TOKENS = 64; // of a suggestion
const MAX_PROMPT = 4096; // tokens: longer prompts make a suggestion slow, and hardly better

/**
 * Suggestions for the text at the cursor.
 *
 * A suggestion belongs to the text before and after it. While the user types what it says, it stays, and its rest is
 * shown; any other edit cancels its request. It completes the line of the cursor; on an empty line, it continues to the
 * next empty one.
 */
class Suggestions {
  #text;
  #view;
  #accept;
  #server;
  #report;
  #model = null;
  #current = null; // {before, after, text, done}
  #timer = 0;
  #request = null; // AbortController
  #composing = false;
  #budget = 0; // characters that a prompt may have; learned from the server's answers
  automatic = true;

  /**
   * @param accept a button that accepts the suggestion; it is hidden while there is none.
   * @param report called with the state to show, and with what a screen reader should announce.
   */
  constructor(text, view, accept, server, report) {
    this.#text = text;
    this.#accept = accept;
    this.#view = view;
    this.#server = server;
    this.#report = report;
    text.addEventListener("input", () => this.#update(true));
    document.addEventListener("selectionchange", () => document.activeElement === text && this.#update(false));
    text.addEventListener("blur", () => this.dismiss());
    text.addEventListener("compositionstart", () => {
      this.#composing = true;
      this.dismiss();
    });
    text.addEventListener("compositionend", () => {
      this.#composing = false;
      this.#update(true);
    });
    text.addEventListener("keydown", (event) => this.#keydown(event));
    accept.addEventListener("pointerdown", (event) => event.preventDefault()); // the text keeps the focus
    accept.addEventListener("click", () => insert(text, this.#rest));
  }

  /** @param model the card of /page/state. */
  set model(model) {
    this.#model = model;
    this.#budget = 1.5 * this.#room; // few texts have tokens of fewer characters
  }

  /** Number of tokens that a prompt may have. */
  get #room() {
    return Math.min(this.#model.context - this.#maxTokens, MAX_PROMPT);
  }

  get #maxTokens() {
    return Math.min(MAX_TOKENS, Math.floor(this.#model.context / 4));
  }

  /** The part of the suggestion that is not typed yet; "" if there is none. */
  get #rest() {
    return this.#current?.text.slice(this.#text.selectionStart - this.#current.before.length) ?? "";
  }

  /** Requests a suggestion now. */
  ask() {
    this.dismiss();
    if (this.#model) this.#suggest();
  }

  dismiss() {
    clearTimeout(this.#timer);
    this.#request?.abort();
    this.#request = this.#current = null;
    this.#view.hide();
    this.#accept.hidden = true;
    this.#report("");
  }

  /** Follows a change of the text or of the cursor. */
  #update(edited) {
    if (this.#composing) return;
    if (this.#current && this.#continues()) {
      this.#show();
      if (this.#rest || !this.#current.done) return;
    } else if (!edited && !this.#current) {
      return;
    }
    this.dismiss();
    if (edited && this.automatic && this.#model) this.#timer = setTimeout(() => this.#suggest(), DEBOUNCE);
  }

  /** Whether the text is that of the suggestion with a beginning of it typed. */
  #continues() {
    const { before, after, text } = this.#current;
    const { value, selectionStart, selectionEnd } = this.#text;
    if (selectionStart !== selectionEnd || selectionStart < before.length) return false;
    if (!value.startsWith(before) || value.slice(selectionStart) !== after) return false;
    return text.startsWith(value.slice(before.length, selectionStart));
  }

  #show() {
    if (this.#rest.trim()) this.#view.show(this.#text.selectionStart, this.#rest);
    else this.#view.hide();
    this.#accept.hidden = !this.#view.visible;
  }

  async #suggest() {
    const { value, selectionStart, selectionEnd } = this.#text;
    if (selectionStart !== selectionEnd || !value.trim()) return;
    const request = (this.#request = new AbortController());
    const [before, after] = [value.slice(0, selectionStart), value.slice(selectionStart)];
    const current = (this.#current = { before, after, text: "", done: false });
    const started = performance.now();
    let first = 0;
    let finish = null;
    this.#report("…");
    try {
      for await (const event of this.#events(current, request.signal)) {
        if (request.signal.aborted) return;
        first ||= performance.now() - started;
        current.text += event.choices[0]?.text ?? "";
        finish = event.choices[0]?.finish_reason ?? finish;
        if (!this.#continues()) return this.dismiss();
        this.#show();
      }
      current.done = true;
      if (finish === "length") current.text = wholeLines(current.text);
      this.#show();
      if (!this.#rest.trim()) return this.#report("no suggestion here");
      this.#report(`suggestion after ${Math.round(first)} ms`, `Suggestion: ${this.#rest}`);
    } catch (error) {
      if (request.signal.aborted) return;
      this.dismiss();
      this.#report(error.message, error.message);
    }
  }

  /** The events of an answer; if the prompt is longer than the context, that of a shorter one. */
  async *#events({ before, after }, signal) {
    const line = before.slice(lineStart(before, before.length)) + firstLines(after, 0, 1);
    const stop = [line.trim() ? "\n" : "\n\n"];
    const settings = { max_tokens: this.#maxTokens, temperature: 0, stop, stream_options: { include_usage: true } };
    for (;;) {
      const [prompt, suffix] = fitted(before, after, this.#budget);
      const body = this.#model.infilling ? { prompt, suffix, ...settings } : { prompt, ...settings };
      const length = prompt.length + suffix.length;
      try {
        for await (const event of this.#server.events("/v1/completions", body, signal)) {
          if (event.usage && length < before.length + after.length) this.#learn(length / event.usage.prompt_tokens);
          yield event;
        }
        return;
      } catch (error) {
        if (error.status !== 400 || !/tokens.* must fit/.test(error.message) || length < 16) throw error;
        this.#budget = Math.min(this.#budget, length) * 0.75;
      }
    }
  }

  /** Adapts the budget to the length of tokens, if it changes much: a cut elsewhere loses the cached beginning. */
  #learn(charactersPerToken) {
    const fits = 0.85 * charactersPerToken * this.#room;
    if (fits < this.#budget || fits > 1.3 * this.#budget) this.#budget = fits;
  }

  #keydown(event) {
    if (event.isComposing) return;
    if (event.key === " " && event.ctrlKey) {
      event.preventDefault();
      return this.ask();
    }
    if (event.key === "Escape") return this.dismiss();
    if (!this.#view.visible) return;
    if (event.key === "Tab" && !event.shiftKey) insert(this.#text, this.#rest);
    else if (event.key === "ArrowRight" && (event.ctrlKey || event.metaKey)) insert(this.#text, firstWord(this.#rest));
    else return;
    event.preventDefault();
    event.stopImmediatePropagation(); // the editor has a meaning for these keys where there is no suggestion
  }
}

/** A text without the line that it ends in, if it has several. */
function wholeLines(text) {
  const end = text.lastIndexOf("\n");
  return end > 0 && text.slice(0, end).trim() ? text.slice(0, end) : text;
}

/** The first word of a text, with the white space before it. */
function firstWord(text) {
  return text.match(/^\s*([\p{L}\p{N}_]+|[^\s\p{L}\p{N}_]+)?/u)[0] || text;
}

/**
 * The parts of the texts before and after the cursor that fit a number of characters, at least a quarter of it after.
 *
 * Both are cut at multiples of an eighth of the budget: while one types, most prompts then begin like the one before,
 * and the server has that beginning in its cache.
 */
function fitted(before, after, budget) {
  const step = Math.max(1, Math.floor(budget / 8));
  const suffix = after.slice(0, step * Math.max(2, Math.floor((budget - before.length) / step)));
  const excess = before.length - (budget - suffix.length);
  const start = excess > 0 ? Math.min(before.length, Math.ceil(excess / step) * step) : 0;
  return [before.slice(start).toWellFormed(), suffix.toWellFormed()];
}

/**
 * Inserts a text at the cursor, as if it was typed: undo takes it back. The command is deprecated, but nothing else
 * keeps the undo history of a textarea.
 */
function insert(textarea, text) {
  textarea.focus();
  if (!document.execCommand("insertText", false, text)) {
    textarea.setRangeText(text, textarea.selectionStart, textarea.selectionEnd, "end");
    textarea.dispatchEvent(new Event("input"));
  }
}
