"""Model folders from outside: none runs code, another kind is told by what it is, and no weight is NaN unnoticed."""

import contextlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from diffusers import UNet2DConditionModel
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file, save_file

from flows.cli.main import main
from iedit_model.editing.editor import EditRequest
from iedit_model.editing.instruct_editor import InstructEditor, InstructEditorSpec, InstructModelSpec, _load_pipeline
from iedit_model.editing.pipeline import IEditPipeline
from iedit_model.errors import ConfigError, IEditError, WeightsError
from iedit_model.models.captioner import CaptionerSpec, load_captioner
from iedit_model.models.clip import ClipSpec, load_clip
from iedit_model.models.latent_diffusion import LatentDiffusionSpec, load_latent_diffusion
from iedit_model.models.segmenter import SegmenterSpec, load_segmenter
from iedit_model.models.source import ModelSource
from iedit_model.models.vgg import load_vgg
from tests.builders.tiny_pipeline import WEIGHTS

IMAGE = Image.new("RGB", (64, 64), "teal")


def _instruct(folder: Path) -> object:
    spec = InstructEditorSpec(model=InstructModelSpec(model=ModelSource(str(folder))))
    return InstructEditor(spec).edit([EditRequest(image=IMAGE, edit_prompt="a", instruction="make it red")])


def _caption(folder: Path) -> object:
    return load_captioner(CaptionerSpec(model=ModelSource(str(folder)), max_new_tokens=12))([IMAGE])


LOADERS: dict[str, Callable[[Path], object]] = {
    "ldm": lambda folder: load_latent_diffusion(LatentDiffusionSpec(model=ModelSource(str(folder)))),
    "instruct_pix2pix": _instruct,
    "clip": lambda folder: load_clip(ClipSpec(model=ModelSource(str(folder)))).encode_texts(["a bus"]),
    "captioner": lambda folder: load_captioner(
        CaptionerSpec(model=ModelSource(str(folder)), max_new_tokens=12)
    ).prepare(IMAGE),
    "segmenter": lambda folder: load_segmenter(SegmenterSpec(model=ModelSource(str(folder)))).prepare(IMAGE),
    "perceptual": lambda folder: load_vgg(ModelSource(str(folder))),
}
"""Member of the miniature's family -> loads it from a folder, as stages, training and editing do."""


@pytest.fixture
def copied(tmp_path: Path) -> Callable[[str], Path]:
    def copy(member: str) -> Path:
        return Path(shutil.copytree(WEIGHTS / member, tmp_path / member))

    return copy


def changed(path: Path, **values: Any) -> None:
    """Set values of a JSON file; a dotted name goes into the objects on its way."""
    content = json.loads(path.read_text()) if path.exists() else {}
    for name, value in values.items():
        *way, last = name.split("__")
        inner = content
        for part in way:
            inner = inner.setdefault(part, {})
        inner[last] = value
    path.write_text(json.dumps(content))


EVIL = {"AutoConfig": "evil.Evil", "AutoModel": "evil.Evil", "AutoTokenizer": ["evil.Evil", "evil.Evil"]}
EVIL |= {"AutoProcessor": "evil.Evil", "AutoImageProcessor": "evil.Evil"}
CODE: list[tuple[str, str, dict[str, Any]]] = [
    ("clip", "open_clip_config.json", {"model_cfg__text_cfg__tokenizer_kwargs": {"trust_remote_code": True}}),
    ("clip", "open_clip_config.json", {"model_cfg__text_cfg__tokenizer_kwargs": {"tokenizer_file": "/etc/passwd"}}),
    ("clip", "open_clip_config.json", {"model_cfg__text_cfg__hf_model_name": "."}),
    ("clip", "open_clip_config.json", {"model_cfg__vision_cfg__timm_model_name": "local-dir:."}),
    ("clip", "tokenizer_config.json", {"auto_map": EVIL, "tokenizer_class": "Evil"}),
    ("captioner", "config.json", {"auto_map": EVIL}),
    ("captioner", "processor_config.json", {"auto_map": EVIL, "image_processor__auto_map": EVIL}),
    ("captioner", "tokenizer_config.json", {"auto_map": EVIL, "tokenizer_class": "Evil"}),
    ("segmenter", "processor_config.json", {"auto_map": EVIL, "processor_class": "Evil"}),
    ("ldm", "text_encoder/config.json", {"auto_map": EVIL}),
    ("ldm", "tokenizer/tokenizer_config.json", {"auto_map": EVIL, "tokenizer_class": "Evil"}),
    ("ldm", "unet/config.json", {"_class_name": ["evil", "Evil"]}),
    ("ldm", "unet/config.json", {"auto_map": EVIL}),
    ("ldm", "text_encoder/config.json", {"_attn_implementation": "owner/kernel"}),
    ("ldm", "scheduler/scheduler_config.json", {"_class_name": ["evil", "Evil"]}),
    ("instruct_pix2pix", "model_index.json", {"_class_name": ["evil", "Evil"]}),
    ("instruct_pix2pix", "model_index.json", {"unet": ["evil", "Evil"]}),
    ("instruct_pix2pix", "scheduler/scheduler_config.json", {"_class_name": "UNet2DModel"}),
]


