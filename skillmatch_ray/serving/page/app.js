// The page: sends the brief to /v1/match and shows who was found. Texts only ever become text nodes.
"use strict";

const $ = (id) => document.getElementById(id);
const TITLE_LENGTH = 80;
const SHOWN_SKILLS = 14;
const SHOWN_SECTIONS = 6;
const HELPED = 3;
const NUMBERS = ["max_daily_rate_eur", "latitude", "longitude", "radius_km"];
const LISTS = ["countries", "spoken_languages"];
const FLAGS = ["remote", "include_unknown"];
const FIELDS = ["text", "skills", "top_k", "available_by", ...NUMBERS, ...LISTS];

let lastMatch = null;

function listOf(id) {
  return $(id).value.split(",").map((part) => part.trim()).filter(Boolean);
}

function project() {
  const text = $("text").value.trim();
  const [first, ...rest] = text.split("\n");
  const more = rest.join("\n").trim();
  const description = first.length > TITLE_LENGTH ? text : more;
  return { title: first.slice(0, TITLE_LENGTH), skills: listOf("skills"), ...(description ? { description } : {}) };
}

function filters() {
  const found = {};
  for (const id of NUMBERS) if ($(id).value !== "") found[id] = Number($(id).value);
  for (const id of LISTS) if (listOf(id).length) found[id] = listOf(id);
  for (const id of FLAGS) if ($(id).checked) found[id] = true;
  if ($("available_by").value) found.available_by = $("available_by").value;
  return found;
}

function countFilters() {
  const count = Object.keys(filters()).filter((name) => name !== "include_unknown").length;
  $("active").hidden = count === 0;
  $("active").textContent = count;
}

function clearFilters() {
  for (const id of [...NUMBERS, ...LISTS, "available_by"]) $(id).value = "";
  for (const id of FLAGS) $(id).checked = false;
  countFilters();
}

async function call(method, path, body) {
  const headers = { Accept: "application/json" };
  if ($("key").value) headers["X-API-Key"] = $("key").value;
  if (body) headers["Content-Type"] = "application/json";
  const answer = await fetch(path, { method, headers, body: body && JSON.stringify(body) }).catch(() => {
    throw new Error("The service cannot be reached. Is it still running?");
  });
  const content = await answer.json().catch(() => ({ detail: `The service answered ${answer.status}.` }));
  if (answer.ok) return content;
  if (answer.status === 401) askForKey();
  const busy = answer.status === 503 ? ` Try again in ${answer.headers.get("Retry-After") || 1} s.` : "";
  throw new Error(String(content.detail || content.title).replace("Value error, ", "") + busy);
}

function askForKey() {
  $("key-row").hidden = false;
  $("key").focus();
}

function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function kilometres(profile, wanted) {
  if (wanted.latitude === undefined || wanted.longitude === undefined) return null;
  if (profile.latitude === undefined || profile.longitude === undefined) return null;
  const radians = (degrees) => (degrees * Math.PI) / 180;
  const [a, b] = [radians(wanted.latitude), radians(profile.latitude)];
  const across = radians(profile.longitude - wanted.longitude);
  const half = Math.sin((b - a) / 2) ** 2 + Math.cos(a) * Math.cos(b) * Math.sin(across / 2) ** 2;
  return 2 * 6371 * Math.asin(Math.min(1, Math.sqrt(half)));
}

function facts(candidate, wanted) {
  const profile = candidate.profile;
  const distance = kilometres(profile, wanted);
  const place = [profile.city, profile.country].filter(Boolean).join(", ");
  return [
    place && distance !== null ? `${place}, ${Math.round(distance)} km away` : place,
    profile.remote ? "works remotely" : "",
    (profile.spoken_languages || []).length ? `speaks ${profile.spoken_languages.join(", ")}` : "",
    profile.language ? `profile in ${profile.language}` : "",
    profile.daily_rate_eur === undefined ? "" : `${profile.daily_rate_eur} € a day`,
    profile.available_from ? `free from ${profile.available_from}` : "",
    candidate.freelancer_id,
  ].filter(Boolean);
}

