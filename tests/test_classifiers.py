"""Opening checkpoints: each mistake of a user gets one line that names the fix."""

import json
import shutil

import pytest
import torch
from helpers.tiny import draw_picture, save_tiny
from safetensors.torch import load_file, save_file

from realfake.detector import Detector
from realfake.models.classifiers import (
    build_classifier,
    input_size,
    keeps_head,
    load_classifier,
    load_config,
    load_processor,
    name_labels,
    override_config,
    use_native_pixels,
)
from realfake.training.arguments import ModelArguments
from realfake.training.model import prepare_classifier


@pytest.fixture
def folder(tiny_vit, tmp_path):
    """A copy of the tiny ViT that a test may break."""
    return shutil.copytree(tiny_vit, tmp_path / "vit")


def edit_config(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    config.update(changes)
    (folder / "config.json").write_text(json.dumps(config))


def one_line(error) -> str:
    text = str(error.value)
    assert text and "\n" not in text
    return text


# --- what cannot be opened


def test_a_missing_folder_is_no_checkpoint(tmp_path):
    with pytest.raises(OSError, match="No checkpoint") as error:
        load_classifier(tmp_path / "nothing")
    assert "nothing" in one_line(error)


def test_a_name_that_no_hub_id_can_be():
    with pytest.raises(OSError, match="No checkpoint 'a/b/c/d'") as error:
        load_classifier("a/b/c/d")
    one_line(error)


@pytest.mark.parametrize("open_it", [load_classifier, load_processor, Detector.from_pretrained])
def test_a_hub_id_that_cannot_be_reached(open_it):
    with pytest.raises(OSError, match="No checkpoint 'user/nothing'.*Check the name") as error:
        open_it("user/nothing")
    one_line(error)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "preprocessor_config.json"])
def test_a_folder_that_lacks_a_file(folder, name):
    (folder / name).unlink()
    with pytest.raises(
        OSError, match=f"cannot be opened as a checkpoint: it lacks {name}"
    ) as error:
        Detector.from_pretrained(folder)
    one_line(error)


def test_a_pickled_checkpoint_is_refused(folder):
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(OSError, match="lacks model.safetensors") as error:
        load_classifier(folder)
    one_line(error)


def test_pickled_code_does_not_run(folder, tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    torch.save({"classifier.weight": Trap()}, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(OSError):
        load_classifier(folder)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("keep", [0, 5, 2000, -100])
def test_broken_weights(folder, keep):
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[:keep])
    with pytest.raises(OSError, match="is broken, download or save it again") as error:
        load_classifier(folder)
    one_line(error)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "\x00\x01"])
def test_a_broken_config(folder, text):
    (folder / "config.json").write_text(text)
    with pytest.raises((OSError, ValueError)) as error:
        load_classifier(folder)
    assert str(folder) in one_line(error)


def test_no_image_classifier(tmp_path):
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(
        vocab_size=20,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=8,
    )
    BertForSequenceClassification(config).save_pretrained(tmp_path / "bert")
    for open_it in (load_classifier, Detector.from_pretrained):
        with pytest.raises(ValueError, match="'bert' checkpoint") as e:
            open_it(tmp_path / "bert")
        one_line(e)


def test_an_unknown_architecture(folder):
    edit_config(folder, model_type="resnext9000")
    with pytest.raises(ValueError, match="resnext9000") as error:
        load_classifier(folder)
    assert str(folder) in one_line(error)


def test_remote_code_is_not_run(folder, tmp_path):
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Config: pass\n")
    edit_config(folder, model_type="evil", auto_map={"AutoConfig": "evil.Config"})
    with pytest.raises(ValueError) as error:
        load_classifier(folder)
    one_line(error)
    assert not (tmp_path / "ran").exists()


def test_weights_that_do_not_fit_the_configuration(folder):
    edit_config(folder, hidden_size=64)
    with pytest.raises(ValueError, match="do not fit its configuration") as error:
        Detector.from_pretrained(folder)
    one_line(error)


