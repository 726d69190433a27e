// The page: sends the brief to /v1/match and shows who was found. Texts only ever become text nodes.
"use strict";

const $ = (id) => document.getElementById(id);
const TITLE_LENGTH = 80;
const SHOWN_SKILLS = 12;
const SHOWN_SECTIONS = 6;

function listOf(id) {
  return $(id).value.split(",").map((part) => part.trim()).filter(Boolean);
}

function project() {
  const text = $("text").value.trim();
  const [first, ...rest] = text.split("\n");
  const title = first.slice(0, TITLE_LENGTH);
  const more = rest.join("\n").trim();
  const description = first.length > TITLE_LENGTH ? text : more;
  return { title, skills: listOf("skills"), ...(description ? { description } : {}) };
}

function filters() {
  const found = {};
  for (const id of ["max_daily_rate_eur", "latitude", "longitude", "radius_km"]) {
    if ($(id).value !== "") found[id] = Number($(id).value);
  }
  if ($("available_by").value) found.available_by = $("available_by").value;
  if ($("remote").checked) found.remote = true;
  if ($("include_unknown").checked) found.include_unknown = true;
  const countries = listOf("countries");
  const languages = listOf("spoken_languages");
  if (countries.length) found.countries = countries;
  if (languages.length) found.spoken_languages = languages;
  return found;
}

async function call(method, path, body) {
  const headers = { Accept: "application/json" };
  if ($("key").value) headers["X-API-Key"] = $("key").value;
  if (body) headers["Content-Type"] = "application/json";
  const answer = await fetch(path, { method, headers, body: body && JSON.stringify(body) });
  if (answer.status === 401) $("key-row").hidden = false;
  const content = await answer.json().catch(() => ({ detail: `the service answered ${answer.status}` }));
  if (!answer.ok) throw new Error(content.detail || content.title);
  return content;
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
    candidate.freelancer_id,
    place,
    distance === null ? "" : `${Math.round(distance)} km`,
    profile.remote ? "remote" : "",
    (profile.spoken_languages || []).length ? `speaks ${profile.spoken_languages.join(", ")}` : "",
    profile.language ? `profile in ${profile.language}` : "",
    profile.daily_rate_eur === undefined ? "" : `${profile.daily_rate_eur} €/day`,
    profile.available_from ? `from ${profile.available_from}` : "",
  ].filter(Boolean).join(" · ");
}

function skillItems(candidate, asked) {
  const wanted = new Set(asked.map((skill) => skill.toLowerCase()));
  const explained = candidate.explanation ? candidate.explanation.skills : [];
  const labels = explained.length ? explained.map((skill) => skill.text) : candidate.profile.skills || [];
  const helped = new Set(explained.filter((skill) => skill.score > 0).slice(0, 3).map((skill) => skill.text));
  return labels.slice(0, SHOWN_SKILLS).map((label) => {
    const matched = wanted.has(label.toLowerCase()) || helped.has(label);
    return element("li", matched ? "match" : "", label);
  });
}

function bar(part, total) {
  const share = total > 0 ? part.score / total : 0;
  const percent = `${Math.round(100 * share)}%`;
  const row = element("div", "bar");
  const track = element("span", "track");
  const fill = element("div", "fill");
  fill.style.width = `${Math.max(0, Math.min(100, 100 * share))}%`;
  track.append(fill);
  row.append(element("span", "", part.type), track, element("span", "share", percent));
  row.title = part.text;
  return row;
}

function card(candidate, asked, wanted) {
  const made = $("card").content.firstElementChild.cloneNode(true);
  const part = (name) => made.querySelector(`.${name}`);
  part("headline").textContent = candidate.profile.headline || candidate.freelancer_id;
  part("score").textContent = candidate.score.toFixed(3);
  part("facts").textContent = facts(candidate, wanted);
  part("skills").append(...skillItems(candidate, asked));
  const sections = candidate.explanation ? [...candidate.explanation.freelancer] : [];
  sections.sort((a, b) => b.score - a.score);
  part("bars").append(...sections.slice(0, SHOWN_SECTIONS).map((section) => bar(section, candidate.score)));
  return made;
}

function summary(answer, milliseconds) {
  const count = answer.candidates.length;
  const hops = Object.entries(answer.milliseconds).map(([name, ms]) => `${name} ${ms.toFixed(0)} ms`);
  const found = count ? `${count} freelancers` : "Nobody passes these filters: widen one of them";
  const note = count && answer.exhausted ? " (all who pass the filters)" : "";
  return `${found}${note} · ${hops.join(", ")}, in all ${milliseconds.toFixed(0)} ms`;
}

function show(error, text, cards) {
  $("error").hidden = !error;
  $("error").textContent = error;
  $("summary").textContent = text;
  $("list").replaceChildren(...cards);
}

async function search(event) {
  event.preventDefault();
  const [brief, wanted] = [project(), filters()];
  const started = performance.now();
  $("go").disabled = true;
  $("results").setAttribute("aria-busy", "true");
  try {
    const body = { project: brief, filters: wanted, top_k: Number($("top_k").value), explain: true };
    const answer = await call("POST", "/v1/match", body);
    const cards = answer.candidates.map((candidate) => card(candidate, brief.skills, wanted));
    show("", summary(answer, performance.now() - started), cards);
    $("results").focus({ preventScroll: false });
  } catch (error) {
    show(error.message || "The service cannot be reached.", "No result.", []);
  } finally {
    $("go").disabled = false;
    $("results").removeAttribute("aria-busy");
  }
}

async function tellRelease() {
  try {
    const release = await call("GET", "/v1/release");
    $("release").textContent = `${release.rows} freelancers · release ${release.name}`;
  } catch (error) {
    $("release").textContent = error.message;
  }
}

$("brief").addEventListener("submit", search);
$("brief").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) $("brief").requestSubmit();
});
tellRelease();
