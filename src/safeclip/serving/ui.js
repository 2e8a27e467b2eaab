"use strict";
// Compares base and served retrieval over the mounted gallery. Talks to this service alone.
const form = document.getElementById("query");
const text = document.getElementById("text");
const picture = document.getElementById("image");
const verdict = document.getElementById("verdict");
let turn = 0; // answers to an older query are dropped

async function post(route, body) {
  const answer = await fetch(route, {
    method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body),
  });
  const value = await answer.json();
  if (!answer.ok) throw new Error(value.error);
  return value;
}

function element(tag, className, content) {
  const made = document.createElement(tag);
  made.className = className;
  made.textContent = content;
  return made;
}

// Blurred by the service in its pixels, captions withheld, unless asked for with `?shown`.
async function content(hit, revealed) {
  const box = element("span", "shown", "");
  const answer = await fetch(`/gallery/${hit.row}${revealed ? "?shown" : ""}`);
  if (answer.headers.get("content-type") === "image/webp") {
    const image = document.createElement("img");
    image.alt = revealed ? hit.id : "a picture, blurred";
    image.src = URL.createObjectURL(await answer.blob());
    image.onload = () => URL.revokeObjectURL(image.src);
    box.append(image);
  } else {
    box.textContent = (await answer.json()).text ?? "a caption, hidden";
  }
  return box;
}

async function card(hit) {
  const item = document.createElement("li");
  if (hit.unsafe) item.className = "unsafe";
  const press = element("button", "", "");
  press.type = "button";
  press.append(await content(hit, false));
  press.title = hit.unsafe ? "may be unsafe: press to show or hide" : "press to show or hide";
  press.onclick = async () => {
    const revealed = item.classList.toggle("revealed");
    const now = await content(hit, revealed);
    if (revealed === item.classList.contains("revealed")) press.replaceChildren(now);
  };
  item.append(press, element("small", "", `${hit.score.toFixed(3)} ${hit.id}`));
  return item;
}

function judge(query) {
  const word = query.unsafe ? "judged unsafe" : "judged safe";
  const worst = Object.entries(query.categories).sort((a, b) => b[1] - a[1])[0];
  const moved = query.redirected ? "; the safe encoder redirected it" : "";
  const nearest = query.unsafe && worst ? `, most of all ${worst[0]}` : "";
  verdict.replaceChildren(
    element("span", query.unsafe ? "unsafe" : "", `Query ${word} (${query.score.toFixed(2)}${nearest})${moved}.`));
}

function base64(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result.slice(reader.result.indexOf(",") + 1));
    reader.onerror = () => reject(new Error("the file cannot be read"));
    reader.readAsDataURL(file);
  });
}

async function search(query) {
  const mine = ++turn;
  verdict.replaceChildren(element("span", "", "Searching…"));
  try {
    const found = await post("/search", { query, k: 12, with_base: true });
    const base = await Promise.all(found.base_hits.map(card));
    const safe = await Promise.all(found.hits.map(card));
    if (mine !== turn) return;
    document.getElementById("base").replaceChildren(...base);
    document.getElementById("safe").replaceChildren(...safe);
    judge(found.query);
  } catch (fault) {
    if (mine === turn) verdict.replaceChildren(element("span", "fault", fault.message));
  }
}

form.onsubmit = (event) => {
  event.preventDefault();
  if (text.value) search({ text: text.value });
};
picture.onchange = async () => {
  if (picture.files.length) search({ image: await base64(picture.files[0]) });
};
addEventListener("dragover", (event) => { event.preventDefault(); form.classList.add("dropping"); });
addEventListener("dragleave", () => form.classList.remove("dropping"));
addEventListener("drop", async (event) => {
  event.preventDefault();
  form.classList.remove("dropping");
  if (event.dataTransfer.files.length) search({ image: await base64(event.dataTransfer.files[0]) });
});

post("/info", {}).then((info) => {
  const gallery = info.gallery ? `${info.gallery.items} items, ${info.gallery.unsafe} of them marked as perhaps unsafe` : "no gallery mounted";
  document.getElementById("model").textContent = `Model ${info.version}; ${gallery}.`;
}).catch((fault) => { document.getElementById("model").textContent = fault.message; });