def test_a_detector_without_a_trained_head_is_refused(folder):
    weights = load_file(folder / "model.safetensors")
    save_file(
        {name: tensor for name, tensor in weights.items() if not name.startswith("classifier")},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
    with pytest.raises(ValueError, match="2 are missing.*classifier"):
        Detector.from_pretrained(folder)
    model, _ = prepare_classifier(ModelArguments(model_name_or_path=str(folder)))
    assert torch.isfinite(model.classifier.weight).all(), "fine-tuning gives it a new one"


# --- labels


def test_labels_that_say_nothing_need_a_label_map(tmp_path):
    folder = save_tiny("vit", tmp_path / "vit", labels=("LABEL_0", "LABEL_1"))
    with pytest.raises(
        ValueError, match="Cannot tell which of the classes 'LABEL_0', 'LABEL_1'"
    ) as error:
        Detector.from_pretrained(folder)
    assert "label_map" in one_line(error)
    detector = Detector.from_pretrained(folder, label_map={"LABEL_0": "ai", "LABEL_1": "real"})
    assert detector.class_indices == {"real": [1], "ai": [0]}
    log_odds = detector.predict(draw_picture()).log_odds
    swapped = Detector.from_pretrained(folder, label_map={"LABEL_1": "ai", "LABEL_0": "real"})
    assert swapped.predict(draw_picture()).log_odds == pytest.approx(-log_odds)


def test_a_single_output_is_refused(tmp_path):
    folder = save_tiny("vit", tmp_path / "vit", labels=("ai",))
    with pytest.raises(ValueError, match="single output"):
        Detector.from_pretrained(folder)
    model, _ = prepare_classifier(ModelArguments(model_name_or_path=str(folder)))
    assert model.classifier.out_features == 2


def test_a_real_fake_classifier_keeps_its_head_and_its_order(tmp_path):
    folder = save_tiny("vit", tmp_path / "vit", labels=("Fake", "Real"), seed=3)
    stored = load_file(folder / "model.safetensors")
    model, processor = prepare_classifier(ModelArguments(model_name_or_path=str(folder)))
    assert torch.equal(model.classifier.weight, stored["classifier.weight"])
    assert model.config.id2label == {0: "ai", 1: "real"} and model.config.label2id == {
        "ai": 0,
        "real": 1,
    }
    before = Detector.from_pretrained(folder).predict(draw_picture())
    assert Detector(model, processor).predict(draw_picture()).log_odds == pytest.approx(
        before.log_odds, abs=1e-6
    )


@pytest.mark.parametrize(
    "labels, kept",
    [
        (("human", "AI-generated"), True),
        (("LABEL_0", "LABEL_1"), False),
        (("real", "fake", "painting"), False),
        (("real", "photo"), False),
    ],
)
def test_keeps_head(labels, kept, tiny_vit):
    config = load_config(tiny_vit)
    config.id2label = dict(enumerate(labels))
    assert keeps_head(config) is kept
    if kept:
        assert config.label2id == {"real": 0, "ai": 1}


def test_a_thousand_classes_become_two(tmp_path):
    folder = save_tiny("resnet", tmp_path / "resnet", labels=[f"class {n}" for n in range(50)])
    stored = load_file(folder / "model.safetensors")
    model, _ = prepare_classifier(ModelArguments(model_name_or_path=str(folder)))
    assert model.classifier[1].out_features == 2
    assert model.config.id2label == {0: "real", 1: "ai"}
    name = "resnet.embedder.embedder.convolution.weight"
    assert torch.equal(model.state_dict()[name], stored[name]), "the backbone is the checkpoint's"


def test_a_multi_label_checkpoint_becomes_a_single_label_one(tmp_path):
    # The stock pipeline would apply a sigmoid to each logit, and its scores would not be ours.
    from transformers import pipeline

    folder = save_tiny("vit", tmp_path / "vit", labels=("fake", "real"))
    edit_config(folder, problem_type="multi_label_classification")
    model, processor = prepare_classifier(ModelArguments(model_name_or_path=str(folder)))
    picture = draw_picture(32)
    scores = pipeline("image-classification", model=model, image_processor=processor)(picture)
    expected = Detector(model, processor).predict(picture).probabilities
    assert {row["label"]: row["score"] for row in scores} == pytest.approx(expected, abs=1e-6)


# --- what is changed before training


def test_config_overrides_reach_the_model(tiny_vit):
    arguments = ModelArguments(
        model_name_or_path=str(tiny_vit), config_overrides='{"layer_norm_eps": 0.001}'
    )
    model, _ = prepare_classifier(arguments)
    assert model.vit.layernorm.eps == 0.001


@pytest.mark.parametrize(
    "overrides, message",
    [
        ('{"hidden_sise": 8}', "has no field 'hidden_sise'"),
        ('{"hidden_size": "big"}', "'big' .* 'hidden_size'"),
        ('{"hidden_size": 64}', "do not fit its configuration"),
        ('{"num_labels": 5}', "cannot set 'num_labels'"),
        ('{"id2label": {"0": "cat"}}', "cannot set 'id2label'"),
    ],
)
def test_config_overrides_that_cannot_be(overrides, message, tiny_vit):
    with pytest.raises(ValueError, match=message) as error:
        prepare_classifier(
            ModelArguments(model_name_or_path=str(tiny_vit), config_overrides=overrides)
        )
    one_line(error)


@pytest.mark.parametrize("text", ["{", "[1]", "3", '"vit"'])
def test_config_overrides_that_are_no_json_object(text):
    with pytest.raises(ValueError, match="--config_overrides"):
        ModelArguments(model_type="vit", config_overrides=text)


@pytest.mark.parametrize("names", [{}, {"model_type": "vit", "model_name_or_path": "here"}])
def test_either_a_checkpoint_or_an_architecture(names):
    with pytest.raises(ValueError, match="either --model_name_or_path or --model_type"):
        ModelArguments(**names)


VIT = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "patch_size": 8,
}