function skillItems(candidate, brief) {
  const asked = new Set((brief ? brief.skills : []).map((skill) => skill.toLowerCase()));
  const text = brief ? ` ${brief.title} ${brief.description || ""} `.toLowerCase() : "";
  const explained = candidate.explanation ? candidate.explanation.skills : [];
  const labels = explained.length ? explained.map((skill) => skill.text) : candidate.profile.skills || [];
  const helped = new Set(explained.filter((skill) => skill.score > 0).slice(0, HELPED).map((skill) => skill.text));
  return labels.slice(0, SHOWN_SKILLS).map((label) => {
    const named = asked.has(label.toLowerCase()) || text.includes(` ${label.toLowerCase()} `);
    const item = element("li", named || helped.has(label) ? "match" : "", label);
    if (named) item.title = "named in your brief";
    else if (helped.has(label)) item.title = "counted most for this match";
    return item;
  });
}

const sectionName = (type) => type.replaceAll("_", " ");
const percent = (share) => `${Math.round(100 * share)} %`;

function bar(part, total, largest) {
  const row = element("div", "bar");
  const track = element("span", "track");
  const fill = element("div", "fill");
  fill.style.width = `${largest > 0 ? Math.max(0, Math.min(100, (100 * part.score) / largest)) : 0}%`;
  track.append(fill);
  row.append(element("span", "", sectionName(part.type)), track, element("span", "share", percent(part.score / total)));
  row.title = part.text;
  return row;
}

function bars(candidate) {
  const sections = candidate.explanation ? [...candidate.explanation.freelancer] : [];
  sections.sort((a, b) => b.score - a.score);
  const largest = sections.length ? sections[0].score : 0;
  return sections.slice(0, SHOWN_SECTIONS).map((section) => bar(section, candidate.score, largest));
}

function askedShares(candidate) {
  const parts = candidate.explanation ? [...candidate.explanation.project] : [];
  parts.sort((a, b) => b.score - a.score);
  const told = parts.map((part) => `${sectionName(part.type)} ${percent(part.score / candidate.score)}`);
  return told.length ? `of your brief: ${told.join(", ")}` : "";
}

function card(candidate, at, brief, wanted) {
  const made = $("card").content.firstElementChild.cloneNode(true);
  const part = (name) => made.querySelector(`.${name}`);
  const headline = candidate.profile.headline || candidate.freelancer_id;
  part("rank").textContent = at + 1;
  part("headline").textContent = headline;
  part("score").textContent = candidate.score.toFixed(3);
  part("facts").append(...facts(candidate, wanted).map((fact) => element("li", "", fact)));
  part("skills").append(...skillItems(candidate, brief));
  part("bars").append(...bars(candidate));
  part("asked").textContent = askedShares(candidate);
  part("similar").setAttribute("aria-label", `Freelancers similar to ${headline}`);
  part("similar").addEventListener("click", () => similar(candidate.freelancer_id, headline));
  return made;
}

function timing(hops, total) {
  const line = element("div", "line");
  const rest = Math.max(0, total - Object.values(hops).reduce((sum, ms) => sum + ms, 0));
  const parts = [...Object.entries(hops), ["way and browser", rest]];
  for (const [, milliseconds] of parts) {
    const segment = element("span");
    segment.style.flexGrow = String(milliseconds);
    line.append(segment);
  }
  const told = parts.map(([name, milliseconds]) => `${name} ${milliseconds.toFixed(0)} ms`).join(" · ");
  return [line, element("p", "quiet", `${told} · in all ${total.toFixed(0)} ms`)];
}

function show({ error = "", summary = "", cards = [], time = null, back = false }) {
  $("welcome").hidden = true;
  $("error").hidden = !error;
  $("error").textContent = error;
  $("summary").textContent = summary;
  $("back").hidden = !back;
  $("timing").hidden = !time;
  $("timing").replaceChildren(...(time || []));
  $("list").replaceChildren(...cards);
}