@pytest.mark.parametrize(("member", "name", "values"), CODE)
def test_no_code_of_a_folder_is_run(member: str, name: str, values: dict[str, Any], copied, tmp_path, monkeypatch):
    folder, ran = copied(member), tmp_path / "ran"
    changed(folder / name, **values)
    for place in (folder, *(path for path in folder.iterdir() if path.is_dir())):
        (place / "evil.py").write_text(f"open({str(ran)!r}, 'w').write('x')\nclass Evil: pass\n")
    monkeypatch.setattr("builtins.input", lambda *_: "y")  # what transformers would ask
    with pytest.raises(WeightsError) as caught:
        LOADERS[member](folder)
    assert not ran.exists()
    assert "trust_remote_code=True" not in str(caught.value)


@pytest.mark.parametrize("values", [{"_class_name": ["evil", "Evil"]}, {"unet": ["evil", "Evil"]}])
def test_the_pipeline_of_diffusers_manner_runs_none_either(values: dict[str, Any], copied, tmp_path):
    folder, ran = copied("ldm"), tmp_path / "ran"
    changed(folder / "model_index.json", **values)
    for place in (folder, folder / "unet"):
        (place / "evil.py").write_text(f"open({str(ran)!r}, 'w').write('x')\nclass Evil: pass\n")
    with pytest.raises(WeightsError, match="no code of a model is ever run"):
        IEditPipeline.from_pretrained(folder)
    with pytest.raises(ConfigError, match="no code of a model is ever run"):
        IEditPipeline.from_pretrained(WEIGHTS / "ldm", custom_pipeline=str(folder))
    assert not ran.exists()


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_a_part_that_has_pickled_weights_only_is_not_read(part: str, copied, tmp_path):
    folder = copied("ldm")
    weights = next((folder / part).glob("*.safetensors"))
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(WeightsError):
        LOADERS["ldm"](folder)


OTHER_KINDS: dict[str, tuple[dict[str, Any], str]] = {
    "sdxl": ({"unet/config.json": {"addition_embed_type": "text_time"}}, "Stable Diffusion XL"),
    "lcm": ({"unet/config.json": {"time_cond_proj_dim": 256}}, "latent consistency model"),
    "lcm lora": ({"scheduler/scheduler_config.json": {"_class_name": "LCMScheduler"}}, "latent consistency model"),
    "in-painting": ({"unet/config.json": {"in_channels": 9}}, "an in-painting model: its UNet takes 9 channels"),
    "instruction": ({"unet/config.json": {"in_channels": 8}}, "InstructPix2Pix: its UNet takes 8 channels"),
    "upscaler": ({"unet/config.json": {"num_class_embeds": 1000}}, "an upscaler"),
    "wider": ({"unet/config.json": {"cross_attention_dim": 1024}}, "prompts 1024 wide and its text encoder gives 128"),
    "flux": ({"scheduler/scheduler_config.json": {"_class_name": "FlowMatchEulerDiscreteScheduler"}}, "flow matching"),
    "sd3 vae": ({"vae/config.json": {"latent_channels": 16, "shift_factor": 0.06}}, "another latent space"),
    "other unet": ({"unet/config.json": {"_class_name": "UNetMotionModel"}}, "'UNetMotionModel'"),
    "t5": ({"text_encoder/config.json": {"model_type": "t5"}}, "'t5'"),
    "velocity": ({"scheduler/scheduler_config.json": {"prediction_type": "v_prediction"}}, "predicts noise"),
    "tokens": ({"tokenizer/tokenizer_config.json": {"model_max_length": 77}}, "belong to two models"),
}


