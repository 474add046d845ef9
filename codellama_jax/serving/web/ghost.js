/**
 * The view of ghost text: text that is shown in a textarea at the cursor, and is not part of it.
 *
 * The text is edited in a textarea and not in a contenteditable element, because a textarea's undo, IME, paste and
 * selection are those of the browser, and stay correct: in a contenteditable element the ghost would be a node inside
 * the text, and nodes that a script inserts corrupt the undo history. It also stays fast at a megabyte.
 *
 * A textarea cannot show foreign text, so a layer covers it from the cursor's line down while there is a ghost. The
 * layer repeats the line and the lines below it, with the ghost between; only as many as are visible, so its cost does
 * not depend on the file's size. Lines are not wrapped and have a fixed height, and both elements have the same font,
 * tabs and padding, so every character is drawn at the same place, wide ones and tabs too.
 */
class GhostView {
  #text;
  #layer;
  #pre;
  #shown = null; // {caret, text}

  /**
   * @param text the textarea.
   * @param layer an element over it that contains <pre><span></span><ins></ins><span></span></pre>.
   */
  constructor(text, layer) {
    this.#text = text;
    this.#layer = layer;
    this.#pre = layer.firstElementChild;
    text.addEventListener("scroll", () => this.#draw());
    new ResizeObserver(() => this.#draw()).observe(text);
    text.addEventListener("mousedown", (event) => this.#click(event));
  }

  get visible() {
    return this.#shown !== null;
  }

  /** Shows a text at an offset of the textarea's value. */
  show(caret, text) {
    this.#shown = { caret, text };
    this.#draw();
  }

  hide() {
    this.#shown = null;
    this.#layer.hidden = true;
  }

  #draw() {
    if (!this.#shown) return;
    const { caret, text } = this.#shown;
    const { value, scrollTop, scrollLeft, clientWidth, clientHeight } = this.#text;
    const style = getComputedStyle(this.#text);
    const lineHeight = parseFloat(style.lineHeight);
    const start = lineStart(value, caret);
    const top = parseFloat(style.paddingTop) + lineHeight * count(value, "\n", start) - scrollTop;
    const lines = Math.ceil((clientHeight - top) / lineHeight) + 1;
    this.#layer.hidden = top < -lineHeight || lines < 2; // the cursor's line is scrolled out of view
    if (this.#layer.hidden) return;
    const [before, ghost, after] = this.#pre.children;
    before.textContent = value.slice(start, caret);
    ghost.textContent = text;
    after.textContent = firstLines(value, caret, lines) + "\n".repeat(lines); // covers the rest of the text
    Object.assign(this.#layer.style, { width: `${clientWidth}px`, height: `${clientHeight}px` });
    const transform = `translate(${-scrollLeft}px, ${top}px)`;
    Object.assign(this.#pre.style, { transform, minWidth: `${clientWidth + scrollLeft}px` });
  }

  /** Puts the cursor where the user sees the text that is clicked: the ghost has moved the lines below it. */
  #click(event) {
    if (this.#layer.hidden || event.button) return;
    this.#layer.style.pointerEvents = "auto";
    const found = document.caretPositionFromPoint?.(event.clientX, event.clientY);
    this.#layer.style.pointerEvents = "";
    const [before, ghost, after] = this.#pre.children;
    if (!found || !this.#pre.contains(found.offsetNode) || before.contains(found.offsetNode)) return;
    const { caret } = this.#shown;
    const offset = after.contains(found.offsetNode) ? caret + found.offset : caret;
    event.preventDefault();
    this.#text.focus();
    this.#text.setSelectionRange(offset, offset);
    if (!ghost.contains(found.offsetNode)) this.hide();
  }
}

/** Where the line of an offset starts. */
function lineStart(text, offset) {
  return text.slice(0, offset).lastIndexOf("\n") + 1;
}

/** How often a character occurs in the first `end` characters of a text. */
function count(text, character, end) {
  let number = 0;
  for (let at = text.indexOf(character); at !== -1 && at < end; at = text.indexOf(character, at + 1)) number++;
  return number;
}

/** At most this many lines of a text, from an offset. */
function firstLines(text, start, lines) {
  let end = start;
  for (let line = 0; line < lines; line++) {
    end = text.indexOf("\n", end) + 1;
    if (!end) return text.slice(start);
  }
  return text.slice(start, end);
}
