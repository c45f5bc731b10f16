"""Each command says what the library does."""

from __future__ import annotations

import io
import json
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest

import mlxgraph as mg
from mlxgraph.cli.demo import BLOCK
from mlxgraph.cli.entry import COMMANDS
from mlxgraph.tiny import WEIGHTS
from tests.cli.conftest import Run

FRANCE, ITALY = "The capital of France is", "The capital of Italy is"
PAIR = ["tiny", FRANCE, ITALY, "--targets", " Paris", " Rome"]
ANSWERS = {"metric": "logit_diff", "targets": (" Paris", " Rome")}
QUICK = [c for c in COMMANDS if c.name not in ("demo", "bench")]
EXAMPLES = [example for command in QUICK for example in command.examples]


def test_lens_is_the_librarys(run: Run, tiny: mg.InterpretableModel) -> None:
    found = run("lens", "tiny", FRANCE, "--layers", "2-5", "--top", "2", "--json")
    lens = mg.Effects.from_json(found.out)
    assert lens == tiny.logit_lens(FRANCE, layers=[2, 3, 4, 5])
    last = lens.attrs["predictions"][-1][-1]
    assert [one["token"] for one in last][0] == " Paris" and len(last) == 2
    assert last[0]["probability"] > 0.99 > lens.attrs["entropy"][0][-1] - 4
    listed = run("lens", "tiny", FRANCE, "--positions", "-1", "--token", " Paris")
    assert listed.out.splitlines()[-1].split()[:4] == ["5", "0.02", "99.9%", "1"]
    of_two = mg.Effects.from_json(run("lens", "tiny", FRANCE, "--positions", "4,-1", "--json").out)
    assert of_two.axes["position"] == (4, 5)


def test_patch_is_the_librarys(run: Run, tiny: mg.InterpretableModel) -> None:
    found = mg.Effects.from_json(run("patch", *PAIR, "--json").out)
    assert found == tiny.activation_patching(FRANCE, ITALY, "output", positions="all", **ANSWERS)
    more = ["--component", "attn", "mlp", "--positions", "4", "--layers", "1,-1", "--raw"]
    found = mg.Effects.from_json(run("patch", *PAIR, *more, "--direction", "noise", "--json").out)
    wanted = tiny.activation_patching(
        FRANCE, ITALY, ["attn", "mlp"], positions=4, layers=[1, 5], normalize=False,
        direction="noise", **ANSWERS,
    )  # fmt: skip
    assert found == wanted and found.dims == ("component", "layer")
    heads = mg.Effects.from_json(run("patch", *PAIR, "--component", "heads", "--json").out)
    assert heads.dims == ("layer", "head")


def test_attribute_of_two_prompts_is_attribution_patching(
    run: Run, tiny: mg.InterpretableModel
) -> None:
    found = mg.Effects.from_json(run("attribute", *PAIR, "--json").out)
    assert found == tiny.attribution_patching(FRANCE, ITALY, **ANSWERS)
    both = run("attribute", *PAIR, "--exact", "--json")
    effects = mg.Effects.from_json(both.out)
    exact = tiny.activation_patching(FRANCE, ITALY, "output", positions="all", **ANSWERS)
    assert np.array_equal(np.asarray(effects.sel(method="exact")), np.asarray(exact))
    assert np.array_equal(np.asarray(effects.sel(method="estimate")), np.asarray(found))
    pair = np.asarray(found).reshape(-1), np.asarray(exact).reshape(-1)
    assert effects.attrs["correlation"] == pytest.approx(np.corrcoef(*pair)[0, 1], abs=1e-6)
    sizes = mg.Effects.from_json(run("attribute", *PAIR, "--graddrop", "--json").out)
    assert np.array_equal(
        np.asarray(sizes),
        np.asarray(tiny.attribution_patching(FRANCE, ITALY, "output", graddrop=True, **ANSWERS)),
    )


def test_attribute_of_one_prompt_adds_up_to_the_logit(
    run: Run, tiny: mg.InterpretableModel
) -> None:
    words = ["attribute", "tiny", FRANCE, "--token", " Paris", "--against", " London"]
    found = mg.Effects.from_json(run(*words, "--json").out)
    assert found == tiny.direct_logit_attribution(FRANCE, " Paris", " London")
    shown = run(*words).out.splitlines()
    assert shown[-1] == f"all together {found.attrs['logit']:.4g}: the difference of the logits"
    listed = run(*words, "--by", "neuron", "--top", "3").out.splitlines()
    assert len(listed) == 5 and listed[1].startswith("layer 3, neuron 168")


