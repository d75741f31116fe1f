from dataclasses import replace

import pytest

from acestep.domain.models import choose_model
from acestep.errors import ModelUnavailableError, UnknownModelError
from tests.test_limits import BASE, TURBO


class TestChooseModel:
    def test_no_name_is_the_default_wherever_it_stands(self):
        assert choose_model([BASE, TURBO], None, strict=True) == (TURBO, ())

    def test_without_a_mark_the_first_is_the_default(self):
        unmarked = replace(TURBO, is_default=False)
        assert choose_model([BASE, unmarked], None, strict=True) == (BASE, ())

    @pytest.mark.parametrize("name", ["base", "acestep/base"])
    def test_a_loaded_name(self, name):
        assert choose_model([TURBO, BASE], name, strict=True) == (BASE, ())

    def test_an_unknown_name_runs_the_default_and_says_so(self):
        model, warnings = choose_model([TURBO, BASE], "sft", strict=False)
        assert model == TURBO
        (warning,) = warnings
        assert warning.startswith("model: 'sft'")
        assert "turbo is used instead" in warning

    def test_names_are_case_sensitive(self):
        assert choose_model([TURBO, BASE], "BASE", strict=False)[0] == TURBO

    def test_strict_refuses_an_unknown_name_and_lists_the_loaded_ones(self):
        with pytest.raises(UnknownModelError, match="'sft' is not loaded here; loaded: turbo, base"):
            choose_model([TURBO, BASE], "sft", strict=True)

    @pytest.mark.parametrize("state", ["failed", "absent", "downloading"])
    def test_a_model_that_cannot_come_up_counts_as_not_loaded(self, state):
        with pytest.raises(UnknownModelError, match=r"loaded: turbo$"):
            choose_model([TURBO, replace(BASE, state=state)], "base", strict=True)

    def test_a_model_that_is_still_loading_may_be_asked_for(self):
        loading = replace(BASE, state="loading")
        assert choose_model([TURBO, loading], "base", strict=True) == (loading, ())

    def test_a_model_that_is_loaded_when_it_is_named_may_be_asked_for(self):
        on_disk = replace(BASE, state="on_disk")
        assert choose_model([TURBO, on_disk], "acestep/base", strict=True) == (on_disk, ())

    def test_a_named_model_runs_though_the_default_failed(self):
        failed = replace(TURBO, state="failed", detail="no config.json")
        assert choose_model([failed, BASE], "base", strict=False) == (BASE, ())
        for name in (None, "turbo", "sft"):
            with pytest.raises(ModelUnavailableError, match=r"^turbo could not be loaded: no config\.json$"):
                choose_model([failed, BASE], name, strict=False)

    def test_no_models(self):
        with pytest.raises(ModelUnavailableError, match="ACESTEP_CONFIG_PATH"):
            choose_model([], None, strict=False)
