"""The fifth tab: the same answers from code, as snippets to copy. The tests run them."""

import json

import gradio as gr

from realfake.space.loading import Loaded
from realfake.space.render import render
from realfake.space.text import Localised, Words

# In the snippets until the browser puts in the page's own address.
ADDRESS = "http://127.0.0.1:7860"


def build_code(loaded: Loaded, local: Localised) -> None:
    """Lay out the tab, inside `gr.Blocks`."""
    # The path of a folder on the server is private, and of no use elsewhere.
    is_folder = loaded.source is not None and loaded.source != loaded.detector.name
    model = f"path/to/{loaded.detector.name}" if is_folder else loaded.source
    with gr.Column(elem_id="rf-code", elem_classes="rf-panel"):
        gr.HTML(local.html("code", lambda t: code(t, model)), js_on_load=_COPYING)


def snippets(model: str | None, address: str = ADDRESS, image: str = "photo.jpg") -> dict[str, str]:
    """Return the snippets by name.

    Args:
        model: Hub id or folder; `None` is the bundled checkpoint.
        address: The page's address, without a slash at its end.
        image: The image that they check.
    """
    named = json.dumps(model) if model else ""
    option = f" --model {model}" if model else ""
    # The bundled checkpoint is inside the installed package, wherever that is.
    imported = "" if model else "from realfake.detector import DEFAULT_CHECKPOINT\n"
    folder = named or "str(DEFAULT_CHECKPOINT)"
    return {
        "client": f"""from gradio_client import Client, handle_file

client = Client("{address}")
image = handle_file("{image}")
answer = client.predict(image, api_name="/predict")
print(answer["verdict"], answer["probabilities"])""",
        "local": f"""from realfake import Detector

detector = Detector.from_pretrained({named})
prediction = detector.predict("{image}")
print(prediction.verdict, prediction.probabilities)
detector.explain("{image}").overlay().save("map.png")""",
        "inference": f"""from huggingface_hub import InferenceClient

client = InferenceClient(
    model="{address}/predict"
)
with open("{image}", "rb") as file:
    scores = client.image_classification(file.read())
print(scores[0].label, scores[0].score)""",
        "pipeline": f"""{imported}from transformers import pipeline

classifier = pipeline(
    "image-classification", model={folder}
)
print(classifier("{image}"))""",
        "curl": f"curl -F file=@{image} {address}/predict",
        "shell": f"realfake predict {image} --json{option}",
        "mcp": json.dumps(
            {"mcpServers": {"realfake": {"url": f"{address}/gradio_api/mcp/"}}}, indent=2
        ),
    }


def code(words: Words, model: str | None) -> str:
    """Render the snippets, each with a button that copies it."""
    return render("code", "code", words, snippets=snippets(model), address=ADDRESS)


_COPYING = """
const here = location.origin + location.pathname.replace(/\\/$/, "");
element.querySelectorAll(".rf-origin").forEach(place => { place.textContent = here; });
element.addEventListener("click", async event => {
    const button = event.target.closest("button[data-copied]");
    if (!button) return;
    const code = button.closest("section").querySelector("code").textContent;
    await navigator.clipboard.writeText(code);
    const before = button.textContent;
    button.textContent = button.dataset.copied;
    setTimeout(() => { button.textContent = before; }, 1500);
});
"""