def test_generate_streams_what_the_library_generates(
    run: Run, tiny: mg.InterpretableModel, tmp_path: Path
) -> None:
    plain = run("generate", "tiny", FRANCE, "--max-tokens", "3")
    assert plain.out == "Paris.\n" and plain.status == 0
    edit = mg.edit("layers.2.attn", mg.interventions.zero_out)
    wanted = tiny.generate(FRANCE, max_tokens=3, graph=edit).text
    edit.save(tmp_path / "g.mlxg")
    for option in (["--edit", "layers.2.attn zero_out"], ["--graph", str(tmp_path / "g.mlxg")]):
        assert run("generate", "tiny", FRANCE, "-m", "3", *option).out == f"{wanted}\n"
    assert "Paris" not in wanted
    sampled = ["generate", "tiny", "The", "--temp", "1", "-m", "8", "--json", "--seed"]
    first, again, other = (json.loads(run(*sampled, seed).out) for seed in ("0", "0", "1"))
    assert first == again and first["tokens"] != other["tokens"]
    assert tiny.tokenizer.decode(first["tokens"]).strip().startswith(first["text"])
    assert first["prompt_tokens"] == tiny.encode("The")


def test_an_edit_in_a_line_is_the_edit(run: Run, tiny: mg.InterpretableModel) -> None:
    line = "layers.[1-2].attn scale 0.5 heads=1,3"
    found = mg.Effects.from_json(run("lens", "tiny", FRANCE, "--edit", line, "--json").out)
    edit = mg.edit("layers.[1-2].attn", mg.interventions.scale(0.5), heads=[1, 3])
    wanted = tiny.edit(edit).logit_lens(FRANCE)
    assert found == wanted != tiny.logit_lens(FRANCE)


def test_a_quantised_folder_and_a_chat_template(run: Run, folder: Path) -> None:
    model = mg.InterpretableModel(folder)
    plain = mg.Effects.from_json(run("lens", str(folder), FRANCE, "--json").out)
    chat = mg.Effects.from_json(run("lens", str(folder), FRANCE, "--chat", "--json").out)
    messages = [{"role": "user", "content": FRANCE}]
    assert plain == model.logit_lens(FRANCE) and chat == model.logit_lens(messages)
    assert chat.coords != plain.coords
    patched = run("patch", str(folder), *PAIR[1:], "--layers", "0,5", "--positions", "4,5")
    assert patched.status == 0 and "4 Italy" in patched.out


def test_a_prompt_comes_from_standard_input(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{FRANCE}\n"))
    assert run("generate", "tiny", "-", "-m", "2").out == "Paris.\n"


@pytest.mark.parametrize("example", EXAMPLES)
def test_the_examples_of_the_help_run(
    example: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = run(*shlex.split(example)[1:])
    assert found.status == 0 and found.out
    files = [word for word in shlex.split(example) if word.endswith(".png")]
    assert [path.name for path in tmp_path.iterdir()] == files


def test_the_tree_lists_every_site_that_a_trace_knows(
    run: Run, tiny: mg.InterpretableModel
) -> None:
    lines = run("tree").out.splitlines()
    with tiny.trace(FRANCE) as trace:
        pass
    assert [line.split()[0] for line in lines] == list(trace.activations)
    (line,) = [line for line in lines if line.split()[0] == "model.model.layers.3.mlp"]
    assert "(1, 6, 128) float32" in line


@pytest.mark.slow
def test_bench_prints_what_a_graph_costs(
    run: Run, tiny: mg.InterpretableModel, tmp_path: Path
) -> None:
    assert "traced block" in run("bench", "--repeat", "1").out
    file = str(tmp_path / "graph.mlxg")
    mg.read("layers.2", name="h").save(file)
    words = ["bench", str(WEIGHTS), "Paris is", "--graph", file, "--repeat", "1", "--json"]
    found = json.loads(run(*words).out)
    ids = tiny.encode("Paris is")
    assert found["about"]["inputs"] == f"(1, {len(ids)})" and found["rounds"] == 1
    assert found["left_out"][0].startswith("stop at model.layers.2")


# -- the demo --------------------------------------------------------------------------------------


def test_the_demo_turns_paris_into_berlin_and_shows_where(run: Run) -> None:
    found = run("demo")
    assert found.status == 0
    before, after = found.out.split("2. Now with")
    assert " Paris" in before and " Berlin" not in before
    first, *_ = after.split("The capital of France is ...")[1].split()
    assert first == "Berlin"
    assert "1 write, 1 save" in found.out and "demo:5" in found.out
    assert found.out.count(" ms\n") == 3
    (at_country,) = [line for line in found.out.splitlines() if line.strip().startswith("4 Germ")]
    assert at_country.split()[2:6] == ["█", "100", "█", "100"]


def test_the_code_that_the_demo_shows_is_code_that_runs(tiny: mg.InterpretableModel) -> None:
    names: dict = {"model": tiny}
    exec(BLOCK, names)
    assert tiny.token_to_str(names["logits"].argmax().item()) == " Berlin"
