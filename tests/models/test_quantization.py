"""What a foreign folder says of its quantisation is looked at before transformers acts on it."""

from typing import Any

import pytest

from contrastive.errors import ModelError
from contrastive.models.quantization import check

OURS: dict[str, Any] = {
    "quant_method": "torchao",
    "quant_type": {
        "default": {
            "_type": "Int8DynamicActivationInt8WeightConfig",
            "_version": 2,
            "_data": {
                "granularity": {"_type": "PerRow", "_version": 1, "_data": {"dim": -1}},
                "act_mapping_type": {"_type": "MappingType", "_data": "SYMMETRIC"},
            },
        }
    },
}


def test_what_we_write_is_taken():
    check(OURS, "folder")


@pytest.mark.parametrize("method", ["gptq", "bitsandbytes", None, ["torchao"]])
def test_another_method_is_refused_by_its_key(method: Any):
    with pytest.raises(ModelError, match=r"folder: quantization_config\.quant_method: .* is not 'torchao'"):
        check({**OURS, "quant_method": method}, "folder")


@pytest.mark.parametrize("found", [None, "torchao", []])
def test_no_mapping_is_refused(found: Any):
    with pytest.raises(ModelError, match="quant_method: None"):
        check(found, "folder")


def test_a_name_that_torchao_would_look_up_and_call_is_refused_at_any_depth():
    planted = {"_type": "quantize_", "_data": {"model": 1}}
    inside = {"_type": "PerRow", "_data": {"dim": [{"deep": planted}]}}
    with pytest.raises(ModelError, match="quantization_config: 'quantize_' is not one of Int8Dynamic"):
        check({**OURS, "modules_to_not_convert": inside}, "folder")
