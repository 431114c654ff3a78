import json

import report_runs

from r2l_jax.apps.lab.start import read_tolerances
from r2l_jax.training.run import open_runs


def test_tolerances_are_those_that_forensics_has_found_for_this_model(model, one_epoch, tmp_path, capsys):
    def read(text):
        file = tmp_path / "forensics" / "fold_0" / "tolerances" / "tolerances.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return read_tolerances(str(tmp_path), model), capsys.readouterr().err

    assert read_tolerances(str(tmp_path), model) is None
    ((fold,),) = open_runs([str(one_epoch.run_dir)])
    content = report_runs.tolerances("", report_runs.Numbers()) | {"identity": {"model": fold.fingerprint}}
    found, said = read(json.dumps(content))
    assert (found.tolerance, said) == (0.02, "")
    assert found.knobs["gamma_correct"].high == content["knobs"]["gamma_correct"]["high"]
    for text, words in (
        (json.dumps(content | {"identity": {"model": "another"}}), "the tolerances belong to another model"),
        ('{"knobs": 3}', "is damaged or of another version"),
    ):
        found, said = read(text)
        assert found is None
        assert words in said
