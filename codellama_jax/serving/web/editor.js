const MAX_FILE = 16 * 2 ** 20; // bytes

/** The file in the editor: opening, saving, and the keys of a code editor that a textarea lacks. */
class Editor {
  #text;
  #report;
  #handle = null; // FileSystemFileHandle, where the browser has them: saving then writes the file itself
  #name = "untitled.txt";
  #saved = ""; // the text on the disk
  #warned = null; // the text that the user was warned of losing
  #lineEnd = "\n";
  #leaving = false; // after Escape, Tab leaves the editor

  /** @param report called with a message. */
  constructor(text, report) {
    this.#text = text;
    this.#report = report;
    text.addEventListener("input", () => this.#showName());
    text.addEventListener("keydown", (event) => this.#keydown(event));
    text.addEventListener("dragover", (event) => event.dataTransfer.types.includes("Files") && event.preventDefault());
    text.addEventListener("drop", (event) => this.#drop(event));
    document.addEventListener("selectionchange", () => this.#showCursor());
    document.addEventListener("keydown", (event) => this.#shortcut(event));
    addEventListener("beforeunload", (event) => this.#changed && event.preventDefault());
    element("open").addEventListener("click", () => this.#open());
    element("save").addEventListener("click", () => this.#save());
    element("file").addEventListener("change", ({ target }) => {
      if (target.files.length) this.#read(target.files[0], null);
      target.value = ""; // so that the same file can be opened again
    });
  }

  get #changed() {
    return this.#text.value !== this.#saved;
  }

  /** Whether the text may be replaced: changes that are not saved are discarded at the second try. */
  #mayReplace() {
    const { value } = this.#text;
    if (value === this.#saved || value === this.#warned) return true;
    this.#warned = value;
    this.#report("The text has changes that are not saved. Open again to discard them.");
    return false;
  }

  async #open() {
    if (!this.#mayReplace()) return;
    if (!window.showOpenFilePicker) return element("file").click();
    try {
      const [handle] = await showOpenFilePicker();
      await this.#read(await handle.getFile(), handle);
    } catch (error) {
      if (error.name !== "AbortError") this.#report(`The file cannot be opened: ${error.message}`);
    }
  }

  async #read(file, handle) {
    if (file.size > MAX_FILE) return this.#report(`${file.name} is larger than ${MAX_FILE / 2 ** 20} MB.`);
    let content;
    try {
      // A byte order mark stays in the text, so that saving keeps it.
      content = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(await file.arrayBuffer());
    } catch {
      return this.#report(`${file.name} is not a text file in UTF-8.`);
    }
    // A textarea has line feeds only.
    const [crlf, lines] = [content.split("\r\n").length - 1, content.split(/\r\n|\r|\n/).length - 1];
    this.#lineEnd = crlf && crlf === lines ? "\r\n" : "\n";
    this.#text.value = content;
    this.#text.setSelectionRange(0, 0);
    this.#text.scrollTo(0, 0);
    this.#text.focus();
    [this.#saved, this.#name, this.#handle] = [this.#text.value, file.name, handle];
    this.#showName();
    const mixed = content.includes("\r") && this.#lineEnd === "\n";
    this.#report(mixed ? "The file has different line ends. Saving writes line feeds." : "");
  }

  async #save() {
    const text = this.#text.value;
    const content = text.replaceAll("\n", this.#lineEnd);
    try {
      if (window.showSaveFilePicker) {
        this.#handle ??= await showSaveFilePicker({ suggestedName: this.#name });
        const file = await this.#handle.createWritable();
        await file.write(content);
        await file.close();
        this.#name = this.#handle.name;
      } else {
        download(this.#name, content);
      }
      this.#saved = text;
      this.#showName();
      this.#report("Saved.");
    } catch (error) {
      if (error.name !== "AbortError") this.#report(`The file cannot be saved: ${error.message}`);
    }
  }

  #drop(event) {
    if (!event.dataTransfer.files.length) return; // text, which the browser inserts
    event.preventDefault();
    if (this.#mayReplace()) this.#read(event.dataTransfer.files[0], null);
  }

  #shortcut(event) {
    if (!(event.ctrlKey || event.metaKey) || event.shiftKey || event.altKey) return;
    const action = { o: () => this.#open(), s: () => this.#save() }[event.key.toLowerCase()];
    if (!action) return;
    event.preventDefault();
    action();
  }

  /** Tab indents, and Enter keeps the indentation. */
  #keydown(event) {
    const leaving = this.#leaving;
    this.#leaving = event.key === "Escape";
    if (event.isComposing || event.ctrlKey || event.metaKey || event.altKey || event.shiftKey) return;
    const { value, selectionStart, selectionEnd } = this.#text;
    const line = value.slice(lineStart(value, selectionStart), selectionStart);
    const indents = event.key === "Tab" && !leaving && selectionStart === selectionEnd;
    if (indents) insert(this.#text, /^\t/m.test(value) ? "\t" : " ".repeat(4 - (line.length % 4)));
    else if (event.key === "Enter") insert(this.#text, "\n" + line.match(/^[ \t]*/)[0]);
    else return;
    event.preventDefault();
  }

  #showName() {
    setText(element("file-name"), this.#name + (this.#changed ? " (changed)" : ""));
  }

  #showCursor() {
    if (document.activeElement !== this.#text) return;
    const { value, selectionStart, selectionEnd, selectionDirection } = this.#text;
    const caret = selectionDirection === "backward" ? selectionStart : selectionEnd;
    const column = [...value.slice(lineStart(value, caret), caret)].length + 1;
    setText(element("cursor"), `${count(value, "\n", caret) + 1}:${column}`);
  }
}

/** Offers a file as a download. */
function download(name, content) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([content], { type: "text/plain" }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}
