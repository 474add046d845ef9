const INTERVAL = 1000; // ms between two readings
const READINGS = 120; // in the chart
const NO_INFILLING = "no: suggestions do not see the text after the cursor";

/** The card of the model, and figures of the running server. */
class Figures {
  #server;
  #report;
  #onModel;
  #readings = []; // tokens/s
  #last = null; // {time, tokens} of the last reading

  /**
   * @param report called with the server's state, and whether it is a problem.
   * @param onModel called with the card of the model when the server has answered.
   */
  constructor(server, report, onModel) {
    this.#server = server;
    this.#report = report;
    this.#onModel = onModel;
  }

  /** Reads the state until the page is closed. Pages that are not visible do not ask. */
  async run() {
    for (;;) {
      if (!document.hidden) await this.#read();
      await new Promise((resolve) => setTimeout(resolve, INTERVAL));
    }
  }

  async #read() {
    try {
      const { model, figures } = await this.#server.json("/page/state");
      this.#onModel?.(model);
      if (this.#onModel) showCard(model);
      this.#onModel = null;
      this.#report(figures.state, figures.state === "failed");
      this.#show(figures);
    } catch (error) {
      this.#report(error.message, true, error.status);
      this.#last = null;
    }
  }

  #show(figures) {
    const now = { time: performance.now(), tokens: figures.generated_tokens };
    const seconds = this.#last ? (now.time - this.#last.time) / 1000 : 0;
    const speed = seconds ? (now.tokens - this.#last.tokens) / seconds : 0;
    this.#last = now;
    this.#readings = [...this.#readings, speed].slice(-READINGS);
    const first = figures.first_token_seconds;
    setList(element("figures"), {
      "tokens/s": short(speed),
      "first token": first === null ? "–" : first < 1 ? [short(first * 1000), "ms"] : [short(first), "s"],
      "cache pages": [figures.pages_used, `of ${short(figures.pages)}`],
      active: [figures.active, `of ${figures.slots}`],
      waiting: figures.waiting,
      "tokens so far": short(figures.generated_tokens),
    });
    drawChart(element("chart"), this.#readings);
  }
}

function showCard(model) {
  setText(element("name"), model.name);
  document.title = `${model.name} · Code Llama in JAX`;
  const context = `${model.context.toLocaleString("en")} tokens`;
  setText(element("summary"), `${short(model.parameters)} parameters · ${context} of context`);
  const trained = model.training;
  setList(element("card"), {
    parameters: model.parameters.toLocaleString("en"),
    layers: model.layers,
    width: model.dim.toLocaleString("en"),
    heads: `${model.heads}, ${model.kv_heads} for keys and values`,
    vocabulary: `${model.vocabulary.toLocaleString("en")} rows`,
    context,
    "RoPE base": model.rope_theta.toLocaleString("en"),
    computes: model.dtype,
    infilling: model.infilling ? `${model.infilling.toUpperCase()} order` : NO_INFILLING,
    chat: model.chat ? `${model.chat} format` : "no",
    format: model.format,
    ...(trained && { trained: trainedText(trained) }),
  });
}

function trainedText({ stage, parent, step, tokens }) {
  const after = parent ? ` after ${parent}` : "";
  const all = tokens ? `; ${short(tokens)} tokens${parent ? " in all stages" : ""}` : "";
  return `${stage}${after}, ${step.toLocaleString("en")} steps${all}`;
}

/** Fills a list of terms: term -> value, or [value, unit]. */
function setList(list, values) {
  if (!list.children.length) {
    for (const term of Object.keys(values)) {
      const group = make("div", "");
      group.append(make("dt", term), make("dd", ""));
      list.append(group);
    }
  }
  Object.values(values).forEach((value, index) => {
    const [text, unit] = [value].flat();
    const dd = list.children[index].lastChild;
    if (dd.dataset.text === `${text} ${unit}`) return;
    dd.dataset.text = `${text} ${unit}`;
    dd.replaceChildren(String(text), ...(unit ? [" ", make("small", unit)] : []));
  });
}

/** Draws readings as a line that ends at the right edge, with a round number above the largest of them. */
function drawChart(svg, readings) {
  const [left, right, top, bottom] = [34, 396, 12, 96];
  const ceiling = roundUp(Math.max(10, ...readings));
  const x = (index) => right - ((readings.length - 1 - index) / (READINGS - 1)) * (right - left);
  const y = (value) => bottom - (value / ceiling) * (bottom - top);
  const label = (value) => draw("text", { x: left - 6, y: y(value) + 4, "text-anchor": "end" }, short(value));
  svg.replaceChildren(
    ...[0, ceiling / 2, ceiling].map((value) => draw("path", { d: `M${left} ${y(value)}H${right}` })),
    ...[0, ceiling / 2, ceiling].map(label),
    draw("polyline", { points: readings.map((value, index) => `${x(index)},${y(value)}`).join(" ") }),
  );
}

function draw(name, attributes, text = "") {
  const node = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.textContent = text;
  return node;
}

/** The smallest of 1, 2, 5, 10, 20, 50, ... that is at least a value. */
function roundUp(value) {
  const magnitude = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((factor) => factor * magnitude).find((number) => number >= value);
}

/** A number for readers: 7.63, 812, 8.2k, 1.25M. */
function short(value) {
  for (const [unit, letter] of [[1e12, "T"], [1e9, "B"], [1e6, "M"], [1e3, "k"]]) {
    if (value >= unit) return `${Number((value / unit).toPrecision(3))}${letter}`;
  }
  return String(Number(value.toPrecision(3)));
}