@pytest.mark.parametrize("kind", OTHER_KINDS)
def test_a_model_of_another_kind_is_told_by_what_it_is(kind: str, copied, tmp_path, capsys):
    folder, (changes, said) = copied("ldm"), OTHER_KINDS[kind]
    for name, values in changes.items():
        changed(folder / name, **values)
    IMAGE.save(tmp_path / "a.png")
    assert main(["edit", str(tmp_path / "a.png"), "a bus", "-o", str(tmp_path / "o"), "--model", str(folder)]) == 1
    told = capsys.readouterr().err
    assert told.startswith("iedit: ")
    assert len(told.splitlines()) == 1
    assert said in told
    assert not (tmp_path / "o").exists()


def test_the_real_unet_of_another_kind_is_told_too(copied):
    folder = copied("ldm")
    config = json.loads((folder / "unet/config.json").read_text()) | {"in_channels": 9}
    shutil.rmtree(folder / "unet")
    unet: Any = UNet2DConditionModel.from_config(config)
    unet.save_pretrained(folder / "unet")
    with pytest.raises(WeightsError, match="an in-painting model"):
        LOADERS["ldm"](folder)


def test_a_diffusion_transformer_is_told(copied):
    folder = copied("ldm")
    (folder / "unet").rename(folder / "transformer")
    with pytest.raises(WeightsError, match="Stable Diffusion 3 and Flux"):
        LOADERS["ldm"](folder)


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
@pytest.mark.parametrize(
    "weights", sorted(path.relative_to(WEIGHTS) for path in WEIGHTS.rglob("*.safetensors")), ids=str
)
def test_a_weight_that_is_no_number_is_refused_by_its_name(weights: Path, number: float, copied, tmp_path):
    member = weights.parts[0]
    if member == "clip_metric":
        pytest.skip("read as clip is")
    folder = copied(member)
    tensors = load_file(tmp_path / weights)
    # The last but one by size: never a buffer that the library computes itself.
    name = sorted(
        (name for name in tensors if tensors[name].is_floating_point()), key=lambda key: tensors[key].numel()
    )[-2]
    tensors[name].view(-1)[-1] = number
    save_file(tensors, tmp_path / weights, metadata={"format": "pt"})
    with pytest.raises(WeightsError, match="not finite") as caught:
        LOADERS[member](folder)
    assert name.removeprefix("clip.").split(".")[-2] in str(caught.value)


JSON_FILES = sorted(path.relative_to(WEIGHTS) for path in WEIGHTS.rglob("*.json") if "clip_metric" not in path.parts)
ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 2**40),
    st.floats(),
    st.text(max_size=8),
    st.lists(st.integers(), max_size=3),
)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(data=st.data())
def test_an_odd_value_in_a_folders_json_loads_or_is_one_error(data: st.DataObject, tmp_path_factory):
    name = data.draw(st.sampled_from([path for path in JSON_FILES if path.name != "tokenizer.json"]))
    folder = Path(shutil.copytree(WEIGHTS / name.parts[0], tmp_path_factory.mktemp("odd") / "model"))
    path = folder.joinpath(*name.parts[1:])
    content = json.loads(path.read_text())
    key = data.draw(st.sampled_from(sorted(content)))
    content[key] = data.draw(ODD)
    path.write_text(json.dumps(content))
    load = LOADERS | {
        "instruct_pix2pix": lambda model: _load_pipeline(InstructModelSpec(model=ModelSource(str(model))))
    }
    with contextlib.suppress(IEditError):
        load[name.parts[0]](folder)
    shutil.rmtree(folder)
