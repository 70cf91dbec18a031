"""The configuration says device and precision; "auto" is what the machine really has."""

import pytest
import torch

from iedit_model.errors import ConfigError
from iedit_model.models.devices import DeviceConfig, resolve_device
from storage import canonical_json


def test_what_is_said_is_taken():
    device = resolve_device(DeviceConfig(device="cpu", dtype="bf16"))
    assert (device.name, device.torch_dtype) == ("cpu/bf16", torch.bfloat16)


@pytest.mark.parametrize(("has_bf16", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_a_processor_gets_bf16_only_when_it_has_it(monkeypatch, has_bf16, dtype):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: has_bf16)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    assert resolve_device(DeviceConfig(device="cpu")).torch_dtype == dtype


@pytest.mark.parametrize(("has_bf16", "name"), [(True, "cuda/bf16"), (False, "cuda/fp16")])
def test_an_old_gpu_gets_fp16(monkeypatch, has_bf16, name):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: has_bf16)
    assert resolve_device(DeviceConfig()).name == name


def test_a_missing_gpu_is_an_error_and_auto_goes_without(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device(DeviceConfig(dtype="fp32")).name == "cpu/fp32"
    with pytest.raises(ConfigError, match="no GPU"):
        resolve_device(DeviceConfig(device="cuda"))
    with pytest.raises(ConfigError, match="fp16"):
        resolve_device(DeviceConfig(dtype="fp16"))


@pytest.mark.parametrize("wrong", [{"device": "tpu"}, {"dtype": "float"}, {"device": "cpu", "dtype": "fp16"}])
def test_what_cannot_be_is_refused(wrong):
    with pytest.raises(ConfigError):
        DeviceConfig(**wrong)


def test_the_configuration_itself_is_no_part_of_a_fingerprint():
    assert canonical_json(DeviceConfig()) == canonical_json(DeviceConfig(device="cpu", dtype="fp32"))
