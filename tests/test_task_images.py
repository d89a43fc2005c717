"""Tasks with images: the images reach every seat that accepts them, and no seat loses one silently."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from lm_eval.api.model import LM

from harness_ext.backends.base import Deliver, GenerateRequest
from harness_ext.backends.scripted import ScriptedBackend
from harness_ext.errors import ConfigurationError
from harness_ext.models.baseline import BaselineLM
from harness_ext.models.feedback_pair import FeedbackPairLM
from harness_ext.records.images import NOT_SHOWN, Image
from harness_ext.records.run_directory import read_transcripts

COLOURS = ["red", "blue", "green"]


def picture(colour: str) -> Any:
    from PIL import Image as Pillow

    return Pillow.new("RGB", (4, 4), colour)


def colour_of(image: Any) -> str:
    from PIL import ImageColor

    return {ImageColor.getrgb(c): c for c in COLOURS}[image.getpixel((0, 0))]


class Seeing(ScriptedBackend):
    """A scripted model that names the colours of its images."""

    capabilities = frozenset({"generate", "continue", "score", "images"})

    def generate(self, requests: Sequence[GenerateRequest], deliver: Deliver) -> None:
        for i, request in enumerate(requests):
            colours = "+".join(colour_of(image.open()) for image in request.images)
            super().generate([request], lambda _, c, i=i, colours=colours: deliver(i, _named(c, colours)))


def _named(completion: Any, colours: str) -> Any:
    from dataclasses import replace

    return replace(completion, text=completion.text.replace("COLOURS", colours or "nothing"))


class ScriptedVLM(LM):
    """An lm-eval model class like `hf-multimodal`, which gets images as the third argument."""

    MULTIMODAL = True

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        self.sizes.append(len(requests))
        assert len({len(r.args) for r in requests}) == 1  # hf-multimodal treats all requests like the first
        return [
            "+".join(colour_of(p) for p in r.args[2]["visual"]) if len(r.args) > 2 else "Correct." for r in requests
        ]

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> list[Any]:
        raise NotImplementedError

    loglikelihood_rolling = loglikelihood


def make_task(text: str = "<image>Which colour?", images: Any = None, **more: Any) -> Any:
    from datasets import Dataset
    from lm_eval.api.task import ConfigurableTask

    rows = [{"colour": colour} for colour in COLOURS]
    return ConfigurableTask(
        config={
            "task": "colours", "custom_dataset": lambda **_: {"test": Dataset.from_list(rows)}, "test_split": "test",
            "output_type": "generate_until", "doc_to_text": text, "doc_to_target": "{{colour}}",
            "doc_to_image": images or (lambda doc: [picture(doc["colour"])]),
            "generation_kwargs": {"until": ["\n\n"], "max_gen_toks": 8}, "metric_list": [{"metric": "exact_match"}],
            **more,
        }
    )  # fmt: skip


def run(lm: Any, task: Any, **more: Any) -> float:
    from lm_eval.evaluator import evaluate

    results = evaluate(lm, {"colours": task}, bootstrap_iters=0, **more)
    assert results is not None
    return float(results["results"]["colours"]["exact_match,none"])


def own(tmp_path: Path, cls: Any = BaselineLM, **seats: Any) -> Any:
    return cls(store=str(tmp_path / "store"), run_dir=tmp_path / "run", progress="off", **seats)


@pytest.mark.parametrize("chat", [False, True])
def test_images_reach_every_seat_that_sees_the_task(tmp_path: Path, chat: bool) -> None:
    student = Seeing(lambda p: "COLOURS" if "Hint" in p else "no idea", name="student")
    teacher = Seeing(lambda p: "Correct." if "no idea" not in p else "Incorrect.\nHint: it is COLOURS", name="teacher")
    lm = own(tmp_path, FeedbackPairLM, student=student, teacher=teacher)
    assert run(lm, make_task(), apply_chat_template=chat) == 1.0
    first = min(read_transcripts(lm.session.run.path), key=lambda t: t.doc_id)
    assert [t.text for t in first.turns] == [
        "no idea", "Incorrect.\nHint: it is red", "red", "Correct.",
    ]  # fmt: skip


def test_equal_texts_with_different_images_are_different_calls(tmp_path: Path) -> None:
    student = Seeing(lambda p: "COLOURS")
    assert run(own(tmp_path / "a", student=student), make_task()) == 1.0
    assert sum(map(len, student.calls)) == 3
    again = own(tmp_path / "a", student=student)
    assert run(again, make_task()) == 1.0  # images are hashed by their pixels, so the documents are recognised
    assert sum(map(len, student.calls)) == 3


def test_a_seat_that_accepts_no_images_is_an_error_or_gets_only_text(tmp_path: Path) -> None:
    student, teacher = Seeing(lambda p: "COLOURS", name="s"), ScriptedBackend(lambda p: "Correct.", name="blind")
    with pytest.raises(
        ConfigurationError, match=r"`teacher`: the task has images, which blind does not accept.*teacher.images=off"
    ):
        run(own(tmp_path / "a", FeedbackPairLM, student=student, teacher=teacher), make_task())
    assert student.calls == []
    lm = own(tmp_path / "b", FeedbackPairLM, student=student, teacher=teacher, **{"teacher.images": "off"})
    assert run(lm, make_task()) == 1.0
    assert all(NOT_SHOWN in p and "<image>" not in p for batch in teacher.calls for p in batch)
    assert lm.get_model_info()["harness_ext"]["summary"]["events"]["image_left_out"] == 3


def test_images_and_marks_must_match(tmp_path: Path) -> None:
    def two(doc: Any) -> list[Any]:
        return [picture(doc["colour"]), picture("blue")]

    student = Seeing(lambda p: "COLOURS")
    lm = own(tmp_path / "two", student=student)
    run(lm, make_task("<image> then <image>?", two))
    assert sorted(t.text for t in read_transcripts(lm.session.run.path)) == ["blue+blue", "green+blue", "red+blue"]
    lm = own(tmp_path / "none", student=student, on_failure="score")
    run(lm, make_task("Which colour?"))
    failures = {t.failure.message for t in read_transcripts(lm.session.run.path) if t.failure}
    assert failures == {
        "the task provides 1 images, and its text contains 0 `<image>` marks: give its text one mark per image"
    }


def test_media_that_no_backend_accepts_are_refused(tmp_path: Path) -> None:
    student = Seeing(lambda p: "COLOURS")
    with pytest.raises(ConfigurationError, match="no backend can score text after images"):
        run(
            own(tmp_path, student=student),
            make_task(output_type="multiple_choice", doc_to_choice=COLOURS, metric_list=[{"metric": "acc"}]),
        )
    sounds = make_task()
    sounds.config.doc_to_audio = lambda doc: [b"beep"]
    sounds._config.doc_to_audio = sounds.config.doc_to_audio
    with pytest.raises(ConfigurationError, match="the task passes audio"):
        run(own(tmp_path / "b", student=student), sounds)


def test_lm_evals_own_multimodal_classes_can_take_seats(tmp_path: Path) -> None:
    student, teacher = ScriptedVLM(), ScriptedVLM()
    lm = own(tmp_path, FeedbackPairLM, student=student, teacher=teacher, **{"teacher.images": "off"})
    assert run(lm, make_task()) == 1.0
    assert (student.sizes, teacher.sizes) == ([3], [3])


def test_an_image_is_its_pixels() -> None:
    assert Image.of(picture("red")) == Image.of(picture("red"))
    assert Image.of(picture("red")).digest != Image.of(picture("blue")).digest
    assert colour_of(Image.of(picture("green")).open()) == "green"
    assert Image.of(picture("red").convert("RGBA")).open().getpixel((0, 0)) == (255, 0, 0)
    assert Image.of(picture("red")).data_url.startswith("data:image/png;base64,")


def test_a_mark_written_by_a_model_does_not_stand_for_an_image(tmp_path: Path) -> None:
    student = Seeing(lambda p: "COLOURS" if "Hint" in p else "an <image> of sorts", name="s")
    teacher = Seeing(lambda p: "Incorrect.\nHint: look" if "sorts" in p else "Correct.", name="t")
    lm = own(tmp_path, FeedbackPairLM, student=student, teacher=teacher)
    assert run(lm, make_task(), limit=1) == 1.0
    assert lm.get_model_info()["harness_ext"]["summary"]["events"] == {"image_mark_replaced": 1}


@pytest.fixture(scope="module")
def tiny_vlm(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the folder of a random Llava model with two layers and the embedded pair's tokenizer."""
    import torch
    from transformers import (
        AutoTokenizer,
        CLIPImageProcessor,
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
    )

    from harness_ext.embedded import model_path

    tokenizer = AutoTokenizer.from_pretrained(str(model_path("student")))
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    size = {"height": 28, "width": 28}
    processor = LlavaProcessor(
        image_processor=CLIPImageProcessor(size={"shortest_edge": 28}, crop_size=size), tokenizer=tokenizer,
        patch_size=14, vision_feature_select_strategy="default", image_token="<image>", num_additional_image_tokens=1,
        chat_template="{% for m in messages %}{{ m.role }}: {% for c in m.content %}{{ '<image>' if c.type == 'image' "
        "else c.text }}{% endfor %}\n{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}",
    )  # fmt: skip
    torch.manual_seed(0)
    model = LlavaForConditionalGeneration(
        LlavaConfig(
            vision_config=CLIPVisionConfig(
                hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=28,
                patch_size=14,
            ),
            text_config=LlamaConfig(
                vocab_size=len(tokenizer), hidden_size=32, intermediate_size=32, num_hidden_layers=2,
                num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=8192,
            ),
            image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        )
    )  # fmt: skip
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    folder = str(tmp_path_factory.mktemp("vlm"))
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def test_drafts_equal_those_of_stock_hf_multimodal(tiny_vlm: str, tmp_path: Path) -> None:
    """Drafts about images equal those of stock `hf-multimodal`, with and without its chat template."""
    from lm_eval.evaluator import evaluate
    from lm_eval.models.hf_vlms import HFMultimodalLM

    task = make_task("<image>\nWhere is John?")
    lm_args = {"device": "cpu", "batch_size": 2}
    seats = {"student": f"hf-multimodal:{tiny_vlm}", "teacher": f"hf-multimodal:{tiny_vlm}"}
    for chat in (False, True):
        stock = evaluate(
            HFMultimodalLM(tiny_vlm, **lm_args), {"colours": task}, bootstrap_iters=0, apply_chat_template=chat
        )
        assert stock is not None
        folder = tmp_path / str(chat)
        run(own(folder, FeedbackPairLM, **seats, **lm_args, max_rounds=1), task, apply_chat_template=chat)
        turns = {t.doc_id: t.turns for t in read_transcripts(folder / "run")}
        assert [turns[s["doc_id"]][0].text for s in stock["samples"]["colours"]] == [
            s["resps"][0][0] for s in stock["samples"]["colours"]
        ]
        assert {turn[1].kind for turn in turns.values()} == {"review"}
