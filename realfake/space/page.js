// Shows the answers on the first tab and hides outdated ones on the comparison tab.
//
// Messages from the server are kept by image, and details also by method and target. At each change
// of the page, the script looks up the answer for the image in the drop area and the current
// settings. An answer for another image, method or target is never shown, whatever the order in
// which messages arrive.
const answers = new Map(), details = new Map();
const $ = selector => document.querySelector(selector);
const all = selector => document.querySelectorAll(selector);

// Events of this page are numbered, so that the server can drop work for an older one.
let events = 0, view = "areas", asked = "";
window.realfakeEvent = () => ++events;
// The detail is computed only while a visitor looks at it.
const wanted = () => view === "detail" || Boolean($("#rf-tile")?.open);
window.realfakeWanted = () => {
    if (wanted()) asked = detailKey(imageIn("#rf-drop"));
    return wanted();
};

function imageIn(area) {
    const picture = $(`${area} img`);
    if (!picture) return {};
    const found = decodeURIComponent(picture.src).match(/\/([0-9a-f]{64})\/[^/]*$/);
    return {there: true, id: found && found[1], src: picture.src};
}

const chosen = id => $(`#${id} input:checked`)?.value;

function keep(map, key, value) {
    map.delete(key);
    map.set(key, value);
    while (map.size > 12) map.delete(map.keys().next().value);
}

function receive(message) {
    if (!message || !message.image) return;
    keep(answers, message.image, message);
    for (const [name, html] of Object.entries(message.maps)) keep(details, `${message.image}/${name}`, html);
    show();
}

const detailKey = image => `${image.id}/${chosen("rf-method")}/${chosen("rf-target")}`;
const detailOf = image => details.get(detailKey(image));

// The state of a slot now, and its content if there is an answer.
function content(name, image) {
    if (!image.there) return ["empty"];
    const parts = answers.get(image.id)?.parts;
    if (!parts) return ["waiting"];
    if (name !== "detail") return parts[name] ? ["answer", parts[name]] : ["empty"];
    if (!parts.tiles) return ["empty"];
    const html = detailOf(image);
    return html ? ["answer", html] : ["waiting"];
}

function show() {
    const image = imageIn("#rf-drop");
    let changed = false;
    for (const slot of all("[data-slot]")) {
        const [state, html] = content(slot.dataset.slot, image);
        const shown = html ?? (state === "waiting" ? `${state} ${image.id}` : state);
        if (slot.shown === shown) continue;
        slot.shown = shown;
        slot.innerHTML = html ?? slot.parentElement.querySelector(`template[data-state=${state}]`).innerHTML;
        slot.dataset.imageId = html ? image.id : "";
        slot.querySelectorAll(".rf-preview").forEach(preview => { preview.src = image.src; });
        changed = true;
    }
    const layout = $("#rf-layout");
    layout?.classList.toggle("rf-has-image", Boolean(image.there));
    if (!image.there) { layout?.classList.remove("rf-more"); asked = ""; }
    if (changed) { weigh(); blend(); expected(answers.get(image.id)?.times ?? {}); fillTile(image); want(); }
    const compared = imageIn("#rf-compare-drop").id;
    for (const cards of all("[data-for-image]")) cards.hidden = cards.dataset.forImage !== compared;
}

// The expected time of each method for this image, behind its name.
function expected(times) {
    for (const input of all("#rf-method input")) input.closest("label").dataset.time = times[input.value] ?? "";
}

// The prior moves every probability by Bayes' rule. Verdicts stay.
function percent(p) {
    const {language, least, most} = $("#rf-script-words").dataset;
    if (p < 0.005) return least;
    if (p >= 0.995) return most;
    const whole = Math.min(Math.max(Math.round(100 * p), 1), 99);
    return new Intl.NumberFormat(language, {style: "percent"}).format(whole / 100);
}

let weighed;
const prior = () => Number($("#rf-prior input[type=range]")?.value ?? 50) / 100;
function weigh() {
    weighed = prior();
    for (const place of all("#rf-layout [data-log-odds]")) {
        const odds = Number(place.dataset.logOdds) + Math.log(weighed / (1 - weighed));
        const share = {ai: 1 / (1 + Math.exp(-odds)), real: 1 / (1 + Math.exp(odds))};
        const write = each => { each.textContent = percent(share[each.dataset.percent]); };
        place.querySelectorAll("[data-percent]").forEach(write);
        place.querySelectorAll("[data-width]").forEach(bar => {
            bar.style.width = `${(100 * share[bar.dataset.width]).toFixed(1)}%`;
        });
        const against = place.querySelector("[data-against]");
        if (against) against.hidden = (odds > 0 ? "ai" : "real") === place.dataset.verdict;
    }
}

// The opacity of the map's colours: the coloured picture lies over the grey one.
let blended;
const strength = () => Number($("#rf-strength input[type=range]")?.value ?? 50) / 100;
function blend() {
    blended = strength();
    const picture = $("#rf-map .rf-coloured");
    if (picture) picture.style.opacity = blended;
}

function setView(name) {
    view = name;
    $("#rf-map").dataset.view = name;
    for (const button of all("#rf-map [data-view]")) button.setAttribute("aria-pressed", button.dataset.view === name);
    want();
}