def test_build_from_scratch():
    model, processor = build_classifier("vit", overrides=VIT, image_size=40)
    assert model.config.image_size == 40 and input_size(processor) == (40, 40)
    assert model.config.label2id == {"real": 0, "ai": 1}
    pixels = processor(images=[draw_picture(50)], return_tensors="pt")["pixel_values"]
    assert model(pixel_values=pixels).logits.shape == (1, 2)


def test_build_takes_the_image_size_from_the_overrides():
    model, processor = build_classifier("vit", overrides={**VIT, "image_size": 48})
    assert model.config.image_size == 48 and input_size(processor) == (48, 48)


def test_what_is_built_can_be_opened_again(tmp_path):
    # The configuration checks the names of the stages, which follow from their number.
    overrides = {"num_stages": 2, "depths": [1, 1], "hidden_sizes": [8, 16]}
    model, processor = build_classifier("convnextv2", overrides=overrides, image_size=32)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    assert Detector.from_pretrained(tmp_path).model.config.depths == [1, 1]


def test_build_from_scratch_with_dropout():
    arguments = ModelArguments(
        model_type="vit", image_size=32, dropout=0.25, config_overrides=json.dumps(VIT)
    )
    model, _ = prepare_classifier(arguments)
    assert model.config.hidden_dropout_prob == 0.25
    assert 0.25 in [module.p for module in model.modules() if isinstance(module, torch.nn.Dropout)]


@pytest.mark.parametrize(
    "model_type, overrides, message",
    [
        ("vitt", {}, "--model_type 'vitt' .*\\bvit\\b"),
        ("bert", {}, "--model_type 'bert'"),
        ("timm_wrapper", {}, "--model_type 'timm_wrapper'"),
        ("convnextv2", {"depths": [1]}, "cannot be built with these settings"),
        ("convnextv2", {"depths": 3}, "'depths'"),
        ("vit", {**VIT, "patch_size": 0}, "cannot be built with these settings"),
        ("siglip", {"vision_config": {"hidden_size": 8}}, "cannot be built with these settings"),
    ],
)
def test_architectures_that_cannot_be_built(model_type, overrides, message):
    with pytest.raises(ValueError, match=message) as error:
        build_classifier(model_type, overrides=overrides, image_size=32)
    one_line(error)


def test_override_config_leaves_a_good_field_alone_when_it_refuses(tiny_vit):
    config = load_config(tiny_vit)
    with pytest.raises(ValueError):
        override_config(config, {"nonsense": 1})
    assert not hasattr(config, "nonsense")


def test_name_labels(tiny_vit):
    config = load_config(tiny_vit)
    config.id2label = {0: "cat", 1: "dog", 2: "hen"}
    name_labels(config)
    assert config.num_labels == 2 and config.label2id == {"real": 0, "ai": 1}


@pytest.mark.parametrize(
    "architecture", ["vit", "convnext", "efficientnet", "mobilenet_v2", "dinov2", "siglip"]
)
def test_native_pixels_are_the_middle_of_the_image(architecture, tmp_path):
    processor = load_processor(save_tiny(architecture, tmp_path / architecture))
    use_native_pixels(processor, 32)
    assert input_size(processor) == (32, 32)
    picture = draw_picture((56, 40))
    seen = processor(images=[picture], return_tensors="pt")["pixel_values"]
    middle = processor(images=[picture.crop((12, 4, 44, 36))], return_tensors="pt")["pixel_values"]
    assert seen.shape == (1, 3, 32, 32) and torch.equal(seen, middle)
    processor.save_pretrained(tmp_path / "saved")
    reopened = load_processor(tmp_path / "saved")
    assert torch.equal(reopened(images=[picture], return_tensors="pt")["pixel_values"], seen)


def test_an_image_size_that_the_model_can_take(tmp_path):
    folder = save_tiny("convnext", tmp_path / "convnext")
    _, processor = prepare_classifier(ModelArguments(model_name_or_path=str(folder), image_size=48))
    assert processor(images=[draw_picture(80)], return_tensors="pt")["pixel_values"].shape == (
        1,
        3,
        48,
        48,
    )
    assert input_size(processor) == (48, 48)


@pytest.mark.parametrize("architecture", ["vit", "siglip", "deit"])
def test_an_image_size_that_the_model_cannot_take(architecture, tmp_path):
    folder = save_tiny(architecture, tmp_path / architecture)
    for preprocessing in ("processor", "native"):
        with pytest.raises(
            ValueError, match="cannot take images of 48x48 pixels .* --image_size"
        ) as error:
            prepare_classifier(
                ModelArguments(
                    model_name_or_path=str(folder), image_size=48, preprocessing=preprocessing
                )
            )
        one_line(error)


def test_a_detectors_thresholds_do_not_pass_to_what_it_is_trained_into(folder):
    edit_config(folder, realfake={"thresholds": {"alpha": 0.05, "real": -1.0, "ai": 1.0}})
    assert Detector.from_pretrained(folder).thresholds is not None
    model, processor = prepare_classifier(ModelArguments(model_name_or_path=str(folder)))
    assert (
        Detector(model, processor).thresholds is None and "realfake" not in model.config.to_dict()
    )