function found(answer) {
  const count = answer.candidates.length;
  if (!count) return "Nobody passes these filters. Widen or clear one of them.";
  const who = count === 1 ? "1 freelancer" : `${count} freelancers`;
  return answer.exhausted ? `${who}: all who pass the filters` : who;
}

function wayOut() {
  const item = element("li");
  const again = element("button", "plain", "Clear the filters and search again");
  again.type = "button";
  again.addEventListener("click", () => {
    clearFilters();
    $("brief").requestSubmit();
  });
  item.append(again);
  return item;
}

function showMatch({ answer, brief, wanted, milliseconds }) {
  const people = answer.candidates.map((candidate, at) => card(candidate, at, brief, wanted));
  const cards = people.length ? people : [wayOut()];
  show({ summary: found(answer), cards, time: timing(answer.milliseconds, milliseconds) });
}

// The fields that a message is about: by their names in it, as in "filters.latitude: must be ..."
function markFields(message) {
  for (const id of FIELDS) $(id).removeAttribute("aria-invalid");
  const named = FIELDS.filter((id) => new RegExp(`(^|[.\\s])${id === "text" ? "project\\.title" : id}\\b`).test(message));
  for (const id of named) $(id).setAttribute("aria-invalid", "true");
  if (named.length) {
    if ($("filters").contains($(named[0]))) $("filters").open = true;
    ($(named.find((id) => $(id).value === "")) || $(named[0])).focus();
  }
}

function complaint() {
  if (!$("text").value.trim()) return "text: write what the work is, at least a title.";
  const wrong = [...$("brief").querySelectorAll("input")].find((input) => !input.checkValidity());
  return wrong ? `${wrong.id}: ${wrong.validationMessage}` : "";
}

async function during(work) {
  $("go").disabled = true;
  $("results").setAttribute("aria-busy", "true");
  $("summary").textContent = "Searching …";
  $("welcome").hidden = true;
  try {
    await work();
    markFields("");
    if (window.innerWidth < 900) $("results").scrollIntoView({ block: "start" });
    $("results").focus({ preventScroll: true });
  } catch (error) {
    show({ error: error.message });
    markFields(error.message.replace("text:", "project.title:"));
  } finally {
    $("go").disabled = false;
    $("results").removeAttribute("aria-busy");
  }
}

function search(event) {
  event.preventDefault();
  return during(async () => {
    const problem = complaint();
    if (problem) throw new Error(problem);
    const [brief, wanted, started] = [project(), filters(), performance.now()];
    const body = { project: brief, filters: wanted, top_k: Number($("top_k").value), explain: true };
    const answer = await call("POST", "/v1/match", body);
    lastMatch = { answer, brief, wanted, milliseconds: performance.now() - started };
    showMatch(lastMatch);
  });
}

function similar(freelancerId, headline) {
  return during(async () => {
    const count = Number($("top_k").value) || 10;
    const answer = await call("GET", `/v1/freelancers/${encodeURIComponent(freelancerId)}/similar?top_k=${count}`);
    const cards = answer.candidates.map((candidate, at) => card(candidate, at, null, filters()));
    show({ summary: `Similar to “${headline}”`, cards, back: lastMatch !== null });
    window.scrollTo({ top: 0 });
  });
}

async function tellRelease() {
  try {
    const release = await call("GET", "/v1/release");
    $("release").textContent = `${release.rows.toLocaleString()} freelancers · release ${release.name}`;
  } catch (error) {
    $("release").textContent = error.message;
  }
}

$("brief").addEventListener("submit", search);
$("brief").addEventListener("input", countFilters);
$("brief").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) $("brief").requestSubmit();
});
$("clear").addEventListener("click", clearFilters);
$("back").addEventListener("click", () => showMatch(lastMatch));
for (const example of $("examples").querySelectorAll("button")) {
  example.addEventListener("click", () => {
    $("text").value = example.textContent;
    $("brief").requestSubmit();
  });
}
if (window.innerWidth < 900) $("filters").open = false;
tellRelease();
