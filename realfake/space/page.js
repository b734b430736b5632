// Shows the answers on the first tab and hides outdated ones on the comparison tab.
//
// Messages from the server are kept by image, and maps also by method and target. At each change of the
// page, the script looks up the answer for the image in the drop area and the current settings. An answer
// for another image, method or target is never shown, whatever the order in which messages arrive.
const answers = new Map(), maps = new Map();
const $ = selector => document.querySelector(selector);
const all = selector => document.querySelectorAll(selector);

// Events of this page are numbered, so that the server can drop work for an older one.
let events = 0;
window.realfakeEvent = () => ++events;

function imageIn(area) {
    const picture = $(`${area} img`);
    if (!picture) return {};
    const found = decodeURIComponent(picture.src).match(/\/([0-9a-f]{64})\/[^/]*$/);
    return {there: true, id: found && found[1]};
}

const chosen = id => $(`#${id} input:checked`)?.value;

function keep(map, key, value) {
    map.delete(key);
    map.set(key, value);
    while (map.size > 12) map.delete(map.keys().next().value);
}

function receive(message) {
    if (!message || !message.image) return;
    keep(answers, message.image, message.parts);
    for (const [name, html] of Object.entries(message.maps)) keep(maps, `${message.image}/${name}`, html);
    show();
}

// The state of a slot now, and its content if there is an answer.
function content(name, image) {
    if (!image.there) return ["empty"];
    const parts = answers.get(image.id);
    if (!parts) return ["waiting"];
    if (name !== "map") return parts[name] ? ["answer", parts[name]] : ["empty"];
    if (!parts.stability) return ["empty"];
    const html = maps.get(`${image.id}/${chosen("rf-method")}/${chosen("rf-target")}`);
    return html ? ["answer", html] : ["waiting"];
}

function show() {
    const image = imageIn("#rf-drop");
    let changed = false;
    for (const slot of all("[data-slot]")) {
        const [state, html] = content(slot.dataset.slot, image);
        if (slot.shown === (html ?? state)) continue;
        slot.shown = html ?? state;
        slot.innerHTML = html ?? slot.parentElement.querySelector(`template[data-state=${state}]`).innerHTML;
        slot.dataset.imageId = html ? image.id : "";
        changed = true;
    }
    if (changed) { weigh(); blend(); }
    const compared = imageIn("#rf-compare-drop").id;
    for (const cards of all("[data-for-image]")) cards.hidden = cards.dataset.forImage !== compared;
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

document.addEventListener("click", event => {
    const button = event.target.closest("#rf-map [data-act]");
    if (button) ({save, enlarge})[button.dataset.act](button.closest(".rf-picture"));
});
// The thumbnails of the examples are buttons without text, and Gradio redraws them.
function nameExamples() {
    const names = $("#rf-script-words")?.dataset.examples.split("|") ?? [];
    all("#rf-examples button").forEach((button, i) => {
        if (button.ariaLabel !== names[i]) button.ariaLabel = names[i];
    });
}

// The page is checked at each change of its elements, and before each frame: settings can change without a
// change of the elements.
function follow() {
    show();
    if (weighed !== prior()) weigh();
    if (blended !== strength()) blend();
}
const frame = () => { follow(); requestAnimationFrame(frame); };
const watched = {childList: true, subtree: true, attributes: true, attributeFilter: ["src"]};
new MutationObserver(() => { follow(); nameExamples(); }).observe(document.body, watched);
watch("value", () => receive(props.value));
nameExamples();
frame();
