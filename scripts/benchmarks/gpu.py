"""Speed on a GPU: images a second and share of the peak, with and without compilation.

One run each, only on a machine with CUDA.
"""

import time
from pathlib import Path

import torch
from transformers import (
    ConvNextV2Config,
    ConvNextV2ForImageClassification,
    ViTConfig,
    ViTForImageClassification,
)

# Dense bfloat16 with tensor cores, in TFLOP/s, from NVIDIA's data sheets.
PEAKS = {"H200": 989, "H100": 989, "A100": 312, "L40S": 362, "L4": 121, "A10": 125, "T4": 65}
BATCH = 256
STEPS = 20


def gpu(work: Path, quick: bool) -> dict:
    """Time ViT-B/16 and ConvNeXtV2-Tiny in bfloat16.

    Raises:
        RuntimeError: There is no GPU.
    """
    del work
    if not torch.cuda.is_available():
        raise RuntimeError("no GPU")
    name = torch.cuda.get_device_name()
    peak = next((tflops for key, tflops in PEAKS.items() if key in name), None)
    results = []
    for label, model, flops in (
        ("ViT-B/16", ViTForImageClassification(ViTConfig()), 35.2e9),
        ("ConvNeXtV2-Tiny", ConvNextV2ForImageClassification(ConvNextV2Config()), 8.9e9),
    ):
        model = model.cuda()
        for compiled in (False, True):
            run = torch.compile(model) if compiled else model
            for training in (False, True):
                rate = _rate(run, model, training, 4 if quick else STEPS)
                # A backward pass takes twice the arithmetic of a forward pass.
                share = (
                    None if peak is None else rate * flops * (3 if training else 1) / (peak * 1e12)
                )
                mode = "training" if training else "scoring"
                compilation = "compiled" if compiled else "eager"
                what = f"{label}, bf16, {mode}, {compilation}"
                results.append(
                    {"what": what, "images_a_second": rate, "share_of_peak": share, "runs": 1}
                )
                print(results[-1], flush=True)
        del model
    return {"rows": [], "device": name, "peak_tflops": peak, "gpu": results}


def _rate(run, model, training: bool, steps: int) -> float:
    pixels = torch.randn(BATCH, 3, 224, 224, device="cuda")
    labels = torch.randint(0, 2, (BATCH,), device="cuda")
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    model.train(training)

    def step() -> None:
        with torch.autocast("cuda", torch.bfloat16), torch.set_grad_enabled(training):
            logits = run(pixel_values=pixels).logits
        if training:
            torch.nn.functional.cross_entropy(logits.float(), labels).backward()
            optimizer.step()
            optimizer.zero_grad()

    for _ in range(3):
        step()
    torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(steps):
        step()
    torch.cuda.synchronize()
    return BATCH * steps / (time.perf_counter() - began)