// Asks the server for the detail, unless it is there or was asked for.
function want() {
    const image = imageIn("#rf-drop");
    if (!wanted() || !answers.has(image.id) || detailOf(image) || asked === detailKey(image)) return;
    $("#rf-want").click();
}

// A tile in a window of its own: the part as it is, and with the detail.
let tile = 0, tileImage;
const tiles = () => [...all("#rf-map .rf-tile")];
function openTile(number) {
    const buttons = tiles();
    tile = (number + buttons.length) % buttons.length;
    tileImage = imageIn("#rf-drop").id;
    const {name, text} = buttons[tile].dataset, dialog = $("#rf-tile");
    dialog.querySelector("h2").textContent = name;
    dialog.querySelector(".rf-tile-text").textContent = text;
    dialog.querySelector(".rf-tile-steps").hidden = buttons.length < 2;
    if (!dialog.open) dialog.showModal();
    fillTile(imageIn("#rf-drop"));
    want();
}

function fillTile(image) {
    const dialog = $("#rf-tile");
    if (!dialog?.open) return;
    if (image.id !== tileImage) return dialog.close();
    const pictures = $("#rf-map .rf-tile-details")?.children[tile];
    dialog.querySelector(".rf-tile-pictures").innerHTML = pictures?.innerHTML ?? "";
    const failed = !pictures && $("[data-slot=detail] .rf-alert");
    dialog.querySelector(".rf-tile-waiting").hidden = Boolean(pictures || failed);
    dialog.querySelector(".rf-tile-note").hidden = !pictures;
}

async function save(picture) {
    const [plain, coloured] = picture.querySelectorAll("img");
    const canvas = document.createElement("canvas");
    canvas.width = plain.naturalWidth;
    canvas.height = plain.naturalHeight;
    const context = canvas.getContext("2d");
    context.drawImage(plain, 0, 0);
    context.globalAlpha = strength();
    context.drawImage(coloured, 0, 0);
    const link = document.createElement("a");
    link.download = picture.dataset.name;
    link.href = canvas.toDataURL("image/jpeg", 0.92);
    link.click();
}

function enlarge(picture) {
    if (document.fullscreenElement) document.exitFullscreen();
    else picture.requestFullscreen();
}

const acts = {
    save, enlarge,
    close: () => $("#rf-tile").close(),
    before: () => openTile(tile - 1),
    after: () => openTile(tile + 1),
};
document.addEventListener("click", event => {
    const act = event.target.closest("#rf-map [data-act]"), other = event.target.closest("#rf-map button[data-view]");
    if (act) acts[act.dataset.act](act.closest(".rf-picture"));
    else if (other) setView(other.dataset.view);
    else if (event.target.closest("#rf-map .rf-tile")) openTile(tiles().indexOf(event.target.closest(".rf-tile")));
    else if (event.target.id === "rf-tile") event.target.close();
    else if (event.target.closest(".rf-line")) fold(event.target.closest(".rf-line"));
    else if (event.target.closest("#rf-another")) more($("#rf-layout").classList.toggle("rf-more"));
});
function fold(line) {
    const open = line.closest(".rf-fold-group").classList.toggle("rf-open");
    line.setAttribute("aria-expanded", open);
}
const more = open => $("#rf-another").setAttribute("aria-expanded", open);

// A picture is pasted anywhere on the page, except into a text field that gets text.
async function put(file) {
    $("#rf-drop button[aria-label*='emove'], #rf-drop .icon-button-wrapper button:last-of-type")?.click();
    for (let wait = 0; wait < 100; wait++) {
        const input = $("#rf-drop input[type=file]");
        if (input && !imageIn("#rf-drop").there) {
            const files = new DataTransfer();
            files.items.add(file);
            input.files = files.files;
            return input.dispatchEvent(new Event("change", {bubbles: true}));
        }
        await new Promise(done => setTimeout(done, 20));
    }
}
document.addEventListener("paste", event => {
    const file = [...event.clipboardData.files].find(each => each.type.startsWith("image/"));
    if (!file || !$("#rf-drop")?.offsetParent) return;
    event.preventDefault();
    put(file);
});

document.addEventListener("change", event => {
    // Who chooses a method wants to see the detail.
    if (event.target.closest("#rf-method, #rf-target")) setView("detail");
});

// The thumbnails of the examples are buttons without text, and Gradio redraws them.
function name() {
    const words = $("#rf-script-words")?.dataset;
    if (!words) return;
    // The language of the words that are shown, not the one that the browser asked for.
    if (document.documentElement.lang !== words.language) document.documentElement.lang = words.language;
    const names = words.examples.split("|");
    all("#rf-examples button").forEach((button, i) => {
        if (button.ariaLabel !== names[i]) button.ariaLabel = names[i];
    });
    const place = $("#rf-drop [data-testid=upload-text]");
    if (place && matchMedia("(hover: none)").matches) place.dataset.touch = words.touch;
}

// The page is checked at each change of its elements, and before each frame: settings can change
// without a change of the elements.
function follow() {
    show();
    if (weighed !== prior()) weigh();
    if (blended !== strength()) blend();
}
const frame = () => { follow(); requestAnimationFrame(frame); };
const watched = {childList: true, subtree: true, attributes: true, attributeFilter: ["src"]};
new MutationObserver(() => { follow(); name(); }).observe(document.body, watched);
watch("value", () => receive(props.value));
name();
frame();
