from __future__ import annotations

import pytest

from acestep.settings.flags import named_as_flags

FLAGS = {"api_port": "--port"}


@pytest.mark.parametrize(
    ("error", "given", "said"),
    [
        ("ACESTEP_API_PORT='x' is wrong", {"api_port": "x"}, "--port='x' is wrong"),
        ("ACESTEP_API_PORT='x' is wrong", {"api_port": None}, "ACESTEP_API_PORT='x' is wrong"),
        ("Set ACESTEP_LM_MODEL_PATH to it", {"lm_model_path": "y"}, "Set --lm-model-path to it"),
        ("Set ACESTEP_INIT_LLM=false", {"init_llm": "1", "api_port": "1"}, "Set --init-llm=false"),
        (
            "ACESTEP_API_PORTAL, MY_ACESTEP_API_PORT",
            {"api_port": "1"},
            "ACESTEP_API_PORTAL, MY_ACESTEP_API_PORT",
        ),
        ("use --port 8002 (ACESTEP_API_PORT)", {"api_port": "1"}, "use --port 8002 (ACESTEP_API_PORT)"),
    ],
)
def test_a_variable_that_was_given_as_a_flag_is_named_as_one(
    error: str, given: dict[str, object], said: str
) -> None:
    assert named_as_flags(error, given, FLAGS) == said
