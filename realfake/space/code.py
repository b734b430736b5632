"""The fifth tab: the same answers from code, as snippets to copy. The tests run them.

`snippets` knows the ways in; the rest shows them.
"""

import json

import gradio as gr

from realfake.space import render
from realfake.space.loading import Loaded
from realfake.space.localised import Localised
from realfake.space.markup import escape, literal
from realfake.space.text import Words

# Stands in the snippets until the browser puts in where the page is.
ADDRESS = "http://127.0.0.1:7860"


def build_code(loaded: Loaded, local: Localised) -> None:
    """Lay the tab out, inside `gr.Blocks`."""
    # A folder's path on the server is nobody's business, and of no use elsewhere.
    folder = loaded.source is not None and loaded.source != loaded.detector.name
    model = f"path/to/{loaded.detector.name}" if folder else loaded.source
    with gr.Column(elem_id="rf-code", elem_classes="rf-panel"):
        gr.HTML(local.html("code", lambda words: code(words, model)), js_on_load=_COPYING)


def snippets(model: str | None, address: str = ADDRESS, image: str = "photo.jpg") -> dict[str, str]:
    """The snippets by name.

    Args:
        model: Hub id or folder; `None` is the bundled checkpoint.
        address: Where the page is, without a slash at its end.
        image: The image they are about.
    """
    named = json.dumps(model) if model else ""
    option = f" --model {model}" if model else ""
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

client = InferenceClient(model="{address}/predict")
with open("{image}", "rb") as file:
    scores = client.image_classification(file.read())
print(scores[0].label, scores[0].score)""",
        "pipeline": f"""from transformers import pipeline

classifier = pipeline("image-classification", model={named or '"realfake/checkpoints/photos"'})
print(classifier("{image}"))""",
        "curl": f"curl -F file=@{image} {address}/predict",
        "shell": f"python -m realfake predict {image} --json{option}",
        "mcp": json.dumps(
            {"mcpServers": {"realfake": {"url": f"{address}/gradio_api/mcp/"}}}, indent=2
        ),
    }


def code(words: Words, model: str | None) -> str:
    """Draw the snippets, each with a button that copies it."""
    blocks = []
    for name, snippet in snippets(model).items():
        title = words(f"code.{name}")
        shown = literal(snippet).replace(ADDRESS, f'<span class="rf-origin">{ADDRESS}</span>')
        blocks.append(
            f'<section class="rf-card rf-snippet"><div class="rf-snippet-head"><h3>{escape(title)}</h3>'
            f'<button type="button" data-copied="{escape(words("code.copied"))}" aria-label="{escape(words("code.copy"))}: '
            f'{escape(title)}">{escape(words("code.copy"))}</button></div><pre tabindex="0" aria-label="{escape(title)}">'
            f"<code>{shown}</code></pre></section>"
        )
    # Relative, so that it also holds behind a proxy with a path of its own.
    docs = f'<p><a href="docs" target="_blank" rel="noopener">{escape(words("code.docs"))}</a></p>'
    return f'{render.section(words, "code")}{docs}<div class="rf-snippets">{"".join(blocks)}</div>'


_COPYING = """
    const here = location.origin + location.pathname.replace(/\\/$/, '');
    element.querySelectorAll('.rf-origin').forEach(place => { place.textContent = here; });
    element.addEventListener('click', async event => {
        const button = event.target.closest('button[data-copied]');
        if (!button) return;
        await navigator.clipboard.writeText(button.closest('section').querySelector('code').textContent);
        const said = button.textContent;
        button.textContent = button.dataset.copied;
        setTimeout(() => { button.textContent = said; }, 1500);
    });
"""
