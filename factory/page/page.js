// Decides like factory/select.py, row for row, and shows what moves.
(() => {
  "use strict";
  const data = JSON.parse(document.getElementById("scores").textContent);
  const TYPES = { f4: Float32Array, f8: Float64Array, u1: Uint8Array, u2: Uint16Array, u4: Uint32Array };
  const unpack = ({ type, bytes }) => new TYPES[type](Uint8Array.from(atob(bytes), (c) => c.charCodeAt(0)).buffer);
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const one = (selector, root = document) => root.querySelector(selector);

  const labels = unpack(data.labels), n = data.rows;
  const ordinals = data.ordinals && unpack(data.ordinals), faults = data.faults && unpack(data.faults);
  const sampled = n < data.total;
  const weight = data.classes.map((c) => (c.here ? c.all / c.here : 0));
  const rules = data.rules.map((rule) => {
    const own = { ...rule, state: start(rule), column: unpack(rule.kind === "scored" ? rule.score : rule.nearest) };
    if (rule.seen) own.seen = unpack(rule.seen);
    if (rule.kind === "fixed") own.refused = unpack(rule.refused);
    if (rule.kind === "pairs") {
      own.other = unpack(rule.others);
      own.close = unpack(rule.similarity);
      const counts = unpack(rule.counts);
      own.starts = new Uint32Array(n + 1);
      for (let i = 0; i < n; i++) own.starts[i + 1] = own.starts[i] + counts[i];
    }
    own.bins = Uint8Array.from(own.column, (s) => bin(rule, s));
    return own;
  });
  const QUOTA = rules.length + 1;

  function start(rule) {
    return { low: rule.low ?? -Infinity, high: rule.high ?? Infinity, top: rule.top ?? null };
  }

  function bin(rule, score) {
    if (!Number.isFinite(score)) return 255;
    const count = rule.histogram.length;
    return Math.max(0, Math.min(count - 1, Math.trunc(((score - rule.from) / (rule.to - rule.from)) * count)));
  }

  const changed = (rule) => ["low", "high", "top"].some((key) => rule.state[key] !== start(rule)[key]);

  // ---- deciding

  // A score of 32 bits is compared with a bound of 32 bits, as numpy does.
  const bound = (rule, value) => (rule.kind === "scored" && rule.score.type === "f8" ? value : Math.fround(value));

  function decide() {
    const reason = faults ? Uint8Array.from(faults) : new Uint8Array(n);
    let about = sampled;
    rules.forEach((rule, r) => {
      if (rule.seen) for (let i = 0; i < n; i++) if (!reason[i] && !rule.seen[i]) reason[i] = rule.unseen;
      if (rule.unanswered && rule.kind === "scored") for (let i = 0; i < n; i++) if (!reason[i] && Number.isNaN(rule.column[i])) reason[i] = rule.unanswered;
      if (rule.kind === "scored") refuseByScore(rule, r + 1, reason);
      else if (rule.kind === "pairs") about = refuseCopies(rule, r + 1, reason) || about;
      else for (let i = 0; i < n; i++) if (!reason[i] && rule.refused[i]) reason[i] = r + 1;
    });
    if (!ordinals) return { reason, about };
    const quota = data.classes.map((c) => (sampled && c.all ? Math.round((c.quota * c.here) / c.all) : c.quota));
    refuseBeyond(reason, QUOTA, (i) => labels[i], (size, group) => quota[group], (a, b) => ordinals[a] - ordinals[b] || a - b);
    return { reason, about };
  }

  function refuseByScore(rule, mark, reason) {
    const low = bound(rule, rule.state.low), high = bound(rule, rule.state.high), score = rule.column;
    for (let i = 0; i < n; i++) if (!reason[i] && !(score[i] >= low && score[i] <= high)) reason[i] = mark;
    if (rule.state.top === null) return;
    const amount = rule.share || !sampled ? rule.state.top : (rule.state.top * n) / data.total;
    const limit = (size) => (rule.share ? Math.ceil(size * amount - 1e-9) : amount);
    refuseBeyond(reason, mark, (i) => (rule.per_class ? labels[i] : 0), limit, (a, b) => score[b] - score[a] || a - b);
  }

  function refuseBeyond(reason, mark, group, limit, order) {
    const groups = new Map();
    for (let i = 0; i < n; i++) {
      if (reason[i]) continue;
      const key = group(i);
      if (!groups.has(key)) groups.set(key, []);
      groups.get(key).push(i);
    }
    for (const [key, rows] of groups) {
      rows.sort(order);
      for (let at = 0; at < rows.length; at++) if (at >= limit(rows.length, key)) reason[rows[at]] = mark;
    }
  }

  // A row goes when an earlier row that stays is closer than the bound. True where the carried neighbours of a row do not settle it.
  function refuseCopies(rule, mark, reason) {
    const high = Math.fround(rule.state.high);
    const gone = new Uint8Array(n);
    let about = false;
    for (let i = 0; i < n; i++) {
      let close = 0, alive = false, dropped = false;
      for (let at = rule.starts[i]; at < rule.starts[i + 1]; at++) {
        if (!(rule.close[at] > high)) continue;
        close++;
        const other = rule.other[at];
        alive = alive || !reason[other];
        dropped = dropped || gone[other] === 1;
      }
      if (!alive && close === rule.most && dropped) about = alive = true;
      if (!alive) continue;
      gone[i] = 1;
      if (!reason[i]) reason[i] = mark;
    }
    return about;
  }

  // ---- showing

  const number = (value) => Math.round(value).toLocaleString("en-US");
  const short = (value) => (Math.abs(value) < 1000 ? value.toPrecision(3) : number(value));
  const plain = (value) => String(Number(Number(value).toPrecision(6)));
  let active = Math.max(0, rules.findIndex((rule) => rule.kind !== "fixed" && !rule.constant));

  function show() {
    const { reason, about } = decide();
    const still = !rules.some(changed);
    const perClass = data.classes.map(() => 0), perReason = new Array(data.slugs.length).fill(0);
    for (let i = 0; i < n; i++) {
      perReason[reason[i]] += weight[labels[i]];
      if (!reason[i]) perClass[labels[i]] += weight[labels[i]];
    }
    if (sampled && still) {
      data.classes.forEach((c, i) => (perClass[i] = c.kept));
      perReason.splice(0, perReason.length, ...data.reasons);
    }
    const approximate = about && !still ? "≈ " : "";
    const kept = perReason[0], before = data.reasons[0];
    one("[data-count=kept]").textContent = approximate + number(kept);
    one("[data-count=refused]").textContent = approximate + number(data.total - kept);
    one("[data-count=change]").textContent = still ? "as built" : (kept >= before ? "+" : "−") + number(Math.abs(kept - before));
    one("[data-meter]").style.width = (100 * kept) / Math.max(1, data.total) + "%";
    all("[data-reason]").forEach((item) => {
      const count = perReason[Number(item.dataset.reason)];
      one("b", item).textContent = number(count);
      item.classList.toggle("none", Math.round(count) === 0);
    });
    all("[data-class]").forEach((row) => {
      const i = Number(row.dataset.class), c = data.classes[i];
      one("[data-kept]", row).textContent = number(perClass[i]);
      one(".kept", row).style.width = (100 * perClass[i]) / Number(row.dataset.most) + "%";
      row.classList.toggle("short", c.quota !== null && Math.round(perClass[i]) < c.quota);
    });
    rules.forEach((rule, r) => showRule(rule, r, reason));
    showPictures(reason);
    showCommand(still);
    one("[data-reset]").disabled = still;
  }

  function showRule(rule, r, reason) {
    const card = one(`[data-rule="${r}"]`);
    if (!card) return;
    card.classList.toggle("active", r === active);
    const bars = all(".bars rect", card);
    if (bars.length) {
      const counts = rule.histogram.map(() => [0, 0]);
      for (let i = 0; i < n; i++) if (rule.bins[i] !== 255) counts[rule.bins[i]][reason[i] ? 1 : 0]++;
      const most = Math.max(1, ...counts.map(([a, b]) => a + b));
      counts.forEach(([kept, refused], i) => {
        const tall = (60 * kept) / most, over = (60 * refused) / most;
        bars[2 * i].setAttribute("height", tall);
        bars[2 * i].setAttribute("y", 60 - tall);
        bars[2 * i + 1].setAttribute("height", over);
        bars[2 * i + 1].setAttribute("y", 60 - tall - over);
      });
    }
    all("[data-end]", card).forEach((input) => {
      const value = rule.state[input.dataset.end];
      const shown = input.dataset.end === "top" && rule.share ? value * 100 : value;
      const finite = Number.isFinite(shown) ? shown : input.dataset.end === "low" ? rule.from : rule.to;
      if (input !== document.activeElement || input.type === "range") input.value = input.type === "number" && !Number.isFinite(shown) ? "" : plain(finite);
    });
    all("[data-line]", card).forEach((line) => {
      const value = rule.state[line.dataset.line];
      const place = (100 * (value - rule.from)) / (rule.to - rule.from);
      line.style.display = Number.isFinite(value) ? "" : "none";
      line.style.left = `clamp(0%, ${place}%, 100%)`;
    });
  }

  function showPictures(reason) {
    const rule = rules[active];
    const moved = all(".thumb[data-row]").map((figure) => ({ figure, row: Number(figure.dataset.row) }));
    if (rule) moved.sort((a, b) => order(rule.column[a.row]) - order(rule.column[b.row]) || a.row - b.row);
    for (const { figure, row } of moved) {
      one(reason[row] ? "[data-pane=refused]" : "[data-pane=kept]").append(figure);
      const why = reason[row] ? data.slugs[reason[row]].replaceAll("_", " ") : "kept";
      figure.title = `${figure.dataset.label}: ${why}`;
      if (rule) one("figcaption", figure).textContent = Number.isFinite(rule.column[row]) ? short(rule.column[row]) : "–";
    }
    for (const pane of all("[data-pane]")) one(".empty", pane.parentElement).hidden = pane.childElementCount > 0;
    all("[data-sorted]").forEach((note) => (note.textContent = rule ? `by ${rule.name}, low to high` : ""));
  }
  const order = (score) => (Number.isFinite(score) ? score : -Infinity);

  function showCommand(still) {
    const sets = rules.filter(changed).flatMap((rule) => rule.keys.concat(rule.top === undefined ? [] : ["keep_top"]).map((key) => setting(rule, key)));
    const words = sets.filter(Boolean).map((text) => ` --set 'filters[${text[0]}].${text[1]}'`);
    one("[data-command]").textContent = still ? `${data.command}` : data.command + words.join("") + " --export";
  }

  function setting(rule, key) {
    const { low, high, top } = rule.state, was = start(rule);
    const text = (value) => (Number.isFinite(value) ? String(value) : "null");
    if (key === "between" && (low !== was.low || high !== was.high)) return [rule.index, `between=[${low}, ${high}]`];
    if (key === "min" && low !== was.low) return [rule.index, `min=${text(low)}`];
    if (key === "max" && high !== was.high) return [rule.index, `max=${text(high)}`];
    if (key === "keep_top" && top !== was.top) return [rule.index, rule.share ? `keep_top=${plain(top * 100)}%` : `keep_top=${top}`];
    return null;
  }

  // ---- moving

  function move(rule, input) {
    const end = input.dataset.end, band = rule.keys.includes("between");
    let value = Number(input.value);
    if (input.value === "") value = end === "low" ? (band ? rule.from : -Infinity) : end === "high" ? (band || rule.kind === "pairs" ? rule.to : Infinity) : start(rule).top;
    if (end === "top") value = rule.share ? Math.min(100, Math.max(0.01, value)) / 100 : Math.max(1, Math.round(value));
    else if (rule.kind === "pairs") value = Math.min(rule.to, Math.max(rule.from, value));
    else if (input.type === "range" && !band && value === Number(end === "low" ? input.min : input.max)) value = end === "low" ? -Infinity : Infinity;
    rule.state[end] = value;
    if (rule.state.low > rule.state.high) rule.state[end === "low" ? "high" : "low"] = value;
  }

  let waiting = null;
  const later = () => {
    waiting ??= setTimeout(() => {
      waiting = null;
      show();
    });
  };
  all("[data-rule]").forEach((card) => {
    const r = Number(card.dataset.rule);
    all("[data-end]", card).forEach((input) =>
      input.addEventListener("input", () => {
        active = r;
        move(rules[r], input);
        later();
      })
    );
    const title = one("button", card);
    if (title) title.addEventListener("click", () => ((active = r), later()));
  });
  one("[data-reset]").addEventListener("click", () => {
    rules.forEach((rule) => (rule.state = start(rule)));
    document.activeElement.blur();
    later();
  });
  document.documentElement.classList.add("live");
  show();
})();
